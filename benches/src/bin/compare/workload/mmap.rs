//! Writes through a shared mapping.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::{Place, Result, Samples, Session, Unit, Workload, each, one, unknown, write};
use crate::content::{BLOCK, Rng};
use crate::fault::{Doing, check};
use crate::fixture::Fixture;
use crate::scale::{Scale, count, size};
use crate::sys::Mapping;

const SEED: u64 = 77_777;
/// What no fresh file has at the start of a block twice in a row.
const MARK: [u8; 2] = [7, 77];

/// See the module.
pub struct MmapWrite;

impl Workload for MmapWrite {
    fn name(&self) -> &'static str {
        "mmap-write"
    }

    fn about(&self, scale: &Scale) -> String {
        let (writes, size) = (count(scale.random), size(scale.big));
        format!("map a new file of {size} shared and write to {writes} random pages")
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![("write".into(), "mmap write to a random page".into(), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Empty
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.check("prepare")?;
        session.measure("write")?;
        session.check("verify")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let path = place.fresh.join("new");
        let scale = &place.store.scale;
        if step == "prepare" {
            return write::write(&path, scale.big).map(|_| Vec::new());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .doing(|| format!("open {}", path.display()))?;
        let mut rng = Rng::new(SEED);
        let blocks = scale.big / BLOCK as u64;
        let mut offset = || rng.below(blocks) as usize * BLOCK;
        let [first, second] = MARK;
        match step {
            "write" => {
                let start = Instant::now();
                let mut map = Mapping::new(&file, scale.big as usize).doing(|| "mmap")?;
                let mut inside = true;
                for _ in 0..scale.random {
                    let at = offset();
                    inside &= map.put(at, first) && map.put(at + 1, second);
                }
                let took = each(start, scale.random);
                check(inside, || "an offset past the end".into())?;
                Ok(one(step, took))
            }
            "verify" => {
                file.sync_all().doing(|| "fsync")?;
                let written: HashSet<usize> = (0..scale.random).map(|_| offset()).collect();
                let mut buffer = [0; 2];
                for at in written.iter().take(2_000) {
                    file.read_exact_at(&mut buffer, *at as u64).doing(|| "read back")?;
                    check(buffer == MARK, || format!("the page at {at} has other content"))?;
                }
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}
