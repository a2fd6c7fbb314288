//! What is measured: one file for each workload, and what they have in common.
//!
//! A workload has two halves. [`Workload::drive`] runs in this program: it mounts, empties caches
//! and says which step comes next. [`Workload::step`] runs in a process of its own, inside the
//! mount's namespaces, and does what is timed; its clock covers nothing else. Every workload checks
//! its effect, so that a system that does nothing fails instead of being fast.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::child::{self, Order};
use crate::fault::{Doing, Fault, Result};
use crate::fixture::{Fixture, Store};
use crate::host;
use crate::mount::Union;
use crate::process;
use crate::scale::Scale;

mod beside;
mod chmod;
mod copy;
mod copyup;
mod gcc;
mod git;
mod missing;
mod mmap;
mod mount;
mod names;
mod open;
mod pack;
mod random;
mod read;
mod remove;
mod stat;
mod untar;
mod walk;
mod write;

/// What a step found: names of measures, and their values in the measure's unit.
pub type Samples = Vec<(String, f64)>;

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seconds; less is better, as with all of them.
    Seconds,
    /// Bytes of memory.
    Bytes,
    /// Seconds on a CPU.
    CpuSeconds,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// `WORKLOAD/NAME`, or `cpu:WORKLOAD/STEP`.
    pub id: String,
    /// For people.
    pub label: String,
    /// What its numbers mean.
    pub unit: Unit,
}

/// What a plain directory shows in a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// The fixture itself, which the workload does not change; new files go elsewhere.
    Fixture,
    /// A copy, made for each run.
    Copy,
    /// It has no part in this workload.
    Nothing,
}

/// Where a step works.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The merged tree.
    pub root: PathBuf,
    /// Where new files go; for a union the same.
    pub fresh: PathBuf,
    /// Fixtures, and their sizes.
    pub store: Store,
}

/// A thing to measure.
pub trait Workload: Sync {
    /// As on the command line.
    fn name(&self) -> &'static str;
    /// A sentence for `--list`.
    fn about(&self, scale: &Scale) -> String;
    /// Its rows: name inside the workload, label, unit.
    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)>;
    /// What its lower layers hold.
    fn fixture(&self) -> Fixture;
    /// A fixture that it reads besides.
    fn also(&self) -> Option<Fixture> {
        None
    }
    /// Programs that it runs.
    fn programs(&self) -> &'static [&'static str] {
        &[]
    }
    /// What a plain directory shows.
    fn plain(&self) -> Plain {
        Plain::Fixture
    }
    /// The order of things.
    ///
    /// # Errors
    /// When a step fails.
    fn drive(&self, session: &mut Session<'_>) -> Result<()>;
    /// One timed or checking step.
    ///
    /// # Errors
    /// When something fails or has not the effect it should.
    fn step(&self, step: &str, place: &Place) -> Result<Samples>;
}

/// All of them, in the order of the table.
pub fn all() -> Vec<&'static dyn Workload> {
    vec![
        &stat::Stat,
        &missing::Missing,
        &open::Open,
        &walk::Walk(1),
        &walk::Walk(10),
        &walk::Walk(64),
        &read::Read,
        &write::Write,
        &random::RandomWrite,
        &mmap::MmapWrite,
        &names::Names,
        &untar::Untar,
        &copy::Copy,
        &pack::Pack,
        &remove::Upper,
        &remove::Lower,
        &git::Git,
        &gcc::Gcc,
        &copyup::CopyUp,
        &chmod::Chmod,
        &mount::Mount,
        &beside::CopyUp,
        &beside::Fsync,
    ]
}

/// The workload of this name.
pub fn find(name: &str) -> Option<&'static dyn Workload> {
    all().into_iter().find(|work| work.name() == name)
}

/// Every row that a workload can have, those of CPU time included.
pub fn rows(work: &dyn Workload, scale: &Scale) -> Vec<Measure> {
    let own = work.measures(scale);
    let row = |(name, label, unit): (String, String, Unit)| Measure {
        id: format!("{}/{name}", work.name()),
        label,
        unit,
    };
    let cpu = own.iter().filter(|m| m.2 == Unit::Seconds).map(|(name, label, _)| Measure {
        id: format!("cpu:{}/{name}", work.name()),
        label: label.clone(),
        unit: Unit::CpuSeconds,
    });
    let cpu: Vec<Measure> = cpu.collect();
    own.into_iter().map(row).chain(cpu).collect()
}

