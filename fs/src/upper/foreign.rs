//! What kernel overlayfs leaves in a work directory that an upper cannot be read without.

use std::os::fd::{AsFd, BorrowedFd};

use crate::attr::Kind;
use crate::sys::{self, Errno, Result};

/// Its index of files with several names (`index=on`), whose names are handles of lower files.
const INDEX: &[u8] = b"index";

/// Whether a work directory holds files that kernel overlayfs copied up for all their names, those not
/// touched included: read without that index, these would show what the file was before.
///
/// # Errors
/// Errors of reading the directory.
pub fn has_kernel_index(workdir: BorrowedFd<'_>) -> Result<bool> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let index = match sys::dir::openat(workdir, INDEX, flags, 0) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
        other => other?,
    };
    let mut found = false;
    sys::dir::list(index.as_fd(), |e| {
        // Directories and whiteouts are there for exports by NFS and mean nothing else.
        let attr = sys::dir::statat(index.as_fd(), e.name)?;
        found |= attr.kind != Kind::Dir && !attr.is_whiteout_device();
        Ok(())
    })?;
    Ok(found)
}
