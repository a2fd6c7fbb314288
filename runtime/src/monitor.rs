//! One small process per container: it holds the lock, the mount namespace, cowlfs, and the
//! streams; it starts PID 1, sees it end, starts it again where it shall, takes everything down,
//! and writes what became of it.
//!
//! It is not the child of whoever wants something of it: the command that started the container
//! may end, and others come over the control socket ([`crate::control`]). It has one thread, and
//! waits for everything at once.
//!
//! It ends the container when cowlfs ends, and when it is told to by SIGTERM, SIGINT, SIGHUP or
//! SIGQUIT (a machine that shuts down): as `stop` does at first, and at once the second time.
//! What it cannot do when it is itself killed, the kernel and the next command do.

mod exec;
mod freeze;
mod requests;
mod streams;
mod watch;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::setsid;

use crate::cgroup::{self, Group};
use crate::container::lock::Lock;
use crate::container::record::now;
use crate::container::{Container, Containers, KILLED, Live, Process, Status};
use crate::control::{Connection, Listener, Reply};
use crate::events::{self, Event};
use crate::launch;
use crate::log::{self, Stream};
use crate::network::Attached;
use crate::rootfs::{self, Lower, Rootfs};
use crate::sandbox::plan::Namespaces;
use crate::sandbox::{self, Begun, Failed};
use crate::sys;
use crate::sys::process::Child;
use crate::sys::tty::WindowSize;
use requests::Program;
use streams::{Outputs, Wanted};

/// The exit code for failures of the engine, as Docker's.
pub const ENGINE_ERROR: u8 = 125;

/// How long a container that its restart policy brings back stays down: at first, and at most,
/// doubled in between. Docker's.
const RESTART_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// A life of this length starts the delays anew. Docker's.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// What the command that starts a container attaches to it at once.
#[derive(Debug, Default)]
pub struct Attach {
    /// Whether it wants to write to its stdin.
    pub stdin: bool,
    /// Where its stdout goes.
    pub stdout: Option<OwnedFd>,
    /// Where its stderr goes.
    pub stderr: Option<OwnedFd>,
    /// The size of the caller's window.
    pub window: Option<WindowSize>,
}

/// A container to be run.
#[derive(Debug)]
pub struct Assignment {
    /// Where everything is kept.
    pub root: PathBuf,
    /// Where it lives on disk.
    pub containers: Containers,
    /// The container.
    pub container: Container,
    /// Its lock.
    pub lock: Lock,
    /// What the command line attaches.
    pub attach: Attach,
    /// To the command line.
    pub control: OwnedFd,
}

/// Why something failed.
#[derive(Debug)]
struct Failure {
    exit_code: u8,
    message: String,
}

impl Failure {
    fn engine(error: impl ToString) -> Self {
        Self { exit_code: ENGINE_ERROR, message: error.to_string() }
    }
}

impl From<rootfs::Error> for Failure {
    fn from(error: rootfs::Error) -> Self {
        Self::engine(error)
    }
}

impl From<crate::container::Error> for Failure {
    fn from(error: crate::container::Error) -> Self {
        Self::engine(error)
    }
}

impl From<crate::control::Error> for Failure {
    fn from(error: crate::control::Error) -> Self {
        Self::engine(error)
    }
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure::engine(format!("cannot {what}: {}", errno.desc()))
}

/// A command on the other side of a connection.
#[derive(Debug)]
struct Client {
    number: u64,
    connection: Connection,
    /// Whether it is told of the end of PID 1.
    waits: bool,
}

/// PID 1 is being ended.
#[derive(Debug, Default)]
struct Stopping {
    /// When SIGKILL follows.
    deadline: Option<Instant>,
}

