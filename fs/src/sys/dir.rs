//! Operations on names in a directory: open, make, link, rename, remove, list.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::{Errno, Result, check, check_int, is_missing, own, raw, with_cstr};
use crate::attr::{Attr, Kind, Time};

/// Opens `name` below `dir`. `O_CLOEXEC` and `O_NOFOLLOW` are always added (openat(2)).
pub fn openat(dir: BorrowedFd<'_>, name: &[u8], flags: i32, mode: u32) -> Result<OwnedFd> {
    with_cstr(name, |c| {
        // SAFETY: `c` is a valid C string for the duration of the call.
        own(unsafe {
            libc::openat(
                raw(dir),
                c.as_ptr(),
                flags | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_LARGEFILE,
                mode as libc::mode_t,
            )
        })
    })
}

/// Opens the directory `name` below `dir` for listing and as a base for further calls.
pub fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    match openat(dir, name, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME, 0) {
        Err(Errno::EPERM) => openat(dir, name, libc::O_RDONLY | libc::O_DIRECTORY, 0),
        // Searchable but not listable (mode 0711 for an ordinary user): a base all the same.
        Err(Errno::EACCES) => openat(dir, name, libc::O_PATH | libc::O_DIRECTORY, 0),
        other => other,
    }
}

/// Opens the directory that `name` in `dir` is, or leads to by symbolic links.
pub fn open_dir_followed(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    with_cstr(name, |c| {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        // SAFETY: `c` is a valid C string for the duration of the call.
        own(unsafe { libc::openat(raw(dir), c.as_ptr(), flags) })
    })
}

/// Opens a directory by the path the user gave on the command line (symbolic links followed).
pub fn open_dir_path(path: &std::path::Path) -> Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    with_cstr(path.as_os_str().as_bytes(), |c| {
        // SAFETY: `c` is a valid C string.
        own(unsafe { libc::open(c.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) })
    })
}

fn attr_from(st: &libc::stat) -> Attr {
    Attr {
        dev: st.st_dev,
        ino: st.st_ino,
        kind: Kind::from_mode(st.st_mode),
        perm: (st.st_mode & 0o7777) as u16,
        nlink: st.st_nlink as u32,
        uid: st.st_uid,
        gid: st.st_gid,
        rdev: st.st_rdev,
        size: st.st_size as u64,
        blocks: st.st_blocks as u64,
        blksize: st.st_blksize as u32,
        atime: Time { sec: st.st_atime, nsec: st.st_atime_nsec as u32 },
        mtime: Time { sec: st.st_mtime, nsec: st.st_mtime_nsec as u32 },
        ctime: Time { sec: st.st_ctime, nsec: st.st_ctime_nsec as u32 },
    }
}

/// Attributes of `name` below `dir`, of a link itself (fstatat(2) with `AT_SYMLINK_NOFOLLOW`).
/// An empty name means `dir` itself.
pub fn statat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Attr> {
    with_cstr(name, |c| {
        // SAFETY: an all-zero stat is a valid value for the kernel to fill.
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: valid C string and a valid pointer to a stat buffer.
        check_int(unsafe {
            libc::fstatat(
                raw(dir),
                c.as_ptr(),
                &raw mut st,
                libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT,
            )
        })?;
        Ok(attr_from(&st))
    })
}

/// Attributes of an open file (also of one opened with `O_PATH`).
pub fn fstat(fd: BorrowedFd<'_>) -> Result<Attr> {
    // SAFETY: an all-zero stat is a valid value for the kernel to fill.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to a stat buffer.
    check_int(unsafe { libc::fstat(raw(fd), &raw mut st) })?;
    Ok(attr_from(&st))
}

