//! `cowl run`: from arguments to an exit code.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{Context, Failure, complain, shown};
use crate::container::record::{Bytes, now};
use crate::container::{Config, Container, Containers, KILLED, files};
use crate::executable;
use crate::monitor::{self, Assignment, ENGINE_ERROR, Report};
use crate::rootfs::Lower;
use crate::sandbox::{Plan, Streams};
use crate::spec::{self, Defaults, Network, Spec, environment, volume};
use crate::store::Store;
use crate::sys;
use crate::sys::process::{Child, Side};
use crate::terminal::{self, Copying, OurEnds, Raw};
use crate::unpack::root::Model;
use crate::userns;

/// The image that needs no store: this machine's own root filesystem.
const MACHINE: &str = "host";

/// `cowl run`
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// Connect stdin
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable; without value the caller's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Where the command starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Who runs it: names from the image, or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The container's name
    #[arg(long)]
    name: Option<String>,
    /// Show a directory or file of this machine in the container
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    volume: Vec<OsString>,
    /// The container's host name
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// The network it sees: its own loopback only, or this machine's
    #[arg(long, alias = "net", value_enum, default_value_t = NetworkName::None)]
    network: NetworkName,
    /// Replace the image's entry point; "" for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<OsString>,
    /// Show this help
    #[arg(long, action = clap::ArgAction::Help)]
    help: (),
    /// The image's name or id, or `host` for this machine's own root filesystem; then the command
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG]...")]
    pub(super) image_and_command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum NetworkName {
    None,
    Host,
}

/// Wraps an error before the command as Docker does: 125.
fn engine(error: impl ToString) -> Failure {
    Failure::new(ENGINE_ERROR, error)
}

/// What an image name stands for.
struct Chosen {
    name: String,
    id: Option<String>,
    lower: Lower,
    root: Model,
    defaults: Defaults,
}

fn machine(context: &Context) -> Chosen {
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    Chosen {
        name: MACHINE.to_owned(),
        id: None,
        lower: Lower::Machine {
            store: context.root.canonicalize().unwrap_or_else(|_| context.root.clone()),
            unmapped_to_root: userns::inside(),
        },
        root: Model::Machine,
        defaults: Defaults { command: vec![shell.into()], ..Defaults::default() },
    }
}

fn image(store: &Store, name: &str) -> Result<Chosen, Failure> {
    let image = store.resolve(name).map_err(engine)?;
    let words = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
    Ok(Chosen {
        name: name.to_owned(),
        id: Some(image.id.to_string()),
        lower: Lower::Layers { directories: image.layer_dirs(), owners_kept: userns::inside() },
        root: image.root_attributes().map_or(Model::Implied, Model::Layer),
        defaults: Defaults {
            entrypoint: words(&image.config.entrypoint),
            command: words(&image.config.cmd),
            environment: words(&image.config.env),
            user: image.config.user.clone(),
            working_dir: PathBuf::from(&image.config.working_dir),
        },
    })
}

/// Makes sources of volumes that do not exist, as Docker does.
fn make_sources(volumes: &[spec::Volume]) -> Result<(), Failure> {
    for volume in volumes {
        if fs::symlink_metadata(&volume.source).is_err() {
            fs::create_dir_all(&volume.source).map_err(|error| {
                engine(format!("cannot create {}: {error}", shown(&volume.source)))
            })?;
        }
    }
    Ok(())
}

/// A container on disk, ready to be started.
struct Prepared {
    assignment: Assignment,
    control: OwnedFd,
    ours: Option<OurEnds>,
    id: String,
}

