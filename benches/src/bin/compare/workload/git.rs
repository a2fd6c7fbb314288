//! `git status` of a clean repository that lies in the lower layer.

use std::time::Instant;

use super::{Place, Plain, Result, Samples, Session, Unit, Workload, one, unknown};
use crate::fault::{Doing, check};
use crate::fixture::{self, Fixture};
use crate::scale::{Scale, count};

/// See the module.
pub struct Git;

impl Workload for Git {
    fn name(&self) -> &'static str {
        "git"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("git status over {} files, after a first one", count(scale.repo))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        let label = format!("git status, {} files", count(scale.repo));
        vec![("status".into(), label, Unit::Seconds)]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Repo
    }

    fn programs(&self) -> &'static [&'static str] {
        &["git"]
    }

    fn plain(&self) -> Plain {
        Plain::Copy
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        // The first one compares content and writes the index anew.
        session.check("status")?;
        session.measure("status")?;
        session.check("changed")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let status = || -> Result<(String, f64)> {
            let start = Instant::now();
            let out = fixture::git(&place.root).args(["status", "--porcelain"]).output();
            let took = start.elapsed().as_secs_f64();
            let out = out.doing(|| "start git")?;
            let said = String::from_utf8_lossy(&out.stderr);
            check(out.status.success(), || format!("git status: {said}"))?;
            Ok((String::from_utf8_lossy(&out.stdout).into_owned(), took))
        };
        match step {
            "status" => {
                let (changes, took) = status()?;
                check(changes.is_empty(), || format!("git sees changes: {changes:.100}"))?;
                Ok(one(step, took))
            }
            "changed" => {
                let path = place.root.join(fixture::name(0));
                std::fs::write(&path, "changed").doing(|| format!("write {}", path.display()))?;
                let (changes, _) = status()?;
                let want = format!(" M {}\n", fixture::name(0));
                check(changes == want, || format!("git sees '{changes:.100}', not '{want}'"))?;
                Ok(Vec::new())
            }
            _ => unknown(step),
        }
    }
}
