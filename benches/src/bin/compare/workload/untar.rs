//! `tar xf` into the union.

use std::process::Command;

use super::{Place, Result, Samples, Session, Unit, Workload, one, timed, unknown};
use crate::fault::{Doing, check};
use crate::fixture::{ARCHIVE, Fixture, TREE, tree};
use crate::scale::{Scale, count};

/// See the module.
pub struct Untar;

impl Workload for Untar {
    fn name(&self) -> &'static str {
        "untar"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("unpack an archive of {}", describe(scale))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        vec![("unpack".into(), format!("untar {}", describe(scale)), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Empty
    }

    fn also(&self) -> Option<Fixture> {
        Some(Fixture::Archive)
    }

    fn programs(&self) -> &'static [&'static str] {
        &["tar"]
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.measure("unpack")?;
        session.check("verify")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        match step {
            "unpack" => Ok(one(step, unpack(place)?)),
            "verify" => {
                let path = place.fresh.join(TREE);
                let found = tree::count(&path).doing(|| format!("count {}", path.display()))?;
                let want = tree::expected(place.store.scale.tree);
                check(found == want, || format!("{found:?} was unpacked, not {want:?}"))?;
                tree::verify(&path, place.store.scale.tree)?;
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}

/// Unpacks the archive into the place of new files.
pub fn unpack(place: &Place) -> Result<f64> {
    let archive = place.store.flat(Fixture::Archive).join(ARCHIVE);
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(&place.fresh);
    timed(tar, "tar x")
}

/// `8 500 files, 153 MB`.
pub fn describe(scale: &Scale) -> String {
    let megabytes = tree::expected(scale.tree).bytes as f64 / 1e6;
    format!("{} files, {megabytes:.0} MB", count(scale.tree))
}
