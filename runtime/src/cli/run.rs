//! `cowl run`: from arguments to an exit code.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::create_options::{self, Created, Options};
use super::{Context, Failure, complain};
use crate::container::{Container, Containers, KILLED};
use crate::monitor::{self, Assignment, ENGINE_ERROR, Report};
use crate::rootfs::Lower;
use crate::sandbox::Streams;
use crate::sys::process::{Child, Side};
use crate::terminal::{self, Copying, OurEnds, Raw};
use crate::{launch, network, sys};

/// `cowl run`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    #[command(flatten)]
    pub(super) create: Options,
}

/// Wraps an error before the command as Docker does: 125.
fn engine(error: impl ToString) -> Failure {
    Failure::new(ENGINE_ERROR, error)
}

/// A container on disk, ready to be started.
struct Prepared {
    assignment: Assignment,
    control: OwnedFd,
    ours: Option<OurEnds>,
    id: String,
}

fn prepare(args: Args, context: &Context) -> Result<Prepared, Failure> {
    let Created { containers, container, lock } = create_options::create(args.create, context)?;
    let process = &container.config.process;
    let built = (|| {
        let (streams, ours) = if process.tty {
            (Streams::Terminal(terminal::window_size()), None)
        } else {
            let pipes = terminal::pipes(process.stdin)
                .map_err(|errno| engine(format!("cannot make pipes: {}", errno.desc())))?;
            (Streams::Separate(pipes.theirs), Some(pipes.ours))
        };
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| engine(format!("cannot make a socket: {}", errno.desc())))?;
        let plan = launch::plan(&container).map_err(engine)?;
        Ok((plan, streams, control, theirs, ours))
    })();
    let lower = Lower::of(&container.config, &context.root);
    let id = container.config.id.as_str().to_owned();
    match built {
        Ok((plan, streams, control, theirs, ours)) => Ok(Prepared {
            assignment: Assignment {
                containers,
                container,
                lock,
                lower,
                plan,
                streams,
                control: theirs,
            },
            control,
            ours,
            id,
        }),
        Err(failure) => {
            containers.delete(&container.dir).map_err(engine)?;
            Err(failure)
        }
    }
}

/// Runs a container in the foreground.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let (interactive, tty) = (args.create.interactive(), args.create.tty());
    if interactive && tty && !terminal::stdin_is_terminal() {
        return Err(Failure::new(1, "the input device is not a TTY"));
    }
    let prepared = prepare(args, context)?;
    let signals = terminal::take_signals()
        .map_err(|errno| engine(format!("cannot take signals: {}", errno.desc())))?;
    let fork = sys::process::fork()
        .map_err(|errno| engine(format!("cannot start the monitor: {}", errno.desc())))?;
    let Prepared { assignment, control, ours, id } = prepared;
    let monitor = match fork {
        Side::Child => {
            drop((control, ours, signals));
            sys::process::exit(monitor::run(assignment));
        }
        Side::Parent(child) => child,
    };
    let containers = assignment.containers.clone();
    let container = assignment.container.clone();
    drop(assignment); // the lock, the container's ends of its streams, the monitor's of the socket
    let attached = Attached { control, signals, monitor, containers, container };
    attached.run(ours, interactive, &id)
}

/// The command line's side of a container that is being run.
struct Attached {
    control: OwnedFd,
    signals: SignalFd,
    monitor: Child,
    containers: Containers,
    container: Container,
}

/// What happened next.
enum Event {
    Report(Report, Vec<OwnedFd>),
    MonitorGone,
    Signal(i32),
}