/// Birth time of `name` below `dir` (empty: of `dir` itself), where the filesystem has it (statx(2)).
pub fn birth_time(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Time>> {
    let Some(sx) = statx(dir, name, libc::STATX_BTIME)? else { return Ok(None) };
    let has = sx.stx_mask & libc::STATX_BTIME != 0;
    Ok(has.then_some(Time { sec: sx.stx_btime.tv_sec, nsec: sx.stx_btime.tv_nsec }))
}

/// The number of the mount that `fd` is reached through, never used again in this boot (Linux 6.8);
/// `None` where the kernel does not tell.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<Option<u64>> {
    /// `STATX_MNT_ID_UNIQUE` (linux/stat.h).
    const UNIQUE: u32 = 0x4000;
    let Some(sx) = statx(fd, b"", UNIQUE)? else { return Ok(None) };
    Ok((sx.stx_mask & UNIQUE != 0).then_some(sx.stx_mnt_id))
}

/// statx(2); `None` where a seccomp profile does not allow it.
fn statx(dir: BorrowedFd<'_>, name: &[u8], mask: u32) -> Result<Option<libc::statx>> {
    with_cstr(name, |c| {
        // SAFETY: an all-zero statx is a valid value for the kernel to fill.
        let mut sx: libc::statx = unsafe { std::mem::zeroed() };
        // SAFETY: valid C string and a valid pointer to a statx buffer.
        let done = check_int(unsafe {
            libc::statx(
                raw(dir),
                c.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH,
                mask,
                &raw mut sx,
            )
        });
        match done {
            // Nothing that statx(2) itself says about a name.
            Err(e) if is_missing(e) => Ok(None),
            other => other.map(|_| Some(sx)),
        }
    })
}

/// mkdirat(2). The process umask is zero in the filesystem, so `mode` is exact.
pub fn mkdirat(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    with_cstr(name, |c| {
        // SAFETY: valid C string.
        check_int(unsafe { libc::mkdirat(raw(dir), c.as_ptr(), mode as libc::mode_t) }).map(drop)
    })
}

/// mknodat(2); `mode` holds type and permission bits.
pub fn mknodat(dir: BorrowedFd<'_>, name: &[u8], mode: u32, rdev: u64) -> Result<()> {
    with_cstr(name, |c| {
        // SAFETY: valid C string.
        check_int(unsafe { libc::mknodat(raw(dir), c.as_ptr(), mode as libc::mode_t, rdev) })
            .map(drop)
    })
}

/// symlinkat(2).
pub fn symlinkat(target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    with_cstr(target, |t| {
        with_cstr(name, |c| {
            // SAFETY: two valid C strings.
            check_int(unsafe { libc::symlinkat(t.as_ptr(), raw(dir), c.as_ptr()) }).map(drop)
        })
    })
}

/// linkat(2) between names; a symbolic link itself is linked, never what it points to.
pub fn linkat(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, newname: &[u8]) -> Result<()> {
    with_cstr(name, |a| {
        with_cstr(newname, |b| {
            // SAFETY: two valid C strings.
            check_int(unsafe { libc::linkat(raw(from), a.as_ptr(), raw(to), b.as_ptr(), 0) })
                .map(drop)
        })
    })
}

/// Gives an open file a (further) name: linkat(2) with `AT_EMPTY_PATH`, else by `/proc/self/fd`.
pub fn link_fd(fd: BorrowedFd<'_>, to: BorrowedFd<'_>, newname: &[u8]) -> Result<()> {
    with_cstr(newname, |b| {
        // SAFETY: valid C strings.
        let rc = check_int(unsafe {
            libc::linkat(raw(fd), c"".as_ptr(), raw(to), b.as_ptr(), libc::AT_EMPTY_PATH)
        });
        if rc != Err(Errno::ENOENT) && rc != Err(Errno::EPERM) {
            return rc.map(drop);
        }
        with_cstr(format!("/proc/self/fd/{}", raw(fd)).as_bytes(), |p| {
            // SAFETY: two valid C strings.
            check_int(unsafe {
                libc::linkat(
                    libc::AT_FDCWD,
                    p.as_ptr(),
                    raw(to),
                    b.as_ptr(),
                    libc::AT_SYMLINK_FOLLOW,
                )
            })
            .map(drop)
        })
    })
}

/// Whether renameat2(2) may be used.
fn have_renameat2() -> bool {
    static HAVE: OnceLock<bool> = OnceLock::new();
    *HAVE.get_or_init(|| {
        // SAFETY: valid C strings; no descriptor is -1, so nothing can be renamed.
        let rc = unsafe {
            libc::syscall(libc::SYS_renameat2, -1, c"a".as_ptr(), -1, c"b".as_ptr(), 0u32)
        };
        !check(rc).is_err_and(is_missing)
    })
}

