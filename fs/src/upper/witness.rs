//! Whether marks of an earlier epoch can be believed.
//!
//! A copy that was never synced is restored from the lower after a crash of the machine (`overlay/settle`).
//! That would be wrong if another tool has used the upper in between, and perhaps synced the file. So
//! each mount leaves a witness of its epoch in the directory of temporaries, which kernel overlayfs
//! empties at every mount: without it, what the file holds is what that tool has seen.

use std::os::fd::BorrowedFd;

use crate::sys::{self, Errno, Result};

const PREFIX: &[u8] = b"epoch-";

/// The epoch that this entry of the directory of temporaries is a witness of.
pub(super) fn epoch_of(name: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(name.strip_prefix(PREFIX)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

fn name_of(epoch: u64) -> Vec<u8> {
    [PREFIX, format!("{epoch:x}").as_bytes()].concat()
}

/// The epochs that have a witness.
///
/// # Errors
/// Errors of listing the directory.
pub(super) fn all(work: BorrowedFd<'_>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    sys::dir::list(work, |e| {
        found.extend(epoch_of(e.name));
        Ok(())
    })?;
    Ok(found)
}

/// Leaves one. False on a full disk: copies must be synced at once then.
///
/// # Errors
/// Other errors of making a file.
pub(super) fn leave(work: BorrowedFd<'_>, epoch: u64) -> Result<bool> {
    let flags = libc::O_CREAT | libc::O_WRONLY;
    match sys::dir::openat(work, &name_of(epoch), flags, 0o600) {
        Ok(_) => Ok(true),
        Err(Errno::ENOSPC | Errno::EDQUOT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes it away: there is no mark of that epoch any more.
pub(super) fn take_away(work: BorrowedFd<'_>, epoch: u64) {
    let _does_no_harm = sys::dir::unlinkat(work, &name_of(epoch));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(epoch_of(&name_of(0xabc)), Some(0xabc));
        for other in [&b"#1"[..], b"epoch-", b"epoch-x", b"incompat"] {
            assert_eq!(epoch_of(other), None);
        }
    }
}
