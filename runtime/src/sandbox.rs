//! What happens between clone and exec: PID 1 makes its world, gives up what it must not keep,
//! and becomes the image's command.
//!
//! Runs in the new process, inside its new namespaces, single-threaded. Whatever fails is told to
//! the monitor over the channel, in one sentence with an exit code; success is told by the
//! channel closing at exec.
//!
//! The order matters:
//! 1. die with the monitor; wait for its word, so that a dead one is noticed;
//! 2. host name, loopback;
//! 3. mounts below the root filesystem, each attached to a directory opened inside that root
//!    (`tree`), so that no link in an image leads out;
//! 4. pivot_root, then nothing of the host is reachable by a path;
//! 5. streams; close everything else, then nothing is reachable by a descriptor either;
//! 6. working directory, identity, capabilities;
//! 7. exec.

mod command;
mod device;
pub mod emulation;
mod fill;
mod mounts;
pub mod plan;
mod privilege;
pub mod process;
mod start;
mod tree;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{fchdir, pivot_root, sethostname, setsid};
pub use plan::Plan;
use plan::{Namespace, UserNamespace};
use serde::{Deserialize, Serialize};
pub use start::{Begun, Failed, start};
pub use tree::For;

use crate::container::record::Bytes;
use crate::spec::user::UserError;
use crate::sys;
use crate::sys::tty::WindowSize;

/// Where the streams of a process lead.
#[derive(Debug)]
pub enum Streams {
    /// Three descriptors: pipes, or /dev/null.
    Separate([OwnedFd; 3]),
    /// A terminal of the container's own, of this size; its other side goes to the monitor.
    Terminal(Option<WindowSize>),
}

/// What PID 1 says to the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// The world is made. The terminal's other side comes with it.
    Made {
        /// Mountpoints that had to be made.
        paths: Vec<Bytes>,
        /// What could not be done and is not needed.
        warnings: Vec<String>,
    },
    /// It cannot become the command.
    Failed {
        /// As Docker's: 125, 126, 127.
        exit_code: u8,
        /// One sentence.
        message: String,
    },
}

/// Why PID 1 could not become the command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step of the preparation.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    Step(String, Errno),
    /// Something outside of the system calls.
    #[error("cannot {0}: {1}")]
    Io(String, io::Error),
    /// The user cannot be found.
    #[error(transparent)]
    User(#[from] UserError),
    /// An id that the user namespace does not have.
    #[error(
        "cannot become {kind} {id}: this user namespace has no such id; add ranges for your user \
         to /etc/subuid and /etc/subgid"
    )]
    Unmapped {
        /// User or group.
        kind: &'static str,
        /// The id.
        id: u32,
    },
    /// No such command in PATH.
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NotInPath(String),
    /// A command given by a path that leads nowhere.
    #[error("exec: \"{0}\": stat {0}: no such file or directory")]
    NoSuchFile(String),
    /// A command that the kernel refuses.
    #[error("exec: \"{0}\": {desc}", desc = .1.desc().to_lowercase())]
    Exec(String, Errno),
}

impl Error {
    /// Docker's exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotInPath(_) | Self::NoSuchFile(_) | Self::Exec(_, Errno::ENOENT) => 127,
            Self::Exec(..) => 126,
            Self::Step(..) | Self::Io(..) | Self::User(_) | Self::Unmapped { .. } => 125,
        }
    }
}

/// Names the step that failed.
fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Step(what.into(), errno)
}

/// Becomes the command; returns only to say why not, and has said it to the monitor then.
fn enter(plan: &Plan, streams: Streams, channel: &OwnedFd) -> Error {
    let error = match become_command(plan, streams, channel) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    report(&error, channel);
    error
}

/// Tells the starter what failed.
pub(crate) fn report(error: &Error, channel: &OwnedFd) {
    let word = Word::Failed { exit_code: error.exit_code(), message: error.to_string() };
    if let Ok(word) = serde_json::to_vec(&word) {
        // When the monitor is gone there is nobody to tell; this process ends either way.
        sys::descriptor::send(channel.as_fd(), &word, &[]).ok();
    }
}

