//! By what a container's root filesystem is mounted.
//!
//! It is chosen once, when the container is made, and written down beside its write layer: cowlfs
//! keeps files there of which only some blocks are present, which nothing else can read.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::overlayfs;
use crate::sys;
use crate::sys::process::Side;

/// The environment variable that names the driver instead of a choice.
pub const VARIABLE: &str = "COWL_STORAGE_DRIVER";

/// Where it is written down, in the container's directory.
const FILE: &str = "rootfs.json";

/// What mounts root filesystems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// cowlfs, through `/dev/fuse`.
    #[default]
    Cowlfs,
    /// Kernel overlayfs, over layers that were unpacked for it.
    #[serde(rename = "overlay")]
    Overlayfs,
}

impl Driver {
    /// Its name for users, as Docker and Podman call theirs.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Cowlfs => "cowlfs",
            Driver::Overlayfs => "overlay",
        }
    }

    /// Chooses the driver for the new container in `dir` and writes it down. The second is a
    /// sentence for the user where it is not the usual one.
    ///
    /// # Errors
    /// When there is none, or it cannot be written down.
    pub fn choose(dir: &Path) -> Result<(Driver, Option<String>), Error> {
        let named = std::env::var(VARIABLE).unwrap_or_default();
        let (driver, sentence) = match named.as_str() {
            "" => match fuse() {
                Ok(()) => (Driver::Cowlfs, None),
                Err(why) if overlayfs_works(dir) => {
                    let sentence = format!(
                        "/dev/fuse cannot be opened ({why}): kernel overlayfs is used instead of \
                         cowlfs, and layers are unpacked for it once"
                    );
                    (Driver::Overlayfs, Some(sentence))
                }
                Err(why) => return Err(Error::None(why)),
            },
            "cowlfs" => (Driver::Cowlfs, None),
            "overlay" => (Driver::Overlayfs, None),
            _ => return Err(Error::Unknown(named)),
        };
        // The usual one needs no note, and `run` one file less.
        if driver != Driver::Cowlfs {
            let path = dir.join(FILE);
            let written = serde_json::to_vec(&Note { driver })
                .map_err(io::Error::other)
                .and_then(|text| fs::write(&path, text));
            written.map_err(|source| Error::Io { action: "write", path, source })?;
        }
        Ok((driver, sentence))
    }
}

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither works.
    #[error(
        "no root filesystem can be mounted here: /dev/fuse cannot be opened ({0}), and kernel \
         overlayfs is refused; make /dev/fuse readable and writable for you"
    )]
    None(io::Error),
    /// The environment names none.
    #[error("{VARIABLE}={0:?} names no storage driver: use cowlfs or overlay, or unset it")]
    Unknown(String),
    /// The note cannot be read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The note.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Note {
    driver: Driver,
}

/// Whether `/dev/fuse` can be opened.
///
/// # Errors
/// Why not.
pub fn fuse() -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse").map(drop)
}

/// Whether the kernel lets this process mount an overlay over `dir`'s filesystem; tried in a child
/// and a mount namespace of its own.
pub fn overlayfs_works(dir: &Path) -> bool {
    let Ok(trial) = Trial::new(dir) else { return false };
    match sys::process::fork() {
        Ok(Side::Child) => {
            let mounted = unshare(CloneFlags::CLONE_NEWNS).is_ok()
                && overlayfs::private().is_ok()
                && overlayfs::attach(std::slice::from_ref(&trial.0), &trial.0).is_ok();
            sys::process::exit(u8::from(!mounted));
        }
        Ok(Side::Parent(child)) => child.wait() == Ok(0),
        Err(_) => false,
    }
}

/// Empty directories for a trial mount; they go when this does.
struct Trial(PathBuf);

impl Trial {
    fn new(dir: &Path) -> io::Result<Trial> {
        let trial = Trial(dir.join(format!("overlay-trial.{}", std::process::id())));
        fs::create_dir(&trial.0)?;
        for part in ["upper", "work", "rootfs"] {
            fs::create_dir(trial.0.join(part))?;
        }
        Ok(trial)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // The kernel leaves a directory of mode 0 in `work`; the owner may remove it.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The driver of the container in `dir`.
///
/// # Errors
/// When the note cannot be read.
pub fn of(dir: &Path) -> Result<Driver, Error> {
    let path = dir.join(FILE);
    let fail = |source| Error::Io { action: "read", path: path.clone(), source };
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Note>(&text)
            .map(|note| note.driver)
            .map_err(|error| fail(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Driver::default()),
        Err(error) => Err(fail(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_a_note_is_cowlfs_and_a_broken_note_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(dir.path()).unwrap(), Driver::Cowlfs);
        fs::write(dir.path().join(FILE), r#"{"driver":"overlay"}"#).unwrap();
        assert_eq!(of(dir.path()).unwrap(), Driver::Overlayfs);
        fs::write(dir.path().join(FILE), r#"{"driver":"zfs"}"#).unwrap();
        let error = of(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("zfs"), "{error}");
    }
}
