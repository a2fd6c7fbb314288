//! PID 1 comes into being: the clone into its namespaces, and the wait until it is the command.
//!
//! A namespace of process numbers that belongs to somebody else cannot be entered by a clone, only
//! by the parent of a clone: then a process in between enters it, and clones PID 1 as a child of
//! the starter (CLONE_PARENT).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::plan::{IdRange, Namespace, Namespaces, UserNamespace};
use super::{Plan, Streams, Word};
use crate::sys;
use crate::sys::process::{Child, Side};

/// The exit code for failures before the command, as Docker's.
const ENGINE_ERROR: u8 = 125;

/// PID 1 is the command.
#[derive(Debug)]
pub struct Begun {
    /// It; a child of this process.
    pub init: Child,
    /// Mountpoints that had to be made in the root filesystem.
    pub made: Vec<PathBuf>,
    /// Our side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What could not be done and is not needed: for the user.
    pub warnings: Vec<String>,
}

/// PID 1 could not become the command, and is gone.
#[derive(Debug)]
pub struct Failed {
    /// 125, 126 or 127, as Docker's.
    pub exit_code: u8,
    /// One sentence.
    pub message: String,
    /// Mountpoints that had been made already.
    pub made: Vec<PathBuf>,
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Failed {
    move |errno| Failed {
        exit_code: ENGINE_ERROR,
        message: format!("cannot {what}: {}", errno.desc()),
        made: Vec::new(),
    }
}

/// The namespaces that the clone makes; that of control groups comes later, in `join`.
fn clone_flags(namespaces: &Namespaces) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    for (namespace, flag) in [
        (&namespaces.pid, CloneFlags::CLONE_NEWPID),
        (&namespaces.uts, CloneFlags::CLONE_NEWUTS),
        (&namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (&namespaces.network, CloneFlags::CLONE_NEWNET),
    ] {
        flags.set(flag, *namespace == Namespace::New);
    }
    flags.set(CloneFlags::CLONE_NEWUSER, matches!(namespaces.user, UserNamespace::New { .. }));
    flags
}

/// Clones PID 1. Called in a process of one thread.
fn clone(namespaces: &Namespaces) -> nix::Result<Side> {
    let flags = clone_flags(namespaces);
    match &namespaces.pid {
        Namespace::Join(path) => sys::process::fork_beside(path, flags),
        Namespace::New | Namespace::Host => sys::process::fork_into(flags),
    }
}

/// Writes the maps of a user namespace that was made.
fn write_maps(init: &Child, users: &[IdRange], groups: &[IdRange]) -> Result<(), Failed> {
    for (file, ranges) in [("uid_map", users), ("gid_map", groups)] {
        let text: String = ranges
            .iter()
            .map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count))
            .collect();
        fs::write(format!("/proc/{}/{file}", init.pid), text).map_err(|error| Failed {
            exit_code: ENGINE_ERROR,
            message: format!("cannot write the {file} of the container: {error}"),
            made: Vec::new(),
        })?;
    }
    Ok(())
}

/// Clones PID 1 and waits until it is the command. `prepare` is called with PID 1 while that
/// waits for its word: for what must be done from outside (control group, network, hooks).
pub fn start(
    plan: &Plan,
    streams: Streams,
    prepare: impl FnOnce(&Child) -> Result<(), String>,
) -> Result<Begun, Failed> {
    super::emulation::prepare().map_err(failed("start the supervisor of ids"))?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(failed("make a socket"))?;
    let side = clone(&plan.namespaces).map_err(failed("make the container's namespaces"))?;
    let init = match side {
        Side::Child => {
            drop(ours);
            let error = super::enter(plan, streams, &theirs);
            sys::process::exit(error.exit_code());
        }
        Side::Parent(child) => child,
    };
    drop(theirs);
    drop(streams);
    let prepared = match &plan.namespaces.user {
        UserNamespace::New { users, groups } => write_maps(&init, users, groups),
        UserNamespace::Host | UserNamespace::Join(_) => Ok(()),
    }
    .and_then(|()| {
        prepare(&init).map_err(|message| Failed {
            exit_code: ENGINE_ERROR,
            message,
            made: Vec::new(),
        })
    });
    let failure = match prepared {
        Err(failure) => failure,
        Ok(()) => match listen(&ours) {
            Ok(heard) => {
                let Heard { made, terminal, warnings } = heard;
                return Ok(Begun { init, made, terminal, warnings });
            }
            Err(failure) => failure,
        },
    };
    sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
    match init.wait() {
        Ok(_) => Err(failure),
        Err(errno) => {
            let Failed { exit_code, message, .. } = failed("wait for PID 1")(errno);
            Err(Failed { exit_code, message, made: failure.made })
        }
    }
}

/// What PID 1 said until it was the command.
struct Heard {
    made: Vec<PathBuf>,
    terminal: Option<OwnedFd>,
    warnings: Vec<String>,
}

/// Lets PID 1 go on, and hears it until it is the command.
fn listen(channel: &OwnedFd) -> Result<Heard, Failed> {
    // A send that fails means that PID 1 has ended: then the next receive says so.
    sys::descriptor::send(channel.as_fd(), b"go", &[]).ok();
    let mut made: Option<Vec<PathBuf>> = None;
    let (mut terminal, mut warnings) = (None, Vec::new());
    // The channel closes at exec. It also closes when PID 1 is killed: without a word about its
    // mounts it was; after that, the two differ only in its exit status, which is reported.
    let (exit_code, message) = loop {
        match (sys::descriptor::receive(channel.as_fd()), &mut made) {
            (Err(errno), _) => {
                break (ENGINE_ERROR, format!("cannot hear PID 1: {}", errno.desc()));
            }
            (Ok(None), Some(made)) => {
                return Ok(Heard { made: std::mem::take(made), terminal, warnings });
            }
            (Ok(None), None) => {
                break (ENGINE_ERROR, "PID 1 was killed while it was being started".to_owned());
            }
            (Ok(Some((text, fds))), made) => match serde_json::from_slice::<Word>(&text) {
                Ok(Word::Made { paths, warnings: said }) => {
                    *made = Some(
                        paths.iter().map(|path| std::ffi::OsString::from(path).into()).collect(),
                    );
                    warnings = said;
                    terminal = fds.into_iter().next();
                }
                Ok(Word::Failed { exit_code, message }) => break (exit_code, message),
                Err(error) => break (ENGINE_ERROR, format!("PID 1 said something odd: {error}")),
            },
        }
    };
    Err(Failed { exit_code, message, made: made.unwrap_or_default() })
}
