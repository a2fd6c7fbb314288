//! Whole filesystems: mounting, syncing, and cutting their power.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::{R, c, ck, libc};

/// `syncfs(2)`.
pub fn syncfs(fd: &OwnedFd) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop)
}

/// How a filesystem is stopped by [`shut_down`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Its log reaches the disk first, written data does not: what was not synced shows holes.
    KeepLog = 1,
    /// Nothing reaches the disk any more, as when the power fails.
    Power = 2,
}

/// Stops the host filesystem that holds `fd` (`EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`): it answers
/// `EIO` from then on, and comes back with the state on its disk when it is mounted again.
pub fn shut_down(fd: &OwnedFd, how: Cut) -> R<()> {
    const SHUTDOWN: u64 = 0x8004_587d; // _IOR('X', 125, u32)
    let flags = how as u32;
    // SAFETY: the request reads one live 32-bit number.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), SHUTDOWN, &raw const flags) }).map(drop)
}

/// `mount(2)`.
pub fn mount(src: &str, at: &Path, kind: &str, flags: u64, data: &[u8]) -> R<()> {
    let (src, at, kind) = (c(src), c(at), c(kind));
    let data = CString::new(data).expect("mount data holds a NUL byte");
    // SAFETY: all strings are NUL-terminated and outlive the call.
    ck(unsafe {
        libc::mount(src.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })
    .map(drop)
}

/// `umount2(2)`.
pub fn umount(at: &Path, flags: i32) -> R<()> {
    let at = c(at);
    // SAFETY: the string is NUL-terminated and outlives the call.
    ck(unsafe { libc::umount2(at.as_ptr(), flags) }).map(drop)
}
