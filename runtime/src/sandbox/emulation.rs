//! Owners and users in a user namespace that has one id only.
//!
//! There the kernel refuses chown(2) to another owner, setuid(2) to another user and setgroups(2)
//! altogether, so package managers fail that would have no need of a second user. A supervisor takes
//! these calls in the kernel's stead (seccomp_unotify(2)): a change of owner is handed to cowlfs,
//! which keeps it (`chown_xattr`) so that `commit` and `export` know it; a change of user is
//! remembered, and is what getuid(2) and its like say from then on.
//!
//! What it is not: a wall. Whoever "became" another user may do all that the container's root may
//! do, which is all that the caller of `cowl` may do, as before. Files show root as their owner, since
//! the kernel has no other id to show. Owners of symbolic links, and of files on volumes, are not
//! kept. 32-bit programs, and device nodes, are not helped.
//!
//! The supervisor is a child of the monitor, outside of the container. PID 1 and what `exec` adds
//! send it their listener; when it dies, these calls fail with `ENOSYS`.

mod caller;
mod ids;
mod owner;
mod supervisor;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::sys;
use crate::sys::process::Side;
use crate::userns;

/// Where this process's children send their listeners.
static CHANNEL: OnceLock<OwnedFd> = OnceLock::new();

/// The system calls that are taken.
const CALLS: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
];

/// Starts the supervisor where one is needed and there is none yet. Called in a process of one
/// thread that lives as long as the containers it starts.
///
/// # Errors
/// When no process can be made.
pub fn prepare() -> nix::Result<()> {
    if CHANNEL.get().is_some() || !userns::single_id() {
        return Ok(());
    }
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    match sys::process::fork()? {
        Side::Child => {
            drop(ours);
            let ended = supervisor::run(&theirs);
            sys::process::exit(u8::from(ended.is_err()));
        }
        Side::Parent(_child) => {}
    }
    CHANNEL.set(ours).map_err(|_| Errno::EBUSY)
}

/// In a process of a container, before it gives up its privileges: its calls are taken from now on.
///
/// # Errors
/// When the kernel refuses the filter, for another reason than being too old for it.
pub fn begin() -> nix::Result<()> {
    let Some(channel) = CHANNEL.get() else { return Ok(()) };
    let listener = match sys::listener::install(CALLS) {
        // Inside another container that does the same: one supervisor is all that the kernel allows.
        Err(Errno::EBUSY | Errno::EINVAL | Errno::ENOSYS) => return Ok(()),
        other => other?,
    };
    sys::descriptor::send(channel.as_fd(), b"listener", &[listener.as_fd()])
}
