//! `tar c` of a lower tree, to nowhere.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Place, Result, Samples, Session, Unit, Workload, one, unknown, untar::describe};
use crate::fault::{Doing, check};
use crate::fixture::{Fixture, TREE, tree};
use crate::scale::Scale;

/// See the module.
pub struct Pack;

impl Workload for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }

    fn about(&self, scale: &Scale) -> String {
        format!("tar c of {} from the lower layer, cold and warm", describe(scale))
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        vec![
            ("warm".into(), format!("tar c {}, warm", describe(scale)), Unit::Seconds),
            ("cold".into(), format!("tar c {}, cold", describe(scale)), Unit::Seconds),
        ]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Tree
    }

    fn programs(&self) -> &'static [&'static str] {
        &["tar"]
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        if session.mount_cold()? {
            session.measure("cold")?;
        } else {
            session.check("cold")?;
        }
        session.measure("warm")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        if !["cold", "warm"].contains(&step) {
            return unknown(step);
        }
        let start = Instant::now();
        let mut tar = Command::new("tar")
            .args(["--format=gnu", "-b", "20", "-cf", "-", "-C"])
            .arg(&place.root)
            .arg(TREE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .doing(|| "start tar")?;
        let mut total = 0;
        let mut buffer = vec![0; 1 << 17];
        if let Some(mut output) = tar.stdout.take() {
            loop {
                let length = output.read(&mut buffer).doing(|| "read what tar writes")?;
                if length == 0 {
                    break;
                }
                total += length as u64;
            }
        }
        let status = tar.wait().doing(|| "wait for tar")?;
        let took = start.elapsed().as_secs_f64();
        check(status.success(), || format!("tar c ended with {status}"))?;
        let want = tree::archive_size(place.store.scale.tree);
        check(total == want, || format!("tar c wrote {total} bytes, not {want}"))?;
        Ok(one(step, took))
    }
}
