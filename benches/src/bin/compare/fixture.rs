//! Layers to measure on: made once per scratch directory, the same on every machine.
//!
//! A fixture that is complete has a stamp beside it; one without is made anew. As root everything
//! is given to the ordinary user of the `@u` systems, the only one that their namespace maps, so
//! that both kinds of systems work on the same layers.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::content;
use crate::fault::{Doing, Fault, Result};
use crate::scale::Scale;

pub mod tree;

/// What a workload finds in its lower layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixture {
    /// An empty directory.
    Empty,
    /// Files of 4 KiB, a hundred in a directory.
    Files,
    /// Files of 100 bytes, spread over this many layers; every directory is in every layer.
    Walk(usize),
    /// One large file, [`BIG`].
    Big,
    /// `Files` over `Big`: two layers.
    FilesAndBig,
    /// Files of rising sizes.
    CopyUp,
    /// Something like a language's library: directories, files of all sizes, links.
    Tree,
    /// An archive of `Tree`, [`ARCHIVE`].
    Archive,
    /// A git repository with everything committed.
    Repo,
    /// C files.
    Sources,
}

/// Name of the large file.
pub const BIG: &str = "big";
/// Seed of its content.
pub const BIG_SEED: u64 = 1 << 32;
/// Size of a file of [`Fixture::Files`].
pub const FILE: usize = 4096;
/// Size of a file of [`Fixture::Walk`].
pub const WALK_FILE: usize = 100;
/// Files in a directory.
pub const PER_DIRECTORY: usize = 100;
/// Subdirectory of [`Fixture::Tree`].
pub const TREE: &str = "tree";

/// Name of the archive in [`Fixture::Archive`].
pub const ARCHIVE: &str = "tree.tar";

/// Path of file `number` in [`Fixture::Files`] and [`Fixture::Walk`].
pub fn name(number: usize) -> String {
    format!("d{:03}/f{:05}", number / PER_DIRECTORY, number)
}

/// Path of copy-up file `number` of this size.
pub fn copyup_name(size: u64, number: usize) -> String {
    format!("{size}-{number:03}")
}

/// Seed of its content.
pub fn copyup_seed(size: u64, number: usize) -> u64 {
    size << 8 | number as u64
}

/// Where fixtures lie, how large they are, and whose they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Store {
    /// Directory of all fixtures.
    pub directory: PathBuf,
    /// Their sizes.
    pub scale: Scale,
    /// Owner to give them, if not the caller.
    pub owner: Option<u32>,
}

