//! System calls as the tests need them: thin, with the raw errno, on byte paths.
//!
//! With its children, the only place of the harness with `unsafe`. Nothing here retries or interprets: a test wants to
//! see exactly what the kernel answered, because errno is part of what is compared.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

mod disk;
mod flags;
mod process;
mod trace;
mod watch;

pub use disk::{Cut, mount, shut_down, syncfs, umount};
pub use flags::{get_flags, project, set_flags, set_project, unknown_ioctl};
pub use process::{
    Partner, as_ordinary_user, as_user, die_with_parent, enter_jail, forbid_calls, kill,
    open_program, ready_pipe, wait_readable,
};
pub use watch::{Event, Watches};

pub use trace::Watch;

pub use libc;
pub use nix::errno::Errno;

/// The result of one system call.
pub type R<T> = Result<T, Errno>;

/// `stat(2)` as the kernel filled it.
pub type Stat = libc::stat;

fn c(p: impl AsRef<Path>) -> CString {
    CString::new(p.as_ref().as_os_str().as_bytes()).expect("a test path holds a NUL byte")
}

fn ck(r: i32) -> R<i32> {
    if r < 0 { Err(Errno::last()) } else { Ok(r) }
}

fn ckl(r: i64) -> R<i64> {
    if r < 0 { Err(Errno::last()) } else { Ok(r) }
}

/// `open(2)`; `O_CLOEXEC` is added.
pub fn open(p: impl AsRef<Path>, flags: i32, mode: u32) -> R<OwnedFd> {
    openat(libc::AT_FDCWD, p, flags, mode)
}

/// `openat(2)`; `O_CLOEXEC` is added.
pub fn openat(dir: RawFd, p: impl AsRef<Path>, flags: i32, mode: u32) -> R<OwnedFd> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    let fd = ck(unsafe { libc::openat(dir, p.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
    // SAFETY: the kernel just returned this descriptor, nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `mkdir(2)`.
pub fn mkdir(p: impl AsRef<Path>, mode: u32) -> R<()> {
    mkdirat(libc::AT_FDCWD, p, mode)
}

/// `mkdirat(2)`.
pub fn mkdirat(dir: RawFd, p: impl AsRef<Path>, mode: u32) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::mkdirat(dir, p.as_ptr(), mode) }).map(drop)
}

/// `unlinkat(2)`.
pub fn unlinkat(dir: RawFd, p: impl AsRef<Path>, flags: i32) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::unlinkat(dir, p.as_ptr(), flags) }).map(drop)
}

/// `rmdir(2)`.
pub fn rmdir(p: impl AsRef<Path>) -> R<()> {
    unlinkat(libc::AT_FDCWD, p, libc::AT_REMOVEDIR)
}

/// `unlink(2)`.
pub fn unlink(p: impl AsRef<Path>) -> R<()> {
    unlinkat(libc::AT_FDCWD, p, 0)
}

/// `renameat2(2)` with both paths relative to the working directory.
pub fn rename(a: impl AsRef<Path>, b: impl AsRef<Path>, flags: u32) -> R<()> {
    renameat(libc::AT_FDCWD, a, libc::AT_FDCWD, b, flags)
}

/// `renameat2(2)`.
pub fn renameat(
    ad: RawFd,
    a: impl AsRef<Path>,
    bd: RawFd,
    b: impl AsRef<Path>,
    flags: u32,
) -> R<()> {
    let (a, b) = (c(a), c(b));
    // SAFETY: both strings are NUL-terminated and outlive the call.
    ckl(unsafe { libc::syscall(libc::SYS_renameat2, ad, a.as_ptr(), bd, b.as_ptr(), flags) })
        .map(drop)
}

/// `link(2)`, not following a symlink.
pub fn link(a: impl AsRef<Path>, b: impl AsRef<Path>) -> R<()> {
    let (a, b) = (c(a), c(b));
    // SAFETY: both strings are NUL-terminated and outlive the call.
    ck(unsafe { libc::linkat(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), 0) }).map(drop)
}

