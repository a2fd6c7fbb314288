//! A container on disk: its identity, what it shall run, and what became of it.
//!
//! ```text
//! <root>/containers/.lock              held while names are given and remains are reclaimed
//! <root>/containers/<64 hex digits>/
//!     lock          flock, held by the monitor and cowlfs while any of them lives
//!     config.json   what it shall run; replaced by rename and update
//!     state.json    replaced atomically at each transition
//!     cowlfs.log    what the filesystem said
//!     hosts, hostname, resolv.conf     bind-mounted into the container
//!     upper, work, rootfs              write layer, its work directory, the mountpoint
//! ```
//!
//! Whether a container runs is decided by the lock alone: process numbers are reused, locks die
//! with their holders. A state that says "running" with nobody holding the lock is the trace of a
//! kill -9; [`Containers::reclaim`] makes it true, and every command that looks at containers
//! calls it first.

pub mod config;
pub mod diff;
pub mod files;
pub mod id;
pub mod life;
pub mod lock;
pub mod name;
pub mod processes;
pub mod record;
pub mod state;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use config::Config;
pub use id::ContainerId;
use lock::Lock;
pub use state::{Live, Process, State, Status};

use crate::cgroup::Group;
use crate::control::{self, Request};
use crate::network::{Networks, bridge};
use crate::sys;
use crate::volume::Volumes;

/// Why something about containers could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `No such container: {0}`
    #[error("No such container: {0}")]
    Unknown(String),
    /// Several containers' ids begin so.
    #[error("more than one container's id begins with {0}: give more digits")]
    Ambiguous(String),
    /// The name is taken.
    #[error(
        "the container name \"{name}\" is already in use by container {id}: remove or rename that \
         container, or choose another name"
    )]
    NameTaken {
        /// The name asked for.
        name: String,
        /// Who has it.
        id: ContainerId,
    },
    /// The name has characters that no name may have.
    #[error(
        "invalid container name ({0}): only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at least two \
         characters"
    )]
    BadName(String),
    /// Removal of a running container without force.
    #[error(
        "cannot remove container \"{0}\": container is running: stop the container before \
         removing or force remove"
    )]
    Running(String),
    /// It was killed and did not end.
    #[error("container {0} was killed but has not ended after ten seconds: try again")]
    Stuck(ContainerId),
    /// Somebody else is starting or ending it.
    #[error("container {0} is being started or ended by another command: try again")]
    Busy(ContainerId),
    /// Its volumes could not be removed.
    #[error("the container is removed, but not its anonymous volumes: {0}")]
    Volumes(String),
    /// The disk said no.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file of ours does not read as what it should be.
    #[error("{path} is damaged ({source}): remove the container with `cowl rm -f`", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
}

/// Adds the verb and the path to an I/O error.
fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// How long a killed container may take to vanish.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

/// The exit code of a container whose end nobody saw: as if SIGKILL had ended it, which it has.
pub const KILLED: u8 = 137;

/// All containers of one store.
#[derive(Debug, Clone)]
pub struct Containers {
    dir: PathBuf,
}

/// One container on disk.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its directory.
    pub dir: PathBuf,
    /// What it shall run.
    pub config: Config,
    /// What became of it, as of when it was read.
    pub state: State,
}

impl Container {
    /// Replaces the state on disk, atomically.
    pub fn save(&self) -> Result<(), Error> {
        record::write(&self.dir.join("state.json"), &self.state)
    }

    /// Replaces the configuration on disk, atomically.
    pub fn save_config(&self) -> Result<(), Error> {
        record::write(&self.dir.join("config.json"), &self.config)
    }

    /// Whether anything of it lives.
    pub fn alive(&self) -> Result<bool, Error> {
        Ok(Lock::probe(&self.dir)? == lock::Holder::Somebody)
    }
}

