//! Where the run happens: a fresh journaled filesystem in a loop image, or a directory.
//!
//! The image is mounted in this process's own mount namespace and its device clears itself, so
//! nothing of it outlives the process; a temporary one has lost its name before the run begins.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::fault::{Doing, Fault, Result};
use crate::fixture;
use crate::process;
use crate::scale::Scale;

/// What the command line says about it.
#[derive(Debug, Default)]
pub struct Wish {
    /// An existing directory to use.
    pub directory: Option<PathBuf>,
    /// An image file to use, and keep.
    pub image: Option<PathBuf>,
    /// Filesystem of a new image: `ext4` or `xfs`.
    pub filesystem: String,
}

/// The scratch space, gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    /// Where fixtures and unions go.
    pub path: PathBuf,
    /// Filesystem and how it is held, for the record.
    pub description: String,
    /// What is wrong with it for measuring.
    pub warning: Option<String>,
    mounted: Option<PathBuf>,
    // Removed, with what is in it, after the unmount.
    _temporary: Option<TempDir>,
}

impl Scratch {
    /// Makes it. Loop images need root.
    ///
    /// # Errors
    /// When there is no space, no filesystem tool, or the directory cannot be written.
    pub fn new(wish: &Wish, scale: &Scale, root: bool) -> Result<Scratch> {
        if let Some(directory) = &wish.directory {
            let path = directory.join("cowl-compare");
            fixture::open_directory(&path)?;
            let path = path.canonicalize().doing(|| format!("find {}", path.display()))?;
            return Ok(Scratch::of(path, None, None));
        }
        if !root {
            let temporary = temporary()?;
            return Ok(Scratch::of(temporary.path().to_owned(), None, Some(temporary)));
        }
        let temporary = temporary()?;
        let point = temporary.path().join("disk");
        fixture::open_directory(&point)?;
        let (image, keep) = match &wish.image {
            Some(image) => (image.clone(), true),
            None => (temporary.path().join("image"), false),
        };
        if !image.exists() {
            let made = format(&image, &wish.filesystem, scale);
            if made.is_err() {
                // What is half made would be taken for a filesystem the next time.
                let _gone = fs::remove_file(&image);
            }
            made?;
        }
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(&point);
        process::run(mount, "mount", Duration::from_secs(60))
            .map_err(|fault| Fault(format!("mount a loop image (see --dir): {fault}")))?;
        if !keep {
            fs::remove_file(&image).doing(|| "remove the image's name")?;
        }
        fixture::open_directory(&point)?;
        Ok(Scratch::of(point.clone(), Some(point), Some(temporary)))
    }

    fn of(path: PathBuf, mounted: Option<PathBuf>, temporary: Option<TempDir>) -> Scratch {
        let (kind, journal) = filesystem(&path);
        let held = if mounted.is_some() { " in a loop image" } else { "" };
        let warning = match kind.as_str() {
            "ext4" if !journal => Some(
                "this ext4 has no journal: creating files after many were removed is many times \
                 slower there, and comparisons are ruined (use --image, or another --dir)"
                    .to_owned(),
            ),
            "tmpfs" | "overlay" => Some(format!(
                "a {kind} is no disk: cold figures and fsync mean nothing (use --image or --dir)"
            )),
            _ => None,
        };
        let description = format!("{kind}{held}");
        Scratch { path, description, warning, mounted, _temporary: temporary }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            // The namespace's end would do it too; a temporary directory could not be removed now.
            let _gone = umount2(point, MntFlags::MNT_DETACH);
        } else {
            let _gone = fixture::remove(&self.path.join("run"));
        }
    }
}

fn temporary() -> Result<TempDir> {
    let parent = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let made = tempfile::Builder::new().prefix("cowl-compare-").tempdir_in(&parent);
    let directory = made.doing(|| format!("make a directory in {}", parent.display()))?;
    fixture::open_directory(directory.path())?;
    Ok(directory)
}

/// A sparse image, formatted.
fn format(image: &Path, filesystem: &str, scale: &Scale) -> Result<()> {
    let what = || format!("make {}", image.display());
    // Fixtures twice over, what is written at once, and room for the filesystem's own.
    let bytes = 12 * scale.big + 4 * scale.copyup.iter().map(|c| c.0 * c.1 as u64).sum::<u64>();
    let file = File::create(image).doing(what)?;
    file.set_len(bytes + (4 << 30)).doing(what)?;
    let (program, arguments): (_, &[&str]) = match filesystem {
        "ext4" => (
            "mkfs.ext4",
            &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=256"],
        ),
        "xfs" => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
        other => return Err(Fault(format!("--fs {other}: must be ext4 or xfs"))),
    };
    let mut mkfs = Command::new(program);
    mkfs.args(arguments).arg(image);
    process::run(mkfs, program, Duration::from_secs(120)).map(drop)
}

/// Type of the filesystem that holds a path, and whether it has a journal.
fn filesystem(path: &Path) -> (String, bool) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (kind, device) = holder(&table, &path);
    let journals = fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten();
    let name = device.rsplit('/').next().unwrap_or_default().to_owned() + "-";
    let journal = kind != "ext4"
        || journals.into_iter().any(|j| j.file_name().to_string_lossy().starts_with(&name));
    (kind, journal)
}

/// Type and device of the mount, in a table of mounts, that a path is on.
fn holder(table: &str, path: &Path) -> (String, String) {
    let mut best = (0, String::from("unknown"), String::new());
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4).unwrap_or_default();
        let mut right = right.split(' ');
        // Of two on one point the later one covers the other.
        if path.starts_with(point) && point.len() >= best.0 {
            let mut next = || right.next().unwrap_or_default().to_owned();
            best = (point.len(), next(), next());
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /dev rw - devtmpfs devtmpfs rw
30 22 7:0 / /var/tmp/x rw shared:1 - xfs /dev/loop0 rw
31 30 7:1 / /var/tmp/x rw - ext4 /dev/loop1 rw";

    #[test]
    fn the_longest_and_latest_mount_holds_a_path() {
        let of = |path: &str| holder(TABLE, Path::new(path));
        assert_eq!(of("/var/tmp"), ("ext4".into(), "/dev/vda".into()));
        assert_eq!(of("/var/tmp/x/y"), ("ext4".into(), "/dev/loop1".into()));
        assert_eq!(of("/var/tmp/xy"), ("ext4".into(), "/dev/vda".into()));
        assert_eq!(of("/dev/shm").0, "devtmpfs");
    }

    #[test]
    fn a_filesystem_nobody_offers_is_refused() {
        let at = tempfile::tempdir().unwrap();
        let error = format(&at.path().join("i"), "vfat", &Scale::tiny()).unwrap_err();
        assert!(error.0.contains("ext4 or xfs"), "{error}");
    }
}
