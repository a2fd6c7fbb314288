//! `cowl exec`.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::attached::{Attached, Outcome, Terms};
use super::{Context, Failure, complain_bare};
use crate::container::record::Bytes;
use crate::control::{self, Connection, Exec, Request};
use crate::executable;
use crate::terminal::{self, DetachKeys};

/// `cowl exec`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Connect stdin
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable; without value the caller's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Set the environment variables that a file lists, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Who runs it: names from the image, or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Where it starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Give it every capability
    #[arg(long)]
    privileged: bool,
    /// The keys that part the terminal from it [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// What is run
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND [ARG]..."
    )]
    command: Vec<OsString>,
}

/// The caller's variables, in the order in which later ones win.
fn variables(args: &Args) -> Result<Vec<OsString>, Failure> {
    let mut all = Vec::new();
    for file in &args.env_file {
        all.extend(super::create_options::process::env_file(file)?);
    }
    all.extend(args.env.iter().cloned());
    let callers = |name: &std::ffi::OsStr| {
        std::env::var_os(name).filter(|_| name != executable::ROOT_VARIABLE)
    };
    Ok(crate::spec::environment::given(&all, callers)?)
}

/// Runs a program in a container that runs.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let keys = DetachKeys::parse(&args.detach_keys)?;
    let (tty, stdin) = (args.tty, args.interactive && !args.detach);
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new(1, "the input device is not a TTY"));
    }
    let environment = variables(&args)?;
    let containers = context.containers()?;
    let container = containers.find(&args.container)?;
    let exec = Exec {
        command: args.command.into_iter().map(Bytes::from).collect(),
        environment: environment.into_iter().map(Bytes::from).collect(),
        user: args.user,
        working_dir: args.workdir.map(Bytes::from),
        tty,
        window: terminal::window_size().map(|size| (size.ws_row, size.ws_col)),
        privileged: args.privileged,
    };
    let system = |what: &'static str| {
        move |errno: nix::errno::Errno| Failure::new(1, format!("cannot {what}: {}", errno.desc()))
    };
    let connection = match Connection::open(&container.dir) {
        Err(control::Error::NotRunning) => {
            let id = container.config.id.as_str();
            return Err(Failure::new(1, format!("container {id} is not running")));
        }
        other => other?,
    };
    let pipes = if tty {
        terminal::Pipes::default()
    } else if args.detach {
        terminal::nothing().map_err(system("open /dev/null"))?
    } else {
        terminal::pipes(stdin).map_err(system("make pipes"))?
    };
    let terminal::Pipes { theirs, ours } = pipes;
    let fds: Vec<_> =
        theirs.input.iter().chain(&theirs.output).chain(&theirs.errors).map(AsFd::as_fd).collect();
    connection.ask(&Request::Exec(Box::new(exec)), &fds)?;
    drop(theirs);
    // Signals keep their usual course: as with Docker, they end this command only; the size of
    // the window is asked for.
    let signals = if tty {
        Some(terminal::take_window_changes().map_err(system("take signals"))?)
    } else {
        None
    };
    let attached = Attached { connection, signals, container: &container, containers: &containers };
    let Some(fds) = attached.started()? else { return Ok(1) };
    if args.detach {
        return Ok(0);
    }
    let terminal = fds.into_iter().next();
    let output = match &terminal {
        Some(terminal) => Some(
            crate::sys::descriptor::copy(terminal).map_err(system("use the program's terminal"))?,
        ),
        None => ours.output,
    };
    let input = terminal.or(ours.input);
    let terms = Terms { stdin, tty, keys, forward: false };
    match attached.follow(output, ours.errors, input, terms)? {
        Outcome::Ended(code) => Ok(code),
        Outcome::Parted => {
            complain_bare("read escape sequence");
            Ok(1)
        }
    }
}
