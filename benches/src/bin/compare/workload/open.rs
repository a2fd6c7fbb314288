//! open, read 4 KiB, close: what starting programs and reading configuration is made of.

use std::time::Instant;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::read;

use super::{Place, Result, Samples, Session, Unit, Workload, c, directory, each, one, unknown};
use crate::content;
use crate::fault::{Doing, check};
use crate::fixture::{FILE, Fixture, name};
use crate::scale::{Scale, count};

/// See the module.
pub struct Open;

impl Workload for Open {
    fn name(&self) -> &'static str {
        "open"
    }

    fn about(&self, scale: &Scale) -> String {
        format!(
            "open, read and close {} files of 4 KiB; cold caches, then warm",
            count(scale.files)
        )
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        vec![
            ("cached".into(), "open + read + close 4 KiB, cached".into(), Unit::Seconds),
            ("cold".into(), "open + read + close 4 KiB, cold".into(), Unit::Seconds),
        ]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Files
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        if session.mount_cold()? {
            session.measure("cold")?;
        } else {
            session.check("cold")?;
        }
        session.check("verify")?;
        session.measure("cached")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        if !["cold", "cached", "verify"].contains(&step) {
            return unknown(step);
        }
        let files = place.store.scale.files;
        let root = directory(&place.root)?;
        let names = (0..files).map(|n| c(name(n))).collect::<Result<Vec<_>>>()?;
        let mut buffer = vec![0; 2 * FILE];
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut bytes = 0;
        let start = Instant::now();
        for (number, name) in names.iter().enumerate() {
            let what = || format!("open and read {}", name.to_string_lossy());
            let file = openat(&root, name.as_c_str(), flags, Mode::empty()).doing(what)?;
            let length = read(&file, &mut buffer).doing(what)?;
            bytes += length;
            if step == "verify" {
                let got = buffer.get(..length).unwrap_or_default();
                let right = length == FILE && content::is(number as u64, 0, got);
                check(right, || format!("{} has other content", name.to_string_lossy()))?;
            }
        }
        let took = each(start, files);
        check(bytes == files * FILE, || format!("read {bytes} bytes in {files} files"))?;
        Ok(one(step, took))
    }
}
