//! The first byte written into a file of a lower layer: open, write one byte, close.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use super::{Place, Plain, Result, Samples, Session, Unit, Workload, one, unknown};
use crate::content::{self, BLOCK};
use crate::fault::{Doing, check};
use crate::fixture::{Fixture, copyup_name, copyup_seed};
use crate::scale::{Scale, size};
use crate::stats::quantile;

/// Where the byte goes, and what it is.
const AT: u64 = 1234;
const MARK: u8 = b'Z';

/// See the module.
pub struct CopyUp;

impl Workload for CopyUp {
    fn name(&self) -> &'static str {
        "copyup"
    }

    fn about(&self, scale: &Scale) -> String {
        let end = scale.copyup.last().map_or(0, |c| c.0);
        format!(
            "write one byte into cached lower files of 4 KiB to {}: open, write, close",
            size(end)
        )
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        let row = |(bytes, _): &(u64, usize)| {
            let label = format!("copy-up: 1-byte write into {}", size(*bytes));
            (bytes.to_string(), label, Unit::Seconds)
        };
        scale.copyup.iter().map(row).collect()
    }

    fn fixture(&self) -> Fixture {
        Fixture::CopyUp
    }

    fn plain(&self) -> Plain {
        Plain::Nothing
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        let files = session.store.scale.copyup.clone();
        let lower = session.store.flat(Fixture::CopyUp);
        for (bytes, count) in &files {
            for number in 0..*count {
                warm(&lower.join(copyup_name(*bytes, number)))?;
            }
        }
        session.mount()?;
        for (bytes, _) in &files {
            session.measure(&bytes.to_string())?;
        }
        session.check("verify")?;
        session.unmount()?;
        for (bytes, count) in &files {
            for number in 0..*count {
                let path = lower.join(copyup_name(*bytes, number));
                verify(&path, *bytes, number, false)?;
            }
        }
        Ok(())
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let files = &place.store.scale.copyup;
        if step == "verify" {
            for (bytes, count) in files {
                for number in 0..*count {
                    verify(&place.root.join(copyup_name(*bytes, number)), *bytes, number, true)?;
                }
            }
            return Ok(Vec::new());
        }
        let Some((bytes, count)) = files.iter().find(|(bytes, _)| bytes.to_string() == step) else {
            return unknown(step);
        };
        let mut times = Vec::new();
        for number in 0..*count {
            times.push(touch(&place.root.join(copyup_name(*bytes, number)))?);
        }
        times.sort_by(f64::total_cmp);
        Ok(one(step, quantile(&times, 0.5).unwrap_or_default()))
    }
}

/// Seconds to open a file, write one byte, and close it.
pub fn touch(path: &Path) -> Result<f64> {
    let what = || format!("write into {}", path.display());
    let start = Instant::now();
    let file = OpenOptions::new().read(true).write(true).open(path).doing(what)?;
    file.write_all_at(&[MARK], AT).doing(what)?;
    drop(file);
    Ok(start.elapsed().as_secs_f64())
}

/// Reads a file once, so that its pages are in memory.
pub fn warm(path: &Path) -> Result<()> {
    let what = || format!("read {}", path.display());
    let mut file = File::open(path).doing(what)?;
    std::io::copy(&mut file, &mut std::io::sink()).map(drop).doing(what)
}

/// The whole file where it is small, else its first, last and some blocks between.
fn verify(path: &Path, bytes: u64, number: usize, written: bool) -> Result<()> {
    let what = || format!("read {}", path.display());
    let file = File::open(path).doing(what)?;
    let length = file.metadata().doing(what)?.len();
    check(length == bytes, || format!("{} has {length} bytes", path.display()))?;
    let blocks = bytes / BLOCK as u64;
    let step = (blocks / 32).max(1);
    for block in (0..blocks).step_by(step as usize).chain([blocks.saturating_sub(1)]) {
        let mut want = vec![0; BLOCK];
        content::fill(copyup_seed(bytes, number), block, &mut want);
        if let (true, 0, Some(byte)) = (written, block, want.get_mut(AT as usize)) {
            *byte = MARK;
        }
        let mut found = vec![0; BLOCK];
        file.read_exact_at(&mut found, block * BLOCK as u64).doing(what)?;
        check(found == want, || format!("block {block} of {} is wrong", path.display()))?;
    }
    Ok(())
}
