//! Locks of the store: `flock` on a file, released by the kernel when the holder ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Context, StoreError};

/// A lock on the store, held until dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct StoreLock {
    _lock: Flock<File>,
}

impl StoreLock {
    pub(super) fn shared(path: &Path) -> Result<StoreLock, StoreError> {
        Self::wait(path, FlockArg::LockShared)
    }

    pub(super) fn exclusive(path: &Path) -> Result<StoreLock, StoreError> {
        Self::wait(path, FlockArg::LockExclusive)
    }

    /// The exclusive lock, if nobody else holds any.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<StoreLock>, StoreError> {
        match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(StoreLock { _lock: lock })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).on("lock", path),
        }
    }

    fn wait(path: &Path, mode: FlockArg) -> Result<StoreLock, StoreError> {
        let mut file = open(path)?;
        loop {
            match Flock::lock(file, mode) {
                Ok(lock) => return Ok(StoreLock { _lock: lock }),
                Err((unlocked, Errno::EINTR)) => file = unlocked,
                Err((_, error)) => return Err(error).on("lock", path),
            }
        }
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .on("open", path)
}
