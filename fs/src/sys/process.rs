//! What concerns the whole process: limits, ids, umask, locks, namespaces.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Errno, Result, check_int, raw};
use crate::idmap::Mapped;

/// The soft limit of open files, raised to the hard limit first.
pub fn raise_open_files() -> u64 {
    let mut lim = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut lim) } != 0 {
        return 1024;
    }
    if lim.rlim_cur < lim.rlim_max {
        let want = libc::rlimit { rlim_cur: lim.rlim_max, rlim_max: lim.rlim_max };
        // SAFETY: a valid pointer.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const want) } == 0 {
            return lim.rlim_max;
        }
    }
    lim.rlim_cur
}

/// Keeps large blocks (the buffers of threads) out of the heap for good, so that they go back to the
/// system when they are freed, and what is never touched of them never costs memory. By default glibc
/// takes the first such block that is freed as a hint to put the next ones into the heap.
pub fn large_blocks_apart() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 256 << 10;
        // SAFETY: a plain call; refusal (0) leaves the default.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    }
}

/// Gives memory that is no longer used back to the system (malloc_trim(3)), where the C library can.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain call; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sets the umask to 0: modes given to the host are exact, the caller's umask comes with requests.
pub fn clear_umask() {
    // SAFETY: plain call.
    unsafe { libc::umask(0) };
}

/// Effective user and group.
pub fn ids() -> (u32, u32) {
    // SAFETY: plain calls that cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

fn read_id(path: &str) -> u32 {
    const DEFAULT_OVERFLOW: u32 = 65534;
    std::fs::read_to_string(path)
        .ok()
        .and_then(|s| s.trim().parse().ok())
        .unwrap_or(DEFAULT_OVERFLOW)
}

/// The user and group id that stand for "not mapped here" (`/proc/sys/kernel/overflowuid`), as they
/// were when first asked for: every layer asks.
pub fn overflow_ids() -> (u32, u32) {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    *IDS.get_or_init(|| {
        (read_id("/proc/sys/kernel/overflowuid"), read_id("/proc/sys/kernel/overflowgid"))
    })
}

/// Whether a process has `gid` among its supplementary groups (`/proc/PID/status`); `None` where
/// that cannot be found out.
pub fn in_group(pid: u32, gid: u32) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let groups = status.lines().find_map(|l| l.strip_prefix("Groups:"))?;
    Some(groups.split_ascii_whitespace().any(|g| g.parse() == Ok(gid)))
}

/// The ids that this process's user namespace maps.
pub fn mapped_ids() -> Mapped {
    // Without /proc nothing is known to be mapped: everything is shown as root.
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    Mapped::parse(&read("/proc/self/uid_map"), &read("/proc/self/gid_map"))
}

/// What tells this run of the machine from others: the kernel's boot id, a random UUID; `None` where
/// `/proc` does not tell (proc_sys_kernel(5)).
pub fn boot_id() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok()
}

/// Gives up what [`lock`] took.
pub fn unlock(fd: BorrowedFd<'_>) {
    // SAFETY: plain call.
    let _cannot_fail = unsafe { libc::flock(raw(fd), libc::LOCK_UN) };
}

/// Whether we have `CAP_SYS_ADMIN` in the initial user namespace: the capability, and every id mapped
/// to itself. Where `/proc` does not say, no.
pub fn rules_the_machine() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let capable = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & SYS_ADMIN != 0);
    capable && read("/proc/self/uid_map").split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Gives the calling process, which has one thread, a table of mounts of its own that others do not
/// see; where that needs it, a user namespace in which it is root.
///
/// # Errors
/// `EPERM` where neither is allowed.
pub fn own_mounts() -> Result<()> {
    let (uid, gid) = ids();
    // SAFETY: plain calls; valid C strings, and null where nothing is meant.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            check_int(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
            let write = |path, text: String| std::fs::write(path, text).map_err(|_| Errno::EPERM);
            write("/proc/self/setgroups", "deny".into())?;
            write("/proc/self/uid_map", format!("0 {uid} 1"))?;
            write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        }
        let (none, flags) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        check_int(libc::mount(none, c"/".as_ptr(), none, flags, none.cast())).map(drop)
    }
}

