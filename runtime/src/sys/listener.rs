//! A seccomp filter that hands system calls to a supervisor (seccomp_unotify(2), Linux 5.5).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// By which it is answered.
    pub id: u64,
    /// The calling thread, as the receiver counts.
    pub thread: i32,
    /// Number of the system call.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails.
    Error(Errno),
}

/// The system calls' architecture of this build, as seccomp names it (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// The program that hands on `calls` and allows the rest. Calls of another architecture (32-bit
/// programs) are allowed as well: the kernel answers them by itself.
fn program(calls: &[i64]) -> Option<Vec<libc::sock_filter>> {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut program = vec![
        instruction(load, 0, 0, ARCH),
        instruction(equal, 1, 0, ARCHITECTURE),
        instruction(give, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(load, 0, 0, NUMBER),
    ];
    for (index, call) in calls.iter().enumerate() {
        // Over the comparisons that follow, and the instruction that allows.
        let over = u8::try_from(calls.len() - index).ok()?;
        program.push(instruction(equal, over, 0, u32::try_from(*call).ok()?));
    }
    program.push(instruction(give, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(instruction(give, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    Some(program)
}

/// From now on these calls of this thread, and of what it starts, wait for the holder of the
/// descriptor that is returned. Needs CAP_SYS_ADMIN in the user namespace, or no_new_privs.
///
/// # Errors
/// `EBUSY` when such a filter is there already; `EINVAL` before Linux 5.0; seccomp(2).
pub fn install(calls: &[i64]) -> nix::Result<OwnedFd> {
    let mut filter = program(calls).ok_or(Errno::EINVAL)?;
    let len = u16::try_from(filter.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions live during the call; the kernel copies them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a call that waits; none when the caller has been killed meanwhile.
///
/// # Errors
/// Those of the ioctl.
pub fn receive(listener: BorrowedFd<'_>) -> nix::Result<Option<Call>> {
    // SAFETY: plain integers, for which zero is a value; the kernel wants them zero.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: a structure of the type that this ioctl fills.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
    match Errno::result(result) {
        Ok(_) => Ok(Some(Call {
            id: call.id,
            thread: call.pid.cast_signed(),
            number: i64::from(call.data.nr),
            arguments: call.data.args,
        })),
        Err(Errno::ENOENT | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether the caller still waits: then its number has not become another process's.
pub fn waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: reads one integer.
    unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0
    }
}

/// Answers. A caller that has been killed needs no answer.
///
/// # Errors
/// Those of the ioctl, but `ENOENT`.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> nix::Result<()> {
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Value(value) => (value, 0, 0),
        Answer::Error(errno) => (0, -(errno as i32), 0),
    };
    let mut response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: a structure of the type that this ioctl reads.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response)
    };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_jumps_to_the_last_instruction() {
        let program = program(&[90, 91, 92]).unwrap();
        assert_eq!(program.len(), 9);
        for (at, number) in [(4usize, 90), (5, 91), (6, 92)] {
            let jump = program[at];
            assert_eq!(jump.k, number);
            assert_eq!(at + 1 + usize::from(jump.jt), 8);
            assert_eq!(jump.jf, 0);
        }
        assert_eq!(program[7].k, libc::SECCOMP_RET_ALLOW);
        assert_eq!(program[8].k, libc::SECCOMP_RET_USER_NOTIF);
    }
}
