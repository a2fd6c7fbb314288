//! Random 4 KiB writes into a large file of the upper, as databases do.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::{Place, Result, Samples, Session, Unit, Workload, each, one, unknown, write};
use crate::content::{BLOCK, Rng};
use crate::fault::{Doing, check};
use crate::fixture::Fixture;
use crate::scale::{Scale, count, size};

const SEED: u64 = 0x5EED;
const MARK: u8 = 3;

/// See the module.
pub struct RandomWrite;

impl Workload for RandomWrite {
    fn name(&self) -> &'static str {
        "random-write"
    }

    fn about(&self, scale: &Scale) -> String {
        let (writes, size) = (count(scale.random), size(scale.big));
        format!("{writes} writes of 4 KiB at random offsets of a new file of {size}, no fsync")
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![("write".into(), "random write 4 KiB".into(), Unit::Seconds)]
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
        let mut offset = || rng.below(blocks) * BLOCK as u64;
        match step {
            "write" => {
                let block = [MARK; BLOCK];
                let start = Instant::now();
                for _ in 0..scale.random {
                    file.write_all_at(&block, offset()).doing(|| "write")?;
                }
                Ok(one(step, each(start, scale.random)))
            }
            "verify" => {
                let written: HashSet<u64> = (0..scale.random).map(|_| offset()).collect();
                let length = file.metadata().doing(|| "stat")?.len();
                check(length == scale.big, || format!("the file has {length} bytes"))?;
                let mut buffer = [0; BLOCK];
                for at in
                    (0..scale.big).step_by(61 * BLOCK).chain(written.iter().copied().take(500))
                {
                    file.read_exact_at(&mut buffer, at).doing(|| "read back")?;
                    let marked = buffer.iter().all(|byte| *byte == MARK);
                    let right = marked == written.contains(&at);
                    check(right, || format!("the block at {at} has other content"))?;
                }
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}
