//! System calls, and the only room with `unsafe`.
//!
//! Everything here works on directory file descriptors and single names: no call takes a path that
//! the kernel would walk, so a symbolic link in a layer can never lead out of it, and `/proc` is
//! not needed. Names are bytes; a NUL inside one is `EINVAL`. Errors are the kernel's own `errno`.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub use nix::errno::Errno;

pub mod dir;
pub mod file;
pub mod fuse;
pub mod map;
pub mod process;
pub mod xattr;

/// What every call in the crate returns: a value, or the errno that FUSE will carry back.
pub type Result<T> = std::result::Result<T, Errno>;

/// Longest name a directory entry may have (Linux `NAME_MAX`), in bytes.
pub const NAME_MAX: usize = 255;

/// Runs `f` with `name` as a C string, held on the stack for names of usual length.
///
/// # Errors
/// `EINVAL` when `name` holds a NUL byte; otherwise what `f` returns.
pub fn with_cstr<T>(name: &[u8], f: impl FnOnce(&CStr) -> Result<T>) -> Result<T> {
    let mut small = [0u8; NAME_MAX + 1];
    if let Some(buf) = small.get_mut(..=name.len()) {
        if let Some(body) = buf.get_mut(..name.len()) {
            body.copy_from_slice(name);
        }
        return f(CStr::from_bytes_with_nul(buf).map_err(|_| Errno::EINVAL)?);
    }
    let long = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
    f(&long)
}

/// Turns the result of a C call that returns -1 on failure into a `Result`.
fn check(rc: i64) -> Result<i64> {
    if rc < 0 { Err(Errno::last()) } else { Ok(rc) }
}

fn check_int(rc: libc::c_int) -> Result<libc::c_int> {
    if rc < 0 { Err(Errno::last()) } else { Ok(rc) }
}

/// Whether an error of a call that was made with senseless arguments says that there is no such call,
/// or that a seccomp profile forbids it: older ones answer `EPERM` to calls younger than they are.
fn is_missing(e: Errno) -> bool {
    matches!(e, Errno::ENOSYS | Errno::EPERM)
}

/// Takes ownership of a descriptor that a successful call has just returned.
fn own(rc: libc::c_int) -> Result<OwnedFd> {
    let fd: RawFd = check_int(rc)?;
    // SAFETY: the kernel has just handed this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}
