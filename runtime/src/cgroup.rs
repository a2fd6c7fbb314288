//! Control groups of containers: limits, statistics, freezing, and killing all there is.
//!
//! A container's group has the same path in each hierarchy, made of its id, so that whoever comes
//! later finds it with nothing written down: what a `kill -9` leaves is removed by the next
//! command. Version 2, version 1, both at once (hybrid) and none are served alike; what a
//! hierarchy cannot do is a warning with Docker's words where somebody asked for it, and nothing
//! where nobody did.

mod layout;
mod limits;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use layout::{Hierarchy, Layout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
pub use stats::Stats;

use crate::container::Config;
use crate::container::config::Limits;

/// The group above those of containers, unless `--cgroup-parent` names another.
const PARENT: &str = "cowl";

/// How long a group may take to freeze, or to be empty after its processes were killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a group cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No hierarchy here can freeze.
    #[error("cannot pause: no control group of this container can be frozen here")]
    NoFreezer,
    /// It did not become frozen.
    #[error("cannot pause: the processes of the container did not stop within ten seconds")]
    NotFrozen,
    /// A file of the kernel's.
    #[error("cannot write {value} to {path}: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// Processes that do not end.
    #[error("cannot remove the control group {path}: {source}", path = .path.display())]
    Remove {
        /// The group.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    // Without O_CREAT: a file that is not there is not made in a directory that is no group.
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| Error::Write { path: path.into(), value: value.into(), source })
}

/// A container's group in every hierarchy that has it.
#[derive(Clone, Debug)]
pub struct Group {
    places: Vec<(Hierarchy, PathBuf)>,
}

impl Group {
    /// Where a container's group is or would be.
    fn all_places(config: &Config) -> Vec<(Hierarchy, PathBuf)> {
        let parent = config.limits.cgroup_parent.as_deref().unwrap_or(PARENT);
        Layout::detect()
            .hierarchies
            .into_iter()
            .map(|hierarchy| {
                let place = hierarchy.base.join(parent.trim_matches('/')).join(config.id.as_str());
                (hierarchy, place)
            })
            .collect()
    }

    /// The group as it is, where it is.
    pub fn open(config: &Config) -> Self {
        let mut places = Self::all_places(config);
        places.retain(|(_, place)| place.is_dir());
        Self { places }
    }

    /// Makes the group, with the container's limits. What could not be done is in the sentences;
    /// they are for who asked for a limit.
    pub fn make(config: &Config) -> (Self, Vec<String>) {
        let mut places = Vec::new();
        for (hierarchy, place) in Self::all_places(config) {
            if hierarchy.wanted(&config.limits) && hierarchy.make(&place) {
                places.push((hierarchy, place));
            }
        }
        let group = Self { places };
        let mut warnings = limits::apply(&group, &config.limits);
        if !config.isolation.privileged {
            limits::devices(&group, &config.isolation);
        }
        warnings.dedup();
        (group, warnings)
    }

    /// Puts a process, and with it all it will start, into the group.
    pub fn add(&self, pid: i32) {
        for (_, place) in &self.places {
            // A hierarchy that refuses (a cpuset without processors, say) limits nothing then.
            write(&place.join("cgroup.procs"), &pid.to_string()).ok();
        }
    }

    /// Whether there is a group at all.
    pub fn exists(&self) -> bool {
        !self.places.is_empty()
    }

    /// The directory of the group in the hierarchy of a controller, or in version 2's.
    fn with(&self, controller: &str) -> Option<(bool, &Path)> {
        let own = self.places.iter().find(|(hierarchy, _)| hierarchy.has(controller));
        own.map(|(hierarchy, place)| (hierarchy.unified, place.as_path()))
    }

    fn unified(&self) -> Option<&Path> {
        self.places.iter().find(|(h, _)| h.unified).map(|(_, place)| place.as_path())
    }

    /// Stops all processes of the group where they are; none of them notices.
    pub fn freeze(&self) -> Result<(), Error> {
        let (file, value, state, wanted) = self.freezer("1", "FROZEN")?;
        write(&file, value)?;
        let start = Instant::now();
        while !wanted(&fs::read_to_string(&state).unwrap_or_default()) {
            if start.elapsed() > PATIENCE {
                self.thaw()?;
                return Err(Error::NotFrozen);
            }
            std::thread::sleep(Duration::from_millis(2));
            if state == file {
                write(&file, value)?; // version 1 tries again only when told
            }
        }
        Ok(())
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Error> {
        let (file, value, ..) = self.freezer("0", "THAWED")?;
        write(&file, value)
    }

    #[allow(clippy::type_complexity)] // four words of one answer, used twice
    fn freezer<'a>(
        &self,
        unified: &'a str,
        old: &'a str,
    ) -> Result<(PathBuf, &'a str, PathBuf, fn(&str) -> bool), Error> {
        if let Some((false, place)) = self.with("freezer") {
            let file = place.join("freezer.state");
            return Ok((file.clone(), old, file, |text| text.trim() == "FROZEN"));
        }
        let place = self.unified().ok_or(Error::NoFreezer)?;
        let file = place.join("cgroup.freeze");
        if !file.exists() {
            return Err(Error::NoFreezer);
        }
        let events = place.join("cgroup.events");
        Ok((file, unified, events, |text| text.lines().any(|line| line == "frozen 1")))
    }

