//! The FUSE device and mount(2).

use std::ffi::CString;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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

/// Whether a request waits to be read.
pub fn waits(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: raw(fd), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, as stated.
    let n = unsafe { libc::poll(&raw mut poll, 1, 0) };
    n > 0 && poll.revents & libc::POLLIN != 0
}

/// Writes one reply; the device takes it whole or not at all.
pub fn send(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Result<()> {
    // SAFETY: IoSlice has the layout of iovec.
    check(unsafe { libc::writev(raw(fd), parts.as_ptr().cast(), parts.len() as i32) } as i64)
        .map(drop)
}

/// `FUSE_DEV_IOC_BACKING_OPEN`, `_IOW(229, 1, struct fuse_backing_map)`.
const BACKING_OPEN: libc::c_ulong = 0x4010_e501;
/// `FUSE_DEV_IOC_BACKING_CLOSE`, `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// Makes a file of the host known to the kernel, which then can open it for users; returns its number.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` in the initial user namespace; `ELOOP` for a file on a filesystem
/// that is stacked on others itself; `EOPNOTSUPP` for one that cannot be read and written.
pub fn backing_open(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<i32> {
    // struct fuse_backing_map: file descriptor, flags, padding.
    let map: [i32; 4] = [raw(file), 0, 0, 0];
    // The kernel writes with the rights that the calling thread has now. Without CAP_FSETID a write
    // takes set-user-ID away from the file: users' writes must, and the kernel would not ask us.
    without_fsetid(|| {
        // SAFETY: the structure is as large as the request says.
        check_int(unsafe { libc::ioctl(raw(device), BACKING_OPEN as _, map.as_ptr()) })
    })
}

/// Runs `f` while the calling thread has no `CAP_FSETID` (capset(2) changes one thread only).
fn without_fsetid<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    const VERSION_3: u32 = 0x2008_0522;
    const FSETID: u32 = 1 << 4;
    // struct __user_cap_header_struct; two of struct __user_cap_data_struct: effective, permitted,
    // inheritable.
    let mut head: [u32; 2] = [VERSION_3, 0];
    let mut data = [0u32; 6];
    let (head, data_at) = (head.as_mut_ptr(), data.as_mut_ptr());
    // SAFETY: a header and two sets, as version 3 has them.
    check(unsafe { libc::syscall(libc::SYS_capget, head, data_at) })?;
    let [effective, ..] = data;
    if effective & FSETID == 0 {
        return f();
    }
    let mut less = data;
    if let Some(first) = less.first_mut() {
        *first &= !FSETID;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, head, less.as_ptr()) })?;
    let done = f();
    // SAFETY: as above; what is permitted can always be taken back.
    check(unsafe { libc::syscall(libc::SYS_capset, head, data.as_ptr()) })?;
    done
}

/// Forgets such a number; files opened by it stay open.
pub fn backing_close(device: BorrowedFd<'_>, id: i32) -> Result<()> {
    // SAFETY: the request reads a 32-bit number.
    check_int(unsafe { libc::ioctl(raw(device), BACKING_CLOSE as _, &raw const id) }).map(drop)
}

/// The directory tree `dir` as a mount of its own that cannot be written to, whatever the rights of
/// whoever tries; it lives as long as the descriptor, and as what is opened in it.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSYS` before Linux 5.12.
pub fn read_only_view(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | libc::AT_RECURSIVE) as u32;
    // SAFETY: a descriptor and a valid C string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, raw(dir), c"".as_ptr(), flags) };
    let view = own(check(fd)? as libc::c_int)?;
    // struct mount_attr: attributes to set, to clear, propagation, user namespace.
    let attr: [u64; 4] = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    // SAFETY: a descriptor, a valid C string, and a structure of the stated size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            raw(view.as_fd()),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    })?;
    // What open_tree(2) returns is only a place (O_PATH): it cannot be listed.
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a descriptor and a valid C string.
    own(unsafe { libc::openat(raw(view.as_fd()), c".".as_ptr(), flags) })
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
