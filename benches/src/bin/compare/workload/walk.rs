//! A walk over a tree: list every directory and stat every name.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use super::{Place, Result, Samples, Session, Unit, Workload, directory, one, unknown};
use crate::fault::{Doing, check};
use crate::fixture::{Fixture, PER_DIRECTORY, WALK_FILE};
use crate::process;
use crate::scale::{Scale, count};

/// Over this many layers.
pub struct Walk(pub usize);

impl Workload for Walk {
    fn name(&self) -> &'static str {
        match self.0 {
            1 => "walk1",
            10 => "walk10",
            _ => "walk64",
        }
    }

    fn about(&self, scale: &Scale) -> String {
        format!(
            "walk over {} files in {}: cold, warm, only listing; memory of the mount program after",
            count(scale.walk),
            layers(self.0)
        )
    }

    fn measures(&self, scale: &Scale) -> Vec<(String, String, Unit)> {
        let (n, l) = (count(scale.walk), layers(self.0));
        vec![
            ("cold".into(), format!("walk {n} files, {l}, cold"), Unit::Seconds),
            ("warm".into(), format!("walk {n} files, {l}, warm"), Unit::Seconds),
            ("readdir".into(), format!("readdir of {n} names, {l}, warm"), Unit::Seconds),
            ("memory".into(), format!("memory after walking {n} files, {l}"), Unit::Bytes),
        ]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Walk(self.0)
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        if session.mount_cold()? {
            session.measure("cold")?;
        } else {
            session.check("cold")?;
        }
        if let Some(bytes) = session.union.daemon().and_then(process::resident) {
            session.record("memory", bytes);
        }
        session.measure("warm")?;
        session.measure("readdir")
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let stat = match step {
            "cold" | "warm" => true,
            "readdir" => false,
            _ => return unknown(step),
        };
        let mut seen = Seen { stat, ..Seen::default() };
        let start = Instant::now();
        seen.walk(directory(&place.root)?)?;
        let took = start.elapsed().as_secs_f64();
        let files = place.store.scale.walk;
        let names = files + files.div_ceil(PER_DIRECTORY);
        check(seen.names == names, || format!("{} names were listed, not {names}", seen.names))?;
        let bytes = if stat { files * WALK_FILE } else { 0 };
        check(seen.bytes == bytes, || format!("files of {} bytes, not {bytes}", seen.bytes))?;
        Ok(one(step, took))
    }
}

/// `1 layer`, `64 layers`.
pub fn layers(number: usize) -> String {
    if number == 1 { "1 layer".into() } else { format!("{number} layers") }
}

#[derive(Default)]
struct Seen {
    stat: bool,
    names: usize,
    bytes: usize,
}

impl Seen {
    fn walk(&mut self, directory: OwnedFd) -> Result<()> {
        let mut list = Dir::from_fd(directory).doing(|| "list a directory")?;
        let mut below = Vec::new();
        let at = list.as_fd().try_clone_to_owned().doing(|| "duplicate a descriptor")?;
        for entry in list.iter() {
            let entry = entry.doing(|| "list a directory")?;
            let name: &CStr = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.names += 1;
            if self.stat {
                let status = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .doing(|| format!("stat {}", name.to_string_lossy()))?;
                if entry.file_type() == Some(Type::File) {
                    self.bytes += status.st_size as usize;
                }
            }
            if entry.file_type() == Some(Type::Directory) {
                below.push(name.to_owned());
            }
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        for name in below {
            let next = openat(&at, name.as_c_str(), flags, Mode::empty())
                .doing(|| format!("open {}", name.to_string_lossy()))?;
            self.walk(next)?;
        }
        Ok(())
    }
}
