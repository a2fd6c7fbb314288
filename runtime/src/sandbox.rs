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
mod mounts;
mod privilege;
mod tree;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{fchdir, pivot_root, sethostname, setsid};
use serde::{Deserialize, Serialize};

use crate::container::record::Bytes;
use crate::spec::user::UserError;
use crate::spec::{Network, Spec};
use crate::sys;
use crate::sys::tty::WindowSize;

/// Where the streams of PID 1 lead.
#[derive(Debug)]
pub enum Streams {
    /// Three descriptors: pipes, or /dev/null.
    Separate([OwnedFd; 3]),
    /// A terminal of the container's own, of this size; its other side goes to the monitor.
    Terminal(Option<WindowSize>),
}

/// All that PID 1 needs to know.
#[derive(Debug)]
pub struct Plan {
    /// What to run.
    pub spec: Spec,
    /// The mounted root filesystem.
    pub rootfs: PathBuf,
    /// Where `hosts`, `hostname` and `resolv.conf` are.
    pub files: PathBuf,
    /// Whether this is root of a user namespace rather than of the machine.
    pub user_namespace: bool,
}

/// What PID 1 says to the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// Mountpoints that had to be made. The terminal's other side comes with it.
    Made(Vec<Bytes>),
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
pub fn enter(plan: &Plan, streams: Streams, channel: &OwnedFd) -> Error {
    let error = match become_command(plan, streams, channel) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let word = Word::Failed { exit_code: error.exit_code(), message: error.to_string() };
    if let Ok(word) = serde_json::to_vec(&word) {
        // When the monitor is gone there is nobody to tell; this process ends either way.
        sys::descriptor::send(channel.as_fd(), &word, &[]).ok();
    }
    error
}

fn become_command(
    plan: &Plan,
    streams: Streams,
    channel: &OwnedFd,
) -> Result<std::convert::Infallible, Error> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("ask to die with the monitor"))?;
    if sys::descriptor::receive(channel.as_fd()).map_err(step("hear the monitor"))?.is_none() {
        return Err(Error::Step("hear the monitor".to_owned(), Errno::EPIPE));
    }
    setsid().map_err(step("start a session"))?;
    sethostname(&plan.spec.hostname).map_err(step("set the host name"))?;
    if plan.spec.network == Network::None {
        sys::network::loopback_up().map_err(step("bring the loopback interface up"))?;
    }
    umask(Mode::empty());
    let (terminal, made) = furnish(plan, &streams)?;
    let made = made.into_iter().map(Bytes::from).collect();
    tell(channel, &Word::Made(made), terminal.as_ref().map(|terminal| &terminal.master))?;

    match (streams, terminal) {
        (Streams::Separate(fds), None) => {
            let [input, output, errors] = &fds;
            redirect(input, output, errors)?;
        }
        (_, Some(terminal)) => {
            drop(terminal.master);
            sys::tty::make_controlling(terminal.slave.as_fd())
                .map_err(step("take the terminal"))?;
            redirect(&terminal.slave, &terminal.slave, &terminal.slave)?;
        }
        (Streams::Terminal(_), None) => {
            return Err(Error::Step("open a terminal".to_owned(), Errno::ENOTTY));
        }
    }
    umask(Mode::from_bits_truncate(0o022));

    let identity = crate::spec::user::resolve(
        &plan.spec.user,
        &read_optional(Path::new("/etc/passwd"))?,
        &read_optional(Path::new("/etc/group"))?,
    )?;
    let dir = &plan.spec.working_dir;
    make_dirs(dir)?;
    // From here on nothing but the streams and the channel is open: a working directory such as
    // /proc/self/fd/7 finds nothing.
    sys::descriptor::close_all_but(channel.as_fd()).map_err(step("close descriptors"))?;
    sys::descriptor::default_signals().map_err(step("reset signals"))?;
    privilege::own_streams(&identity);
    command::change_dir(dir)?;
    privilege::drop_to(&identity, plan.user_namespace)?;
    // Changing the ids cleared it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("ask to die with the monitor"))?;
    command::execute(&plan.spec, &identity)
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
    Ok((terminal, root.made()))
}

fn tell(channel: &OwnedFd, word: &Word, fd: Option<&OwnedFd>) -> Result<(), Error> {
    let text = serde_json::to_vec(word)
        .map_err(|error| Error::Io("tell the monitor".to_owned(), error.into()))?;
    let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
    sys::descriptor::send(channel.as_fd(), &text, &fds).map_err(step("tell the monitor"))
}

fn redirect(input: &OwnedFd, output: &OwnedFd, errors: &OwnedFd) -> Result<(), Error> {
    nix::unistd::dup2_stdin(input)
        .and_then(|()| nix::unistd::dup2_stdout(output))
        .and_then(|()| nix::unistd::dup2_stderr(errors))
        .map_err(step("connect the streams"))
}

/// The largest passwd or group file that is read: an image's content is not trusted.
const ACCOUNTS_MAX: u64 = 16 << 20;

/// Reads a file of the image that need not exist.
fn read_optional(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::Io(format!("read the image's {}", path.display()), error);
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Ok(Vec::new()); // a FIFO here would stop us for ever
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ACCOUNTS_MAX).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}

/// Makes the working directory when the image has none, as Docker does.
fn make_dirs(dir: &Path) -> Result<(), Error> {
    match fs::create_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(_) if fs::metadata(dir).is_ok_and(|found| found.is_dir()) => Ok(()),
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw);
            // Found, and refused above: it is something else.
            let errno = if errno == Some(Errno::EEXIST) { Some(Errno::ENOTDIR) } else { errno };
            let what = format!("make the working directory {}", dir.display());
            Err(Error::Step(what, errno.unwrap_or(Errno::EIO)))
        }
    }
}

/// For messages.
fn shown(text: &OsStr) -> String {
    text.display().to_string()
}
