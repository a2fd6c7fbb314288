//! `cp -a` of a lower tree to another place of the union.

use std::process::Command;

use super::{
    Place, Result, Samples, Session, Unit, Workload, one, timed, unknown, untar::describe,
};
use crate::fault::{Doing, check};
use crate::fixture::{Fixture, TREE, tree};
use crate::scale::Scale;

/// See the module.
pub struct Copy;

impl Workload for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("cp -a of {} from the lower layer", describe(scale))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        vec![("copy".into(), format!("cp -a {}", describe(scale)), Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Tree
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        // Caches warm: what is compared is the work, not the disk.
        session.check("list")?;
        session.measure("copy")?;
        session.check("verify")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let (from, to) = (place.root.join(TREE), place.fresh.join("copy"));
        match step {
            "list" => {
                tree::verify(&from, place.store.scale.tree)?;
                Ok(Vec::new())
            }
            "copy" => {
                let mut cp = Command::new("cp");
                cp.arg("-a").arg(from).arg(to);
                Ok(one(step, timed(cp, "cp -a")?))
            }
            "verify" => {
                let found = tree::count(&to).doing(|| format!("count {}", to.display()))?;
                let want = tree::expected(place.store.scale.tree);
                check(found == want, || format!("{found:?} was copied, not {want:?}"))?;
                tree::verify(&to, place.store.scale.tree)?;
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}
