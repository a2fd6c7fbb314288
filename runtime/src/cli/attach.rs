//! `cowl attach`.

use std::os::fd::AsFd;

use super::attached::{Attached, Outcome, Terms};
use super::{Context, Failure, complain_bare};
use crate::container::{Container, Containers};
use crate::control::{self, Connection, Request};
use crate::terminal::{self, DetachKeys};

/// `cowl attach`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not attach stdin
    #[arg(long)]
    no_stdin: bool,
    /// Forward signals
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
    /// The keys that part the terminal from the container [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Attaches the caller's streams to a container that runs.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let keys = DetachKeys::parse(&args.detach_keys)?;
    let containers = context.containers()?;
    let container = containers.find(&args.container)?;
    if container.state.status.live().is_none() {
        return Err(Failure::new(1, "You cannot attach to a stopped container, start it first"));
    }
    attach(&containers, &container, !args.no_stdin, keys, args.sig_proxy)
}

/// Attaches to a container that `start` found running.
pub fn to_running(
    _context: &Context,
    containers: &Containers,
    container: &Container,
    stdin: bool,
    keys: DetachKeys,
) -> Result<u8, Failure> {
    attach(containers, container, stdin, keys, true)
}

fn attach(
    containers: &Containers,
    container: &Container,
    stdin: bool,
    keys: DetachKeys,
    forward: bool,
) -> Result<u8, Failure> {
    let tty = container.config.process.tty;
    let stdin = stdin && container.config.process.stdin;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::new(1, "the input device is not a TTY"));
    }
    let system = |what: &'static str| {
        move |errno: nix::errno::Errno| Failure::new(1, format!("cannot {what}: {}", errno.desc()))
    };
    let terminal::Pipes { theirs, ours } =
        terminal::copies(true, !tty).map_err(system("make pipes"))?;
    let signals = terminal::take_signals().map_err(system("take signals"))?;
    let connection = match Connection::open(&container.dir) {
        Err(control::Error::NotRunning) => {
            return Err(Failure::new(
                1,
                "You cannot attach to a stopped container, start it first",
            ));
        }
        other => other?,
    };
    let fds: Vec<_> = theirs.output.iter().chain(&theirs.errors).map(AsFd::as_fd).collect();
    connection.ask(&Request::Attach { stdin, stdout: true, stderr: !tty }, &fds)?;
    drop(theirs);
    let attached = Attached { connection, signals: Some(signals), container, containers };
    let Some(fds) = attached.started()? else { return Ok(1) };
    let terms = Terms { stdin, tty, keys, forward };
    match attached.follow(ours.output, ours.errors, fds.into_iter().next(), terms)? {
        Outcome::Ended(code) => Ok(code),
        Outcome::Parted => {
            complain_bare("read escape sequence");
            Ok(1)
        }
    }
}
