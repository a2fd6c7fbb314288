//! A process killed at the entry of a chosen system call, by ptrace(2).
//!
//! (strace(1) can inject signals as well, but counts every kind of call by itself and, in Debian 12,
//! does not know the newest ones.)

use std::sync::mpsc;
use std::thread::JoinHandle;

use super::{Errno, R, ckl, libc};

/// Calls that change something, or may (`openat` with `O_CREAT`). From `fchmodat2` on as numbers,
/// which are the same on every architecture.
const CHANGING: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_copy_file_range,
    libc::SYS_ioctl,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    452, // fchmodat2
    463, // setxattrat
    466, // removexattrat
];

/// `PTRACE_GET_SYSCALL_INFO` (include/uapi/linux/ptrace.h), and where its answer has what.
const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const INFO_ENTRY: u64 = 1;
const INFO_NUMBER: usize = 3;

/// A process that is watched until it ends.
pub struct Watch(JoinHandle<usize>);

impl Watch {
    /// Watches `pid`, whose threads all run; kills it at the entry of its `n`th changing call.
    pub fn kill_at(pid: i32, n: usize) -> R<Watch> {
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if ready.send(attach(pid)).is_err() {
                return 0;
            }
            follow(pid, n)
        });
        started.recv().map_err(|_| Errno::ESRCH)??;
        Ok(Watch(thread))
    }

    /// Counts the changing calls of `pid`.
    pub fn count(pid: i32) -> R<Watch> {
        Watch::kill_at(pid, usize::MAX)
    }

    /// Waits for the end of the process; the number of changing calls it began.
    pub fn end(self) -> usize {
        self.0.join().expect("the watching thread")
    }
}

fn ptrace(what: libc::c_uint, pid: i32, addr: usize, data: usize) -> R<i64> {
    // SAFETY: the requests used here take plain numbers, or a buffer that outlives the call.
    ckl(unsafe { libc::ptrace(what, pid, addr, data) })
}

fn attach(pid: i32) -> R<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    let mut known = Vec::new();
    // Threads may be started meanwhile, by ones already attached or not.
    loop {
        let before = known.len();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| Errno::ESRCH)? {
            let name = task.map_err(|_| Errno::ESRCH)?.file_name();
            let tid: i32 = name.to_string_lossy().parse().map_err(|_| Errno::ESRCH)?;
            if known.contains(&tid) {
                continue;
            }
            known.push(tid);
            match ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize) {
                Ok(_) => {}
                Err(Errno::EPERM | Errno::ESRCH) if before > 0 || tid != pid => continue,
                Err(e) => return Err(e),
            }
            ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
            wait_for(tid)?;
            ptrace(libc::PTRACE_SYSCALL, tid, 0, 0)?;
        }
        if known.len() == before {
            return Ok(());
        }
    }
}

/// Waits for what this thread traces, not for other children of the process.
fn wait_for(tid: i32) -> R<(i32, i32)> {
    let mut status = 0;
    // SAFETY: a live integer.
    let got = unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::__WNOTHREAD) };
    if got < 0 { Err(Errno::last()) } else { Ok((got, status)) }
}

fn follow(pid: i32, n: usize) -> usize {
    let mut calls = 0;
    while let Ok((tid, status)) = wait_for(-1) {
        if !libc::WIFSTOPPED(status) {
            continue; // a thread has ended
        }
        let (mut signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if signal == libc::SIGTRAP | 0x80 {
            signal = 0;
            if enters_changing_call(tid) {
                calls += 1;
                if calls == n {
                    // It may have been killed by the test just now.
                    let _: R<()> = super::kill(pid, libc::SIGKILL);
                }
            }
        } else if event != 0 {
            signal = 0; // a new thread, or our own interruption
        }
        // It may just have died.
        let _: R<i64> = ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as usize);
    }
    calls
}

fn enters_changing_call(tid: i32) -> bool {
    let mut info = [0_u64; 16];
    let size = std::mem::size_of_val(&info);
    ptrace(GET_SYSCALL_INFO, tid, size, info.as_mut_ptr() as usize).is_ok()
        && info[0] & 0xff == INFO_ENTRY
        && CHANGING.contains(&(info[INFO_NUMBER] as libc::c_long))
}
