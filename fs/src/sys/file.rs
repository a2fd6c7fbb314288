//! Operations on open files: read, write, allocate, copy, sync.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Errno, Result, check, check_int, is_missing, own, raw};

/// pread(2); may return fewer bytes, 0 at end of file.
pub fn pread(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
    // SAFETY: the buffer is as long as stated.
    check(unsafe { libc::pread(raw(fd), buf.as_mut_ptr().cast(), buf.len(), offset as i64) } as i64)
        .map(|n| n as usize)
}

/// Fills as much of `buf` as the file has from `offset` on.
pub fn pread_full(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
        match pread(fd, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes all of `buf` at `offset`.
pub fn pwrite_all(fd: BorrowedFd<'_>, buf: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while let Some(rest) = buf.get(done..).filter(|r| !r.is_empty()) {
        // SAFETY: the buffer is as long as stated.
        let n = check(unsafe {
            libc::pwrite(raw(fd), rest.as_ptr().cast(), rest.len(), (offset + done as u64) as i64)
        } as i64);
        match n {
            Ok(0) => return Err(Errno::EIO),
            Ok(n) => done += n as usize,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// ftruncate(2).
pub fn ftruncate(fd: BorrowedFd<'_>, size: u64) -> Result<()> {
    let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    // SAFETY: plain call.
    check_int(unsafe { libc::ftruncate(raw(fd), size) }).map(drop)
}

/// fallocate(2).
pub fn fallocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, length: u64) -> Result<()> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
    // SAFETY: plain call.
    check_int(unsafe { libc::fallocate(raw(fd), mode, offset, length) }).map(drop)
}

/// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
pub fn seek(fd: BorrowedFd<'_>, offset: u64, whence: i32) -> Result<u64> {
    let offset = i64::try_from(offset).map_err(|_| Errno::ENXIO)?;
    // SAFETY: plain call.
    check(unsafe { libc::lseek(raw(fd), offset, whence) }).map(|n| n as u64)
}

/// An open file, or the part of one that stands for a file: small files of a packed layer lie side by
/// side in one.
#[derive(Clone, Debug)]
pub struct Part {
    fd: Arc<OwnedFd>,
    /// Where it begins and how long it is; `None`: all of the file.
    window: Option<(u64, u64)>,
}

impl Part {
    /// All of a file.
    pub fn whole(fd: Arc<OwnedFd>) -> Part {
        Part { fd, window: None }
    }

    /// The `len` bytes of a file that begin at `start`.
    pub fn window(fd: Arc<OwnedFd>, start: u64, len: u64) -> Part {
        Part { fd, window: Some((start, len)) }
    }

    /// The file that it is all of.
    pub fn file(&self) -> Option<&Arc<OwnedFd>> {
        self.window.is_none().then_some(&self.fd)
    }

    /// The file that it is or lies in.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where `len` bytes from `offset` on lie in the file: never beyond its part.
    fn place(&self, offset: u64, len: usize) -> (u64, usize) {
        match self.window {
            None => (offset, len),
            Some((start, all)) => {
                let left = usize::try_from(all.saturating_sub(offset)).unwrap_or(usize::MAX);
                (start.saturating_add(offset), len.min(left))
            }
        }
    }

    /// Fills as much of `buf` as there is from `offset` on.
    ///
    /// # Errors
    /// Those of pread(2); `EIO` where the file ends before the part does.
    pub fn pread_full(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let (at, len) = self.place(offset, buf.len());
        let n = pread_full(self.fd.as_fd(), buf.get_mut(..len).unwrap_or_default(), at)?;
        if self.window.is_some() && n < len { Err(Errno::EIO) } else { Ok(n) }
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`; a part of a file has no holes.
    pub fn seek(&self, offset: u64, whence: i32) -> Result<u64> {
        match self.window {
            None => seek(self.fd.as_fd(), offset, whence),
            Some((_, len)) if offset >= len => Err(Errno::ENXIO),
            Some((_, len)) => Ok(if whence == libc::SEEK_HOLE { len } else { offset }),
        }
    }

    /// copy_file_range(2) from here to another file, at explicit offsets.
    pub fn copy_range(
        &self,
        offset: u64,
        to: BorrowedFd<'_>,
        to_offset: u64,
        len: usize,
    ) -> Result<usize> {
        let (at, len) = self.place(offset, len);
        if len == 0 { Ok(0) } else { copy_range(self.fd.as_fd(), at, to, to_offset, len) }
    }
}

/// fsync(2), or fdatasync(2) when only the data is asked for.
pub fn fsync(fd: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    // SAFETY: plain calls.
    let rc = unsafe { if data_only { libc::fdatasync(raw(fd)) } else { libc::fsync(raw(fd)) } };
    check_int(rc).map(drop)
}

/// syncfs(2): everything of the filesystem that `fd` is on.
pub fn syncfs(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::syncfs(raw(fd)) }).map(drop)
}

/// copy_file_range(2) at explicit offsets.
pub fn copy_range(
    from: BorrowedFd<'_>,
    from_offset: u64,
    to: BorrowedFd<'_>,
    to_offset: u64,
    len: usize,
) -> Result<usize> {
    let mut off_in = i64::try_from(from_offset).map_err(|_| Errno::EFBIG)?;
    let mut off_out = i64::try_from(to_offset).map_err(|_| Errno::EFBIG)?;
    // SAFETY: both offsets are valid pointers.
    check(unsafe {
        libc::copy_file_range(raw(from), &raw mut off_in, raw(to), &raw mut off_out, len, 0)
    } as i64)
    .map(|n| n as usize)
    // Forbidden by a seccomp profile: as good as a filesystem that cannot.
    .map_err(|e| if is_missing(e) { Errno::EOPNOTSUPP } else { e })
}

/// An empty file in memory (memfd_create(2)).
pub fn memory() -> Result<OwnedFd> {
    // SAFETY: a valid C string.
    own(unsafe { libc::memfd_create(c"cowlfs".as_ptr(), libc::MFD_CLOEXEC) })
}

/// Shares all blocks of `from` with `to` (ioctl_ficlone(2)); fails where the filesystem cannot.
pub fn clone(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: FICLONE takes a file descriptor as its argument.
    check_int(unsafe { libc::ioctl(raw(to), libc::FICLONE, raw(from)) }).map(drop)
}

/// `FS_IOC_GETFLAGS`: the `chattr(1)` flags of a file.
pub fn get_flags(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: FS_IOC_GETFLAGS stores at most a long at the pointer.
    check_int(unsafe { libc::ioctl(raw(fd), libc::FS_IOC_GETFLAGS, &raw mut flags) })?;
    Ok(flags as u32)
}

/// `struct fsxattr` as the kernel has it: flags, preferred extent size, extents, project, room.
pub type Fsxattr = [u8; 28];

/// `FS_IOC_FSGETXATTR`: more of what `chattr(1)` shows.
pub fn get_fsxattr(fd: BorrowedFd<'_>) -> Result<Fsxattr> {
    const FSGETXATTR: libc::c_ulong = 0x801c_581f;
    let mut x: Fsxattr = [0; 28];
    // SAFETY: the request stores 28 bytes.
    check_int(unsafe { libc::ioctl(raw(fd), FSGETXATTR, x.as_mut_ptr()) })?;
    Ok(x)
}

/// `FS_IOC_FSSETXATTR`.
pub fn set_fsxattr(fd: BorrowedFd<'_>, x: &Fsxattr) -> Result<()> {
    const FSSETXATTR: libc::c_ulong = 0x401c_5820;
    // SAFETY: the request reads 28 bytes.
    check_int(unsafe { libc::ioctl(raw(fd), FSSETXATTR, x.as_ptr()) }).map(drop)
}

/// `FS_IOC_SETFLAGS`.
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let flags = libc::c_long::from(flags);
    // SAFETY: FS_IOC_SETFLAGS reads at most a long from the pointer.
    check_int(unsafe { libc::ioctl(raw(fd), libc::FS_IOC_SETFLAGS, &raw const flags) }).map(drop)
}
