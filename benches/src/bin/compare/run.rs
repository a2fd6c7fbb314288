//! The run itself: every workload on every system, repetition by repetition.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::content::Rng;
use crate::fault::{Doing, Fault, Result};
use crate::fixture::{self, Fixture, Store};
use crate::interrupt;
use crate::mount::Union;
use crate::progress::Progress;
use crate::report::{Failure, Report};
use crate::system::{Kind, System};
use crate::workload::{self, Plain, Samples, Session, Workload};

/// What a run needs to know.
pub struct Run<'a> {
    /// Fixtures.
    pub store: &'a Store,
    /// Where unions go.
    pub directory: &'a Path,
    /// User of the `@u` systems.
    pub uid: u32,
    /// Longest time of one step.
    pub limit: Duration,
    /// Whether the kernel's caches may be emptied.
    pub cold: bool,
    /// How often.
    pub repetitions: usize,
    /// Seed of the order.
    pub seed: u64,
}

impl Run<'_> {
    /// Mounts every system once; those that cannot be used here come back as sentences.
    ///
    /// # Errors
    /// When the fixture cannot be made.
    pub fn usable(&self, systems: Vec<System>) -> Result<(Vec<System>, Vec<String>)> {
        self.store.make(Fixture::Empty)?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for system in systems {
            match self.probe(&system) {
                Ok(()) => good.push(system),
                Err(fault) => bad.push(format!("{}: {fault}", system.name)),
            }
        }
        Ok((good, bad))
    }

    fn probe(&self, system: &System) -> Result<()> {
        if system.user && system.kind != Kind::Overlay {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata("/dev/fuse").map(|m| m.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o6 != 0o6) {
                return Err(Fault(
                    "/dev/fuse is closed to ordinary users (chmod 666 /dev/fuse opens it)".into(),
                ));
            }
        }
        let base = self.base()?;
        let lowers = self.store.lowers(Fixture::Empty);
        let flat = self.store.flat(Fixture::Empty);
        let mut union = Union::new(system, &base, lowers, flat, self.uid)?;
        union.mount()?;
        union.unmount()?;
        drop(union);
        fixture::remove(&base)
    }

    /// A new empty directory for one union.
    fn base(&self) -> Result<std::path::PathBuf> {
        let base = self.directory.join("run");
        fixture::remove(&base)?;
        fixture::open_directory(&base)?;
        Ok(base)
    }

    /// Measures; `keep` is called after each workload with what there is so far.
    ///
    /// # Errors
    /// When a fixture cannot be made; a failing system is recorded and left out of that workload.
    pub fn measure(
        &self,
        works: &[&'static dyn Workload],
        report: &mut Report,
        mut keep: impl FnMut(&Report) -> Result<()>,
    ) -> Result<()> {
        let systems = report.systems.clone();
        let plan = |work: &&'static dyn Workload| {
            systems.iter().filter(|s| takes_part(*work, s)).count() * self.repetitions
        };
        let mut progress = Progress::new(works.iter().map(plan).sum());
        let mut rng = Rng::new(self.seed);
        for work in works {
            progress.show(work.name(), "fixtures");
            prepare(self.store, *work)?;
            for repetition in 1..=self.repetitions {
                for system in shuffled(&systems, &mut rng) {
                    if interrupt::asked() {
                        progress.end();
                        return Err(Fault("stopped".into()));
                    }
                    if !takes_part(*work, system) {
                        continue;
                    }
                    let what = format!("{} {repetition}/{}", system.name, self.repetitions);
                    progress.show(work.name(), &what);
                    if !report.failed(work.name(), &system.name) {
                        self.one(*work, system, report, &progress);
                    }
                    progress.step();
                }
            }
            keep(report)?;
        }
        progress.end();
        Ok(())
    }

    fn one(
        &self,
        work: &'static dyn Workload,
        system: &System,
        report: &mut Report,
        progress: &Progress,
    ) {
        match self.session(work, system) {
            Ok(samples) => {
                for (measure, value) in samples {
                    report.add(&measure, &system.name, value);
                }
            }
            Err(_) if interrupt::asked() => {}
            Err(fault) => {
                progress.say(&format!("{} on {}: {fault}", work.name(), system.name));
                report.failures.push(Failure {
                    workload: work.name().into(),
                    system: system.name.clone(),
                    reason: fault.0,
                });
            }
        }
    }

    fn session(&self, work: &'static dyn Workload, system: &System) -> Result<Samples> {
        let base = self.base()?;
        let mut plain = self.store.flat(work.fixture());
        if system.kind == Kind::Native && work.plain() == Plain::Copy {
            let copy = base.join("copy");
            duplicate(&plain, &copy)?;
            plain = copy;
        }
        // What is removed and copied above must not be written back under the clock.
        nix::unistd::sync();
        let lowers = self.store.lowers(work.fixture());
        let union = Union::new(system, &base, lowers, plain, self.uid)?;
        let mut session = Session {
            work,
            store: self.store,
            union,
            limit: self.limit,
            cold: self.cold,
            samples: Vec::new(),
        };
        let done = work.drive(&mut session).and_then(|()| session.unmount());
        let samples = std::mem::take(&mut session.samples);
        session.union.stop();
        drop(session);
        fixture::remove(&base)?;
        done.map(|()| samples)
    }
}

