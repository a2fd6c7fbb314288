//! `stat` of names that the kernel has in its cache.

use std::time::Instant;

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::{Place, Result, Samples, Session, Unit, Workload, c, directory, each, one, unknown};
use crate::fault::{Doing, check};
use crate::fixture::{FILE, Fixture, name};
use crate::scale::{Scale, count};

const PASSES: usize = 5;

/// See the module.
pub struct Stat;

impl Workload for Stat {
    fn name(&self) -> &'static str {
        "stat"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("stat of {} files, {PASSES} times, after a first pass", count(scale.files))
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![("cached".into(), "stat, cached".into(), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Files
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.check("first")?;
        session.measure("cached")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let passes = match step {
            "first" => 1,
            "cached" => PASSES,
            _ => return unknown(step),
        };
        let files = place.store.scale.files;
        let root = directory(&place.root)?;
        let names = (0..files).map(|n| c(name(n))).collect::<Result<Vec<_>>>()?;
        let mut bytes = 0;
        let start = Instant::now();
        for _ in 0..passes {
            for name in &names {
                let status = fstatat(&root, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                    .doing(|| format!("stat {}", name.to_string_lossy()))?;
                bytes += status.st_size;
            }
        }
        let took = each(start, passes * files);
        let want = passes * files * FILE;
        check(bytes as usize == want, || format!("stat showed {bytes} bytes instead of {want}"))?;
        Ok(one(step, took))
    }
}
