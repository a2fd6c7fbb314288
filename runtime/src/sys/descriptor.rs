//! Descriptors: passing them between processes, keeping them over exec, closing the rest.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg, sendmsg,
};

/// The largest message on a control socket; larger ones are refused by the sender.
pub const MESSAGE_MAX: usize = 160 * 1024;

/// Sends one message, with descriptors, on a SEQPACKET socket.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let bytes = [IoSlice::new(bytes)];
    sendmsg::<()>(socket.as_raw_fd(), &bytes, control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Receives one message and its descriptors (at most four); `None` when the other side is gone.
pub fn receive(socket: BorrowedFd<'_>) -> nix::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; MESSAGE_MAX];
    let mut control = cmsg_space!([RawFd; 4]);
    let (length, fds) = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(message) => {
                let mut fds = Vec::new();
                for item in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = item {
                        for fd in raw {
                            // SAFETY: the kernel just installed this descriptor for us.
                            fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                        }
                    }
                }
                break (message.bytes, fds);
            }
        }
    };
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some((bytes, fds)))
}

/// Accepts a connection; `EAGAIN` when none waits on a non-blocking socket. It does not block
/// either.
pub fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another descriptor of the same open file.
pub fn copy(fd: &OwnedFd) -> nix::Result<OwnedFd> {
    fd.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

/// Whether something can be read, or the end has come, within a while.
pub fn readable_within(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let start = Instant::now();
    loop {
        let left = patience.saturating_sub(start.elapsed());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
}

/// How often the kernel is asked again before its refusal is believed.
const TRIES: u32 = 1000;

/// Opens `path` below `dir` (openat2(2)). The kernel gives up with `EAGAIN` where a path goes up by
/// `..` while anything on the machine is renamed or mounted; it is asked again then.
///
/// # Errors
/// Those of openat2(2).
pub fn open_below<P: nix::NixPath + ?Sized>(
    dir: BorrowedFd<'_>,
    path: &P,
    how: OpenHow,
) -> nix::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match openat2(dir, path, how) {
            Err(Errno::EAGAIN) if tries < TRIES => {
                tries += 1;
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

/// Marks every descriptor from `first` up close-on-exec, so that a program started next inherits
/// only those before it.
pub fn close_on_exec_from(first: u32) -> nix::Result<()> {
    // SAFETY: changes flags of descriptors only.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Closes every descriptor from 3 up but `keep`, now.
///
/// For the last steps before exec, when nothing of the host may stay reachable through a
/// descriptor: whoever owned one of the others must not use or drop it any more, so this takes
/// the promise that the caller will only exec or exit.
pub fn close_all_but(keep: BorrowedFd<'_>) -> nix::Result<()> {
    let keep = keep.as_raw_fd().cast_unsigned();
    let ranges = [(3, keep.saturating_sub(1)), (keep.saturating_add(1).max(3), u32::MAX)];
    for (first, last) in ranges {
        if first <= last {
            // SAFETY: the descriptors are not used again: the caller execs or exits. An owner
            // dropped in between would close a number that is not open, which does nothing.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            Errno::result(result)?;
        }
    }
    Ok(())
}

/// Lets `command` inherit `fds` under their present numbers, die with `death` when this process
/// ends, and start with no signal blocked or ignored, in a session of its own.
pub fn attend(command: &mut Command, fds: &[BorrowedFd<'_>], death: Signal) {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = nix::unistd::getpid();
    let before_exec = move || {
        for fd in &fds {
            // SAFETY: clears a flag of a descriptor that is open in the parent at fork.
            Errno::result(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) })?;
        }
        nix::unistd::setsid()?;
        default_signals()?;
        prctl::set_pdeathsig(death)?;
        // A parent that was killed before this sends no signal any more.
        if nix::unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: only system calls between fork and exec; no allocation, no lock.
    unsafe { command.pre_exec(before_exec) };
}

/// Unblocks every signal and gives each its default disposition.
pub fn default_signals() -> nix::Result<()> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: sets the default disposition, no handler of ours runs.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// How to take a lock.
#[derive(Clone, Copy, Debug)]
pub enum LockKind {
    /// Alone; waits until it can be had.
    Exclusive,
    /// Shared; `EWOULDBLOCK` when somebody has it alone.
    SharedNow,
}

/// Locks an open file (flock). Released when the last descriptor of this open file closes, in
/// whichever process that is; there is deliberately no unlock.
pub fn lock(file: BorrowedFd<'_>, kind: LockKind) -> nix::Result<()> {
    let operation = match kind {
        LockKind::Exclusive => libc::LOCK_EX,
        LockKind::SharedNow => libc::LOCK_SH | libc::LOCK_NB,
    };
    loop {
        // SAFETY: a valid descriptor and a number.
        match Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Closes every descriptor from 3 up but these, and the first `passed` ones, now. What owned the others must not be used or
/// dropped any more: for the child of a fork, which goes on with these alone.
pub fn keep_only(keep: &[BorrowedFd<'_>], passed: u32) -> nix::Result<()> {
    let mut numbers: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    let mut first = 3u32.saturating_add(passed);
    for number in numbers.into_iter().chain([u32::MAX]) {
        let last = if number == u32::MAX { u32::MAX } else { number.saturating_sub(1) };
        if first <= last {
            // SAFETY: as the function's promise says, nobody uses these descriptors again.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            Errno::result(result)?;
        }
        first = first.max(number.saturating_add(1));
    }
    Ok(())
}
