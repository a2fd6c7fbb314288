//! Sequential read of a large lower file.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use super::{Place, Result, Samples, Session, Unit, Workload, one, unknown};
use crate::content::{self, BLOCK, Rng};
use crate::fault::{Doing, check};
use crate::fixture::{BIG, BIG_SEED, Fixture};
use crate::scale::{Scale, size};

/// Bytes of one read(2), as `cp` and `cat` do.
pub const CHUNK: usize = 128 << 10;
const GIB: f64 = (1_u64 << 30) as f64;

/// See the module.
pub struct Read;

impl Workload for Read {
    fn name(&self) -> &'static str {
        "read"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("read a lower file of {} from end to end, cold and cached", size(scale.big))
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![
            ("cached".into(), "sequential read, cached (per GiB)".into(), Unit::Seconds),
            ("cold".into(), "sequential read, cold (per GiB)".into(), Unit::Seconds),
        ]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Big
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        if session.mount_cold()? {
            session.measure("cold")?;
        } else {
            session.check("cold")?;
        }
        session.check("verify")?;
        session.measure("cached")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let path = place.root.join(BIG);
        let mut file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        let want = place.store.scale.big;
        match step {
            "cold" | "cached" => {
                let mut buffer = vec![1; CHUNK];
                let mut total = 0_u64;
                let start = Instant::now();
                loop {
                    let length = file.read(&mut buffer).doing(|| "read")?;
                    if length == 0 {
                        break;
                    }
                    total += length as u64;
                }
                let took = start.elapsed().as_secs_f64() * GIB / want as f64;
                check(total == want, || format!("read {total} bytes, not {want}"))?;
                Ok(one(step, took))
            }
            "verify" => {
                samples(&file, want, BIG_SEED)?;
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}

/// Compares some blocks of a file, the first and the last among them, with what it should hold.
pub fn samples(file: &File, length: u64, seed: u64) -> Result<()> {
    const SAMPLES: u64 = 64;
    let blocks = length / BLOCK as u64;
    let mut rng = Rng::new(seed);
    for number in 0..SAMPLES {
        let block = match number {
            0 => 0,
            1 => blocks.saturating_sub(1),
            _ => rng.below(blocks),
        };
        let mut buffer = vec![0; BLOCK];
        file.read_exact_at(&mut buffer, block * BLOCK as u64).doing(|| "read a block")?;
        check(content::is(seed, block, &buffer), || format!("block {block} has other content"))?;
    }
    Ok(())
}