impl Containers {
    /// The containers of the store at `root`. Makes the directory.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let dir = root.join("containers");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&dir)
            .map_err(io_error("create", &dir))?;
        Ok(Self { dir })
    }

    fn entries(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let entry = entry.map_err(io_error("list", &self.dir))?;
            if let Ok(name) = entry.file_name().into_string()
                && name != ".lock"
            {
                found.push((name, entry.path()));
            }
        }
        Ok(found)
    }

    fn read(dir: &Path) -> Result<Option<Container>, Error> {
        let Some(config) = record::read::<Config>(&dir.join("config.json"))? else {
            return Ok(None);
        };
        let Some(state) = record::read::<State>(&dir.join("state.json"))? else {
            return Ok(None);
        };
        Ok(Some(Container { dir: dir.to_owned(), config, state }))
    }

    /// Every container, newest first.
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        let mut all = Vec::new();
        for (name, path) in self.entries()? {
            // One damaged container must not hide the others; `find` reports it by name.
            if ContainerId::parse(&name).is_some()
                && let Ok(Some(container)) = Self::read(&path)
            {
                all.push(container);
            }
        }
        all.sort_by_key(|container| std::cmp::Reverse(container.config.created));
        Ok(all)
    }

    /// The container with this name, id, or unique beginning of an id.
    pub fn find(&self, wanted: &str) -> Result<Container, Error> {
        let all = self.list()?;
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        if let Some(exact) =
            all.iter().find(|c| c.config.id.as_str() == wanted || c.config.name == name)
        {
            return Ok(exact.clone());
        }
        let mut matches = all
            .into_iter()
            .filter(|c| !wanted.is_empty() && c.config.id.as_str().starts_with(wanted));
        match (matches.next(), matches.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Error::Ambiguous(wanted.to_owned())),
            (None, _) => Err(Error::Unknown(wanted.to_owned())),
        }
    }

    /// Makes a container visible, in state created, and returns it with its lock held.
    ///
    /// `config` receives the id and the name, which is checked or, when absent, invented.
    pub fn create(
        &self,
        name: Option<String>,
        config: impl FnOnce(ContainerId, String) -> Config,
    ) -> Result<(Container, Lock), Error> {
        let guard = Lock::store(&self.dir)?;
        let all = self.list()?;
        let taken = |name: &str| all.iter().find(|c| c.config.name == name);
        let name = match name {
            Some(name) => {
                if !name::valid(&name) {
                    return Err(Error::BadName(name));
                }
                if let Some(other) = taken(&name) {
                    return Err(Error::NameTaken { name, id: other.config.id.clone() });
                }
                name
            }
            None => name::invent(|candidate| taken(candidate).is_some())
                .map_err(io_error("read random bytes from", Path::new("getrandom")))?,
        };
        let id = ContainerId::random()
            .map_err(io_error("read random bytes from", Path::new("getrandom")))?;
        let dir = self.dir.join(id.as_str());
        let mut builder = fs::DirBuilder::new();
        // 0711: a container's user must be able to pass through to bind-mounted files.
        builder.mode(0o711).create(&dir).map_err(io_error("create", &dir))?;
        let made = (|| {
            for part in ["upper", "work", "rootfs"] {
                let part = dir.join(part);
                fs::DirBuilder::new()
                    .mode(0o755)
                    .create(&part)
                    .map_err(io_error("create", &part))?;
            }
            let lock = Lock::container(&dir)?;
            let state = State { to_be_started: true, ..State::created() };
            let container = Container { dir: dir.clone(), config: config(id, name), state };
            record::write(&dir.join("config.json"), &container.config)?;
            container.save()?;
            Ok((container, lock))
        })();
        if made.is_err() {
            // The error that is reported is the first one; what stays is reclaimed later.
            self.delete(&dir).ok();
        }
        drop(guard);
        made
    }

    /// Takes the lock of a container that shall be started, and reads it anew. None when it runs.
    pub fn claim(&self, container: &Container) -> Result<Option<(Container, Lock)>, Error> {
        let start = Instant::now();
        loop {
            {
                let _guard = Lock::store(&self.dir)?;
                let Some(found) = Self::read(&container.dir)? else {
                    return Err(Error::Unknown(container.config.name.clone()));
                };
                if Lock::probe(&found.dir)? == lock::Holder::Nobody {
                    // Nobody but who has the store's lock takes this one; who only looks at it
                    // lets go at once.
                    let lock = Lock::container(&found.dir)?;
                    return Ok(Some((found, lock)));
                }
                if !matches!(found.state.status, Status::Exited { .. } | Status::Created { .. }) {
                    return Ok(None);
                }
            }
            // It is being started by somebody else, or has ended and is about to let go.
            if start.elapsed() > DEATH_PATIENCE {
                return Err(Error::Busy(container.config.id.clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The configuration of the container in `dir`, as it is now.
    pub fn configuration(dir: &Path) -> Result<Option<Config>, Error> {
        record::read(&dir.join("config.json"))
    }

    /// Changes the configuration of a container on disk.
    pub fn reconfigure(
        &self,
        container: &Container,
        change: impl FnOnce(&mut Config),
    ) -> Result<Container, Error> {
        let _guard = Lock::store(&self.dir)?;
        self.replace(container, change)
    }

    fn replace(
        &self,
        container: &Container,
        change: impl FnOnce(&mut Config),
    ) -> Result<Container, Error> {
        let Some(mut found) = Self::read(&container.dir)? else {
            return Err(Error::Unknown(container.config.name.clone()));
        };
        change(&mut found.config);
        record::write(&found.dir.join("config.json"), &found.config)?;
        Ok(found)
    }

    /// Gives a container another name.
    pub fn rename(&self, container: &Container, name: &str) -> Result<Container, Error> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let _guard = Lock::store(&self.dir)?;
        if !name::valid(name) {
            return Err(Error::BadName(name.to_owned()));
        }
        if let Some(other) = self.list()?.into_iter().find(|c| c.config.name == name) {
            return Err(Error::NameTaken { name: name.to_owned(), id: other.config.id });
        }
        self.replace(container, |config| config.name = name.to_owned())
    }

    /// Removes a container's directory: out of sight at once, then its content.
    pub fn delete(&self, dir: &Path) -> Result<(), Error> {
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let doomed = if name.starts_with(".removing-") {
            dir.to_owned()
        } else {
            let doomed = self.dir.join(format!(".removing-{name}"));
            match fs::rename(dir, &doomed) {
                Ok(()) => doomed,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(io_error("remove", dir)(error)),
            }
        };
        match fs::remove_dir_all(&doomed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &doomed)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a container that was to go with its end, and its anonymous volumes.
    pub fn discard(&self, container: &Container) -> Result<(), Error> {
        self.delete(&container.dir)?;
        self.release_volumes(&container.config)
    }

    /// Removes the anonymous volumes of a container that has gone.
    pub fn release_volumes(&self, gone: &Config) -> Result<(), Error> {
        if crate::volume::names(gone).all(|(_, anonymous)| !anonymous) {
            return Ok(());
        }
        let others: Vec<Config> = self.list()?.into_iter().map(|other| other.config).collect();
        let root = self.dir.parent().unwrap_or(Path::new("/"));
        Volumes::open(root)
            .and_then(|volumes| volumes.release(gone, &others))
            .map_err(|error| Error::Volumes(error.to_string()))
    }

    /// Makes the disk agree with reality: containers whose processes were killed become exited
    /// (or go, when they were to be removed), half-made and half-removed directories go.
    pub fn reclaim(&self) -> Result<(), Error> {
        let _guard = Lock::store(&self.dir)?;
        for (name, dir) in self.entries()? {
            if Lock::probe(&dir)? == lock::Holder::Somebody {
                continue;
            }
            if ContainerId::parse(&name).is_none() {
                self.delete(&dir)?;
                continue;
            }
            match Self::read(&dir) {
                Ok(Some(mut container)) => self.settle(&mut container)?,
                Ok(None) => self.delete(&dir)?,
                Err(Error::Damaged { .. }) => {} // kept for a look; `rm -f` removes it
                Err(error) => return Err(error),
            }
        }
        self.reclaim_networks();
        Ok(())
    }

    /// Takes addresses and rules back from those whose monitor was killed.
    fn reclaim_networks(&self) {
        if let Some(root) = self.dir.parent() {
            // What cannot be removed now counts for nothing, and is tried again by the next.
            bridge::reclaim(&Networks::of(root)).ok();
        }
    }

    /// Brings one container whose lock is free to its true state.
    fn settle(&self, container: &mut Container) -> Result<(), Error> {
        let status = &container.state.status;
        if status.live().is_some() || matches!(status, Status::Restarting { .. }) {
            // Its monitor is gone; PID 1 normally went with it. One that gave up its
            // parent-death signal may have stayed.
            if let Some(live) = status.live()
                && container.state.of_this_boot()
                && let Some(process) = live.init.open()
            {
                kill_and_wait(&process, &container.config.id)?;
            }
            let group = Group::open(&container.config);
            group.kill();
            // One that stays is empty, and nothing but its name is left behind.
            group.remove().ok();
            container.state.finish(KILLED, Some("the container's monitor was killed".to_owned()));
            container.save()?;
        }
        // A container that was only created waits for its start; one that `run` was about to
        // start when it was killed does not.
        let given_up = matches!(container.state.status, Status::Created { .. })
            && container.state.to_be_started;
        if container.config.remove && (given_up || container.state.exit_code().is_some()) {
            self.discard(container)?;
        }
        Ok(())
    }

    /// Removes the container called `wanted`; kills it first when it runs and `force` is given.
    pub fn remove(&self, wanted: &str, force: bool) -> Result<(), Error> {
        let container = match self.find(wanted) {
            Ok(container) => container,
            Err(Error::Unknown(_)) if force => return self.remove_damaged(wanted),
            Err(error) => return Err(error),
        };
        if container.alive()? {
            if matches!(container.state.status, Status::Exited { .. }) {
                // Its monitor has said so and is about to let go of the lock.
                self.wait_for_end(&container)?;
            } else if force {
                self.kill(&container)?;
                self.reclaim_networks();
            } else {
                return Err(Error::Running(container.config.name));
            }
        }
        self.delete(&container.dir)
    }

    /// Removes a container whose files cannot be read any more, by its full id or a unique
    /// beginning of it.
    fn remove_damaged(&self, wanted: &str) -> Result<(), Error> {
        let mut found = self.entries()?.into_iter().filter(|(name, _)| {
            ContainerId::parse(name).is_some() && !wanted.is_empty() && name.starts_with(wanted)
        });
        match (found.next(), found.next()) {
            (Some((_, dir)), None) if Lock::probe(&dir)? == lock::Holder::Nobody => {
                self.delete(&dir)
            }
            (Some(_), Some(_)) => Err(Error::Ambiguous(wanted.to_owned())),
            _ => Err(Error::Unknown(wanted.to_owned())),
        }
    }

    /// Kills PID 1, and when that is not enough the monitor and the filesystem too.
    fn kill(&self, container: &Container) -> Result<(), Error> {
        // The monitor kills in the container's own namespaces, and does not start it again.
        let kill = Request::Signal { number: nix::libc::SIGKILL, by_user: true };
        if control::ask(&container.dir, &kill).is_ok()
            && self.ends_within(container, DEATH_PATIENCE / 2).is_ok()
        {
            return Ok(());
        }
        let (init, monitor, filesystem) = match container.state.status {
            Status::Running(live) | Status::Paused(live) => {
                (Some(live.init), live.monitor, live.filesystem)
            }
            Status::Restarting { monitor, filesystem, .. } => (None, monitor, filesystem),
            // Being started: its monitor ends by itself or becomes running; give it a moment.
            _ => return self.ends_within(container, DEATH_PATIENCE),
        };
        for process in init.into_iter().chain([monitor, filesystem]) {
            if let Some(process) = process.open() {
                kill_and_wait(&process, &container.config.id)?;
            }
        }
        self.ends_within(container, DEATH_PATIENCE)
    }

    /// Waits until nothing of a container lives that is known to be ending.
    pub fn wait_for_end(&self, container: &Container) -> Result<(), Error> {
        self.ends_within(container, DEATH_PATIENCE)
    }

    fn ends_within(&self, container: &Container, patience: Duration) -> Result<(), Error> {
        let start = Instant::now();
        while container.dir.exists() && container.alive()? {
            if start.elapsed() > patience {
                return Err(Error::Stuck(container.config.id.clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Kills a process and waits for its end; a process already gone is fine.
fn kill_and_wait(process: &std::os::fd::OwnedFd, id: &ContainerId) -> Result<(), Error> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    if sys::process::kill(process.as_fd(), nix::libc::SIGKILL).is_err() {
        return Ok(()); // gone, or not ours to kill: then the lock decides
    }
    let patience = PollTimeout::try_from(DEATH_PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], patience) {
        Ok(0) => Err(Error::Stuck(id.clone())),
        _ => Ok(()),
    }
}

/// Names of the containers that use image `image` (its id), for whoever wants to remove it.
pub fn using_image(store_root: &Path, image: &str) -> Result<Vec<String>, Error> {
    let containers = Containers::open(store_root)?;
    containers.reclaim()?;
    let bare = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).to_owned();
    let wanted = bare(image);
    Ok(containers
        .list()?
        .into_iter()
        .filter(|c| c.config.image_id.as_deref().map(bare).as_ref() == Some(&wanted))
        .map(|c| c.config.name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(image: &str) -> impl FnOnce(ContainerId, String) -> Config {
        let image_id = Some(image.to_owned());
        move |id, name| Config { image_id, ..Config::new(id, name, "i".into()) }
    }

    #[test]
    fn names_are_unique_and_found_by_name_and_prefix() {
        let root = tempfile::tempdir().unwrap();
        let all = Containers::open(root.path()).unwrap();
        let (one, _lock) = all.create(Some("web".into()), config("sha256:aa")).unwrap();
        assert!(matches!(
            all.create(Some("web".into()), config("x")),
            Err(Error::NameTaken { .. })
        ));
        assert!(matches!(all.create(Some("-x".into()), config("x")), Err(Error::BadName(_))));
        let (two, _lock2) = all.create(None, config("sha256:bb")).unwrap();
        assert_eq!(all.find("web").unwrap().config.id, one.config.id);
        assert_eq!(all.find("/web").unwrap().config.id, one.config.id);
        let prefix = &two.config.id.as_str()[..16];
        assert_eq!(all.find(prefix).unwrap().config.name, two.config.name);
        assert!(matches!(all.find("nosuch"), Err(Error::Unknown(_))));
        assert!(matches!(all.find(""), Err(Error::Unknown(_))));
        assert_eq!(using_image(root.path(), "aa").unwrap(), ["web"]);
        assert_eq!(using_image(root.path(), "sha256:cc").unwrap(), [""; 0]);
    }

    #[test]
    fn a_running_state_without_its_lock_becomes_exited() {
        let root = tempfile::tempdir().unwrap();
        let all = Containers::open(root.path()).unwrap();
        let (mut container, lock) = all.create(Some("dead".into()), config("i")).unwrap();
        let nobody = Process { pid: i32::MAX, started: 1 };
        container.state.status =
            Status::Running(Live { init: nobody, monitor: nobody, filesystem: nobody, since: 5 });
        container.save().unwrap();
        all.reclaim().unwrap();
        assert!(matches!(all.find("dead").unwrap().state.status, Status::Running { .. }));
        assert!(matches!(all.remove("dead", false), Err(Error::Running(_))));
        drop(lock);
        all.reclaim().unwrap();
        assert_eq!(all.find("dead").unwrap().state.exit_code(), Some(KILLED));
        all.remove("dead", false).unwrap();
        assert!(matches!(all.find("dead"), Err(Error::Unknown(_))));
        assert_eq!(fs::read_dir(root.path().join("containers")).unwrap().count(), 1);
    }

    #[test]
    fn half_made_and_half_removed_containers_go() {
        let root = tempfile::tempdir().unwrap();
        let all = Containers::open(root.path()).unwrap();
        let id = ContainerId::random().unwrap();
        fs::create_dir(root.path().join("containers").join(id.as_str())).unwrap();
        fs::create_dir(root.path().join("containers/.removing-x")).unwrap();
        all.reclaim().unwrap();
        assert!(all.entries().unwrap().is_empty());
    }
}
