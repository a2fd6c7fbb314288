//! chmod of a large file of a lower layer.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::{Place, Plain, Result, Samples, Session, Unit, Workload, copyup, one, read, unknown};
use crate::fault::{Doing, check};
use crate::fixture::{BIG, BIG_SEED, Fixture};
use crate::scale::{Scale, size};

const MODE: u32 = 0o600;

/// See the module.
pub struct Chmod;

impl Workload for Chmod {
    fn name(&self) -> &'static str {
        "chmod"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("chmod of a cached lower file of {}", size(scale.big))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        let label = format!("chmod of a lower file of {}", size(scale.big));
        vec![("chmod".into(), label, Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Big
    }

    fn plain(&self) -> Plain {
        Plain::Nothing
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        let lower = session.store.flat(Fixture::Big).join(BIG);
        copyup::warm(&lower)?;
        let before = lower.metadata().doing(|| "stat the lower file")?.permissions();
        session.mount()?;
        session.measure("chmod")?;
        session.check("verify")?;
        session.unmount()?;
        let after = lower.metadata().doing(|| "stat the lower file")?.permissions();
        check(before == after, || "the lower file was changed".into())
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let path = place.root.join(BIG);
        let what = || format!("chmod {}", path.display());
        match step {
            "chmod" => {
                let start = Instant::now();
                std::fs::set_permissions(&path, Permissions::from_mode(MODE)).doing(what)?;
                Ok(one(step, start.elapsed().as_secs_f64()))
            }
            "verify" => {
                let status = path.metadata().doing(what)?;
                let (mode, bytes) = (status.permissions().mode() & 0o7777, status.len());
                let want = place.store.scale.big;
                check((mode, bytes) == (MODE, want), || format!("mode {mode:o}, {bytes} bytes"))?;
                read::samples(&File::open(&path).doing(what)?, want, BIG_SEED)?;
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}