/// Takes an exclusive flock(2) without waiting.
///
/// # Errors
/// `EWOULDBLOCK` when someone else holds it.
pub fn lock(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain call.
    check_int(unsafe { libc::flock(raw(fd), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Takes an exclusive flock(2), asking for it again for so long.
///
/// # Errors
/// `EWOULDBLOCK` when someone else still holds it.
pub fn lock_within(fd: BorrowedFd<'_>, patience: Duration) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(2);
    let end = Instant::now() + patience;
    loop {
        match lock(fd) {
            Err(Errno::EWOULDBLOCK) if Instant::now() < end => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

/// Forks; returns the child's pid in the parent and `None` in the child.
///
/// Must be called while the process has one thread only.
pub fn fork() -> Result<Option<i32>> {
    // SAFETY: the caller has one thread, so the child inherits no lock held by another.
    let pid = check_int(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Runs `f` in a child process that has none of our descriptors but the standard ones, and returns
/// its answer. Other threads go on meanwhile.
///
/// # Errors
/// Errors of fork(2); `EINTR` when the child was killed.
pub fn in_child(f: impl FnOnce() -> bool) -> Result<bool> {
    // SAFETY: glibc keeps its allocator usable in the child of a process with threads, and the child
    // takes no other lock of ours: it makes system calls, may run a program, and ends.
    let pid = check_int(unsafe { libc::fork() })?;
    if pid == 0 {
        // SAFETY: plain calls; nothing of ours is used by descriptor from here on.
        unsafe {
            if libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) != 0 {
                close_all();
            }
            let code = if f() { 0 } else { 1 };
            libc::_exit(code);
        }
    }
    let mut status = 0;
    // SAFETY: a valid pointer.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        if Errno::last() != Errno::EINTR {
            return Err(Errno::last());
        }
    }
    if libc::WIFEXITED(status) { Ok(libc::WEXITSTATUS(status) == 0) } else { Err(Errno::EINTR) }
}

/// Closes every descriptor but the standard ones, one by one (before Linux 5.9, or where a seccomp
/// profile is older than that).
fn close_all() {
    let mut lim = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid pointer; the caller has given up all its descriptors.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut lim);
        for fd in 3..i32::try_from(lim.rlim_cur).unwrap_or(i32::MAX) {
            libc::close(fd);
        }
    }
}

/// Waits until a child has ended (waitpid(2)); how it ended is of no interest.
pub fn wait(pid: i32) {
    // SAFETY: a null status pointer is allowed.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && Errno::last() == Errno::EINTR
    {}
}

/// Detaches from the terminal's session and points standard input and output at `/dev/null`.
pub fn detach() -> Result<()> {
    // SAFETY: plain calls on descriptors that we own.
    unsafe {
        check_int(libc::setsid())?;
        let null = check_int(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC))?;
        check_int(libc::dup2(null, 0))?;
        check_int(libc::dup2(null, 1))?;
        check_int(libc::dup2(null, 2))?;
        if null > 2 {
            libc::close(null);
        }
        check_int(libc::chdir(c"/".as_ptr()))?;
    }
    Ok(())
}

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread and those it starts, for [`wait_signal`].
pub fn block_signals() -> Result<()> {
    // SAFETY: the set is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for s in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, s);
        }
        let rc = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if rc != 0 {
            return Err(Errno::from_raw(rc));
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    Ok(())
}

/// Waits for one of the signals that end the program.
pub fn wait_signal() -> i32 {
    // SAFETY: the set is initialised by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for s in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, s);
        }
        let mut sig = 0;
        while libc::sigwait(&raw const set, &raw mut sig) != 0 {}
        sig
    }
}