/// Gives an open (possibly nameless) file a name, through `/proc/self/fd`.
pub fn link_fd(fd: &OwnedFd, b: impl AsRef<Path>) -> R<()> {
    let (a, b) = (c(format!("/proc/self/fd/{}", fd.as_raw_fd())), c(b));
    // SAFETY: both strings are NUL-terminated and outlive the call.
    ck(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
    .map(drop)
}

/// `symlink(2)`: `b` becomes a link to `target`.
pub fn symlink(target: impl AsRef<Path>, b: impl AsRef<Path>) -> R<()> {
    let (a, b) = (c(target), c(b));
    // SAFETY: both strings are NUL-terminated and outlive the call.
    ck(unsafe { libc::symlink(a.as_ptr(), b.as_ptr()) }).map(drop)
}

/// `readlinkat(2)`.
pub fn readlinkat(dir: RawFd, p: impl AsRef<Path>) -> R<OsString> {
    let p = c(p);
    let mut buf = vec![0_u8; 8192];
    // SAFETY: the buffer is writable for the length passed.
    let n = ckl(
        unsafe { libc::readlinkat(dir, p.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) } as i64
    )?;
    buf.truncate(n as usize);
    Ok(OsString::from_vec(buf))
}

/// `chmod(2)`.
pub fn chmod(p: impl AsRef<Path>, mode: u32) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::chmod(p.as_ptr(), mode) }).map(drop)
}

/// `fchmod(2)`.
pub fn fchmod(fd: &OwnedFd, mode: u32) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }).map(drop)
}

/// `lchown(2)`; `u32::MAX` leaves an id alone.
pub fn lchown(p: impl AsRef<Path>, uid: u32, gid: u32) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::lchown(p.as_ptr(), uid, gid) }).map(drop)
}

/// `fchown(2)`.
pub fn fchown(fd: &OwnedFd, uid: u32, gid: u32) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) }).map(drop)
}

/// `truncate(2)`.
pub fn truncate(p: impl AsRef<Path>, len: i64) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::truncate(p.as_ptr(), len) }).map(drop)
}

/// `ftruncate(2)`.
pub fn ftruncate(fd: &OwnedFd, len: i64) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::ftruncate(fd.as_raw_fd(), len) }).map(drop)
}

/// `pread(2)` of up to `len` bytes.
pub fn pread(fd: &OwnedFd, off: i64, len: usize) -> R<Vec<u8>> {
    let mut buf = vec![0_u8; len];
    // SAFETY: the buffer is writable for the length passed.
    let n = ckl(unsafe { libc::pread(fd.as_raw_fd(), buf.as_mut_ptr().cast(), len, off) } as i64)?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// `read(2)` of up to `len` bytes.
pub fn read(fd: &OwnedFd, len: usize) -> R<Vec<u8>> {
    let mut buf = vec![0_u8; len];
    // SAFETY: the buffer is writable for the length passed.
    let n = ckl(unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), len) } as i64)?;
    buf.truncate(n as usize);
    Ok(buf)
}

/// `pwrite(2)`.
pub fn pwrite(fd: &OwnedFd, off: i64, data: &[u8]) -> R<usize> {
    // SAFETY: the buffer is readable for the length passed.
    ckl(unsafe { libc::pwrite(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), off) } as i64)
        .map(|n| n as usize)
}

/// `write(2)`.
pub fn write(fd: &OwnedFd, data: &[u8]) -> R<usize> {
    // SAFETY: the buffer is readable for the length passed.
    ckl(unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) } as i64)
        .map(|n| n as usize)
}

/// `copy_file_range(2)` at explicit offsets.
pub fn copy_file_range(
    from: &OwnedFd,
    off: i64,
    to: &OwnedFd,
    to_off: i64,
    len: usize,
) -> R<usize> {
    let (mut a, mut b) = (off, to_off);
    // SAFETY: both offsets are live for the call.
    ckl(unsafe { libc::copy_file_range(from.as_raw_fd(), &mut a, to.as_raw_fd(), &mut b, len, 0) }
        as i64)
    .map(|n| n as usize)
}

