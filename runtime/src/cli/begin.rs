//! Starting a container that is on disk: the monitor is forked, and the caller attached to it or
//! not. `run`, `start` and `restart` come here.

use std::os::fd::OwnedFd;

use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::attached::{Attached, Outcome, Terms};
use super::{Context, Failure, complain, warn};
use crate::cgroup;
use crate::container::lock::Lock;
use crate::container::{Container, Containers};
use crate::control::{self, Connection, Request};
use crate::monitor::{self, Assignment, Attach, ENGINE_ERROR};
use crate::network;
use crate::sys;
use crate::sys::process::{Child, Side};
use crate::terminal::{self, DetachKeys};

/// What of a container's streams the caller wants.
#[derive(Debug)]
pub struct Wanted {
    /// Its stdin.
    pub stdin: bool,
    /// Its stdout; the terminal's output.
    pub stdout: bool,
    /// Its stderr.
    pub stderr: bool,
    /// The keys that part the caller from its terminal.
    pub keys: DetachKeys,
    /// Whether signals are forwarded.
    pub forward: bool,
}

fn engine(error: impl ToString) -> Failure {
    Failure::new(ENGINE_ERROR, error)
}

fn system(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> Failure {
    move |errno| engine(format!("cannot {what}: {}", errno.desc()))
}

/// The other side of a start: the monitor, and our ends of the streams.
struct Begun {
    connection: Connection,
    monitor: Child,
    signals: Option<SignalFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
}

/// Forks the monitor.
fn fork(
    context: &Context,
    containers: &Containers,
    container: &Container,
    lock: Lock,
    wanted: Option<&Wanted>,
) -> Result<Begun, Failure> {
    let tty = container.config.process.tty;
    let pipes = match wanted {
        Some(wanted) => {
            terminal::copies(wanted.stdout || (tty && wanted.stderr), wanted.stderr && !tty)
                .map_err(system("make pipes"))?
        }
        None => terminal::Pipes::default(),
    };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(system("make a socket"))?;
    let signals = match wanted {
        Some(_) => Some(terminal::take_signals().map_err(system("take signals"))?),
        None => None,
    };
    let terminal::Pipes { theirs: their_ends, ours: our_ends } = pipes;
    let monitor = match sys::process::fork().map_err(system("start the monitor"))? {
        Side::Child => {
            drop((ours, signals, our_ends));
            let attach = Attach {
                stdin: wanted.is_some_and(|wanted| wanted.stdin),
                stdout: their_ends.output,
                stderr: their_ends.errors,
                window: terminal::window_size(),
            };
            sys::process::exit(monitor::run(Assignment {
                root: context.root.clone(),
                containers: containers.clone(),
                container: container.clone(),
                lock,
                attach,
                control: theirs,
            }));
        }
        Side::Parent(child) => child,
    };
    Ok(Begun {
        connection: ours.into(),
        monitor,
        signals,
        output: our_ends.output,
        errors: our_ends.errors,
    })
}

/// Starts a container whose lock is held; attached to it when something is wanted, until it ends
/// or the caller parts from it.
pub fn start(
    context: &Context,
    containers: &Containers,
    container: &Container,
    lock: Lock,
    wanted: Option<Wanted>,
) -> Result<Outcome, Failure> {
    let Begun { connection, monitor, signals, output, errors } =
        fork(context, containers, container, lock, wanted.as_ref())?;
    let attached = Attached { connection, signals, container, containers };
    let fds = match attached.started() {
        Ok(Some(fds)) => fds,
        Ok(None) => return given_up(attached, &monitor, container),
        Err(failure) => {
            monitor.wait().map_err(system("wait for the monitor"))?;
            return Err(failure);
        }
    };
    for warning in cgroup::noted(&container.dir) {
        warn(&warning);
    }
    for warning in network::present(&container.dir)?.unwrap_or_default().warnings {
        complain(&warning);
    }
    let Some(wanted) = wanted else { return Ok(Outcome::Parted) };
    let terms = Terms {
        stdin: wanted.stdin,
        tty: container.config.process.tty,
        keys: wanted.keys,
        forward: wanted.forward,
    };
    let outcome = attached.follow(output, errors, fds.into_iter().next(), terms)?;
    if let Outcome::Ended(_) = outcome {
        monitor.wait().map_err(system("wait for the monitor"))?;
    }
    Ok(outcome)
}

/// A signal came before the start: the monitor hears the connection close and gives up. Where it
/// was quicker, the container is ended as if it had been started and killed.
fn given_up(
    attached: Attached<'_>,
    monitor: &Child,
    container: &Container,
) -> Result<Outcome, Failure> {
    let Attached { connection, containers, .. } = attached;
    drop(connection);
    let kill = Request::Signal { number: nix::libc::SIGKILL, by_user: true };
    control::ask(&container.dir, &kill).ok(); // not so far yet, or over already
    monitor.wait().map_err(system("wait for the monitor"))?;
    containers.reclaim().map_err(engine)?;
    Ok(Outcome::Ended(INTERRUPTED))
}

/// The exit code of a command that was interrupted: as by SIGINT.
const INTERRUPTED: u8 = 130;
