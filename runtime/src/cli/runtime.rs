//! `cowl runtime …`: an OCI runtime with runc's command line, also under the name `cowl-runtime`.
//!
//! Read apart from the rest of the command line: `--root` is another directory here, the errors go
//! to a log file as well, and no user namespace is made.

mod list;
mod options;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;

use super::{Failure, print};
use crate::container::life::signal;
use crate::executable;
use crate::image::moment;
use crate::oci::{self, Bundle, Error, Status};
use crate::sys;

/// The name by which this program is an OCI runtime without `runtime` as its first word.
const NAME: &str = "cowl-runtime";

/// `cowl runtime`
#[derive(Debug, Parser)]
#[command(
    name = "cowl-runtime",
    about = "An OCI runtime: containers from bundles, with runc's command line",
    disable_version_flag = true,
    disable_help_subcommand = true
)]
struct Line {
    /// Where containers are written down [default: /run/cowl-runtime for root, else
    /// $XDG_RUNTIME_DIR/cowl-runtime]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A file to which errors are written too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How they are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Accepted: there is nothing more to say
    #[arg(long)]
    debug: bool,
    /// Refused: control groups are not made by systemd
    #[arg(long)]
    systemd_cgroup: bool,
    /// How control groups are made: as crun has it; `systemd` is refused
    #[arg(long, value_enum, default_value_t = Manager::Disabled, value_name = "MANAGER")]
    cgroup_manager: Manager,
    /// Show the version
    #[arg(short, long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Manager {
    Cgroupfs,
    Disabled,
    Systemd,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a container from a bundle; its command waits for `start`
    Create(options::Create),
    /// Remove a container
    Delete(Delete),
    /// Run one more command in a container
    Exec(options::Exec),
    /// Show what this runtime can do
    Features,
    /// Send a signal to a container
    Kill(Kill),
    /// List containers
    List(list::Args),
    /// List the processes of a container
    Ps(list::Processes),
    /// Make a container and start it
    Run(options::Run),
    /// Let the command of a created container run
    Start(Id),
    /// Show where a container is in its life
    State(Id),
}

