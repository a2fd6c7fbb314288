//! The kernel's descriptor-based mount calls (Linux 5.2; attributes 5.12).
//!
//! A mount is made detached (`open_tree`, `create`), given its attributes, and only then attached
//! to a directory that is already open. No path is resolved twice, so a link in an image cannot
//! redirect a mount between the check and the use.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

// From linux/mount.h; libc 0.2 has them for Android only.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Read-only.
pub const RDONLY: u64 = 0x1;
/// Set-user-ID bits have no effect.
pub const NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const NODEV: u64 = 0x4;
/// Programs cannot be executed.
pub const NOEXEC: u64 = 0x8;
/// How access times are kept: these bits are one field.
pub const ATIME_FIELD: u64 = 0x70;
/// Access times never kept.
pub const NOATIME: u64 = 0x10;
/// Access times always kept.
pub const STRICTATIME: u64 = 0x20;
/// Access times of directories never kept.
pub const NODIRATIME: u64 = 0x80;
/// Symbolic links are not followed.
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// Propagation: not at all.
pub const PRIVATE: u64 = libc::MS_PRIVATE;
/// Propagation: from outside only.
pub const SLAVE: u64 = libc::MS_SLAVE;
/// Propagation: both ways.
pub const SHARED: u64 = libc::MS_SHARED;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn c_string(bytes: &OsStr) -> nix::Result<CString> {
    CString::new(bytes.as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Turns a system call's result into a descriptor that we own.
fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call succeeded and returned a new descriptor nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A detached copy of the mount at `path` (what a bind mount would show), with everything mounted
/// below it when `recursive`. `dir` is where a relative path starts; an empty path means `dir`.
pub fn open_tree(dir: BorrowedFd<'_>, path: &OsStr, recursive: bool) -> nix::Result<OwnedFd> {
    let path = c_string(path)?;
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: a valid descriptor and a NUL-terminated path that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// A change of a mount's attributes and propagation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Attributes that are set.
    pub set: u64,
    /// Attributes that are cleared.
    pub clear: u64,
    /// MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE; 0 leaves it.
    pub propagation: u64,
}

impl Change {
    /// Private propagation, and nothing else.
    pub fn private() -> Self {
        Self { propagation: libc::MS_PRIVATE, ..Self::default() }
    }

    /// The attributes alone, and the propagation alone.
    pub fn split(self) -> (Self, Self) {
        let propagation = Self { propagation: self.propagation, ..Self::default() };
        (Self { propagation: 0, ..self }, propagation)
    }
}

/// Changes a mount, and all below it when `recursive`.
pub fn change(mount: BorrowedFd<'_>, recursive: bool, change: Change) -> nix::Result<()> {
    if change == Change::default() {
        return Ok(());
    }
    let attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: an empty path, and a struct of the size given, both alive during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> nix::Result<()> {
    let null = std::ptr::null();
    // SAFETY: strings are NUL-terminated and alive during the call, or null where the command
    // takes none.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key.map_or(null, CStr::as_ptr),
            value.map_or(null, CStr::as_ptr),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// A new, detached mount of a filesystem made by the kernel (`proc`, `tmpfs`, …). An option
/// without a value is a flag.
pub fn create(
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: u64,
) -> nix::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    configure(&context, FSCONFIG_SET_STRING, Some(c"source"), Some(kind))?;
    for (key, value) in options {
        let command = if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG };
        configure(&context, command, Some(key), *value)?;
    }
    configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: a descriptor made by fsopen, and plain numbers.
    owned(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)
    })
}

/// Attaches a detached mount onto an open file or directory.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: two valid descriptors and empty paths.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}
