//! Processes: fork, clone into namespaces, process descriptors.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
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
    clone_with(namespaces.bits() | libc::CLONE_PIDFD | libc::SIGCHLD)
}

/// clone(2) that works like fork.
fn clone_with(flags: libc::c_int) -> nix::Result<Side> {
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

/// As [`fork_into`], but in the namespace of process numbers at `path`, where the child is an
/// ordinary process. It is a child of this process all the same.
pub fn fork_beside(path: &Path, namespaces: CloneFlags) -> nix::Result<Side> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let between = match fork()? {
        Side::Parent(child) => child,
        Side::Child => {
            drop(ours);
            let cloned = (|| {
                let target = open_file(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
                setns(target, CloneFlags::CLONE_NEWPID)?;
                clone_with(namespaces.bits() | libc::CLONE_PARENT | libc::CLONE_PIDFD)
            })();
            match cloned {
                Ok(Side::Child) => return Ok(Side::Child),
                Ok(Side::Parent(child)) => {
                    // A parent that is gone needs no answer.
                    super::descriptor::send(theirs.as_fd(), b"+", &[child.as_fd()]).ok();
                    exit(0);
                }
                Err(errno) => exit(errno as i32 as u8),
            }
        }
    };
    drop(theirs);
    let answer = super::descriptor::receive(ours.as_fd())?;
    let code = between.wait()?;
    let Some(fd) = answer.and_then(|(_, fds)| fds.into_iter().next()) else {
        return Err(Errno::from_raw(i32::from(code)));
    };
    let pid = pid_of(&fd)?;
    Ok(Side::Parent(Child { pid, fd }))
}

/// The number, in this process's namespace, of the process behind a descriptor.
fn pid_of(process: &OwnedFd) -> nix::Result<Pid> {
    let file = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let text = std::fs::read_to_string(file)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    match line.and_then(|number| number.trim().parse().ok()) {
        Some(number) if number > 0 => Ok(Pid::from_raw(number)),
        _ => Err(Errno::ESRCH),
    }
}

/// Sets a limit of this process; `u64::MAX` is no limit.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: prlimit reads one rlimit; 0 is this process.
    let result = unsafe { libc::prlimit(0, resource, &raw const limit, std::ptr::null_mut()) };
    Errno::result(result).map(drop)
}

/// A limit of this process: soft and hard.
pub fn rlimit(resource: u32) -> nix::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: prlimit writes one rlimit; 0 is this process.
    let result = unsafe { libc::prlimit(0, resource, std::ptr::null(), &raw mut limit) };
    Errno::result(result).map(|_| (limit.rlim_cur, limit.rlim_max))
}

/// Sets the NIS domain name of this namespace.
pub fn set_domainname(name: &OsStr) -> nix::Result<()> {
    // SAFETY: a pointer and the length of what it points to.
    Errno::result(unsafe { libc::setdomainname(name.as_bytes().as_ptr().cast(), name.len()) })
        .map(drop)
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
