//! The time from the start of the mount program to a usable mount.

use super::{Place, Plain, Result, Samples, Session, Unit, Workload, unknown};
use crate::fault::{Doing, check};
use crate::fixture::Fixture;
use crate::scale::Scale;
use crate::stats::quantile;

/// See the module.
pub struct Mount;

impl Workload for Mount {
    fn name(&self) -> &'static str {
        "mount"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("mount a union of 10 layers {} times, programs cached", scale.mounts)
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![("mount".into(), "mount, 10 layers".into(), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Walk(10)
    }

    fn plain(&self) -> Plain {
        Plain::Nothing
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..session.store.scale.mounts.max(1) {
            times.push(session.mount()?);
            session.check("list")?;
            session.unmount()?;
        }
        times.sort_by(f64::total_cmp);
        session.record("mount", quantile(&times, 0.5).unwrap_or_default());
        Ok(())
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        if step != "list" {
            return unknown(step);
        }
        let first = place.root.join(crate::fixture::name(place.store.scale.walk - 1));
        let there = first.symlink_metadata().doing(|| format!("stat {}", first.display()))?;
        check(there.is_file(), || format!("{} is no file", first.display()))?;
        Ok(Vec::new())
    }
}
