//! The command line: Docker's names, options, columns and exit codes.
//!
//! The only room that prints. Every error is one sentence on stderr that begins with `cowl: `;
//! the exit code is 125 for failures of `run` before the command, 1 for the rest.

mod age;
mod attach;
mod attached;
mod begin;
mod commit;
mod container;
mod cp;
mod create;
mod create_options;
mod diff;
mod each;
mod events;
mod exec;
mod export;
mod image;
mod info;
mod inspect;
mod kill;
mod login;
mod logs;
mod network;
mod note;
mod pause;
mod port;
mod progress;
mod ps;
mod rename;
mod restart;
mod rm;
mod run;
mod runtime;
mod size;
mod start;
mod stats;
mod stop;
mod system;
mod table;
mod top;
mod update;
mod volume;
mod wait;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use serde_json::{Map, Value, json};

use crate::container::state::Process;
use crate::container::{Container, Containers};
use crate::executable;
use crate::monitor::ENGINE_ERROR;
use crate::store::Store;
use crate::userns::{self, Standing};

/// cowl: a small daemonless container engine with Docker's command line.
#[derive(Debug, Parser)]
#[command(name = "cowl", version, about, disable_help_subcommand = true)]
struct Cowl {
    /// Where images and containers are kept [default: $COWL_ROOT, else /var/lib/cowl for root,
    /// else $XDG_DATA_HOME/cowl or ~/.local/share/cowl]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command in a new container
    Run(Box<run::Args>),
    /// Make a container without starting it
    Create(Box<create::Args>),
    /// Start containers
    Start(start::Args),
    /// Stop containers: ask them to end, then kill them
    Stop(stop::Args),
    /// Stop containers and start them again
    Restart(restart::Args),
    /// Send a signal to containers
    Kill(kill::Args),
    /// Freeze every process of containers
    Pause(pause::Args),
    /// Let frozen containers go on
    Unpause(pause::Args),
    /// Wait until containers have ended, and print their exit codes
    Wait(wait::Args),
    /// Attach stdin, stdout and stderr to a container that runs
    Attach(attach::Args),
    /// Run a command in a container that runs
    Exec(exec::Args),
    /// Show what a container has written
    Logs(logs::Args),
    /// Show what containers use of the machine
    Stats(stats::Args),
    /// Show the processes of a container
    Top(top::Args),
    /// Change limits and restart policies of containers
    Update(update::Args),
    /// Give a container another name
    Rename(rename::Args),
    /// Show what happens
    Events(events::Args),
    /// List containers
    Ps(ps::Args),
    /// Remove containers
    Rm(rm::Args),
    /// List what a container changed in its filesystem
    Diff(diff::Args),
    /// Copy files between a container and this machine
    Cp(cp::Args),
    /// Look after the store as a whole
    System(system::Args),
    /// Make an image of a container's changes
    Commit(commit::Args),
    /// Write a container's filesystem as a tar archive
    Export(export::Args),
    /// Load images from an archive: `docker save`'s, or an OCI image layout
    Load(image::load::Args),
    /// Save images to an archive that `cowl load`, Docker and Podman load
    Save(image::save::Args),
    /// Make an image of one layer from the archive of a root filesystem
    Import(image::import::Args),
    /// List images
    Images(image::list::Args),
    /// Remove images, or names of images
    Rmi(image::rmi::Args),
    /// Manage containers
    Container(container::Args),
    /// Manage images
    Image(image::Args),
    /// Download an image from a registry
    Pull(image::pull::Args),
    /// Upload an image to a registry
    Push(image::push::Args),
    /// Tell a registry who you are, and keep that
    Login(login::Args),
    /// Forget who you are for a registry
    Logout(login::LogoutArgs),
    /// Give an image another name
    Tag(image::tag::Args),
    /// Show the history of an image
    History(image::history::Args),
    /// Manage volumes
    Volume(volume::Args),
    /// Show everything about objects of any kind
    Inspect(inspect::Args),
    /// Manage networks
    Network(network::Args),
    /// Show where a container's published ports are reached
    Port(port::Args),
    /// Run OCI bundles, with runc's command line
    #[command(disable_help_flag = true)]
    Runtime {
        /// See `cowl runtime --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Show what this machine allows and what was chosen
    Info,
    /// Show the version
    Version,
}

/// An error for the user.
#[derive(Debug)]
pub struct Failure {
    exit_code: u8,
    message: String,
}

impl Failure {
    /// A sentence with an exit code.
    pub fn new(exit_code: u8, message: impl ToString) -> Self {
        Self { exit_code, message: message.to_string() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(1, error)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match runtime::words() {
        Some(words) => runtime::main(words),
        None => match Cowl::try_parse() {
            Ok(cowl) => execute(cowl),
            Err(error) => usage(&error),
        },
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure { exit_code, message }) => {
            complain(&message);
            ExitCode::from(exit_code)
        }
    }
}

/// Says what went wrong; where stderr is closed there is nobody to say it to.
fn complain(message: &str) {
    writeln!(io::stderr(), "cowl: {}", message.trim_end()).ok();
}

/// Says something on stderr as it is.
fn complain_bare(message: &str) {
    writeln!(io::stderr(), "{message}").ok();
}

/// Nanoseconds since 1970.
fn now() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}

/// Says what is not as it was asked for, and goes on.
fn warn(message: &str) {
    writeln!(io::stderr(), "WARNING: {}", message.trim_end()).ok();
}

/// Writes to stdout. A reader that has gone away is no error (`cowl ps | head -1`).
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(1, format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Warns and asks whether to go on; anything but `y` means no.
fn confirm(warning: &str) -> Result<bool, Failure> {
    print(format!("{warning}\nAre you sure you want to continue? [y/N] ").as_bytes())?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(1, format!("cannot read the answer: {error}")))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// Help and version go to stdout; a mistake becomes one sentence.
fn usage(error: &clap::Error) -> Result<u8, Failure> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let running = words.iter().any(|word| word == "run");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print(error.render().to_string().as_bytes())?;
            return Ok(0);
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            write!(io::stderr(), "{}", error.render()).ok();
            return Ok(1);
        }
        _ => {}
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    if let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg)
        && error.kind() == ErrorKind::MissingRequiredArgument
    {
        let missing = missing.join(" ");
        let missing = missing.strip_suffix("...").unwrap_or(&missing);
        message = format!("an argument is missing: {missing}");
    }
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        message = format!("{message}: give one of {}", valid.join(", "));
    }
    let command = if running { "cowl run --help" } else { "cowl --help" };
    let exit_code = if running { ENGINE_ERROR } else { 1 };
    Err(Failure::new(exit_code, format!("{message}; see '{command}'")))
}