impl Store {
    /// Makes what is missing of this fixture.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub fn make(&self, fixture: Fixture) -> Result<()> {
        for part in parts(fixture) {
            let directory = self.place(part);
            let stamp = directory.with_extension("complete");
            if stamp.exists() {
                continue;
            }
            remove(&directory)?;
            fs::create_dir_all(&directory)
                .and_then(|()| self.fill(part, &directory))
                .doing(|| format!("make the fixture {}", directory.display()))?;
            match part {
                Fixture::Repo => commit(&directory)?,
                Fixture::Archive => pack(&self.place(Fixture::Tree), &directory)?,
                _ => {}
            }
            if let Some(owner) = self.owner {
                give(&directory, owner)
                    .doing(|| format!("change the owner of {}", directory.display()))?;
            }
            fs::write(&stamp, "").doing(|| format!("write {}", stamp.display()))?;
        }
        Ok(())
    }

    /// Its layers, topmost first.
    pub fn lowers(&self, fixture: Fixture) -> Vec<PathBuf> {
        match fixture {
            Fixture::Walk(layers) => {
                (0..layers).map(|n| self.place(fixture).join(format!("l{n}"))).collect()
            }
            Fixture::FilesAndBig => vec![self.place(Fixture::Files), self.place(Fixture::Big)],
            other => vec![self.place(other)],
        }
    }

    /// The same content as a plain directory.
    pub fn flat(&self, fixture: Fixture) -> PathBuf {
        match fixture {
            Fixture::Walk(_) => self.place(Fixture::Walk(1)).join("l0"),
            Fixture::FilesAndBig => self.place(Fixture::Files),
            other => self.place(other),
        }
    }

    fn place(&self, fixture: Fixture) -> PathBuf {
        let s = &self.scale;
        let name = match fixture {
            Fixture::Empty => "empty".to_owned(),
            Fixture::Files | Fixture::FilesAndBig => format!("files-{}", s.files),
            // Short: the names of 64 layers must fit the page that mount(2) takes.
            Fixture::Walk(layers) => format!("w{}-{layers}", s.walk),
            Fixture::Big => format!("big-{}", s.big),
            Fixture::CopyUp => format!("copyup-{}", s.copyup.iter().map(|c| c.0).sum::<u64>()),
            Fixture::Tree => format!("tree-{}", s.tree),
            Fixture::Archive => format!("archive-{}", s.tree),
            Fixture::Repo => format!("repo-{}", s.repo),
            Fixture::Sources => format!("sources-{}", s.sources),
        };
        self.directory.join(name)
    }

    fn fill(&self, fixture: Fixture, at: &Path) -> std::io::Result<()> {
        let s = &self.scale;
        match fixture {
            Fixture::Empty | Fixture::FilesAndBig | Fixture::Archive => Ok(()),
            Fixture::Files => spread(at, 1, s.files, FILE, |_| at.to_owned()),
            Fixture::Walk(layers) => {
                spread(at, layers, s.walk, WALK_FILE, |layer| at.join(format!("l{layer}")))
            }
            Fixture::Big => write_file(&at.join(BIG), BIG_SEED, s.big),
            Fixture::CopyUp => {
                for (size, count) in &s.copyup {
                    for number in 0..*count {
                        let path = at.join(copyup_name(*size, number));
                        write_file(&path, copyup_seed(*size, number), *size)?;
                    }
                }
                Ok(())
            }
            Fixture::Tree => {
                let root = at.join(TREE);
                fs::create_dir(&root)?;
                for entry in tree::entries(s.tree) {
                    let path = root.join(&entry.path);
                    match entry.kind {
                        tree::Kind::Directory => fs::create_dir(path)?,
                        tree::Kind::File { seed, size } => write_file(&path, seed, size)?,
                        tree::Kind::Link { target } => symlink(target, path)?,
                    }
                }
                Ok(())
            }
            Fixture::Repo => spread(at, 1, s.repo, 400, |_| at.to_owned()),
            Fixture::Sources => sources(at, s.sources),
        }
    }
}

/// What has a directory of its own.
fn parts(fixture: Fixture) -> Vec<Fixture> {
    match fixture {
        Fixture::FilesAndBig => vec![Fixture::Files, Fixture::Big],
        Fixture::Archive => vec![Fixture::Tree, Fixture::Archive],
        // One layer is also what the plain directory shows.
        Fixture::Walk(layers) if layers > 1 => vec![Fixture::Walk(1), fixture],
        other => vec![other],
    }
}

fn spread(
    at: &Path,
    layers: usize,
    files: usize,
    size: usize,
    layer: impl Fn(usize) -> PathBuf,
) -> std::io::Result<()> {
    fs::create_dir_all(at)?;
    for number in 0..layers {
        for directory in 0..files.div_ceil(PER_DIRECTORY) {
            fs::create_dir_all(layer(number).join(format!("d{directory:03}")))?;
        }
    }
    for number in 0..files {
        let path = layer(number % layers.max(1)).join(name(number));
        fs::write(path, content::bytes(number as u64, size))?;
    }
    Ok(())
}

fn write_file(path: &Path, seed: u64, size: u64) -> std::io::Result<()> {
    const CHUNK: usize = 256 * content::BLOCK;
    let mut file = fs::File::create(path)?;
    let mut buffer = vec![0; CHUNK.min(size as usize)];
    let mut at = 0;
    while at < size {
        let length = (size - at).min(CHUNK as u64) as usize;
        let part = buffer.get_mut(..length).unwrap_or_default();
        content::fill(seed, at / content::BLOCK as u64, part);
        file.write_all(part)?;
        at += length as u64;
    }
    Ok(())
}