/// One run of one workload on one system.
pub struct Session<'a> {
    /// The workload.
    pub work: &'static dyn Workload,
    /// The fixtures.
    pub store: &'a Store,
    /// The union.
    pub union: Union,
    /// Longest time of one step.
    pub limit: Duration,
    /// Whether the kernel's caches may be emptied.
    pub cold: bool,
    /// What was measured so far.
    pub samples: Samples,
}

impl Session<'_> {
    /// Mounts, and says how many seconds it took.
    ///
    /// # Errors
    /// When it fails.
    pub fn mount(&mut self) -> Result<f64> {
        self.union.mount()
    }

    /// Unmounts.
    ///
    /// # Errors
    /// When it fails.
    pub fn unmount(&mut self) -> Result<()> {
        self.union.unmount()
    }

    /// Unmounts, empties the caches and mounts; false where emptying is not wanted or allowed.
    ///
    /// # Errors
    /// When mounting fails.
    pub fn mount_cold(&mut self) -> Result<bool> {
        self.unmount()?;
        let cold = self.cold && host::drop_caches();
        self.mount()?;
        Ok(cold)
    }

    /// Runs a step for its effect or to check one; its figures are not kept.
    ///
    /// # Errors
    /// When it fails.
    pub fn check(&mut self, step: &str) -> Result<()> {
        self.run(step).map(drop)
    }

    /// Runs a step and keeps what it measured, and the CPU time that the mount program used for it.
    ///
    /// # Errors
    /// When it fails.
    pub fn measure(&mut self, step: &str) -> Result<()> {
        let before = self.union.daemon().map(process::cpu_seconds);
        let found = self.run(step)?;
        for (name, value) in found {
            self.record(&name, value);
        }
        if let (Some(before), Some(pid)) = (before, self.union.daemon()) {
            let used = process::cpu_seconds(pid) - before;
            self.samples.push((format!("cpu:{}/{step}", self.work.name()), used));
        }
        Ok(())
    }

    /// Keeps one value.
    pub fn record(&mut self, name: &str, value: f64) {
        self.samples.push((format!("{}/{name}", self.work.name()), value));
    }

    fn run(&mut self, step: &str) -> Result<Samples> {
        let order = Order {
            workload: self.work.name().into(),
            step: step.into(),
            join: self.union.namespace(),
            place: Place {
                root: self.union.root(),
                fresh: self.union.fresh(),
                store: self.store.clone(),
            },
        };
        let mut command = child::again("__step")?;
        command.arg(serde_json::to_string(&order).doing(|| "write the order")?);
        let text = process::run(command, step, self.limit)
            .map_err(|fault| Fault(format!("{step}: {fault}")))?;
        let parse = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        text.lines()
            .map(|line| parse(line).ok_or_else(|| Fault(format!("{step} printed '{line}'"))))
            .collect()
    }
}

/// The answer to a step that a workload does not have.
fn unknown(step: &str) -> Result<Samples> {
    Err(Fault(format!("no step '{step}'")))
}

/// One sample.
fn one(name: &str, value: f64) -> Samples {
    vec![(name.to_owned(), value)]
}

/// Seconds for each of `count` operations since `start`.
fn each(start: Instant, count: usize) -> f64 {
    start.elapsed().as_secs_f64() / count.max(1) as f64
}

/// A path as system calls take it.
fn c(path: impl AsRef<Path>) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_ref().as_os_str().as_bytes()).doing(|| "a path")
}

/// Opens a directory to start paths from.
fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
}

/// Seconds that a command takes, its start included; fails when it does.
fn timed(mut command: Command, what: &str) -> Result<f64> {
    let start = Instant::now();
    let out = command.stdin(std::process::Stdio::null()).output();
    let took = start.elapsed().as_secs_f64();
    let out = out.doing(|| format!("start {what}"))?;
    if out.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Fault(format!("{what} failed: {}", said.lines().next().unwrap_or("it said nothing"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rows_are_unique_and_described() {
        let mut ids = std::collections::HashSet::new();
        for work in all() {
            assert!(find(work.name()).is_some());
            assert!(work.about(&Scale::full()).len() > 20, "{}", work.name());
            for row in rows(work, &Scale::full()) {
                assert!(row.label.len() > 4, "{row:?}");
                assert!(ids.insert(row.id.clone()), "{row:?}");
            }
        }
    }

    #[test]
    fn an_unknown_step_is_an_error() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().to_owned();
        let store = Store { directory: path.clone(), scale: Scale::tiny(), owner: None };
        let place = Place { root: path.clone(), fresh: path, store };
        for work in all() {
            assert!(work.step("no such step", &place).is_err(), "{}", work.name());
        }
    }
}