/// renameat2(2) with the given `RENAME_*` flags. Where a seccomp profile forbids the call, renameat(2)
/// serves; nobody else changes our directories, so `RENAME_NOREPLACE` is a look before it, and other
/// flags are `EINVAL`, as on a filesystem that has them not.
pub fn renameat2(
    from: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
    newname: &[u8],
    flags: u32,
) -> Result<()> {
    with_cstr(name, |a| {
        with_cstr(newname, |b| {
            if !have_renameat2() {
                if flags & !libc::RENAME_NOREPLACE != 0 {
                    return Err(Errno::EINVAL);
                }
                if flags != 0 && statat(to, newname).is_ok() {
                    return Err(Errno::EEXIST);
                }
                // SAFETY: two valid C strings.
                let rc = unsafe { libc::renameat(raw(from), a.as_ptr(), raw(to), b.as_ptr()) };
                return check_int(rc).map(drop);
            }
            // SAFETY: two valid C strings.
            check(unsafe {
                libc::syscall(
                    libc::SYS_renameat2,
                    raw(from),
                    a.as_ptr(),
                    raw(to),
                    b.as_ptr(),
                    flags,
                )
            })
            .map(drop)
        })
    })
}

/// unlinkat(2) of a non-directory.
pub fn unlinkat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    with_cstr(name, |c| {
        // SAFETY: valid C string.
        check_int(unsafe { libc::unlinkat(raw(dir), c.as_ptr(), 0) }).map(drop)
    })
}

/// unlinkat(2) of an empty directory.
pub fn rmdirat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    with_cstr(name, |c| {
        // SAFETY: valid C string.
        check_int(unsafe { libc::unlinkat(raw(dir), c.as_ptr(), libc::AT_REMOVEDIR) }).map(drop)
    })
}

/// Target of the symbolic link `name` (readlinkat(2)); an empty name reads the link that `dir`
/// (opened with `O_PATH`) is.
pub fn readlinkat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    with_cstr(name, |c| {
        let mut buf = vec![0u8; libc::PATH_MAX as usize];
        // SAFETY: valid C string; the buffer is as long as stated.
        let n = check(unsafe {
            libc::readlinkat(raw(dir), c.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) as i64
        })?;
        buf.truncate(n as usize);
        Ok(buf)
    })
}

/// fchownat(2) without following links; `None` leaves an id as it is.
pub fn chownat(dir: BorrowedFd<'_>, name: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    with_cstr(name, |c| {
        // SAFETY: valid C string. The id -1 means "unchanged".
        check_int(unsafe {
            libc::fchownat(
                raw(dir),
                c.as_ptr(),
                uid.unwrap_or(u32::MAX),
                gid.unwrap_or(u32::MAX),
                libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH,
            )
        })
        .map(drop)
    })
}

/// Sets the mode of `name`, or of `dir` itself when the name is empty. The caller makes sure that
/// it is not a symbolic link (links have no mode).
pub fn chmodat(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    const SYS_FCHMODAT2: libc::c_long = 452; // Linux 6.6
    with_cstr(name, |c| {
        if !name.is_empty() {
            // SAFETY: valid C string.
            let rc = unsafe { libc::fchmodat(raw(dir), c.as_ptr(), mode as libc::mode_t, 0) };
            return check_int(rc).map(drop);
        }
        // SAFETY: plain call.
        match check_int(unsafe { libc::fchmod(raw(dir), mode as libc::mode_t) }) {
            // A descriptor opened with O_PATH (an unlinked device or FIFO).
            Err(Errno::EBADF) => {
                // SAFETY: valid C string.
                let done = check(unsafe {
                    libc::syscall(SYS_FCHMODAT2, raw(dir), c.as_ptr(), mode, libc::AT_EMPTY_PATH)
                });
                if !done.is_err_and(is_missing) {
                    return done.map(drop);
                }
                with_cstr(format!("/proc/self/fd/{}", raw(dir)).as_bytes(), |p| {
                    // SAFETY: valid C string.
                    check_int(unsafe { libc::chmod(p.as_ptr(), mode as libc::mode_t) }).map(drop)
                })
            }
            other => other.map(drop),
        }
    })
}

