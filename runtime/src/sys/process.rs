//! Processes: fork, clone into namespaces, process descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{ForkResult, Pid};

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Side {
    /// The process that called; holds the child.
    Parent(Child),
    /// The new process.
    Child,
}

/// A child of this process, held by descriptor, so that its number cannot be confused with a
/// later process's.
#[derive(Debug)]
pub struct Child {
    /// Its process number, as this process sees it.
    pub pid: Pid,
    /// Readable when it has ended.
    pub fd: OwnedFd,
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Child {
    /// Waits for its end. Its exit code: 128 + n when signal n ended it.
    pub fn wait(&self) -> nix::Result<u8> {
        loop {
            match waitid(Id::PIDFd(self.fd.as_fd()), WaitPidFlag::WEXITED) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(status) => return Ok(exit_code(status)),
            }
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, code) => code as u8, // the kernel keeps eight bits
        WaitStatus::Signaled(_, signal, _) => 128u8.saturating_add(signal as i32 as u8),
        _ => u8::MAX,
    }
}

/// Forks. The caller is single-threaded: true for the command line until it starts its stream
/// threads, which it does only after the last fork.
pub fn fork() -> nix::Result<Side> {
    // SAFETY: single-threaded, so the child may do whatever the parent could.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Side::Child),
        ForkResult::Parent { child } => {
            let fd = open(child)?;
            Ok(Side::Parent(Child { pid: child, fd }))
        }
    }
}

/// Forks into new namespaces; the child is PID 1 when they include a pid namespace.
pub fn fork_into(namespaces: CloneFlags) -> nix::Result<Side> {
    let flags = namespaces.bits() | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut fd: libc::c_int = -1;
    // SAFETY: a null stack makes clone behave like fork (the child runs on a copy of this stack);
    // CLONE_PIDFD stores the descriptor through the third argument, which is the parent's tid
    // pointer on every architecture. Single-threaded, as for fork.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_long, 0, &raw mut fd, 0, 0) };
    let pid = Errno::result(pid)?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    let pid = i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel stored a new descriptor here.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Side::Parent(Child { pid: Pid::from_raw(pid), fd }))
}

/// A descriptor of process `pid`.
pub fn open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends signal number `signal` to the process behind a descriptor. Numbers, not
/// [`nix::sys::signal::Signal`]: real-time signals are forwarded too.
pub fn kill(process: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks for the same as kill(2).
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, info, 0) };
    Errno::result(result).map(drop)
}

/// Ends this process without running destructors or exit handlers: for the child of a fork.
pub fn exit(code: u8) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(i32::from(code)) }
}
