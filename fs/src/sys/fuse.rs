//! The FUSE device and mount(2).

use std::ffi::CString;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Errno, Result, check, check_int, own, raw};

/// Opens `/dev/fuse`. In a user namespace this must be done inside it.
pub fn open_device() -> Result<OwnedFd> {
    // SAFETY: valid C string.
    own(unsafe { libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })
}

/// Reads one request.
pub fn receive(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is as long as stated.
    check(unsafe { libc::read(raw(fd), buf.as_mut_ptr().cast(), buf.len()) } as i64)
        .map(|n| n as usize)
}

/// Writes one reply; the device takes it whole or not at all.
pub fn send(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Result<()> {
    // SAFETY: IoSlice has the layout of iovec.
    check(unsafe { libc::writev(raw(fd), parts.as_ptr().cast(), parts.len() as i32) } as i64)
        .map(drop)
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// mount(2).
pub fn mount(source: &[u8], target: &Path, fstype: &str, flags: u64, data: &[u8]) -> Result<()> {
    let source = CString::new(source).map_err(|_| Errno::EINVAL)?;
    let target = c_path(target)?;
    let fstype = CString::new(fstype).map_err(|_| Errno::EINVAL)?;
    let data = CString::new(data).map_err(|_| Errno::EINVAL)?;
    // SAFETY: four valid C strings.
    check_int(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, data.as_ptr().cast())
    })
    .map(drop)
}

/// umount2(2).
pub fn umount(target: &Path, flags: i32) -> Result<()> {
    let target = c_path(target)?;
    // SAFETY: valid C string.
    check_int(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// Receives one descriptor over a socket (fusermount's protocol: one byte with `SCM_RIGHTS`).
pub fn receive_fd(socket: &UnixStream) -> Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut space = [0u64; 8]; // room for one descriptor, aligned for cmsghdr
    // SAFETY: an all-zero msghdr is a valid start.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = space.as_mut_ptr().cast();
    msg.msg_controllen = size_of_val(&space);
    // SAFETY: the message header names valid buffers of the stated lengths.
    let n =
        check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC) }
            as i64)?;
    if n == 0 {
        return Err(Errno::ECONNRESET);
    }
    // SAFETY: recvmsg filled the header; the control message is inspected before it is used.
    unsafe {
        let c = libc::CMSG_FIRSTHDR(&raw const msg);
        if c.is_null() || (*c).cmsg_level != libc::SOL_SOCKET || (*c).cmsg_type != libc::SCM_RIGHTS
        {
            return Err(Errno::EPROTO);
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(c).cast::<libc::c_int>().read_unaligned()))
    }
}

/// Lets a child started from here inherit the descriptor.
pub fn keep_over_exec(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::fcntl(raw(fd), libc::F_SETFD, 0) }).map(drop)
}

/// Takes over a descriptor number given on the command line.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn adopt(fd: i32) -> Result<OwnedFd> {
    // SAFETY: plain call; fails for a number that is not open.
    check_int(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: open, and the caller gave it to us to own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
