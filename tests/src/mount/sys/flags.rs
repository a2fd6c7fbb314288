//! What chattr(1) sees and sets: flags and project numbers, by ioctl.

use std::os::fd::{AsRawFd, OwnedFd};

use super::{R, ck, libc};

/// Reads the `chattr(1)` flags (`FS_IOC_GETFLAGS`).
pub fn get_flags(fd: &OwnedFd) -> R<u32> {
    let mut flags = 0_u32;
    // SAFETY: the request writes one 32-bit number.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) })?;
    Ok(flags)
}

/// Sets the `chattr(1)` flags (`FS_IOC_SETFLAGS`).
pub fn set_flags(fd: &OwnedFd, flags: u32) -> R<()> {
    // SAFETY: the request reads one live 32-bit number.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) }).map(drop)
}

/// An ioctl that no filesystem knows.
pub fn unknown_ioctl(fd: &OwnedFd) -> R<()> {
    const UNKNOWN: u64 = 0x5ce7; // _IO(0x5c, 0xe7)
    // SAFETY: the request carries no data.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), UNKNOWN, 0) }).map(drop)
}

/// `struct fsxattr`: flags, preferred extent size, extents, project, and room.
type Fsxattr = [u32; 7];
const FSGETXATTR: u64 = 0x801c_581f;
const FSSETXATTR: u64 = 0x401c_5820;

/// The project number (`FS_IOC_FSGETXATTR`).
pub fn project(fd: &OwnedFd) -> R<u32> {
    let mut x: Fsxattr = [0; 7];
    // SAFETY: the request writes 28 bytes.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), FSGETXATTR, x.as_mut_ptr()) })?;
    Ok(x[3])
}

/// Sets the project number (`FS_IOC_FSSETXATTR`).
pub fn set_project(fd: &OwnedFd, number: u32) -> R<()> {
    let mut x: Fsxattr = [0; 7];
    // SAFETY: the request writes 28 bytes.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), FSGETXATTR, x.as_mut_ptr()) })?;
    x[3] = number;
    // SAFETY: the request reads 28 bytes.
    ck(unsafe { libc::ioctl(fd.as_raw_fd(), FSSETXATTR, x.as_ptr()) }).map(drop)
}
