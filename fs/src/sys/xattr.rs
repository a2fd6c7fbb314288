//! Extended attributes of a name in a directory, without a path and without `/proc`.
//!
//! Linux 6.13 has `getxattrat(2)` and its sisters. Before that there is no such call; a thread then
//! takes a working directory of its own (`unshare(CLONE_FS)`), changes into the directory and uses
//! the `l*xattr` calls with the bare name (or, where that is forbidden too, a path through `/proc`). An empty name means the descriptor itself.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use super::{Errno, Result, check, check_int, is_missing, raw, with_cstr};

/// Largest value Linux stores (`XATTR_SIZE_MAX`), bytes.
pub const SIZE_MAX: usize = 65536;
/// First try: most values are shorter than this.
const FIRST_TRY: usize = 256;

const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// `struct xattr_args` of the `*xattrat` calls (include/uapi/linux/xattr.h).
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

const AT_FLAGS: libc::c_int = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;

/// Whether the kernel (and a seccomp profile) lets us use the `*xattrat` calls.
fn have_at_calls() -> bool {
    static HAVE: OnceLock<bool> = OnceLock::new();
    *HAVE.get_or_init(|| {
        // SAFETY: valid C string, empty buffer.
        let rc = unsafe {
            libc::syscall(
                SYS_LISTXATTRAT,
                libc::AT_FDCWD,
                c".".as_ptr(),
                AT_FLAGS,
                std::ptr::null::<u8>(),
                0usize,
            )
        };
        !check(rc).is_err_and(is_missing)
    })
}