/// A container.
#[derive(Debug, Args)]
struct Id {
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

/// `delete`
#[derive(Debug, Args)]
struct Delete {
    /// Kill it when it runs; one that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

/// `kill`
#[derive(Debug, Args)]
struct Kill {
    /// Send it to every process
    #[arg(short, long)]
    all: bool,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
    /// A name or a number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
}

/// The words after the program's name, when it is called as an OCI runtime.
pub fn words() -> Option<Vec<OsString>> {
    let mut all = std::env::args_os();
    let name = all.next().unwrap_or_default();
    let mut rest: Vec<OsString> = all.collect();
    let named = Path::new(&name).file_name().is_some_and(|name| name == NAME);
    if rest.first().is_some_and(|word| word == "runtime") {
        return Some(rest.split_off(1));
    }
    named.then_some(rest)
}

/// Runs it.
pub fn main(words: Vec<OsString>) -> Result<u8, Failure> {
    let line = match Line::try_parse_from(std::iter::once(NAME.into()).chain(words.clone())) {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    if line.version {
        print(
            format!("{NAME} version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), oci::VERSION)
                .as_bytes(),
        )?;
        return Ok(0);
    }
    let Line { root, log, log_format, systemd_cgroup, cgroup_manager, command, .. } = line;
    let systemd = systemd_cgroup || cgroup_manager == Manager::Systemd;
    let outcome = perform(root, systemd, command, words);
    if let (Err(failure), Some(path)) = (&outcome, &log) {
        write_log(path, log_format, &failure.message);
    }
    outcome
}

/// Help goes to stdout; a mistake becomes one sentence.
fn usage(error: &clap::Error) -> Result<u8, Failure> {
    let text = error.render().to_string();
    if error.kind() == clap::error::ErrorKind::DisplayHelp {
        print(text.as_bytes())?;
        return Ok(0);
    }
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    Err(Failure::new(1, format!("{first}; see 'cowl runtime --help'")))
}

/// Adds a line to the log; the sentence on stderr stays when that cannot be.
fn write_log(path: &Path, format: LogFormat, message: &str) {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let time = moment::to_second(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let line = match format {
        LogFormat::Json => json!({ "level": "error", "msg": message, "time": time }).to_string(),
        LogFormat::Text => format!("time=\"{time}\" level=error msg={message:?}"),
    };
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.and_then(|mut file| writeln!(file, "{line}")).ok();
}

fn default_root() -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() && !crate::userns::inside() {
        return Ok("/run/cowl-runtime".into());
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => Ok(dir.join("cowl-runtime")),
        _ => Err(Failure::new(1, "XDG_RUNTIME_DIR is not set: give --root DIR")),
    }
}

fn perform(
    root: Option<PathBuf>,
    systemd: bool,
    command: Option<Command>,
    words: Vec<OsString>,
) -> Result<u8, Failure> {
    let Some(command) = command else {
        return Err(Failure::new(1, "a command is missing; see 'cowl runtime --help'"));
    };
    if systemd {
        return Err(Failure::new(
            1,
            "control groups by systemd are not there: leave --systemd-cgroup and --cgroup-manager systemd out",
        ));
    }
    let root = root.map_or_else(default_root, Ok)?;
    let root = std::path::absolute(&root)?;
    if matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_)) {
        // The new process is one of this program until it executes the command.
        let words = std::iter::once("runtime".into()).chain(words);
        executable::protect(Path::new(""), words)?;
    }
    match command {
        Command::Create(create) => {
            oci::create(&root, &create.id, &create.options()).map_err(shown)?;
        }
        Command::Run(run) => return run_to_end(&root, &run),
        Command::Start(Id { id }) => {
            oci::load(&root, &id).and_then(|bundle| oci::start(&bundle)).map_err(shown)?;
        }
        Command::State(Id { id }) => {
            let state = oci::load(&root, &id).map_err(shown)?.state();
            print(format!("{}\n", serde_json::to_string_pretty(&state)?).as_bytes())?;
        }
        Command::Kill(Kill { all, id, signal: name }) => {
            let number = signal(&name).map_err(|error| Failure::new(1, error))?;
            let bundle = oci::load(&root, &id).map_err(shown)?;
            oci::kill(&bundle, number, all).map_err(shown)?;
        }
        Command::Delete(Delete { force, id }) => {
            oci::delete(&root, &id, force).map_err(shown)?;
        }
        Command::Exec(exec) => return execute(&root, &exec),
        Command::List(args) => list::run(&root, &args)?,
        Command::Ps(args) => list::processes(&root, &args)?,
        Command::Features => {
            let text = serde_json::to_string_pretty(&oci::features())?;
            print(format!("{text}\n").as_bytes())?;
        }
    }
    Ok(0)
}

/// runc ends with 1 for everything that is not the command's own exit code.
fn shown(error: Error) -> Failure {
    Failure::new(1, error)
}

fn run_to_end(root: &Path, run: &options::Run) -> Result<u8, Failure> {
    let bundle = oci::create(root, &run.create.id, &run.create.options()).map_err(shown)?;
    if let Err(error) = oci::start(&bundle) {
        // Why it did not start is what to say.
        oci::delete(root, &bundle.id, true).ok();
        return Err(shown(error));
    }
    if run.detach {
        return Ok(0);
    }
    let code = attend(&bundle)?;
    if !run.keep {
        oci::delete(root, &bundle.id, true).map_err(shown)?;
    }
    Ok(code)
}

/// Waits for the end of a container whose PID 1 is a child of this process.
fn attend(bundle: &Bundle) -> Result<u8, Failure> {
    let failed = |errno: nix::errno::Errno| Failure::new(1, errno.desc());
    let pid = nix::unistd::Pid::from_raw(bundle.init.pid);
    let fd = match sys::process::open(pid) {
        Ok(fd) => fd,
        Err(_) if bundle.status() == Status::Stopped => return Ok(0),
        Err(errno) => return Err(failed(errno)),
    };
    sys::process::Child { pid, fd }.wait().map_err(failed)
}

fn execute(root: &Path, exec: &options::Exec) -> Result<u8, Failure> {
    let bundle = oci::load(root, &exec.id).map_err(shown)?;
    let child = oci::exec(&bundle, &exec.options(&bundle)?).map_err(|error| match error {
        // runc says 255 for a command that could not be executed.
        Error::Start { .. } => Failure::new(255, error),
        other => shown(other),
    })?;
    if exec.detach {
        return Ok(0);
    }
    child.wait().map_err(|errno| Failure::new(1, errno.desc()))
}
