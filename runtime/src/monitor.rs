//! One small process per container: it holds the lock, the mount namespace, and cowlfs; it starts
//! PID 1, sees it end, takes everything down, and writes what became of it.
//!
//! It ends the container when the command line ends (this version runs in the foreground only) or
//! when cowlfs ends, and it is told to by SIGTERM, SIGINT, SIGHUP or SIGQUIT. What it cannot do
//! when it is itself killed, the command line, the kernel and the next command do.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};

use crate::container::lock::Lock;
use crate::container::record::now;
use crate::container::{Container, Containers, KILLED, Live, Process, Status};
use crate::launch;
use crate::network::Attached;
use crate::rootfs::{self, Lower, Rootfs};
use crate::sandbox::{self, Begun, Failed, Plan, Streams};
use crate::sys;
use crate::sys::process::Child;

/// The exit code for failures of the engine, as Docker's.
pub const ENGINE_ERROR: u8 = 125;

/// What the monitor tells the command line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// PID 1 is the command now. A descriptor of it comes with this, then the terminal's.
    Started,
    /// PID 1 could not be started; everything is cleaned up.
    NotStarted {
        /// 125, 126 or 127.
        exit_code: u8,
        /// One sentence.
        message: String,
    },
    /// PID 1 has ended; everything is cleaned up.
    Ended {
        /// Its exit code.
        exit_code: u8,
        /// What went wrong, where it was not PID 1's own doing.
        error: Option<String>,
    },
}

/// A container to be run.
#[derive(Debug)]
pub struct Assignment {
    /// Where it lives on disk.
    pub containers: Containers,
    /// The container.
    pub container: Container,
    /// Its lock.
    pub lock: Lock,
    /// What lies under its write layer.
    pub lower: Lower,
    /// What PID 1 becomes.
    pub plan: Plan,
    /// PID 1's streams.
    pub streams: Streams,
    /// To the command line.
    pub control: OwnedFd,
}

/// Why a start failed.
struct Failure {
    exit_code: u8,
    message: String,
}

impl From<rootfs::Error> for Failure {
    fn from(error: rootfs::Error) -> Self {
        Self { exit_code: ENGINE_ERROR, message: error.to_string() }
    }
}

impl From<crate::container::Error> for Failure {
    fn from(error: crate::container::Error) -> Self {
        Self { exit_code: ENGINE_ERROR, message: error.to_string() }
    }
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure {
        exit_code: ENGINE_ERROR,
        message: format!("cannot {what}: {}", errno.desc()),
    }
}

/// What runs once PID 1 is the command.
struct Running {
    init: Child,
    rootfs: Rootfs,
    terminal: Option<OwnedFd>,
    made: Vec<PathBuf>,
    network: Option<Attached>,
}

/// Runs a container to its end. The exit code is that of this process; the command line listens
/// to the reports.
pub fn run(assignment: Assignment) -> u8 {
    let Assignment { containers, mut container, lock, lower, plan, streams, control } = assignment;
    let signals = match detach() {
        Ok(signals) => signals,
        Err(failure) => {
            return not_started(&containers, &mut container, &control, failure);
        }
    };
    match start(&mut container, &lock, &lower, &plan, streams, control.as_fd()) {
        Err(failure) => not_started(&containers, &mut container, &control, failure),
        Ok(running) => {
            let mut fds = vec![running.init.as_fd()];
            fds.extend(running.terminal.as_ref().map(AsFd::as_fd));
            tell(&control, &Report::Started, &fds);
            let (exit_code, error) = supervise(running, &signals, control.as_fd());
            let code = if error.is_some() { KILLED } else { exit_code };
            container.state.finish(code, error.clone());
            let error = settle(&containers, &container, error);
            tell(&control, &Report::Ended { exit_code, error }, &[]);
            exit_code
        }
    }
}

/// Writes the end down, or removes the container when it was to be.
fn settle(containers: &Containers, container: &Container, error: Option<String>) -> Option<String> {
    let done =
        if container.config.remove { containers.delete(&container.dir) } else { container.save() };
    error.or_else(|| done.err().map(|error| error.to_string()))
}

fn not_started(
    containers: &Containers,
    container: &mut Container,
    control: &OwnedFd,
    failure: Failure,
) -> u8 {
    let Failure { exit_code, mut message } = failure;
    container.state.status = Status::Created { exit_code: Some(exit_code) };
    container.state.error = Some(message.clone());
    container.state.mountpoints.clear();
    if let Some(also) = settle(containers, container, None) {
        message = format!("{message}; then {also}");
    }
    tell(control, &Report::NotStarted { exit_code, message }, &[]);
    exit_code
}

