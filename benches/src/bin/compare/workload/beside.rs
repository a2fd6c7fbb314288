//! Tail latency of small operations while something large runs beside them: a copy-up of a large
//! file, or the fsync of one.
//!
//! Each kind of small operation has a thread and a timetable, one a millisecond; latency counts from
//! the planned time, so that a standstill of 300 ms shows as 300 late operations, not as a single
//! slow one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::{
    Place, Plain, Result, Samples, Session, Unit, Workload, c, copyup, directory, unknown, write,
};
use crate::content::BLOCK;
use crate::fault::{Doing, Fault, check};
use crate::fixture::{BIG, FILE, Fixture, name};
use crate::scale::{Scale, size};
use crate::stats::quantile;

const PERIOD: Duration = Duration::from_millis(1);
/// The file that small writes go to, bytes.
const SMALL: u64 = 1 << 20;

/// Beside the copy-up of a large file.
pub struct CopyUp;

/// Beside a large write and its fsync.
pub struct Fsync;

impl Workload for CopyUp {
    fn name(&self) -> &'static str {
        "beside-copyup"
    }

    fn about(&self, scale: &Scale) -> String {
        let size = size(scale.big);
        format!(
            "99th percentile of stat and of small writes while a {size} lower file is copied up"
        )
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        rows(&format!("beside a copy-up of {}", size(scale.big)))
    }

    fn fixture(&self) -> Fixture {
        Fixture::FilesAndBig
    }

    fn plain(&self) -> Plain {
        Plain::Nothing
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        for lower in session.store.lowers(Fixture::FilesAndBig) {
            if lower.join(BIG).exists() {
                copyup::warm(&lower.join(BIG))?;
            }
        }
        session.mount()?;
        session.check("prepare")?;
        session.measure("stat")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        step_beside(step, place, || copyup::touch(&place.root.join(BIG)).map(drop))
    }
}

impl Workload for Fsync {
    fn name(&self) -> &'static str {
        "beside-fsync"
    }

    fn about(&self, scale: &Scale) -> String {
        let size = size(scale.big);
        format!("99th percentile of stat and of small writes while {size} are written and synced")
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        rows(&format!("beside write + fsync of {}", size(scale.big)))
    }

    fn fixture(&self) -> Fixture {
        Fixture::FilesAndBig
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.check("prepare")?;
        session.measure("stat")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let big = place.store.scale.big;
        step_beside(step, place, || write::write(&place.fresh.join("large"), big).map(drop))
    }
}

fn rows(beside: &str) -> Vec<(String, String, Unit)> {
    let row =
        |name: &str, what: &str| (name.into(), format!("{what}, p99, {beside}"), Unit::Seconds);
    vec![row("stat", "stat, not cached"), row("write", "4 KiB write")]
}

fn step_beside(
    step: &str,
    place: &Place,
    large: impl FnOnce() -> Result<()> + Send,
) -> Result<Samples> {
    let small = place.fresh.join("small");
    match step {
        "prepare" => write::write(&small, SMALL).map(|_| Vec::new()),
        "stat" => {
            let least = place.store.scale.beside;
            let done = AtomicBool::new(false);
            let (stats, writes) = std::thread::scope(|scope| {
                let stats = scope.spawn(|| stat_on_time(place, least, &done));
                let writes = scope.spawn(|| write_on_time(&small, least, &done));
                // Both have begun, and found their files, when the large thing does.
                std::thread::sleep(20 * PERIOD);
                let large = large();
                done.store(true, Ordering::Relaxed);
                let failed = |_| Fault("a thread failed".into());
                let stats = stats.join().map_err(failed)??;
                let writes = writes.join().map_err(failed)??;
                large.map(|()| (stats, writes))
            })?;
            Ok(vec![("stat".into(), p99(stats)), ("write".into(), p99(writes))])
        }
        _ => unknown(step),
    }
}

/// Calls `operation` at every period until the large thing is done, and `least` times; its
/// latencies.
fn on_time(
    least: usize,
    done: &AtomicBool,
    mut operation: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut late = Vec::new();
    let start = Instant::now();
    while late.len() < least || !done.load(Ordering::Relaxed) {
        let planned = start + PERIOD * late.len() as u32;
        // A sleep that overslept is not the filesystem's doing; a slow operation before is.
        let from = match planned.checked_duration_since(Instant::now()) {
            Some(early) => {
                std::thread::sleep(early);
                Instant::now()
            }
            None => planned,
        };
        operation(late.len())?;
        late.push(from.elapsed().as_secs_f64());
    }
    Ok(late)
}

fn stat_on_time(place: &Place, least: usize, done: &AtomicBool) -> Result<Vec<f64>> {
    let files = place.store.scale.files;
    let root = directory(&place.root)?;
    let names = (0..files).map(|n| c(name(n))).collect::<Result<Vec<_>>>()?;
    on_time(least, done, |number| {
        let Some(name) = names.get(number % files) else { return Ok(()) };
        let status = fstatat(&root, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .doing(|| format!("stat {}", name.to_string_lossy()))?;
        check(status.st_size as usize == FILE, || format!("{} bytes", status.st_size))
    })
}

fn write_on_time(path: &Path, least: usize, done: &AtomicBool) -> Result<Vec<f64>> {
    let file: File = OpenOptions::new().write(true).open(path).doing(|| "open the small file")?;
    let block = [5; BLOCK];
    on_time(least, done, |number| {
        let at = number as u64 * BLOCK as u64 % SMALL;
        file.write_all_at(&block, at).doing(|| "write")
    })
}

fn p99(mut late: Vec<f64>) -> f64 {
    late.sort_by(f64::total_cmp);
    quantile(&late, 0.99).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_standstill_makes_many_late_operations() {
        let done = AtomicBool::new(true);
        let late = on_time(200, &done, |number| {
            if number == 50 {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        });
        let late = late.unwrap();
        assert_eq!(late.len(), 200);
        assert!(p99(late.clone()) > 0.08, "{}", p99(late));
    }
}
