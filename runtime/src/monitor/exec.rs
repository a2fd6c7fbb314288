//! A program beside PID 1: `exec`.
//!
//! The monitor itself is its parent, so that it dies with the container's monitor as PID 1 does
//! and its end is noticed. It is born in the container's namespace of process numbers, and enters
//! the others itself, before it is anything that the container could touch: it is not dumpable,
//! so that nobody inside may look at it while it still has descriptors of the host's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{Failure, failed};
use crate::cgroup::Group;
use crate::container::Container;
use crate::control::Exec;
use crate::launch;
use crate::sandbox::plan::{Capabilities, Namespace, Namespaces, Process, User, UserNamespace};
use crate::sandbox::{self, Streams, Word};
use crate::spec::{capability, environment};
use crate::sys;
use crate::sys::process::{Child, Side};
use crate::sys::tty::WindowSize;

/// What the program becomes: the container's command with what differs.
fn process(container: &Container, exec: &Exec) -> Result<Process, Failure> {
    let mut process = launch::process(container).map_err(Failure::engine)?;
    process.command = exec.command.iter().map(Into::into).collect();
    if exec.tty {
        environment::set(&mut process.environment, "TERM=xterm".into());
    }
    for variable in &exec.environment {
        environment::set(&mut process.environment, variable.into());
    }
    if let Some(user) = &exec.user {
        process.user = User::Named { user: user.clone(), groups: Vec::new() };
    }
    if let Some(dir) = &exec.working_dir {
        process.working_dir = std::ffi::OsString::from(dir).into();
    }
    if exec.privileged {
        let all = capability::granted(true, &[], &[]).map_err(Failure::engine)?;
        process.capabilities = Capabilities::of(all);
    }
    Ok(process)
}

/// The namespaces that the container does not share with the monitor.
fn to_join(namespaces: &Namespaces) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    for (namespace, flag) in [
        (&namespaces.uts, CloneFlags::CLONE_NEWUTS),
        (&namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (&namespaces.network, CloneFlags::CLONE_NEWNET),
        (&namespaces.cgroup, CloneFlags::CLONE_NEWCGROUP),
    ] {
        flags.set(flag, *namespace != Namespace::Host);
    }
    flags.set(CloneFlags::CLONE_NEWUSER, namespaces.user != UserNamespace::Host);
    flags
}

/// Forks a process whose namespace of process numbers is that of `init`. Not by entering that
/// and coming back: an ordinary user's monitor may not come back to the machine's.
fn fork_beside(init: &Child, namespaces: &Namespaces) -> Result<Side, Failure> {
    let side = if namespaces.pid == Namespace::Host {
        sys::process::fork()
    } else {
        // Its number is its own until we have waited for it.
        let path = PathBuf::from(format!("/proc/{}/ns/pid", init.pid));
        sys::process::fork_beside(&path, CloneFlags::empty())
    };
    side.map_err(failed("start a process in the container"))
}

/// In the new process: enters the container.
fn enter(init: &Child, flags: CloneFlags, channel: &OwnedFd) -> Result<(), sandbox::Error> {
    let step = |what: &'static str| move |errno| sandbox::Error::Step(what.to_owned(), errno);
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("ask to die with the monitor"))?;
    prctl::set_dumpable(false).map_err(step("hide from the container"))?;
    if sys::descriptor::receive(channel.as_fd()).map_err(step("hear the monitor"))?.is_none() {
        return Err(sandbox::Error::Step("hear the monitor".to_owned(), Errno::EPIPE));
    }
    setns(init, flags).map_err(step("enter the container"))?;
    nix::unistd::chdir("/").map_err(step("enter the container's root"))
}

/// Starts a program in the container of `init`; our side of its terminal, when it has one.
pub fn start(
    container: &Container,
    namespaces: &Namespaces,
    init: &Child,
    exec: &Exec,
    fds: Vec<OwnedFd>,
) -> Result<(Child, Option<OwnedFd>), Failure> {
    let process = process(container, exec)?;
    let streams = if exec.tty {
        Streams::Terminal(exec.window.map(|(ws_row, ws_col)| WindowSize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }))
    } else {
        let fds = <[OwnedFd; 3]>::try_from(fds)
            .map_err(|_| Failure::engine("the request came without its streams"))?;
        Streams::Separate(fds)
    };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(failed("make a socket"))?;
    let flags = to_join(namespaces);
    let child = match fork_beside(init, namespaces)? {
        Side::Child => {
            drop(ours);
            let error = match enter(init, flags, &theirs) {
                Ok(()) => sandbox::process::enter(&process, streams, &theirs),
                Err(error) => {
                    sandbox::report(&error, &theirs);
                    error
                }
            };
            sys::process::exit(error.exit_code());
        }
        Side::Parent(child) => child,
    };
    drop((theirs, streams));
    // Waits for its word until then.
    Group::open(&container.config).add(child.pid.as_raw());
    match listen(&ours) {
        Ok(terminal) => Ok((child, terminal)),
        Err(failure) => {
            sys::process::kill(child.as_fd(), Signal::SIGKILL as i32).ok();
            child.wait().map_err(failed("wait for the program"))?;
            Err(failure)
        }
    }
}

/// Lets the program go on, and hears it until it is the command.
fn listen(channel: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    // A send that fails means that it has ended: then the next receive says so.
    sys::descriptor::send(channel.as_fd(), b"go", &[]).ok();
    let mut terminal: Option<OwnedFd> = None;
    loop {
        let Some((text, fds)) =
            sys::descriptor::receive(channel.as_fd()).map_err(failed("hear the program"))?
        else {
            return Ok(terminal);
        };
        match serde_json::from_slice::<Word>(&text) {
            Ok(Word::Made { .. }) => terminal = fds.into_iter().next(),
            Ok(Word::Failed { exit_code, message }) => return Err(Failure { exit_code, message }),
            Err(error) => {
                return Err(Failure::engine(format!("the program said something odd: {error}")));
            }
        }
    }
}
