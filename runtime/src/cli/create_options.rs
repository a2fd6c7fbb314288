//! The flags that `run` and `create` share, and the container that they make on disk.
//!
//! Each part holds one group of flags: how they are written, what is refused, and where they go in
//! the [`Config`]. After [`create`] the command line is not needed any more: the container starts
//! from what is on disk.

mod id_file;
mod image;
mod isolation;
mod life;
pub mod limits;
mod mounts;
mod network;
pub(super) mod process;
mod pull;

use std::ffi::OsString;

use clap::Args;

use id_file::IdFile;

use super::{Context, Failure, complain};
use crate::container::lock::Lock;
use crate::container::{Config, Container, Containers, files};
use crate::monitor::ENGINE_ERROR;
use crate::rootfs::{self, Driver};
use crate::volume::Volumes;

/// What both commands take.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// The container's name
    #[arg(long)]
    name: Option<String>,
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    #[command(flatten)]
    process: process::Options,
    #[command(flatten)]
    mounts: mounts::Options,
    #[command(flatten)]
    network: network::Options,
    #[command(flatten)]
    isolation: isolation::Options,
    #[command(flatten)]
    limits: limits::Options,
    #[command(flatten)]
    life: life::Options,
    #[command(flatten)]
    pull: pull::Options,
    /// Show this help
    #[arg(long, action = clap::ArgAction::Help)]
    help: (),
    /// The image's name or id, or `host` for this machine's own root filesystem; then the command
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG]...")]
    pub(super) image_and_command: Vec<OsString>,
}

impl Options {
    /// `-d`
    pub fn detach(&mut self) -> Result<(), Failure> {
        self.life.detach()
    }

    /// Which of stdin, stdout, stderr are attached.
    pub fn attached(&self) -> Result<[bool; 3], Failure> {
        self.life.attached(self.process.interactive)
    }

    /// `-t`
    pub fn tty(&self) -> bool {
        self.process.tty
    }
}

/// Wraps an error before the command as Docker does: 125.
fn engine(error: impl ToString) -> Failure {
    Failure::new(ENGINE_ERROR, error)
}

/// A container on disk that has not been started.
#[derive(Debug)]
pub struct Created {
    /// Where it lives.
    pub containers: Containers,
    /// It.
    pub container: Container,
    /// Its lock, held.
    pub lock: Lock,
}

/// Makes a container from flags. When anything is wrong nothing is made.
pub fn create(options: Options, context: &Context) -> Result<Created, Failure> {
    let mut words = options.image_and_command.into_iter();
    let name = words.next().unwrap_or_default();
    let name = name
        .into_string()
        .map_err(|name| engine(format!("invalid reference format: {}", name.display())))?;
    let mut network = options.network.read()?;
    let isolation = options.isolation.read()?;
    let limits = options.limits.read()?;
    let life = options.life.read(options.process.interactive, options.rm)?;
    let identity = options.life.cidfile.as_deref().map(IdFile::reserve).transpose()?;
    let mounts = options.mounts.read()?;
    options.process.check()?;

    let containers = context.containers().map_err(|failure| engine(failure.message))?;
    if name != image::MACHINE {
        options.pull.get(&name, context)?;
    }
    // Held until the container is written down, so that the image is not removed meanwhile.
    let store = context.store().map_err(|failure| engine(failure.message))?;
    let guard = store.lock_shared().map_err(engine)?;
    let chosen = image::choose(&store, &name)?;
    network.complete(&chosen.exposed_ports, &containers)?;
    let mut process = options.process.read(&chosen.defaults, words.collect())?;
    let (mounts, volumes) = mounts.make(&containers, &context.root, &chosen.volumes)?;
    let created = containers
        .create(options.name, |id, name| {
            let mut config = Config::new(id, name, chosen.name.clone());
            config.hostname = process
                .hostname
                .take()
                .unwrap_or_else(|| network.default_hostname(&isolation, config.id.short()));
            config.domainname = process.domainname.take().unwrap_or_default();
            process.set_hostname(&config.hostname);
            config.image_id = chosen.id.clone();
            config.layers = chosen.layers.clone();
            config.remove = options.rm;
            config.labels = life.labels(chosen.labels.clone());
            config.process = process.process;
            config.mounts = mounts;
            config.network = network.config;
            config.isolation = isolation;
            config.limits = limits;
            config.life = life.life;
            config.life.stop_signal = config.life.stop_signal.or(chosen.stop_signal);
            config
        })
        .map_err(engine);
    let (container, lock) = match created {
        Ok(created) => created,
        Err(failure) => {
            undo(context, &volumes)?;
            return Err(failure);
        }
    };
    drop(guard);
    let made = files::write(&container.dir, &container.config.hostname, &container.config.network)
        .map_err(engine)
        .and_then(|()| chosen.root.apply(&container.dir.join("upper")).map_err(engine))
        .and_then(|()| choose_driver(&container));
    let made = made.and_then(|()| match identity {
        Some(file) => file.write(container.config.id.as_str()),
        None => Ok(()),
    });
    match made {
        Ok(()) => Ok(Created { containers, container, lock }),
        Err(failure) => {
            containers.delete(&container.dir).map_err(engine)?;
            undo(context, &volumes)?;
            Err(failure)
        }
    }
}

/// Removes the volumes that were made for a container that there will not be.
fn undo(context: &Context, made: &[String]) -> Result<(), Failure> {
    let volumes = Volumes::open(&context.root).map_err(engine)?;
    made.iter().try_for_each(|name| volumes.remove(name, &[])).map_err(engine)
}

/// Chooses what mounts the root filesystem, and says so where it is not the usual one.
fn choose_driver(container: &Container) -> Result<(), Failure> {
    let (driver, sentence) = Driver::choose(&container.dir).map_err(engine)?;
    if driver != Driver::Cowlfs && container.config.image_id.is_none() {
        return Err(engine(rootfs::Error::OnlyCowlfs(
            "a container on this machine's own root filesystem",
        )));
    }
    if let Some(sentence) = sentence {
        complain(&sentence);
    }
    Ok(())
}
