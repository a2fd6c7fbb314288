//! The last steps of any process of a container, PID 1 or one that `exec` adds: streams, identity,
//! privileges, exec. The process is in the container's namespaces and its root already.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

pub use super::device::Terminal;
use super::plan::{Process, Rlimit, User};
use super::{Error, Streams, command, privilege, step};
use crate::spec::user::{self, Identity};
use crate::sys;

/// Becomes the command; returns only to say why not. Everything but the streams and the channel
/// is closed. `terminal` when the streams say so.
pub(super) fn become_command(
    process: &Process,
    streams: Streams,
    terminal: Option<Terminal>,
    channel: &OwnedFd,
) -> Result<Infallible, Error> {
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
    umask(Mode::from_bits_truncate(process.umask));
    let identity = identity(&process.user)?;
    let dir = &process.working_dir;
    make_dirs(dir)?;
    super::emulation::begin().map_err(step("have a supervisor for ids that do not exist here"))?;
    // From here on nothing but the streams and the channel is open: a working directory such as
    // /proc/self/fd/7 finds nothing.
    let gate = process.gate.as_deref();
    let kept: Vec<_> = std::iter::once(channel.as_fd()).chain(gate.map(AsFd::as_fd)).collect();
    sys::descriptor::keep_only(&kept, process.inherited).map_err(step("close descriptors"))?;
    sys::descriptor::default_signals().map_err(step("reset signals"))?;
    if let Some(score) = process.oom_score_adj {
        prefer_for_killing(score)?;
    }
    for limit in &process.rlimits {
        limit_resource(*limit)?;
    }
    privilege::own_streams(&identity);
    command::change_dir(dir)?;
    privilege::drop_to(&identity, process)?;
    // Changing the ids cleared it.
    if !process.outlives_starter {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("ask to die with the monitor"))?;
    }
    let ready = command::prepare(process, &identity)?;
    match gate {
        None => ready.execute(),
        Some(gate) => wait_at(gate, channel, ready),
    }
}

/// Waits until somebody connects to the gate; only then becomes the command. For the starter this
/// process has started; whoever connects hears nothing when exec succeeds.
fn wait_at(gate: &OwnedFd, channel: &OwnedFd, ready: command::Ready) -> Result<Infallible, Error> {
    // The starter waits for the channel to close. Its owner never drops it: this process execs or
    // exits, and the number is not used again but by what follows.
    nix::unistd::close(channel.as_raw_fd()).map_err(step("close the channel"))?;
    let connection = sys::descriptor::accept(gate.as_fd()).map_err(step("wait for the start"))?;
    let error = match ready.execute() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    super::report(&error, &connection);
    sys::process::exit(error.exit_code())
}

/// Runs one more process in a container: this process has joined its namespaces and its root.
/// Returns only to say why it could not become the command, and has said it over the channel then.
pub fn enter(process: &Process, streams: Streams, channel: &OwnedFd) -> Error {
    let begun = || -> Result<Infallible, Error> {
        nix::unistd::setsid().map_err(step("start a session"))?;
        let terminal = match &streams {
            Streams::Separate(_) => None,
            Streams::Terminal(size) => Some(super::device::new_terminal(size.as_ref())?),
        };
        let master = terminal.as_ref().map(|terminal| &terminal.master);
        let word = super::Word::Made { paths: Vec::new(), warnings: Vec::new() };
        super::tell(channel, &word, master)?;
        become_command(process, streams, terminal, channel)
    };
    let error = match begun() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    super::report(&error, channel);
    error
}

fn identity(user: &User) -> Result<Identity, Error> {
    let accounts = || read_optional(Path::new("/etc/passwd"));
    match user {
        User::Named { user, groups } => {
            let file = read_optional(Path::new("/etc/group"))?;
            let mut identity = user::resolve(user, &accounts()?, &file)?;
            user::add_groups(&mut identity, groups, &file)?;
            Ok(identity)
        }
        User::Ids { uid, gid, groups } => {
            let home = user::home(*uid, &accounts()?);
            let groups = std::iter::once(gid).chain(groups).copied().collect();
            Ok(Identity { uid: *uid, gid: *gid, groups, home })
        }
    }
}

/// A limit above what this machine lets be raised becomes what it lets.
fn limit_resource(limit: Rlimit) -> Result<(), Error> {
    match sys::process::set_rlimit(limit.resource, limit.soft, limit.hard) {
        Err(Errno::EPERM) => {}
        other => return other.map_err(step(format!("set resource limit {}", limit.resource))),
    }
    let (_, most) = sys::process::rlimit(limit.resource).map_err(step("read a resource limit"))?;
    let hard = limit.hard.min(most);
    sys::process::set_rlimit(limit.resource, limit.soft.min(hard), hard)
        .map_err(step(format!("set resource limit {}", limit.resource)))
}

/// Without the privilege to go below the present score, that stays.
fn prefer_for_killing(score: i32) -> Result<(), Error> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(|error| Error::Io("set oom_score_adj".to_owned(), error)),
    }
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