/// Makes the fixtures of a workload.
///
/// # Errors
/// When one cannot be made.
pub fn prepare(store: &Store, work: &dyn Workload) -> Result<()> {
    store.make(work.fixture())?;
    work.also().map_or(Ok(()), |fixture| store.make(fixture))
}

/// Whether a system has a part in a workload.
fn takes_part(work: &dyn Workload, system: &System) -> bool {
    system.kind != Kind::Native || work.plain() != Plain::Nothing
}

/// The workloads of these names (all for none), and why some are left out.
///
/// # Errors
/// For an unknown name.
pub fn choose(names: &[String]) -> Result<(Vec<&'static dyn Workload>, Vec<String>)> {
    let mut chosen = Vec::new();
    for name in names {
        let work = workload::find(name).ok_or_else(|| {
            Fault(format!("no workload '{name}'; --list shows those that there are"))
        })?;
        chosen.push(work);
    }
    if names.is_empty() {
        chosen = workload::all();
    }
    let mut left_out = Vec::new();
    chosen.retain(|work| {
        let missing = work.programs().iter().find(|program| !installed(program));
        if let Some(program) = missing {
            left_out.push(format!("{}: {program} is not installed", work.name()));
        }
        missing.is_none()
    });
    Ok((chosen, left_out))
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn duplicate(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=never"]).arg(from).arg(to);
    crate::process::run(cp, "cp -a", Duration::from_secs(300)).map(drop)
}

fn shuffled<'a>(systems: &'a [System], rng: &mut Rng) -> Vec<&'a System> {
    let mut order: Vec<&System> = systems.iter().collect();
    for end in (1..order.len()).rev() {
        order.swap(end, rng.below(end as u64 + 1) as usize);
    }
    order
}

/// Makes the directory for fixtures.
///
/// # Errors
/// When it cannot be made.
pub fn store_directory(scratch: &Path) -> Result<std::path::PathBuf> {
    // Short: the paths of 64 layers must fit the page that mount(2) takes.
    let path = scratch.join("f");
    fixture::open_directory(&path).doing(|| "make the directory of fixtures")?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_everyone() {
        let names: Vec<System> = crate::report::tests::example().systems;
        let mut rng = Rng::new(3);
        let mut orders = std::collections::HashSet::new();
        for _ in 0..50 {
            let order: Vec<String> =
                shuffled(&names, &mut rng).iter().map(|s| s.name.clone()).collect();
            let mut sorted = order.clone();
            sorted.sort();
            assert_eq!(sorted, ["cowlfs", "cowlfs@u", "native", "overlay"]);
            orders.insert(order);
        }
        assert!(orders.len() > 10, "{}", orders.len());
    }

    #[test]
    fn unknown_workloads_are_refused() {
        let error = choose(&["stat".into(), "nothing".into()]).err().unwrap();
        assert!(error.0.contains("'nothing'") && error.0.contains("--list"), "{error}");
        assert_eq!(choose(&["stat".into()]).unwrap().0.len(), 1);
    }
}
