//! Processes: other users, namespaces, signals, and the pipe by which a filesystem says it is ready.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{Errno, R, c, ck, ckl, libc};

/// Runs `f` in a thread with another user's ids and no supplementary groups or capabilities.
///
/// The raw calls change one thread only, which is what makes this possible without a fork.
pub fn as_user<T: Send>(uid: u32, gid: u32, f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|s| {
        s.spawn(move || {
            // SAFETY: plain integers; only this thread's credentials change, and it ends here.
            unsafe {
                let none: *const u32 = std::ptr::null();
                ckl(libc::syscall(libc::SYS_setgroups, 0, none)).expect("setgroups");
                ckl(libc::syscall(libc::SYS_setresgid, gid, gid, gid)).expect("setresgid");
                ckl(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).expect("setresuid");
            }
            f()
        })
        .join()
        .unwrap_or_else(|e| std::panic::resume_unwind(e))
    })
}

/// `kill(2)`; a negative id is a process group.
pub fn kill(pid: i32, signal: i32) -> R<()> {
    // SAFETY: plain integers.
    ck(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A pipe: the end to read from, and the end to write to.
fn pipe() -> R<(OwnedFd, OwnedFd)> {
    let mut fds = [0_i32; 2];
    // SAFETY: the array has room for two descriptors.
    ck(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel just returned both.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A pipe whose write end is inherited by children.
pub fn ready_pipe() -> R<(OwnedFd, OwnedFd)> {
    let ends = pipe()?;
    // SAFETY: plain integers.
    ck(unsafe { libc::fcntl(ends.1.as_raw_fd(), libc::F_SETFD, 0) })?;
    Ok(ends)
}

/// Waits until `fd` is readable or closed; false when `ms` milliseconds passed.
pub fn wait_readable(fd: &OwnedFd, ms: i32) -> R<bool> {
    let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd.
    ck(unsafe { libc::poll(&mut p, 1, ms) }).map(|n| n > 0)
}

/// Opens a program so that a child in any namespace and of any user can run it by number.
pub fn open_program(p: &Path) -> R<OwnedFd> {
    let p = c(p);
    // SAFETY: `p` is a NUL-terminated string that outlives the call.
    let fd = ck(unsafe { libc::open(p.as_ptr(), libc::O_RDONLY) })?;
    // SAFETY: the kernel just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the child of `cmd` die with the thread that starts it.
pub fn die_with_parent(cmd: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        cmd.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Starts the child of `cmd` as an ordinary user without any namespace of its own but the mounts.
pub fn as_ordinary_user(cmd: &mut std::process::Command, uid: u32) {
    use std::os::unix::process::CommandExt;
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe { cmd.pre_exec(move || drop_to(uid)) };
}

/// In the child of `cmd`: own process group and mount namespace; with `user`, the ids of that
/// ordinary user and a user namespace in which it is root over 65,536 ids.
pub fn enter_jail(cmd: &mut std::process::Command, user: Option<u32>) {
    use std::os::unix::process::CommandExt;
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe {
        cmd.pre_exec(move || {
            sys_io(libc::setpgid(0, 0))?;
            match user {
                None => sys_io(libc::unshare(libc::CLONE_NEWNS))?,
                Some(uid) => user_namespace(uid)?,
            };
            let none = c"none".as_ptr();
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            sys_io(libc::mount(none, c"/".as_ptr(), none, flags, std::ptr::null()))?;
            sys_io(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            Ok(())
        });
    }
}

fn sys_io(r: i32) -> io::Result<i32> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

fn drop_to(uid: u32) -> io::Result<()> {
    // SAFETY: plain integers; called in a single-threaded child.
    unsafe {
        sys_io(libc::setgroups(0, std::ptr::null()))?;
        sys_io(libc::setresgid(uid, uid, uid))?;
        sys_io(libc::setresuid(uid, uid, uid))?;
        // Otherwise /proc/self belongs to root and /proc/self/fd cannot be used for exec.
        sys_io(libc::prctl(libc::PR_SET_DUMPABLE, 1))?;
    }
    Ok(())
}

/// The privileged half (a forked helper) writes the maps, as newuidmap would.
fn user_namespace(uid: u32) -> io::Result<i32> {
    // SAFETY: fork, pipes and files in a single-threaded child, no allocation that another thread
    // could hold a lock on is needed by the helper but for two short strings made beforehand.
    unsafe {
        let me = libc::getpid();
        let map = format!("0 {uid} 1\n1 100000 65535\n");
        let files = [
            CString::new(format!("/proc/{me}/uid_map"))?,
            CString::new(format!("/proc/{me}/gid_map"))?,
        ];
        let mut p = [0_i32; 2];
        sys_io(libc::pipe2(p.as_mut_ptr(), libc::O_CLOEXEC))?;
        let helper = sys_io(libc::fork())?;
        if helper == 0 {
            libc::close(p[1]);
            let mut b = 0_u8;
            if libc::read(p[0], (&raw mut b).cast(), 1) != 1 {
                libc::_exit(1);
            }
            for f in &files {
                let fd = libc::open(f.as_ptr(), libc::O_WRONLY);
                if fd < 0 || libc::write(fd, map.as_ptr().cast(), map.len()) < 0 {
                    libc::_exit(2);
                }
            }
            libc::_exit(0);
        }
        libc::close(p[0]);
        drop_to(uid)?;
        sys_io(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
        libc::write(p[1], c"x".as_ptr().cast(), 1);
        libc::close(p[1]);
        let mut status = 0;
        sys_io(libc::waitpid(helper, &mut status, 0))?;
        if status != 0 {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        sys_io(libc::setresgid(0, 0, 0))?;
        sys_io(libc::setresuid(0, 0, 0))?;
        sys_io(libc::setgroups(0, std::ptr::null()))
    }
}

/// A second process of a test, which does what it is asked by number.
pub struct Partner {
    pid: i32,
    ask: Option<OwnedFd>,
    answers: OwnedFd,
}

impl Partner {
    /// Forks; the child answers every number by `work` until this is dropped.
    pub fn fork(mut work: impl FnMut(u64) -> Vec<u8>) -> R<Partner> {
        let (asked, ask) = pipe()?;
        let (answers, answer) = pipe()?;
        // SAFETY: only this thread goes on in the child. It uses what it owns alone and the
        // allocator, which glibc keeps usable after fork, and leaves by `_exit`.
        let pid = ck(unsafe { libc::fork() })?;
        if pid > 0 {
            return Ok(Partner { pid, ask: Some(ask), answers });
        }
        drop((ask, answers));
        let serve = std::panic::AssertUnwindSafe(|| {
            // SAFETY: plain integers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            while let Some(n) = read_exactly(&asked, 8) {
                let text = work(u64::from_ne_bytes(n.try_into().expect("8 bytes")));
                let mut message = (text.len() as u64).to_ne_bytes().to_vec();
                message.extend(text);
                write_all(&answer, &message).expect("answer");
            }
        });
        let clean = std::panic::catch_unwind(serve).is_ok();
        // SAFETY: ends the process at once; nothing of the parent's is run twice.
        unsafe { libc::_exit(i32::from(!clean)) }
    }

    /// Asks for one piece of work and waits for its answer.
    pub fn ask(&self, n: u64) -> R<Vec<u8>> {
        let ask = self.ask.as_ref().ok_or(Errno::EPIPE)?;
        write_all(ask, &n.to_ne_bytes())?;
        let len = read_exactly(&self.answers, 8).ok_or(Errno::EPIPE)?;
        let len = u64::from_ne_bytes(len.try_into().expect("8 bytes"));
        read_exactly(&self.answers, len as usize).ok_or(Errno::EPIPE)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.ask = None; // the end of its work
        let mut status = 0;
        // SAFETY: our own child, and a live integer.
        unsafe { libc::waitpid(self.pid, &mut status, 0) };
    }
}

fn read_exactly(fd: &OwnedFd, len: usize) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while all.len() < len {
        let some = super::read(fd, len - all.len()).ok().filter(|b| !b.is_empty())?;
        all.extend(some);
    }
    Some(all)
}

fn write_all(fd: &OwnedFd, mut data: &[u8]) -> R<()> {
    while !data.is_empty() {
        let n = super::write(fd, data)?;
        data = &data[n..];
    }
    Ok(())
}

/// Makes the program of `cmd` meet a seccomp filter under which these system calls fail with `errno`.
pub fn forbid_calls(cmd: &mut std::process::Command, calls: &[libc::c_long], errno: Errno) {
    use std::os::unix::process::CommandExt;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    // The number of the call is the first field of struct seccomp_data.
    let mut program = vec![step(LOAD, 0, 0)];
    for call in calls {
        program.push(step(JUMP_IF_EQUAL, *call as u32, 1));
        program.push(step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0));
    let install = move || {
        let filter =
            libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the program lives as long as the closure, and the kernel copies it.
        unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
                    != 0
            {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: two system calls and no allocation.
    unsafe { cmd.pre_exec(install) };
}