/// Where images and containers are kept, decided before the user namespace makes us root.
fn default_root() -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok("/var/lib/cowl".into());
    }
    let set =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|dir| dir.join("cowl"))
        .ok_or_else(|| {
            Failure::new(
                ENGINE_ERROR,
                "neither HOME nor XDG_DATA_HOME says where to keep containers: set one of them, \
                 or give --root DIR",
            )
        })
}

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    /// Where everything is kept; absolute.
    pub root: PathBuf,
    /// How this process came to its privileges.
    pub standing: Standing,
}

impl Context {
    /// The image store.
    pub fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.root)?)
    }

    /// The containers, after what was killed meanwhile has been put in order.
    pub fn containers(&self) -> Result<Containers, Failure> {
        self.store()?; // a store that is not ours must not be written into
        let containers = Containers::open(&self.root)?;
        containers.reclaim()?;
        Ok(containers)
    }
}

fn context(root: Option<PathBuf>, container: Option<&str>) -> Result<Context, Failure> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let root = set(executable::ROOT_VARIABLE).or(root).or_else(|| set("COWL_ROOT"));
    let root = match root.filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => dir,
        None => default_root()?,
    };
    let root = std::path::absolute(&root).map_err(|error| {
        Failure::new(1, format!("cannot use --root {}: {error}", root.display()))
    })?;
    // The files of a container that runs can be reached from its own user namespace only.
    let process = container.and_then(|name| filesystem(&root, name));
    let standing = match process {
        Some(process) => userns::enter_of(process)?,
        None => userns::enter()?,
    };
    Ok(Context { root, standing })
}

/// The process that holds the filesystem of a container that runs.
fn filesystem(root: &Path, container: &str) -> Option<Process> {
    if !root.join("containers").is_dir() {
        return None;
    }
    // Whatever is wrong with it, the command itself says so.
    let container = Containers::open(root).and_then(|all| all.find(container)).ok()?;
    let process = container.state.status.live()?.filesystem;
    process.open().map(|_| process)
}