/// A container's monitor.
#[derive(Debug)]
struct Monitor {
    containers: Containers,
    container: Container,
    lock: Option<Lock>,
    root: PathBuf,
    /// The namespaces of PID 1, for programs beside it.
    namespaces: Namespaces,
    signals: SignalFd,
    listener: Listener,
    clients: Vec<Client>,
    next_client: u64,
    rootfs: Option<Rootfs>,
    /// Mountpoints that were made in it.
    made: Vec<PathBuf>,
    network: Option<Attached>,
    group: Option<Group>,
    init: Option<Child>,
    outputs: Outputs,
    programs: Vec<Program>,
    stopping: Option<Stopping>,
    /// Whether it was `stop` that asked for the end.
    stop_asked: bool,
}

/// How PID 1 ended: its exit code, and what went wrong where that was not its own doing.
type End = (u8, Option<String>);

/// Runs a container until it has ended for good. The exit code is that of this process.
pub fn run(assignment: Assignment) -> u8 {
    let Assignment { root, containers, mut container, lock, attach, control } = assignment;
    let control = Connection::from(control);
    let prepared = detach().and_then(|signals| Ok((signals, Listener::open(&container.dir)?)));
    let (signals, listener) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return not_started(&containers, &mut container, &control, failure),
    };
    let monitor = Monitor {
        containers,
        container,
        lock: Some(lock),
        root,
        namespaces: Namespaces::default(),
        signals,
        listener,
        clients: Vec::new(),
        next_client: 0,
        rootfs: None,
        made: Vec::new(),
        network: None,
        group: None,
        init: None,
        outputs: Outputs::none(),
        programs: Vec::new(),
        stopping: None,
        stop_asked: false,
    };
    monitor.run(attach, control)
}

/// The attributes of a container's events: its labels, image and name, and what is added.
pub fn attributes(container: &Container, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let config = &container.config;
    let mut all = config.labels.clone();
    all.insert("image".to_owned(), config.image.clone());
    all.insert("name".to_owned(), config.name.clone());
    all.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    all
}

/// Writes the end down, or removes the container when it was to be.
fn settle(containers: &Containers, container: &Container, error: Option<String>) -> Option<String> {
    let done =
        if container.config.remove { containers.discard(container) } else { container.save() };
    error.or_else(|| done.err().map(|error| error.to_string()))
}

fn not_started(
    containers: &Containers,
    container: &mut Container,
    control: &Connection,
    failure: Failure,
) -> u8 {
    let Failure { exit_code, mut message } = failure;
    container.state.error = Some(message.clone());
    container.state.to_be_started = false;
    if container.state.started.is_none() {
        container.state.status = Status::Created { exit_code: Some(exit_code) };
    } else {
        container.state.finish(exit_code, Some(message.clone()));
    }
    if let Some(also) = settle(containers, container, None) {
        message = format!("{message}; then {also}");
    }
    control.answer(&Reply::Failed { exit_code, message }, &[]);
    exit_code
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
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(failed("make a signal descriptor"))?;
    // A command that no longer reads is an error of that write, not the end of the monitor.
    set.add(Signal::SIGPIPE);
    set.thread_block().map_err(failed("block signals"))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
    // Slave: what the machine unmounts goes here too, and nothing of ours goes there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(failed("separate the mount namespace"))?;
    Ok(signals)
}

impl Monitor {
    fn run(mut self, attach: Attach, control: Connection) -> u8 {
        match self.begin(attach, &control) {
            Ok(input) => {
                let fds: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
                control.answer(&Reply::Started, &fds);
                self.clients.push(Client { number: 0, connection: control, waits: true });
                self.next_client = 1;
            }
            Err(failure) => {
                let failure = match self.take_down() {
                    Ok(()) => failure,
                    Err(also) => Failure {
                        message: format!("{}; then {}", failure.message, also.message),
                        ..failure
                    },
                };
                return not_started(&self.containers, &mut self.container, &control, failure);
            }
        }
        let (exit_code, error) = self.lives();
        self.end(exit_code, error)
    }