/// What to do with one of the two times of utimensat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The current time, taken by the kernel.
    Now,
    /// This time.
    At(Time),
}

impl SetTime {
    fn spec(self) -> libc::timespec {
        match self {
            SetTime::Omit => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
            SetTime::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
            SetTime::At(t) => libc::timespec { tv_sec: t.sec, tv_nsec: i64::from(t.nsec) },
        }
    }
}

/// utimensat(2) without following links; an empty name means `dir` itself.
pub fn utimesat(dir: BorrowedFd<'_>, name: &[u8], atime: SetTime, mtime: SetTime) -> Result<()> {
    let times = [atime.spec(), mtime.spec()];
    with_cstr(name, |c| {
        // SAFETY: valid C string and an array of two timespecs.
        check_int(unsafe {
            libc::utimensat(
                raw(dir),
                c.as_ptr(),
                times.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH,
            )
        })
        .map(drop)
    })
}

/// Sets both times of an open file (futimens(3)).
pub fn futimes(fd: BorrowedFd<'_>, atime: SetTime, mtime: SetTime) -> Result<()> {
    let times = [atime.spec(), mtime.spec()];
    // SAFETY: an array of two timespecs.
    check_int(unsafe { libc::futimens(raw(fd), times.as_ptr()) }).map(drop)
}

/// One entry as getdents64(2) gives it.
#[derive(Debug)]
pub struct RawEntry<'a> {
    /// Inode number (of a mount point: of what lies beneath).
    pub ino: u64,
    /// `DT_*` type; `DT_UNKNOWN` on filesystems that do not tell.
    pub dtype: u8,
    /// The name, never `.` or `..`.
    pub name: &'a [u8],
}

/// Bytes read per getdents64 call: about 1,000 entries.
const DENTS_BUFFER: usize = 32 * 1024;

/// Calls `sink` for every entry of the directory but `.` and `..`.
///
/// The descriptor's own position is left alone, so one cached descriptor serves many readers.
pub fn list(dir: BorrowedFd<'_>, mut sink: impl FnMut(RawEntry<'_>) -> Result<()>) -> Result<()> {
    // A cached descriptor is shared: a description of its own keeps concurrent listings apart.
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let own_fd = match openat(dir, b".", flags | libc::O_NOATIME, 0) {
        Err(Errno::EPERM) => openat(dir, b".", flags, 0)?,
        other => other?,
    };
    list_once(own_fd.as_fd(), &mut sink)
}