fn become_command(
    plan: &Plan,
    streams: Streams,
    channel: &OwnedFd,
) -> Result<std::convert::Infallible, Error> {
    if !plan.process.outlives_starter {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("ask to die with the monitor"))?;
    }
    if sys::descriptor::receive(channel.as_fd()).map_err(step("hear the monitor"))?.is_none() {
        return Err(Error::Step("hear the monitor".to_owned(), Errno::EPIPE));
    }
    join(plan)?;
    setsid().map_err(step("start a session"))?;
    if let Some(hostname) = &plan.hostname {
        sethostname(hostname).map_err(step("set the host name"))?;
    }
    if let Some(domainname) = &plan.domainname {
        sys::process::set_domainname(domainname).map_err(step("set the domain name"))?;
    }
    if plan.loopback {
        sys::network::loopback_up().map_err(step("bring the loopback interface up"))?;
    }
    umask(Mode::empty());
    let (terminal, made) = furnish(plan, &streams)?;
    let word =
        Word::Made { paths: made.into_iter().map(Bytes::from).collect(), warnings: Vec::new() };
    tell(channel, &word, terminal.as_ref().map(|terminal| &terminal.master))?;
    process::become_command(&plan.process, streams, terminal, channel)
}

/// Enters the namespaces that belong to somebody else. That of process numbers has been entered
/// before the clone.
fn join(plan: &Plan) -> Result<(), Error> {
    let namespaces = &plan.namespaces;
    if let UserNamespace::Join(path) = &namespaces.user {
        join_one(path, CloneFlags::CLONE_NEWUSER)?;
    }
    for (namespace, kind) in [
        (&namespaces.uts, CloneFlags::CLONE_NEWUTS),
        (&namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        (&namespaces.network, CloneFlags::CLONE_NEWNET),
        (&namespaces.cgroup, CloneFlags::CLONE_NEWCGROUP),
    ] {
        if let Namespace::Join(path) = namespace {
            join_one(path, kind)?;
        }
    }
    if namespaces.cgroup == Namespace::New {
        // Now, and not at the clone: this process is in the container's group only since then.
        match unshare(CloneFlags::CLONE_NEWCGROUP) {
            // A kernel without control groups.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(step("make a control group namespace")(errno)),
        }
    }
    Ok(())
}

fn join_one(path: &Path, kind: CloneFlags) -> Result<(), Error> {
    let failed = || step(format!("join the namespace {}", path.display()));
    let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed())?;
    setns(fd, kind).map_err(failed())
}

/// Mounts everything, and leaves the host's tree.
fn furnish(
    plan: &Plan,
    streams: &Streams,
) -> Result<(Option<device::Terminal>, Vec<PathBuf>), Error> {
    let mut root = tree::Root::open(&plan.rootfs)?;
    let terminal = mounts::furnish(&mut root, plan, streams)?;
    fchdir(root.fd()).map_err(step("enter the root filesystem"))?;
    pivot_root(".", ".").map_err(step("make it the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("leave the host's filesystems"))?;
    nix::unistd::chdir("/").map_err(step("enter the root filesystem"))?;
    if plan.rootfs_read_only {
        mounts::read_only_root()?;
    }
    Ok((terminal, root.made()))
}

fn tell(channel: &OwnedFd, word: &Word, fd: Option<&OwnedFd>) -> Result<(), Error> {
    let text = serde_json::to_vec(word)
        .map_err(|error| Error::Io("tell the monitor".to_owned(), error.into()))?;
    let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
    sys::descriptor::send(channel.as_fd(), &text, &fds).map_err(step("tell the monitor"))
}

/// For messages.
fn shown(text: &OsStr) -> String {
    text.display().to_string()
}