    /// Changes the limits; sentences about what cannot be limited here.
    pub fn update(&self, limits: &Limits) -> Vec<String> {
        limits::apply(self, limits)
    }

    /// All processes in the group, as this process counts.
    pub fn processes(&self) -> Vec<i32> {
        let mut all: Vec<i32> = self
            .places
            .iter()
            .flat_map(|(_, place)| {
                let text = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
                text.lines().filter_map(|line| line.trim().parse().ok()).collect::<Vec<_>>()
            })
            .filter(|pid| *pid > 0)
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Kills everything in the group, also what starts meanwhile.
    pub fn kill(&self) {
        if let Some(place) = self.unified() {
            write(&place.join("cgroup.kill"), "1").ok();
        }
        let start = Instant::now();
        loop {
            let processes = self.processes();
            if processes.is_empty() || start.elapsed() > PATIENCE {
                return;
            }
            for pid in processes {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            // A frozen process is killed when it is thawed.
            self.thaw().ok();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes the group; its processes have ended. One that still has some is tried for a while.
    pub fn remove(&self) -> Result<(), Error> {
        let start = Instant::now();
        for (_, place) in &self.places {
            loop {
                match fs::remove_dir(place) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(source) if start.elapsed() > PATIENCE => {
                        return Err(Error::Remove { path: place.clone(), source });
                    }
                    // Made by the container inside, or its last process is not quite gone.
                    Err(_) => {
                        remove_below(place);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            }
        }
        Ok(())
    }

    /// What the container has used.
    pub fn stats(&self) -> Stats {
        stats::read(self)
    }
}

/// The file in a container's directory that holds the warnings of its last start.
const WARNINGS: &str = "warnings";

/// Keeps the warnings of a start for whoever started it.
pub fn note(dir: &Path, warnings: &[String]) {
    let file = dir.join(WARNINGS);
    // They are a courtesy: a container whose limits cannot be had runs all the same.
    if warnings.is_empty() {
        fs::remove_file(file).ok();
    } else {
        fs::write(file, warnings.join("\n")).ok();
    }
}

/// The warnings of a container's last start.
pub fn noted(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join(WARNINGS)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Removes the groups that a container made in its own.
fn remove_below(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            fs::remove_dir(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_both_versions_files() {
        let dir = tempfile::tempdir().unwrap();
        for (unified, files) in [
            (true, &["memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight"][..]),
            (
                false,
                &[
                    "memory.limit_in_bytes",
                    "memory.memsw.limit_in_bytes",
                    "pids.max",
                    "cpu.cfs_period_us",
                    "cpu.cfs_quota_us",
                    "cpu.shares",
                ],
            ),
        ] {
            let place = dir.path().join(if unified { "two" } else { "one" });
            fs::create_dir(&place).unwrap();
            for file in files {
                fs::write(place.join(file), "").unwrap();
            }
            let controllers = ["memory", "pids", "cpu"].map(str::to_owned).to_vec();
            let hierarchy = Hierarchy { unified, controllers, base: dir.path().into() };
            let group = Group { places: vec![(hierarchy, place.clone())] };
            let limits = Limits {
                memory: Some(64 << 20),
                memory_swap: Some(128 << 20),
                pids: Some(-1),
                nano_cpus: Some(1_500_000_000),
                cpu_shares: Some(1024),
                blkio_weight: Some(500),
                ..Limits::default()
            };
            let warnings = group.update(&limits);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains("Block I/O weight"), "{warnings:?}");
            let said = |name: &str| fs::read_to_string(place.join(name)).unwrap();
            assert_eq!(said("pids.max"), "max");
            if unified {
                assert_eq!(said("memory.max"), (64 << 20).to_string());
                assert_eq!(said("memory.swap.max"), (64 << 20).to_string());
                assert_eq!(said("cpu.max"), "150000 100000");
                assert_eq!(said("cpu.weight"), "39");
            } else {
                assert_eq!(said("memory.memsw.limit_in_bytes"), (128 << 20).to_string());
                assert_eq!(said("cpu.cfs_quota_us"), "150000");
                assert_eq!(said("cpu.shares"), "1024");
            }
        }
    }

    #[test]
    fn without_hierarchies_there_are_warnings_only_for_what_was_asked() {
        let group = Group { places: Vec::new() };
        assert!(group.update(&Limits::default()).is_empty());
        let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
        assert_eq!(group.update(&limits).len(), 1);
        assert!(matches!(group.freeze(), Err(Error::NoFreezer)));
        assert_eq!(group.stats(), Stats::default());
        group.remove().unwrap();
    }
}