    /// Mounts, and starts PID 1 for the first time. What leads to its stdin, where asked for.
    fn begin(&mut self, attach: Attach, control: &Connection) -> Result<Option<OwnedFd>, Failure> {
        let Some(lock) = &self.lock else { return Err(Failure::engine("the lock is missing")) };
        let lower = Lower::of(&self.container.config, &self.root);
        let rootfs = Rootfs::mount(&lower, &self.container.dir, lock.as_fd(), control.as_fd())?;
        self.rootfs = Some(rootfs);
        self.container.state.restarts = 0;
        self.container.state.stopped_by_user = false;
        self.made = self.container.state.made();
        self.start(&attach)?;
        let Attach { stdin, stdout, stderr, .. } = attach;
        let pipes = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
        for (stream, pipe) in pipes {
            if let Some(pipe) = pipe {
                self.outputs.attach(0, stream, pipe);
            }
        }
        if stdin || self.outputs.has_terminal() {
            self.outputs.input().map_err(failed("hand over the container's input"))
        } else {
            Ok(None)
        }
    }

    /// Starts PID 1 with new streams, and writes down that it runs.
    fn start(&mut self, attach: &Attach) -> Result<(), Failure> {
        let config = &self.container.config;
        let log = match config.life.log.limits(config.remove) {
            None => None,
            Some(limits) => {
                let path = log::place(&self.container.dir, config.id.as_str());
                let opened = log::Writer::open(path, limits);
                Some(opened.map_err(|error| {
                    Failure::engine(format!("cannot open the container's log: {error}"))
                })?)
            }
        };
        let wanted = Wanted {
            tty: config.process.tty,
            input: config.process.stdin,
            once: config.life.stdin_once,
        };
        let (mut outputs, streams) =
            Outputs::new(wanted, attach.window, log).map_err(failed("make the streams"))?;
        let plan = launch::plan(&self.container).map_err(Failure::engine)?;
        let begun = {
            let network = &mut self.network;
            let group = &mut self.group;
            let container = &self.container;
            sandbox::start(&plan, streams, |init| {
                let (made, warnings) = Group::make(&container.config);
                made.add(init.pid.as_raw());
                *group = Some(made);
                cgroup::note(&container.dir, &warnings);
                *network =
                    Some(launch::network::attach(container, init).map_err(|e| e.to_string())?);
                Ok(())
            })
        };
        let Begun { init, made, terminal, .. } = match begun {
            Ok(begun) => begun,
            Err(Failed { exit_code, message, made }) => {
                self.remember(made);
                return Err(Failure { exit_code, message });
            }
        };
        self.namespaces = plan.namespaces;
        self.remember(made);
        let pid = init.pid;
        self.init = Some(init);
        if let Some(terminal) = terminal {
            outputs.connect(terminal).map_err(failed("take the container's terminal"))?;
        }
        self.outputs = outputs;
        let Some(rootfs) = &self.rootfs else {
            return Err(Failure::engine("the root filesystem is missing"));
        };
        self.container.state.begin(Live {
            init: Process::note(pid),
            monitor: Process::note(nix::unistd::Pid::this()),
            filesystem: Process::note(rootfs.pid()),
            since: now(),
        });
        self.container.state.mountpoints = self.made.iter().cloned().map(Into::into).collect();
        self.container.save()?;
        self.note("start", &[]);
        Ok(())
    }

    fn note_end(&self, exit_code: u8, life: Duration) {
        let (code, life) = (exit_code.to_string(), life.as_secs().to_string());
        self.note("die", &[("execDuration", &life), ("exitCode", &code)]);
        if self.container.state.stopped_by_user && self.stop_asked {
            self.note("stop", &[]);
        }
    }

    /// Notes mountpoints that were made.
    fn remember(&mut self, made: Vec<PathBuf>) {
        for path in made {
            if !self.made.contains(&path) {
                self.made.push(path);
            }
        }
    }