/// `fallocate(2)`.
pub fn fallocate(fd: &OwnedFd, mode: i32, off: i64, len: i64) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::fallocate(fd.as_raw_fd(), mode, off, len) }).map(drop)
}

/// `lseek(2)`.
pub fn lseek(fd: &OwnedFd, off: i64, whence: i32) -> R<i64> {
    // SAFETY: plain integers.
    ckl(unsafe { libc::lseek(fd.as_raw_fd(), off, whence) })
}

/// `fsync(2)`.
pub fn fsync(fd: &OwnedFd) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

/// `lstat(2)`.
pub fn lstat(p: impl AsRef<Path>) -> R<Stat> {
    fstatat(libc::AT_FDCWD, p)
}

/// `fstatat(2)`, not following a symlink.
pub fn fstatat(dir: RawFd, p: impl AsRef<Path>) -> R<Stat> {
    let p = c(p);
    // SAFETY: `stat` is plain data, all zero is valid; the pointer is writable.
    unsafe {
        let mut st: Stat = std::mem::zeroed();
        ck(libc::fstatat(dir, p.as_ptr(), &mut st, libc::AT_SYMLINK_NOFOLLOW))?;
        Ok(st)
    }
}

/// `fstat(2)`.
pub fn fstat(fd: &OwnedFd) -> R<Stat> {
    // SAFETY: `stat` is plain data, all zero is valid; the pointer is writable.
    unsafe {
        let mut st: Stat = std::mem::zeroed();
        ck(libc::fstat(fd.as_raw_fd(), &mut st))?;
        Ok(st)
    }
}

/// `statx(2)` with every basic field and the birth time, not following a symlink.
pub fn statx(p: impl AsRef<Path>) -> R<libc::statx> {
    let p = c(p);
    // SAFETY: `statx` is plain data, all zero is valid; the pointer is writable.
    unsafe {
        let mut st: libc::statx = std::mem::zeroed();
        let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
        ck(libc::statx(libc::AT_FDCWD, p.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, mask, &mut st))?;
        Ok(st)
    }
}

/// `statfs(2)`.
pub fn statfs(p: impl AsRef<Path>) -> R<libc::statfs> {
    let p = c(p);
    // SAFETY: `statfs` is plain data, all zero is valid; the pointer is writable.
    unsafe {
        let mut st: libc::statfs = std::mem::zeroed();
        ck(libc::statfs(p.as_ptr(), &mut st))?;
        Ok(st)
    }
}

/// `utimensat(2)`, not following a symlink; each time is (seconds, nanoseconds or `UTIME_*`).
pub fn utimens(p: impl AsRef<Path>, atime: (i64, i64), mtime: (i64, i64)) -> R<()> {
    let p = c(p);
    let t = [
        libc::timespec { tv_sec: atime.0, tv_nsec: atime.1 },
        libc::timespec { tv_sec: mtime.0, tv_nsec: mtime.1 },
    ];
    // SAFETY: the array of two timespecs is live for the call.
    ck(unsafe {
        libc::utimensat(libc::AT_FDCWD, p.as_ptr(), t.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    })
    .map(drop)
}

/// `futimens(3)`.
pub fn futimens(fd: &OwnedFd, atime: (i64, i64), mtime: (i64, i64)) -> R<()> {
    let t = [
        libc::timespec { tv_sec: atime.0, tv_nsec: atime.1 },
        libc::timespec { tv_sec: mtime.0, tv_nsec: mtime.1 },
    ];
    // SAFETY: the array of two timespecs is live for the call.
    ck(unsafe { libc::futimens(fd.as_raw_fd(), t.as_ptr()) }).map(drop)
}

/// `mknod(2)`.
pub fn mknod(p: impl AsRef<Path>, mode: u32, rdev: u64) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::mknod(p.as_ptr(), mode, rdev) }).map(drop)
}

/// `access(2)` with the effective ids.
pub fn access(p: impl AsRef<Path>, mode: i32) -> R<()> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    ck(unsafe { libc::faccessat(libc::AT_FDCWD, p.as_ptr(), mode, libc::AT_EACCESS) }).map(drop)
}