/// Reports; a command line that is gone needs no report.
fn tell(control: &OwnedFd, report: &Report, fds: &[BorrowedFd<'_>]) {
    if let Ok(text) = serde_json::to_vec(report) {
        sys::descriptor::send(control.as_fd(), &text, fds).ok();
    }
}

/// Leaves the caller's terminal, streams, directory and mount namespace.
fn detach() -> Result<SignalFd, Failure> {
    setsid().map_err(failed("start a session"))?;
    prctl::set_name(c"cowl-monitor").map_err(failed("name the monitor"))?;
    nix::unistd::chdir("/").map_err(failed("change to the root directory"))?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed("open /dev/null"))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null))
        .map_err(failed("leave the caller's streams"))?;
    sys::descriptor::default_signals().map_err(failed("reset signals"))?;
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block().map_err(failed("block signals"))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
        .map_err(failed("make a signal descriptor"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    // Slave: what the machine unmounts goes here too, and nothing of ours goes there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(failed("separate the mount namespace"))?;
    Ok(signals)
}

fn start(
    container: &mut Container,
    lock: &Lock,
    lower: &Lower,
    plan: &Plan,
    streams: Streams,
    control: BorrowedFd<'_>,
) -> Result<Running, Failure> {
    let rootfs = Rootfs::mount(lower, &container.dir, lock.as_fd(), control)?;
    let mut network = None;
    let started = sandbox::start(plan, streams, |init| {
        network = Some(launch::network::attach(container, init).map_err(|e| e.to_string())?);
        Ok(())
    });
    match started {
        Ok(Begun { init, made, terminal, .. }) => {
            container.state.begin(Live {
                init: Process::note(init.pid),
                monitor: Process::note(nix::unistd::Pid::this()),
                filesystem: Process::note(rootfs.pid()),
                since: now(),
            });
            container.state.mountpoints = made.iter().cloned().map(Into::into).collect();
            let running = Running { init, rootfs, terminal, made, network };
            if let Err(error) = container.save() {
                supervise_end(running)?;
                return Err(error.into());
            }
            Ok(running)
        }
        Err(Failed { exit_code, message, made }) => {
            if let Some(mut network) = network {
                // Why it did not start is what to say; what stays counts for nothing.
                network.detach().ok();
            }
            rootfs.remove_mountpoints(&made);
            rootfs.unmount()?;
            Err(Failure { exit_code, message })
        }
    }
}

/// Kills and takes down what was started.
fn supervise_end(running: Running) -> Result<u8, Failure> {
    sys::process::kill(running.init.as_fd(), Signal::SIGKILL as i32).ok();
    let code = running.init.wait().map_err(failed("wait for PID 1"))?;
    let network = running.network.map_or(Ok(()), |mut network| network.detach());
    running.rootfs.remove_mountpoints(&running.made);
    running.rootfs.unmount()?;
    network.map_err(|error| Failure { exit_code: ENGINE_ERROR, message: error.to_string() })?;
    Ok(code)
}

/// Waits for the end of PID 1, bringing it about when one of the others ends; then takes
/// everything down. The exit code, and what went wrong.
fn supervise(
    running: Running,
    signals: &SignalFd,
    control: BorrowedFd<'_>,
) -> (u8, Option<String>) {
    let mut error: Option<String> = None;
    loop {
        let watched = [running.init.as_fd(), running.rootfs.as_fd(), signals.as_fd(), control];
        let mut fds = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => {
                error = Some(format!("the monitor cannot wait: {}", errno.desc()));
                break;
            }
            Ok(_) => {}
        }
        let [init, filesystem, signalled, caller] = fds.map(|fd| fd.any().unwrap_or(false));
        if init {
            break;
        }
        if filesystem {
            error = Some(
                "the container's filesystem (cowlfs) ended unexpectedly, so the container was \
                 killed"
                    .to_owned(),
            );
        } else if signalled {
            error = Some("the container's monitor was told to end".to_owned());
        } else if caller {
            error = Some("the command that ran the container was killed".to_owned());
        } else {
            continue;
        }
        break;
    }
    let lost = error.is_some();
    match supervise_end(running) {
        Ok(_) if lost => (ENGINE_ERROR, error),
        Ok(code) => (code, None),
        Err(failure) => (ENGINE_ERROR, error.or(Some(failure.message))),
    }
}