    /// Tells of something that happened to the container.
    fn note(&self, action: &str, more: &[(&str, &str)]) {
        let attributes = attributes(&self.container, more);
        let id = self.container.config.id.as_str();
        // What has happened has happened, whether it can be told or not.
        events::record(&self.root, &Event::now("container", action, id, attributes)).ok();
    }

    /// The lives of PID 1, until the last one ends.
    fn lives(&mut self) -> End {
        let (mut delay, longest) = RESTART_DELAY;
        loop {
            let begun = Instant::now();
            let (exit_code, error) = self.watch();
            self.note_end(exit_code, begun.elapsed());
            let state = &self.container.state;
            let again = error.is_none()
                && !state.stopped_by_user
                && self.container.config.life.restart.applies(exit_code, state.restarts);
            if !again {
                return (exit_code, error);
            }
            if begun.elapsed() >= LONG_LIFE {
                delay = RESTART_DELAY.0;
            }
            let (Some(live), Some(rootfs)) = (state.status.live(), &self.rootfs) else {
                return (exit_code, error);
            };
            self.container.state.status = Status::Restarting {
                monitor: live.monitor,
                filesystem: Process::note(rootfs.pid()),
                exit_code,
                at: now(),
            };
            self.container.state.finished = Some(now());
            self.container.state.restarts = self.container.state.restarts.saturating_add(1);
            if let Err(error) = self.container.save() {
                return (exit_code, Some(error.to_string()));
            }
            self.tell_ended(exit_code, None);
            match self.rest(delay) {
                Ok(true) => {}
                Ok(false) => return (exit_code, None),
                Err(failure) => return (ENGINE_ERROR, Some(failure.message)),
            }
            delay = delay.saturating_mul(2).min(longest);
            if let Err(failure) = self.start(&Attach::default()) {
                if let Some(init) = &self.init {
                    sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
                }
                self.reap().ok();
                return (failure.exit_code, Some(failure.message));
            }
        }
    }

    /// Takes everything down, and tells everybody.
    fn end(mut self, exit_code: u8, mut error: Option<String>) -> u8 {
        if let Err(failure) = self.take_down() {
            error = error.or(Some(failure.message));
        }
        let code = if error.is_some() && exit_code == 0 { KILLED } else { exit_code };
        self.container.state.finish(code, error.clone());
        let error = settle(&self.containers, &self.container, error);
        if self.container.config.remove {
            self.note("destroy", &[]);
        }
        // From here on the container is others' to start again or to remove.
        self.lock = None;
        self.tell_ended(code, error.as_deref());
        code
    }

    /// Ends PID 1, where it is there, and unmounts.
    fn take_down(&mut self) -> Result<(), Failure> {
        if let Some(init) = &self.init {
            sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
        }
        let reaped = self.reap().map(drop);
        if let Some(rootfs) = self.rootfs.take() {
            rootfs.remove_mountpoints(&self.made);
            rootfs.unmount()?;
        }
        reaped
    }

    /// Ends what is left in the control group (with `--pid host`, PID 1 takes nobody along), and
    /// removes it. One that stays is empty, and the next command tries again.
    fn leave_group(&mut self) {
        if let Some(group) = self.group.take() {
            group.kill();
            group.remove().ok();
        }
    }

    /// PID 1 has ended or is about to: its exit code. Takes what is left in its streams.
    fn reap(&mut self) -> Result<Option<u8>, Failure> {
        let network = |network: Option<Attached>| match network {
            Some(mut network) => network.detach().map_err(Failure::engine),
            None => Ok(()),
        };
        let Some(init) = self.init.take() else {
            // PID 1 did not come into being, or its end has been dealt with.
            self.leave_group();
            return network(self.network.take()).map(|()| None);
        };
        let code = init.wait().map_err(failed("wait for PID 1"))?;
        self.leave_group();
        self.stopping = None;
        self.outputs.drain();
        self.end_programs();
        network(self.network.take())?;
        Ok(Some(code))
    }
}
