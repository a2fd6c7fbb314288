//! Extended attributes by descriptor: of open files, and of names that cannot be opened (symbolic links, devices).

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Largest value and largest list of names that Linux hands out (`XATTR_SIZE_MAX`).
const SIZE_MAX: usize = 65536;

fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// The path by which a call without an `at` form reaches `name` in `dir`. The directory is named by
/// its descriptor, so nothing but `name` itself is looked up, and callers use the `l` forms only.
fn by_descriptor(dir: BorrowedFd<'_>, name: &[u8]) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    c_string(&path)
}

fn sized(call: impl Fn(*mut u8, usize) -> isize) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; 512];
    loop {
        match Errno::result(call(buffer.as_mut_ptr(), buffer.len())) {
            Ok(length) => {
                buffer.truncate(usize::try_from(length).unwrap_or(0));
                return Ok(buffer);
            }
            Err(Errno::ERANGE) if buffer.len() < SIZE_MAX => buffer.resize(SIZE_MAX, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Sets attribute `name` of the open file `fd`.
pub fn set(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let name = c_string(name)?;
    // SAFETY: a valid C string, and a buffer of the stated length.
    let result = unsafe {
        libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(result).map(drop)
}

/// Sets attribute `name` of the file at `path`; of what a symbolic link leads to, when `follow`.
pub fn set_at_path(path: &CStr, name: &CStr, value: &[u8], follow: bool) -> Result<(), Errno> {
    let set = if follow { libc::setxattr } else { libc::lsetxattr };
    // SAFETY: two valid C strings, and a buffer of the stated length.
    let result =
        unsafe { set(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// The value of attribute `name` of the open file `fd`.
pub fn get(fd: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    sized(|buffer, length| {
        // SAFETY: a valid C string, and a buffer of the stated length.
        unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), buffer.cast(), length) }
    })
}

/// Name and value of an attribute.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// All attributes of the open file `fd`: names and values.
pub fn all(fd: BorrowedFd<'_>) -> Result<Vec<Attribute>, Errno> {
    let names = match sized(|buffer, length| {
        // SAFETY: a buffer of the stated length.
        unsafe { libc::flistxattr(fd.as_raw_fd(), buffer.cast(), length) }
    }) {
        Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match get(fd, &c_string(name)?) {
            Ok(value) => attributes.push((name.to_vec(), value)),
            // Removed between the two calls.
            Err(Errno::ENODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attributes)
}

/// Sets attribute `name` of `entry` in `dir`, which may be a symbolic link and is not followed.
pub fn set_entry(
    dir: BorrowedFd<'_>,
    entry: &[u8],
    name: &[u8],
    value: &[u8],
) -> Result<(), Errno> {
    let path = by_descriptor(dir, entry)?;
    let name = c_string(name)?;
    // SAFETY: valid C strings, and a buffer of the stated length.
    let result = unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(result).map(drop)
}

/// The value of attribute `name` of what is at `path`, not following a link; none when it is not
/// there or cannot be read.
pub fn of_path(path: &std::path::Path, name: &CStr) -> Option<Vec<u8>> {
    let path = c_string(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).ok()?;
    sized(|buffer, length| {
        // SAFETY: valid C strings, and a buffer of the stated length.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.cast(), length) }
    })
    .ok()
}

/// All attributes of `entry` in `dir`, which may be a symbolic link and is not followed.
pub fn all_of_entry(dir: BorrowedFd<'_>, entry: &[u8]) -> Result<Vec<Attribute>, Errno> {
    let path = by_descriptor(dir, entry)?;
    let names = match sized(|buffer, length| {
        // SAFETY: a valid C string, and a buffer of the stated length.
        unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), length) }
    }) {
        Err(Errno::EOPNOTSUPP | Errno::ENOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut attributes = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let c_name = c_string(name)?;
        let value = sized(|buffer, length| {
            // SAFETY: valid C strings, and a buffer of the stated length.
            unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), buffer.cast(), length) }
        });
        match value {
            Ok(value) => attributes.push((name.to_vec(), value)),
            // Removed between the two calls, or not for us to see.
            Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM | Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attributes)
}
