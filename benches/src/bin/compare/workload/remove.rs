//! `rm -rf` of a tree: one that was made in the union, and one of a lower layer.

use std::process::Command;

use super::{
    Place, Plain, Result, Samples, Session, Unit, Workload, one, timed, unknown, untar,
    untar::describe,
};
use crate::fault::{Doing, check};
use crate::fixture::{Fixture, TREE, tree};
use crate::scale::Scale;

/// A tree unpacked just before.
pub struct Upper;

/// A tree of the lower layer.
pub struct Lower;

impl Workload for Upper {
    fn name(&self) -> &'static str {
        "rm-upper"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("rm -rf of {} that were unpacked into the union before", describe(scale))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        vec![("rm".into(), format!("rm -rf {}, upper", describe(scale)), Unit::Seconds)]
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
        session.check("prepare")?;
        session.measure("rm")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        match step {
            "prepare" => untar::unpack(place).map(|_| Vec::new()),
            "rm" => remove(step, &place.fresh, place),
            _ => unknown(step),
        }
    }
}

impl Workload for Lower {
    fn name(&self) -> &'static str {
        "rm-lower"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("rm -rf of {} of the lower layer: whiteouts, no copies", describe(scale))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        vec![("rm".into(), format!("rm -rf {}, lower", describe(scale)), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Tree
    }

    fn plain(&self) -> Plain {
        Plain::Copy
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.measure("rm")?;
        session.unmount()?;
        let lower = session.store.flat(Fixture::Tree).join(TREE);
        let left = tree::count(&lower).doing(|| "count the lower layer")?;
        let want = tree::expected(session.store.scale.tree);
        check(left == want, || "the lower layer was changed".into())
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        match step {
            "rm" => remove(step, &place.root, place),
            _ => unknown(step),
        }
    }
}

/// The tree is all there before, and gone after; both are looked at outside the clock.
fn remove(step: &str, parent: &std::path::Path, place: &Place) -> Result<Samples> {
    let path = parent.join(TREE);
    let found = tree::count(&path).doing(|| format!("count {}", path.display()))?;
    let want = tree::expected(place.store.scale.tree);
    check(found == want, || format!("{found:?} was there, not {want:?}"))?;
    let mut rm = Command::new("rm");
    rm.arg("-rf").arg(&path);
    let took = timed(rm, "rm -rf")?;
    check(!path.exists(), || format!("{} is still there", path.display()))?;
    let mut left = std::fs::read_dir(parent).doing(|| "list the root")?;
    check(left.next().is_none(), || "the parent still lists it".into())?;
    Ok(one(step, took))
}