impl Attached {
    fn run(self, ours: Option<OurEnds>, interactive: bool, id: &str) -> Result<u8, Failure> {
        let mut fds = loop {
            match self.next()? {
                Event::Report(Report::Started, fds) => break fds.into_iter(),
                Event::Report(Report::NotStarted { exit_code, message }, _) => {
                    self.monitor.wait().map_err(|errno| engine(errno.desc()))?;
                    return Err(Failure::new(exit_code, message));
                }
                Event::Report(Report::Ended { exit_code, .. }, _) => return Ok(exit_code),
                Event::MonitorGone => return self.without_monitor(None, id),
                Event::Signal(signal) => {
                    let fatal = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
                    if fatal.iter().any(|fatal| *fatal as i32 == signal) {
                        // The monitor hears the socket close, gives up and cleans up.
                        let Self { control, monitor, .. } = self;
                        drop(control);
                        monitor.wait().map_err(|errno| engine(errno.desc()))?;
                        return Ok(128u8.saturating_add(signal as u8));
                    }
                }
            }
        };
        let (Some(init), terminal) = (fds.next(), fds.next()) else {
            return Err(engine("the monitor sent no descriptor of PID 1"));
        };
        let mut raw = None;
        let copying: Copying = match (ours, terminal) {
            (Some(ours), _) => terminal::copy_pipes(ours),
            (None, Some(master)) => {
                if interactive {
                    raw = Raw::enter().map_err(|errno| {
                        engine(format!("cannot switch the terminal to raw mode: {}", errno.desc()))
                    })?;
                }
                terminal::copy_terminal(master, interactive)
            }
            (None, None) => return Err(engine("the monitor sent no terminal")),
        };
        for warning in network::present(&self.container.dir)?.unwrap_or_default().warnings {
            complain(&warning);
        }
        copying.resize(); // it may have changed since the start
        let outcome = self.attend(&init, &copying);
        match outcome? {
            Some((exit_code, error)) => {
                copying.finish();
                drop(raw);
                self.monitor.wait().map_err(|errno| engine(errno.desc()))?;
                if let Some(error) = error {
                    complain(&error);
                }
                Ok(exit_code)
            }
            None => {
                sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
                copying.finish();
                drop(raw);
                self.without_monitor(Some(&init), id)
            }
        }
    }

    /// Forwards signals until the container has ended; none when the monitor died.
    fn attend(
        &self,
        init: &OwnedFd,
        copying: &Copying,
    ) -> Result<Option<(u8, Option<String>)>, Failure> {
        loop {
            match self.next()? {
                Event::Report(Report::Ended { exit_code, error }, _) => {
                    return Ok(Some((exit_code, error)));
                }
                Event::Report(..) => {}
                Event::MonitorGone => return Ok(None),
                Event::Signal(signal) if signal == Signal::SIGWINCH as i32 => copying.resize(),
                Event::Signal(signal) => {
                    // A PID 1 that has just ended needs no signal.
                    sys::process::kill(init.as_fd(), signal).ok();
                }
            }
        }
    }

    fn next(&self) -> Result<Event, Failure> {
        loop {
            let mut fds = [
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(engine(format!("cannot wait: {}", errno.desc()))),
                Ok(_) => {}
            }
            let [report, signalled] = fds.map(|fd| fd.any().unwrap_or(false));
            if report {
                let received = sys::descriptor::receive(self.control.as_fd()).map_err(|errno| {
                    engine(format!("cannot hear the monitor: {}", errno.desc()))
                })?;
                let Some((text, fds)) = received else { return Ok(Event::MonitorGone) };
                let report = serde_json::from_slice(&text).map_err(engine)?;
                return Ok(Event::Report(report, fds));
            }
            if signalled
                && let Ok(Some(info)) = self.signals.read_signal()
                && let Ok(number) = i32::try_from(info.ssi_signo)
            {
                return Ok(Event::Signal(number));
            }
        }
    }

    /// The monitor was killed. PID 1 has been killed too; cowlfs ends by itself. Puts the state
    /// in order as the next command would.
    fn without_monitor(&self, init: Option<&OwnedFd>, id: &str) -> Result<u8, Failure> {
        if let Some(init) = init {
            // Readable when it has ended; an interruption only means to look again.
            while poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)
                == Err(Errno::EINTR)
            {}
        }
        self.monitor.wait().map_err(|errno| engine(errno.desc()))?;
        self.containers.wait_for_end(&self.container).map_err(engine)?;
        self.containers.reclaim().map_err(engine)?;
        let short = id.get(..12).unwrap_or(id);
        complain(&format!(
            "the monitor of container {short} was killed, and the container with it"
        ));
        Ok(KILLED)
    }
}