/// Files that include the C library's headers and ten of a hundred of their own.
fn sources(at: &Path, count: usize) -> std::io::Result<()> {
    for number in 0..100 {
        let text = format!("static inline int h{number}(int x) {{ return x * {number} + 1; }}\n");
        fs::write(at.join(format!("h{number}.h")), text)?;
    }
    for number in 0..count {
        let mut text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_owned();
        for k in 0..10 {
            text += &format!("#include \"h{}.h\"\n", (number * 7 + k) % 100);
        }
        for k in 0..30 {
            text += &format!(
                "int f{number}_{k}(int a) {{ char b[64]; snprintf(b, 64, \"%d\", a); \
                 return atoi(b) + h{}({k}); }}\n",
                (number * 7) % 100
            );
        }
        fs::write(at.join(format!("s{number}.c")), text)?;
    }
    Ok(())
}

/// `git` with no settings of the user or machine.
pub fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_AUTHOR_DATE", "2020-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z")
        .args(["-c", "safe.directory=*", "-c", "gc.auto=0", "-C"])
        .arg(directory);
    command
}

/// Packs the tree with owners and times that are the same everywhere.
fn pack(from: &Path, to: &Path) -> Result<()> {
    let out = Command::new("tar")
        .args(["--format=gnu", "--sort=name", "--owner=0", "--group=0", "--mtime=@1577836800"])
        .arg("-cf")
        .arg(to.join(ARCHIVE))
        .arg("-C")
        .arg(from)
        .arg(TREE)
        .output()
        .doing(|| "run tar")?;
    if out.status.success() {
        return Ok(());
    }
    Err(Fault(format!("tar: {}", String::from_utf8_lossy(&out.stderr))))
}

fn commit(directory: &Path) -> Result<()> {
    let steps: [&[&str]; 3] = [
        &["init", "-q", "-b", "main", "."],
        &["add", "-A", "."],
        &["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "all"],
    ];
    for arguments in steps {
        let out = git(directory).args(arguments).output().doing(|| "run git")?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(Fault(format!("git {}: {said}", arguments.join(" "))));
        }
    }
    Ok(())
}

fn give(path: &Path, owner: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

/// Removes a tree that may be missing.
///
/// # Errors
/// When something of it stays.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault(format!("remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Makes a directory that anyone may enter, whatever the umask.
///
/// # Errors
/// When it cannot be made.
pub fn open_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .doing(|| format!("make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(at: &Path) -> Store {
        Store { directory: at.to_owned(), scale: Scale::tiny(), owner: None }
    }

    #[test]
    fn layers_together_hold_every_file_once() {
        let at = tempfile::tempdir().unwrap();
        let s = store(at.path());
        s.make(Fixture::Walk(3)).unwrap();
        let lowers = s.lowers(Fixture::Walk(3));
        assert_eq!(lowers.len(), 3);
        for number in 0..s.scale.walk {
            let holders = lowers.iter().filter(|l| l.join(name(number)).exists()).count();
            assert_eq!(holders, 1, "{number}");
            assert!(s.flat(Fixture::Walk(3)).join(name(number)).exists());
        }
    }

    #[test]
    fn a_fixture_without_its_stamp_is_made_anew() {
        let at = tempfile::tempdir().unwrap();
        let s = store(at.path());
        s.make(Fixture::Big).unwrap();
        let big = s.flat(Fixture::Big).join(BIG);
        assert!(content::is(BIG_SEED, 0, &fs::read(&big).unwrap()));
        fs::write(&big, "half").unwrap();
        s.make(Fixture::Big).unwrap();
        assert_eq!(fs::read(&big).unwrap(), b"half", "complete: left alone");
        fs::remove_file(s.flat(Fixture::Big).with_extension("complete")).unwrap();
        s.make(Fixture::Big).unwrap();
        assert_eq!(fs::metadata(&big).unwrap().len(), s.scale.big);
    }

    #[test]
    fn the_tree_on_disk_is_the_tree_described() {
        let at = tempfile::tempdir().unwrap();
        let s = store(at.path());
        s.make(Fixture::Tree).unwrap();
        let want = tree::expected(s.scale.tree);
        assert_eq!(tree::count(&s.flat(Fixture::Tree).join(TREE)).unwrap(), want);
    }
}
