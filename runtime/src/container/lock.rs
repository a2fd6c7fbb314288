//! Locks that die with their holders.
//!
//! flock(2) belongs to the open file, so a lock inherited over fork and exec is held until the
//! last process that has it ends. A container's lock is shared by its monitor and its cowlfs.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;

use super::{Error, io_error};
use crate::sys::descriptor::{LockKind, lock};

/// A held lock; released when this and every inherited copy is closed.
#[derive(Debug)]
pub struct Lock(File);

/// Whether anybody holds a container's lock.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder {
    /// A monitor or a filesystem lives.
    Somebody,
    /// Nothing of the container lives.
    Nobody,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Lock {
    fn take(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(io_error("open", path))?;
        lock(file.as_fd(), LockKind::Exclusive)
            .map_err(|errno| io_error("lock", path)(errno.into()))?;
        Ok(Self(file))
    }

    /// The lock over all containers of a store: names, creation, reclaim.
    pub fn store(containers: &Path) -> Result<Self, Error> {
        Self::take(&containers.join(".lock"))
    }

    /// The lock of one container.
    pub fn container(dir: &Path) -> Result<Self, Error> {
        Self::take(&dir.join("lock"))
    }

    /// Whether anybody holds the lock of the container in `dir`.
    pub fn probe(dir: &Path) -> Result<Holder, Error> {
        let path = dir.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Holder::Nobody);
            }
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        match lock(file.as_fd(), LockKind::SharedNow) {
            Ok(()) => Ok(Holder::Nobody),
            Err(Errno::EWOULDBLOCK) => Ok(Holder::Somebody),
            Err(errno) => Err(io_error("look at the lock", &path)(errno.into())),
        }
    }
}
