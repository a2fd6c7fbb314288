//! `stat` of names that are not there: what every search path does.

use std::time::Instant;

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::{Place, Result, Samples, Session, Unit, Workload, c, directory, each, one, unknown};
use crate::fault::check;
use crate::fixture::{Fixture, PER_DIRECTORY};
use crate::scale::{Scale, count};

const PASSES: usize = 4;

/// See the module.
pub struct Missing;

impl Missing {
    fn names(scale: &Scale) -> usize {
        (scale.files / 4).max(1)
    }
}

impl Workload for Missing {
    fn name(&self) -> &'static str {
        "missing"
    }

    fn about(&self, scale: &Scale) -> String {
        let names = count(Self::names(scale));
        format!("stat of {names} names that do not exist, {PASSES} times, the first time included")
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![("stat".into(), "stat of a missing name".into(), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Files
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.check("list")?;
        session.measure("stat")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let count = Self::names(&place.store.scale);
        let root = directory(&place.root)?;
        match step {
            // The directories are known before; their files need not be.
            "list" => {
                for number in (0..count).step_by(PER_DIRECTORY) {
                    let path = c(format!("d{:03}", number / PER_DIRECTORY))?;
                    fstatat(&root, path.as_c_str(), AtFlags::empty())?;
                }
                Ok(Vec::new())
            }
            "stat" => {
                let path = |n| c(format!("d{:03}/x{n:05}", n / PER_DIRECTORY));
                let names = (0..count).map(path).collect::<Result<Vec<_>>>()?;
                let mut absent = 0;
                let start = Instant::now();
                for _ in 0..PASSES {
                    for name in &names {
                        let found = fstatat(&root, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                        absent += usize::from(found == Err(nix::Error::ENOENT));
                    }
                }
                let took = each(start, PASSES * count);
                check(absent == PASSES * count, || {
                    format!("{absent} of {} names were missing", PASSES * count)
                })?;
                Ok(one(step, took))
            }
            _ => unknown(step),
        }
    }
}