/// `lsetxattr(2)`.
pub fn setxattr(p: impl AsRef<Path>, name: &str, value: &[u8], flags: i32) -> R<()> {
    let (p, name) = (c(p), c(name));
    // SAFETY: strings are NUL-terminated; the value is readable for its length.
    ck(unsafe {
        libc::lsetxattr(p.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    })
    .map(drop)
}

/// `fsetxattr(2)`.
pub fn fsetxattr(fd: &OwnedFd, name: &str, value: &[u8], flags: i32) -> R<()> {
    let name = c(name);
    // SAFETY: the string is NUL-terminated; the value is readable for its length.
    ck(unsafe {
        libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    })
    .map(drop)
}

/// `lgetxattr(2)` with a buffer of `size` bytes; 0 asks for the length, returned as a zeroed vector.
pub fn getxattr_sized(p: impl AsRef<Path>, name: impl AsRef<OsStr>, size: usize) -> R<Vec<u8>> {
    let (p, name) = (c(p), c(Path::new(name.as_ref())));
    let mut buf = vec![0_u8; size];
    // SAFETY: strings are NUL-terminated; the buffer is writable for the length passed.
    let n =
        ckl(unsafe { libc::lgetxattr(p.as_ptr(), name.as_ptr(), buf.as_mut_ptr().cast(), size) }
            as i64)?;
    buf.resize(n as usize, 0);
    Ok(buf)
}

/// `lgetxattr(2)`.
pub fn getxattr(p: impl AsRef<Path>, name: impl AsRef<OsStr>) -> R<Vec<u8>> {
    getxattr_sized(p, name, 65_536)
}

/// `llistxattr(2)`, sorted.
pub fn listxattr(p: impl AsRef<Path>) -> R<Vec<OsString>> {
    let p = c(p);
    let mut buf = vec![0_u8; 65_536];
    // SAFETY: the buffer is writable for the length passed.
    let n =
        ckl(unsafe { libc::llistxattr(p.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) } as i64)?;
    buf.truncate(n as usize);
    let mut names: Vec<_> = buf
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(|n| OsString::from_vec(n.to_vec()))
        .collect();
    names.sort();
    Ok(names)
}

/// `llistxattr(2)` with a buffer of `size` bytes; 0 asks for the length. How long the list is.
pub fn listxattr_sized(p: impl AsRef<Path>, size: usize) -> R<usize> {
    let p = c(p);
    let mut buf = vec![0_u8; size];
    // SAFETY: the buffer is writable for the length passed.
    ckl(unsafe { libc::llistxattr(p.as_ptr(), buf.as_mut_ptr().cast(), size) } as i64)
        .map(|n| n as usize)
}

/// `lremovexattr(2)`.
pub fn removexattr(p: impl AsRef<Path>, name: &str) -> R<()> {
    let (p, name) = (c(p), c(name));
    // SAFETY: both strings are NUL-terminated and outlive the call.
    ck(unsafe { libc::lremovexattr(p.as_ptr(), name.as_ptr()) }).map(drop)
}

/// One entry of a directory as `getdents64(2)` gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirent {
    /// `d_ino`.
    pub ino: u64,
    /// `d_off`: where `lseek` continues after this entry.
    pub off: i64,
    /// `d_type`.
    pub kind: u8,
    /// `d_name`.
    pub name: OsString,
}

/// One `getdents64(2)` call with a buffer of `size` bytes; empty at the end.
pub fn getdents(dir: &OwnedFd, size: usize) -> R<Vec<Dirent>> {
    let mut buf = vec![0_u8; size];
    // SAFETY: the buffer is writable for the length passed.
    let n = ckl(unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf.as_mut_ptr(), size)
    })? as usize;
    let mut out = Vec::new();
    let mut at = 0;
    while at < n {
        let e = &buf[at..n];
        let len = u16::from_ne_bytes([e[16], e[17]]) as usize;
        let name = e[19..len].split(|b| *b == 0).next().unwrap_or_default();
        out.push(Dirent {
            ino: u64::from_ne_bytes(e[..8].try_into().expect("8 bytes")),
            off: i64::from_ne_bytes(e[8..16].try_into().expect("8 bytes")),
            kind: e[18],
            name: OsString::from_vec(name.to_vec()),
        });
        at += len;
    }
    Ok(out)
}