/// The same in the order of inode numbers, in which asking more about each entry costs the least.
pub fn list_in_order(
    dir: BorrowedFd<'_>,
    mut sink: impl FnMut(RawEntry<'_>) -> Result<()>,
) -> Result<()> {
    let mut names = Vec::new();
    let mut entries = Vec::new();
    list(dir, |e| {
        let start = names.len();
        names.extend_from_slice(e.name);
        entries.push((e.ino, e.dtype, start..names.len()));
        Ok(())
    })?;
    entries.sort_unstable_by_key(|(ino, ..)| *ino);
    for (ino, dtype, name) in entries {
        sink(RawEntry { ino, dtype, name: names.get(name).ok_or(Errno::EIO)? })?;
    }
    Ok(())
}

/// The same as [`list`], by a descriptor that was just opened and that nobody else reads from. Opened with
/// `O_PATH` only, for want of permission to list: `EACCES`.
pub fn list_once(
    dir: BorrowedFd<'_>,
    sink: &mut dyn FnMut(RawEntry<'_>) -> Result<()>,
) -> Result<()> {
    let mut buf = vec![0u8; DENTS_BUFFER];
    loop {
        // SAFETY: the buffer is as long as stated.
        let n = check(unsafe {
            libc::syscall(libc::SYS_getdents64, raw(dir), buf.as_mut_ptr(), buf.len())
        })
        .map_err(|e| if e == Errno::EBADF { Errno::EACCES } else { e })? as usize;
        if n == 0 {
            return Ok(());
        }
        let mut rest = buf.get(..n).ok_or(Errno::EIO)?;
        while !rest.is_empty() {
            // struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, name (getdents(2)).
            let (head, len) = (rest.get(..19), rest.get(16..18));
            let (Some(head), Some(&[l0, l1])) = (head, len) else { return Err(Errno::EIO) };
            let reclen = usize::from(u16::from_ne_bytes([l0, l1]));
            let record = rest.get(..reclen).ok_or(Errno::EIO)?;
            let name = record.get(19..).ok_or(Errno::EIO)?;
            let end = name.iter().position(|&b| b == 0).ok_or(Errno::EIO)?;
            let name = name.get(..end).ok_or(Errno::EIO)?;
            if name != b"." && name != b".." {
                let ino = head.first_chunk::<8>().copied().map_or(0, u64::from_ne_bytes);
                sink(RawEntry { ino, dtype: head.last().copied().unwrap_or(0), name })?;
            }
            rest = rest.get(reclen..).ok_or(Errno::EIO)?;
        }
    }
}

/// A number that tells one filesystem from another wherever it is mounted: `f_fsid` of ext4 and btrfs,
/// which make it from their UUID. Others make it from the device number, which may be another one at
/// the next mount; those are asked for their UUID (`FS_IOC_GETFSUUID`, Linux 6.9; XFS's own call
/// before that). 0 where there is none.
pub fn lasting_fsid(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: an all-zero statfs is a valid value for the kernel to fill.
    let mut st: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to a statfs buffer.
    check_int(unsafe { libc::fstatfs(raw(fd), &raw mut st) })?;
    if matches!(st.f_type, libc::EXT4_SUPER_MAGIC | libc::BTRFS_SUPER_MAGIC) {
        return Ok(statvfs(fd)?.f_fsid);
    }
    let is_xfs = st.f_type == libc::XFS_SUPER_MAGIC;
    let id = uuid(fd).or_else(|| if is_xfs { xfs_uuid(fd) } else { None });
    Ok(id.map_or(0, |id| (id ^ (id >> 64)) as u64))
}

/// The UUID of the filesystem, where it and the kernel tell.
fn uuid(fd: BorrowedFd<'_>) -> Option<u128> {
    /// `_IOR(0x15, 0, struct fsuuid2)` (include/uapi/linux/fs.h).
    const FS_IOC_GETFSUUID: libc::c_ulong = 0x8011_1500;
    // struct fsuuid2: the length, then the bytes.
    let mut answer = [0u8; 17];
    // SAFETY: the call stores 17 bytes at the pointer.
    check_int(unsafe { libc::ioctl(raw(fd), FS_IOC_GETFSUUID, answer.as_mut_ptr()) }).ok()?;
    answer.last_chunk().map(|id| u128::from_le_bytes(*id))
}

/// The UUID of an XFS.
fn xfs_uuid(fd: BorrowedFd<'_>) -> Option<u128> {
    /// `_IOR('X', 100, struct xfs_fsop_geom_v1)` (xfs_fs.h).
    const XFS_IOC_FSGEOMETRY_V1: libc::c_ulong = 0x8070_5864;
    const UUID_AT: usize = 64;
    let mut answer = [0u64; 14];
    // SAFETY: the call stores the 112 bytes of the structure at the pointer.
    check_int(unsafe { libc::ioctl(raw(fd), XFS_IOC_FSGEOMETRY_V1, answer.as_mut_ptr()) }).ok()?;
    let (low, high) = (answer.get(UUID_AT / 8)?, answer.get(UUID_AT / 8 + 1)?);
    Some(u128::from(*low) | (u128::from(*high) << 64))
}

/// Filesystem statistics (fstatvfs(3)).
pub fn statvfs(fd: BorrowedFd<'_>) -> Result<libc::statvfs> {
    // SAFETY: an all-zero statvfs is a valid value for the kernel to fill.
    let mut st: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to a statvfs buffer.
    check_int(unsafe { libc::fstatvfs(raw(fd), &raw mut st) })?;
    Ok(st)
}
