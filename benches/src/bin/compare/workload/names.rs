//! Names come and go: create with 4 KiB, rename, unlink, mkdir, rmdir.

use std::ffi::CString;
use std::time::Instant;

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat, write};

use super::{Place, Result, Samples, Session, Unit, Workload, c, directory, each, unknown};
use crate::fault::{Doing, check};
use crate::fixture::{FILE, Fixture, PER_DIRECTORY, name};
use crate::scale::{Scale, count};

/// See the module.
pub struct Names;

impl Workload for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn about(&self, scale: &Scale) -> String {
        format!(
            "create {} files of 4 KiB, rename and unlink them; mkdir, rmdir",
            count(scale.names)
        )
    }

    fn measures(&self, _: &Scale) -> Vec<(String, String, Unit)> {
        let row = |name: &str, label: &str| (name.to_owned(), label.to_owned(), Unit::Seconds);
        vec![
            row("create", "create + write 4 KiB + close"),
            row("rename", "rename"),
            row("unlink", "unlink"),
            row("mkdir", "mkdir"),
            row("rmdir", "rmdir"),
        ]
    }

    fn fixture(&self) -> Fixture {
        Fixture::Empty
    }

    fn drive(&self, session: &mut Session<'_>) -> Result<()> {
        session.mount()?;
        session.check("prepare")?;
        for step in ["create", "rename", "unlink", "mkdir", "rmdir"] {
            session.measure(step)?;
            session.check(&format!("after {step}"))?;
        }
        Ok(())
    }

    fn step(&self, step: &str, place: &Place) -> Result<Samples> {
        let files = place.store.scale.names;
        let few = (files / 4).max(1);
        let at = place.fresh.join("names");
        if step == "prepare" {
            for number in 0..files.div_ceil(PER_DIRECTORY) {
                let path = at.join(format!("d{number:03}"));
                std::fs::create_dir_all(&path).doing(|| format!("mkdir {}", path.display()))?;
            }
            return Ok(Vec::new());
        }
        let root = directory(&at)?;
        let list = |letter: char, count: usize| -> Result<Vec<CString>> {
            (0..count).map(|n| c(name(n).replace('f', &letter.to_string()))).collect()
        };
        let (old, new, made) = (list('f', files)?, list('g', files)?, list('h', few)?);
        let there = |name: &CString| fstatat(&root, name.as_c_str(), AtFlags::empty());
        let content = vec![9_u8; FILE];
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o755);
        let start = Instant::now();
        match step {
            "create" => {
                for name in &old {
                    let file =
                        openat(&root, name.as_c_str(), flags, Mode::from_bits_truncate(0o644));
                    let length = write(file.doing(|| "create")?, &content).doing(|| "write")?;
                    check(length == FILE, || format!("wrote {length} bytes"))?;
                }
            }
            "rename" => {
                for (old, new) in old.iter().zip(&new) {
                    renameat(&root, old.as_c_str(), &root, new.as_c_str()).doing(|| "rename")?;
                }
            }
            "unlink" => {
                for name in &new {
                    unlinkat(&root, name.as_c_str(), UnlinkatFlags::NoRemoveDir)
                        .doing(|| "unlink")?;
                }
            }
            "mkdir" => {
                for name in &made {
                    mkdirat(&root, name.as_c_str(), mode).doing(|| "mkdir")?;
                }
            }
            "rmdir" => {
                for name in &made {
                    unlinkat(&root, name.as_c_str(), UnlinkatFlags::RemoveDir).doing(|| "rmdir")?;
                }
            }
            "after create" => {
                return all_there(&old, |n| there(n).is_ok_and(|s| s.st_size as usize == FILE));
            }
            "after rename" => {
                all_there(&old, |n| there(n).is_err())?;
                return all_there(&new, |n| there(n).is_ok_and(|s| s.st_size as usize == FILE));
            }
            "after unlink" => return all_there(&new, |n| there(n) == Err(nix::Error::ENOENT)),
            "after mkdir" => return all_there(&made, |n| there(n).is_ok_and(|s| s.st_nlink > 0)),
            "after rmdir" => return all_there(&made, |n| there(n) == Err(nix::Error::ENOENT)),
            _ => return unknown(step),
        }
        let many = if ["mkdir", "rmdir"].contains(&step) { few } else { files };
        Ok(super::one(step, each(start, many)))
    }
}

fn all_there(names: &[CString], right: impl Fn(&CString) -> bool) -> Result<Samples> {
    match names.iter().find(|name| !right(name)) {
        None => Ok(Vec::new()),
        Some(name) => {
            check(false, || format!("{} is not as it should be", name.to_string_lossy()))?;
            Ok(Vec::new())
        }
    }
}