thread_local! {
    static OWN_CWD: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread a working directory of its own and changes it to `dir`.
///
/// # Errors
/// `EPERM` where a seccomp profile forbids `unshare(CLONE_FS)`.
fn enter(dir: BorrowedFd<'_>) -> Result<()> {
    if !OWN_CWD.get() {
        // SAFETY: plain call; only the calling thread is affected.
        check_int(unsafe { libc::unshare(libc::CLONE_FS) })?;
        OWN_CWD.set(true);
    }
    // SAFETY: plain call.
    check_int(unsafe { libc::fchdir(raw(dir)) }).map(drop)
}

/// Runs `f` on a path that leads to `name` in `dir`: the bare name after changing into the directory,
/// or, where that is not allowed, one through `/proc`.
fn at<T>(dir: BorrowedFd<'_>, name: &CStr, f: impl FnOnce(&CStr) -> Result<T>) -> Result<T> {
    match enter(dir) {
        Ok(()) => f(name),
        Err(e) if is_missing(e) => {
            let path =
                [format!("/proc/self/fd/{}/", raw(dir)).as_bytes(), name.to_bytes()].concat();
            with_cstr(&path, f)
        }
        Err(e) => Err(e),
    }
}

/// Repeats `call` with a larger buffer until the value fits.
fn sized(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buf = vec![0u8; FIRST_TRY];
    loop {
        match call(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(Errno::ERANGE) if buf.len() < SIZE_MAX => buf.resize(SIZE_MAX, 0),
            Err(e) => return Err(e),
        }
    }
}

/// The value of `attr` of `name` in `dir`.
///
/// # Errors
/// `ENODATA` when it has none, `EOPNOTSUPP` where the filesystem has no xattrs.
pub fn get(dir: BorrowedFd<'_>, name: &[u8], attr: &[u8]) -> Result<Vec<u8>> {
    with_cstr(name, |n| with_cstr(attr, |a| sized(|buf| get_once(dir, n, a, buf))))
}

fn get_once(dir: BorrowedFd<'_>, n: &CStr, a: &CStr, buf: &mut [u8]) -> Result<usize> {
    let rc = if have_at_calls() {
        let args = XattrArgs { value: buf.as_mut_ptr() as u64, size: buf.len() as u32, flags: 0 };
        // SAFETY: valid C strings; the args name a buffer of the stated length.
        check(unsafe {
            libc::syscall(
                SYS_GETXATTRAT,
                raw(dir),
                n.as_ptr(),
                AT_FLAGS,
                a.as_ptr(),
                &raw const args,
                size_of::<XattrArgs>(),
            )
        })
    } else if n.is_empty() {
        // SAFETY: valid C string and buffer.
        check(unsafe {
            libc::fgetxattr(dir.as_raw_fd(), a.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
        } as i64)
    } else {
        at(dir, n, |n| {
            // SAFETY: valid C strings and buffer.
            check(unsafe {
                libc::lgetxattr(n.as_ptr(), a.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
            } as i64)
        })
    };
    rc.map(|n| n as usize)
}

/// All attribute names of `name` in `dir`, each ended by a NUL.
pub fn list(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    with_cstr(name, |n| {
        sized(|buf| {
            let rc = if have_at_calls() {
                // SAFETY: valid C string; the buffer is as long as stated.
                check(unsafe {
                    libc::syscall(
                        SYS_LISTXATTRAT,
                        raw(dir),
                        n.as_ptr(),
                        AT_FLAGS,
                        buf.as_mut_ptr(),
                        buf.len(),
                    )
                })
            } else if n.is_empty() {
                // SAFETY: valid buffer.
                check(unsafe {
                    libc::flistxattr(dir.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len())
                } as i64)
            } else {
                at(dir, n, |n| {
                    // SAFETY: valid C string and buffer.
                    check(unsafe {
                        libc::llistxattr(n.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
                    } as i64)
                })
            };
            rc.map(|n| n as usize)
        })
    })
}

/// Sets `attr` of `name` in `dir`; `flags` are `XATTR_CREATE`, `XATTR_REPLACE` or 0.
pub fn set(dir: BorrowedFd<'_>, name: &[u8], attr: &[u8], value: &[u8], flags: i32) -> Result<()> {
    with_cstr(name, |n| {
        with_cstr(attr, |a| {
            if have_at_calls() {
                let args = XattrArgs {
                    value: value.as_ptr() as u64,
                    size: value.len() as u32,
                    flags: flags as u32,
                };
                // SAFETY: valid C strings; the args name a buffer of the stated length.
                return check(unsafe {
                    libc::syscall(
                        SYS_SETXATTRAT,
                        raw(dir),
                        n.as_ptr(),
                        AT_FLAGS,
                        a.as_ptr(),
                        &raw const args,
                        size_of::<XattrArgs>(),
                    )
                })
                .map(drop);
            }
            let (v, len) = (value.as_ptr().cast(), value.len());
            if n.is_empty() {
                // SAFETY: valid C string and buffer.
                return check_int(unsafe {
                    libc::fsetxattr(dir.as_raw_fd(), a.as_ptr(), v, len, flags)
                })
                .map(drop);
            }
            at(dir, n, |n| {
                // SAFETY: valid C strings and buffer.
                check_int(unsafe { libc::lsetxattr(n.as_ptr(), a.as_ptr(), v, len, flags) })
                    .map(drop)
            })
        })
    })
}

/// Removes `attr` of `name` in `dir`.
pub fn remove(dir: BorrowedFd<'_>, name: &[u8], attr: &[u8]) -> Result<()> {
    with_cstr(name, |n| {
        with_cstr(attr, |a| {
            if have_at_calls() {
                // SAFETY: valid C strings.
                return check(unsafe {
                    libc::syscall(SYS_REMOVEXATTRAT, raw(dir), n.as_ptr(), AT_FLAGS, a.as_ptr())
                })
                .map(drop);
            }
            if n.is_empty() {
                // SAFETY: valid C string.
                return check_int(unsafe { libc::fremovexattr(dir.as_raw_fd(), a.as_ptr()) })
                    .map(drop);
            }
            at(dir, n, |n| {
                // SAFETY: valid C strings.
                check_int(unsafe { libc::lremovexattr(n.as_ptr(), a.as_ptr()) }).map(drop)
            })
        })
    })
}