/// All entries from the current position, `.` and `..` included.
pub fn read_all_dirents(dir: &OwnedFd) -> R<Vec<Dirent>> {
    let mut all = Vec::new();
    loop {
        let some = getdents(dir, 32_768)?;
        if some.is_empty() {
            return Ok(all);
        }
        all.extend(some);
    }
}

/// Names in a directory, sorted, without `.` and `..`; a duplicate stays visible.
pub fn names(p: impl AsRef<Path>) -> R<Vec<OsString>> {
    let d = open(p, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut v: Vec<_> = read_all_dirents(&d)?
        .into_iter()
        .map(|e| e.name)
        .filter(|n| n != "." && n != "..")
        .collect();
    v.sort();
    Ok(v)
}

/// `flock(2)`.
pub fn flock(fd: &OwnedFd, op: i32) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::flock(fd.as_raw_fd(), op) }).map(drop)
}

/// An open-file-description lock (`F_OFD_SETLK`) on a byte range; `kind` is `F_RDLCK` and so on.
pub fn ofd_lock(fd: &OwnedFd, kind: i32, start: i64, len: i64) -> R<()> {
    // SAFETY: `flock` is plain data, all zero is valid, and it is live for the call.
    unsafe {
        let mut l: libc::flock = std::mem::zeroed();
        l.l_type = kind as i16;
        l.l_whence = libc::SEEK_SET as i16;
        l.l_start = start;
        l.l_len = len;
        ck(libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &l)).map(drop)
    }
}

/// `umask(2)`.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: plain integers.
    unsafe { libc::umask(mask) }
}

/// `name_to_handle_at(2)`, then `open_by_handle_at(2)` relative to the mount of `p`.
pub fn open_by_own_handle(p: impl AsRef<Path>) -> (R<()>, R<OwnedFd>) {
    let Ok(mount) = open(p.as_ref().parent().unwrap_or(Path::new("/")), libc::O_DIRECTORY, 0)
    else {
        return (Err(Errno::ENOENT), Err(Errno::ENOENT));
    };
    let path = c(p);
    let mut handle = [0_u32; 40];
    handle[0] = 128;
    let mut mnt = 0_i32;
    // SAFETY: the buffer holds a file_handle header (8 bytes) and the 128 bytes announced in it.
    let named = ckl(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &mut mnt,
            0,
        )
    });
    if let Err(e) = named {
        return (Err(e), Err(e));
    }
    // SAFETY: the handle was filled by the call above.
    let fd = ckl(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            handle.as_mut_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    });
    // SAFETY: a descriptor the kernel just returned.
    (Ok(()), fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

/// A memory mapping of a file, unmapped on drop.
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

// SAFETY: nothing about a mapping belongs to the thread that made it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `off`; `shared` chooses `MAP_SHARED`, `write` adds `PROT_WRITE`.
    pub fn new(fd: &OwnedFd, off: i64, len: usize, shared: bool, write: bool) -> R<Mapping> {
        let prot = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), off) };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Mapping { at: at.cast(), len })
    }

    /// Copies bytes out of the mapping; they must lie inside the file.
    pub fn get(&self, off: usize, len: usize) -> Vec<u8> {
        assert!(off + len <= self.len);
        let mut v = vec![0_u8; len];
        // SAFETY: the range is inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.at.add(off), v.as_mut_ptr(), len) };
        v
    }

    /// Stores bytes through the mapping; they must lie inside the file.
    pub fn put(&mut self, off: usize, data: &[u8]) {
        assert!(off + data.len() <= self.len);
        // SAFETY: the range is inside the mapping, which was made writable by the caller.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(off), data.len()) };
    }

    /// `msync(MS_SYNC)`.
    pub fn sync(&self) -> R<()> {
        // SAFETY: our own mapping.
        ck(unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) }).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; nothing refers to it afterwards.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}
