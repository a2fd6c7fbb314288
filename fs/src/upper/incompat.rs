//! What another filesystem must know before it may use the upper: overlayfs's `work/incompat`, whose
//! entries name features. Kernel overlayfs refuses to mount while it holds any; so do we for names
//! that we do not know.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Upper, WORK, ensure_dir};
use crate::sys::{self, Errno, Result};

/// Directory of features, below `work`.
pub(super) const INCOMPAT: &[u8] = b"incompat";
/// The feature of having given up waiting for the disk (overlayfs's own).
const VOLATILE: &[u8] = b"volatile";
/// Ours: files of the upper have only part of their data (`copyup=block`).
const PARTIAL: &[u8] = b"cowl-partial";

/// The directory of features, if there is one.
fn features(workdir: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let mut at = workdir.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    for name in [WORK, INCOMPAT] {
        at = match sys::dir::openat(at.as_fd(), name, libc::O_RDONLY | libc::O_DIRECTORY, 0) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        };
    }
    Ok(Some(at))
}

impl Upper {
    /// What a work directory says it cannot be mounted without knowing: the name of the first such
    /// feature that is not ours.
    ///
    /// # Errors
    /// Errors of reading the directory.
    pub fn incompatible(workdir: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
        let Some(features) = features(workdir)? else { return Ok(None) };
        let mut first = None;
        sys::dir::list(features.as_fd(), |e| {
            if e.name != PARTIAL {
                first.get_or_insert_with(|| e.name.to_vec());
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// Whether files of the upper have only part of their data.
    ///
    /// # Errors
    /// Errors of reading the directory.
    pub(super) fn has_partial(workdir: BorrowedFd<'_>) -> Result<bool> {
        let Some(features) = features(workdir)? else { return Ok(false) };
        match sys::dir::statat(features.as_fd(), PARTIAL) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn note(&self, feature: &[u8]) -> Result<()> {
        let incompat = ensure_dir(self.work(), INCOMPAT)?;
        ensure_dir(incompat.as_fd(), feature).map(drop)
    }

    fn forget(&self, feature: &[u8]) -> Result<()> {
        let incompat = sys::dir::open_dir(self.work(), INCOMPAT)?;
        sys::dir::rmdirat(incompat.as_fd(), feature)?;
        match sys::dir::rmdirat(self.work(), INCOMPAT) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()), // another feature is left
            other => other,
        }
    }

    /// The mount does not wait for the disk.
    pub(super) fn note_volatile(&self) -> Result<()> {
        self.note(VOLATILE)
    }

    /// From here on there may be files with only part of their data: other filesystems must not show
    /// them.
    ///
    /// # Errors
    /// Errors of making the mark; then there must be no such file.
    pub fn note_partial(&self) -> Result<()> {
        let mut noted = self.partial.lock();
        if !*noted {
            self.note(PARTIAL)?;
            *noted = true;
        }
        Ok(())
    }

    /// No file is partial any more.
    ///
    /// # Errors
    /// Errors of removing the mark, which then stays.
    pub fn forget_partial(&self) -> Result<()> {
        let mut noted = self.partial.lock();
        if *noted {
            self.forget(PARTIAL)?;
            *noted = false;
        }
        Ok(())
    }

    /// Whether the upper is marked as having partial files.
    pub fn may_be_partial(&self) -> bool {
        *self.partial.lock()
    }

    /// Ends a mount cleanly: a volatile one reaches the disk now and may be mounted again.
    ///
    /// # Errors
    /// Errors of syncing; the mark then stays.
    pub fn close(&self) -> Result<()> {
        if !self.volatile {
            return Ok(());
        }
        sys::file::syncfs(self.root())?;
        self.forget(VOLATILE)
    }
}