fn prepare(args: Args, context: &Context) -> Result<Prepared, Failure> {
    let mut words = args.image_and_command.into_iter();
    let name = words.next().unwrap_or_default();
    let name = name
        .into_string()
        .map_err(|name| engine(format!("invalid reference format: {}", name.display())))?;
    let here = std::env::current_dir()
        .map_err(|error| engine(format!("cannot find the current directory: {error}")))?;
    let volumes = volume::parse_all(&args.volume, &here).map_err(engine)?;
    let network = match args.network {
        NetworkName::None => Network::None,
        NetworkName::Host => Network::Host,
    };
    if let Some(hostname) = &args.hostname {
        spec::hostname(hostname.clone()).map_err(engine)?;
    }

    let containers = context.containers().map_err(|failure| engine(failure.message))?;
    // Held until the container is written down, so that the image is not removed meanwhile.
    let store = context.store().map_err(|failure| engine(failure.message))?;
    let guard = store.lock_shared().map_err(engine)?;
    let chosen = if name == MACHINE { machine(context) } else { image(&store, &name)? };
    let command =
        spec::command(&chosen.defaults, args.entrypoint, words.collect()).map_err(engine)?;
    let working_dir = spec::working_dir(&chosen.defaults, args.workdir).map_err(engine)?;
    let caller =
        |name: &OsStr| std::env::var_os(name).filter(|_| name != executable::ROOT_VARIABLE);
    // Checked before anything is made; the host name is known only with the id.
    environment::merge(&chosen.defaults.environment, &args.env, caller, "", args.tty)
        .map_err(engine)?;
    make_sources(&volumes)?;
    let layers = match &chosen.lower {
        Lower::Layers { directories, .. } => directories.clone(),
        Lower::Machine { .. } => vec![PathBuf::from("/")],
    };
    let (container, lock) = containers
        .create(args.name, |id, name| Config {
            id,
            name,
            image: chosen.name.clone(),
            image_id: chosen.id.clone(),
            layers: layers.into_iter().map(Bytes::from).collect(),
            command: command.iter().cloned().map(Bytes::from).collect(),
            created: now(),
            remove: args.rm,
        })
        .map_err(engine)?;
    drop(guard);
    let id = container.config.id.as_str().to_owned();
    let dir = container.dir.clone();
    let built = (|| {
        let hostname = match (args.hostname, network) {
            (Some(hostname), _) => hostname,
            (None, Network::None) => container.config.id.short().to_owned(),
            (None, Network::Host) => {
                nix::unistd::gethostname().map_err(engine)?.to_string_lossy().into_owned()
            }
        };
        files::write(&dir, &hostname, network).map_err(engine)?;
        chosen.root.apply(&dir.join("upper")).map_err(engine)?;
        let environment = environment::merge(
            &chosen.defaults.environment,
            &args.env,
            caller,
            &hostname,
            args.tty,
        )
        .map_err(engine)?;
        let (streams, ours) = if args.tty {
            (Streams::Terminal(terminal::window_size()), None)
        } else {
            let pipes = terminal::pipes(args.interactive)
                .map_err(|errno| engine(format!("cannot make pipes: {}", errno.desc())))?;
            (Streams::Separate(pipes.theirs), Some(pipes.ours))
        };
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| engine(format!("cannot make a socket: {}", errno.desc())))?;
        let spec = Spec {
            command,
            environment,
            user: args.user.unwrap_or(chosen.defaults.user),
            working_dir,
            hostname,
            volumes,
            network,
            tty: args.tty,
        };
        let plan = Plan {
            spec,
            rootfs: dir.join("rootfs"),
            files: dir.clone(),
            user_namespace: userns::inside(),
        };
        Ok((plan, streams, control, theirs, ours))
    })();
    match built {
        Ok((plan, streams, control, theirs, ours)) => Ok(Prepared {
            assignment: Assignment {
                containers,
                container,
                lock,
                lower: chosen.lower,
                plan,
                streams,
                control: theirs,
            },
            control,
            ours,
            id,
        }),
        Err(failure) => {
            containers.delete(&dir).map_err(engine)?;
            Err(failure)
        }
    }
}

/// Runs a container in the foreground.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let (interactive, tty) = (args.interactive, args.tty);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_volume_sources_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a/b");
        let volume = spec::Volume { source: source.clone(), target: "/x".into(), read_only: false };
        make_sources(&[volume]).unwrap();
        assert!(source.is_dir());
    }
}