fn execute(cowl: Cowl) -> Result<u8, Failure> {
    if matches!(cowl.command, Command::Version) {
        print(format!("cowl version {}\n", env!("CARGO_PKG_VERSION")).as_bytes())?;
        return Ok(0);
    }
    let running = match &cowl.command {
        Command::Run(_) | Command::Create(_) => true,
        Command::Container(args) => args.runs(),
        _ => false,
    };
    let starting = match &cowl.command {
        Command::Run(_) | Command::Start(_) | Command::Restart(_) => true,
        Command::Container(args) => args.starts(),
        _ => false,
    };
    let container = match &cowl.command {
        Command::Cp(args) => args.container(),
        Command::Commit(args) => args.container(),
        Command::Export(args) => args.container(),
        _ => None,
    };
    let context = context(cowl.root, container).map_err(|failure| {
        let exit_code = if running { ENGINE_ERROR } else { failure.exit_code };
        Failure { exit_code, ..failure }
    })?;
    if starting {
        executable::protect(&context.root, std::env::args_os().skip(1))
            .map_err(|error| Failure::new(ENGINE_ERROR, error))?;
    }
    match cowl.command {
        Command::Run(args) => run::run(*args, &context),
        Command::Create(args) => create::run(*args, &context),
        Command::Start(args) => start::run(&args, &context),
        Command::Stop(args) => stop::run(&args, &context),
        Command::Restart(args) => restart::run(&args, &context),
        Command::Kill(args) => kill::run(&args, &context),
        Command::Pause(args) => pause::pause(&args, &context),
        Command::Unpause(args) => pause::unpause(&args, &context),
        Command::Wait(args) => wait::run(&args, &context),
        Command::Attach(args) => attach::run(&args, &context),
        Command::Exec(args) => exec::run(args, &context),
        Command::Logs(args) => logs::run(&args, &context),
        Command::Stats(args) => stats::run(&args, &context),
        Command::Top(args) => top::run(&args, &context),
        Command::Update(args) => update::run(&args, &context),
        Command::Rename(args) => rename::run(&args, &context),
        Command::Events(args) => events::run(&args, &context),
        Command::Ps(args) => ps::run(&args, &context),
        Command::Rm(args) => rm::run(&args, &context),
        Command::Diff(args) => diff::run(&args, &context),
        Command::Cp(args) => cp::run(&args, &context),
        Command::System(args) => system::run(&args, &context),
        Command::Commit(args) => commit::run(&args, &context),
        Command::Export(args) => export::run(&args, &context),
        Command::Load(args) => image::load::run(&args, &context),
        Command::Save(args) => image::save::run(&args, &context),
        Command::Import(args) => image::import::run(&args, &context),
        Command::Images(args) => image::list::run(&args, &context),
        Command::Rmi(args) => image::rmi::run(&args, &context),
        Command::Container(args) => container::run(args, &context),
        Command::Image(args) => image::run(&args, &context),
        Command::Pull(args) => image::pull::run(&args, &context),
        Command::Push(args) => image::push::run(&args, &context),
        Command::Login(args) => login::run(&args),
        Command::Logout(args) => login::logout(&args),
        Command::Tag(args) => image::tag::run(&args, &context),
        Command::History(args) => image::history::run(&args, &context),
        Command::Inspect(args) => inspect::run(&args, &context),
        Command::Network(args) => network::run(args, &context),
        Command::Port(args) => port::run(&args, &context),
        Command::Runtime { words } => runtime::main(words),
        Command::Volume(args) => volume::run(args, &context),
        Command::Info => info::run(&context),
        Command::Version => Ok(0),
    }
}

/// The networks of a container, for `ps` and `inspect`.
fn networks(container: &Container) -> Vec<String> {
    use crate::network::settings::Mode;
    let settings = &container.config.network;
    match &settings.mode {
        Mode::Default => vec!["bridge".to_owned()],
        Mode::None => vec!["none".to_owned()],
        Mode::Host => vec!["host".to_owned()],
        Mode::Container(id) => vec![format!("container:{id}")],
        Mode::User(_) => vec!["user".to_owned()],
        Mode::Networks => settings.networks.iter().map(|wanted| wanted.network.clone()).collect(),
    }
}

/// Its published ports, for `ps`.
fn published(container: &Container) -> String {
    let settings = &container.config.network;
    if container.state.status.live().is_none() {
        return String::new();
    }
    // What cannot be read counts as nothing.
    let present = crate::network::present(&container.dir).ok().flatten().unwrap_or_default();
    let exposed = settings.exposed.iter().copied().collect();
    crate::network::ports::column(&present.published, &exposed)
}

/// Its published ports, for `inspect`.
fn port_bindings(_container: &Container) -> Value {
    json!({})
}

/// What its networks are like, for `inspect`.
fn network_settings(_context: &Context, container: &Container) -> Result<Value, Failure> {
    let networks: Map<String, Value> =
        networks(container).into_iter().map(|name| (name, json!({}))).collect();
    Ok(json!({ "Ports": {}, "IPAddress": "", "Networks": networks }))
}

/// A path for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cowl as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn words_after_the_image_belong_to_the_command() {
        let line =
            ["cowl", "run", "-it", "--rm", "-e", "A=1", "img", "sh", "-e", "--rm", "-c", "x"];
        let cowl = Cowl::try_parse_from(line).unwrap();
        let Command::Run(args) = cowl.command else { panic!("not run") };
        assert_eq!(args.create.image_and_command, ["img", "sh", "-e", "--rm", "-c", "x"]);
        assert!(Cowl::try_parse_from(["cowl", "run"]).is_err());
        assert!(Cowl::try_parse_from(["cowl", "run", "--no-such", "img"]).is_err());
        let root = Cowl::try_parse_from(["cowl", "--root", "/x", "run", "img", "--root"]).unwrap();
        assert_eq!(root.root, Some("/x".into()));
    }
}
