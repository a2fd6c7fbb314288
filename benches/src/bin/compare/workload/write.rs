//! Sequential write of a large new file, and fsync.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use super::{Place, Result, Samples, Session, Unit, Workload, read, unknown};
use crate::content;
use crate::fault::Doing;
use crate::fixture::Fixture;
use crate::scale::{Scale, size};

const NEW: &str = "new";
const SEED: u64 = 0xA11;
/// What is written again and again; each chunk of the file is the same.
const CHUNK: usize = read::CHUNK;

/// See the module.
pub struct Write;

impl Workload for Write {
    fn name(&self) -> &'static str {
        "write"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("write a new file of {} from end to end, then fsync", size(scale.big))
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![
            ("fsync".into(), "sequential write + fsync (per GiB)".into(), Unit::Seconds),
            (
                "buffered".into(),
                "sequential write, before the fsync (per GiB)".into(),
                Unit::Seconds,
            ),
        ]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Empty
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.measure("fsync")?;
        session.check("verify")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let path = place.fresh.join(NEW);
        let big = place.store.scale.big;
        match step {
            "fsync" => {
                let (buffered, synced) = write(&path, big)?;
                let per_gib = (1_u64 << 30) as f64 / big as f64;
                Ok(vec![
                    ("fsync".into(), synced * per_gib),
                    ("buffered".into(), buffered * per_gib),
                ])
            }
            "verify" => {
                verify(&path, big)?;
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}

/// Writes a file of this many bytes; seconds without and with fsync.
pub fn write(path: &Path, length: u64) -> Result<(f64, f64)> {
    let what = || format!("write {}", path.display());
    let chunk = content::bytes(SEED, CHUNK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .doing(what)?;
    let start = Instant::now();
    let mut left = length;
    while left > 0 {
        let part = chunk.get(..left.min(CHUNK as u64) as usize).unwrap_or_default();
        file.write_all(part).doing(what)?;
        left -= part.len() as u64;
    }
    let buffered = start.elapsed().as_secs_f64();
    file.sync_all().doing(|| "fsync")?;
    Ok((buffered, start.elapsed().as_secs_f64()))
}

fn verify(path: &Path, length: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let chunk = content::bytes(SEED, CHUNK);
    let file = File::open(path).doing(|| format!("open {}", path.display()))?;
    let found = file.metadata().doing(|| "stat")?.len();
    crate::fault::check(found == length, || format!("{found} bytes instead of {length}"))?;
    let mut buffer = vec![0; CHUNK];
    for at in (0..length).step_by(16 * CHUNK) {
        file.read_exact_at(&mut buffer, at).doing(|| "read back")?;
        crate::fault::check(buffer == chunk, || format!("other content at {at}"))?;
    }
    Ok(())
}
