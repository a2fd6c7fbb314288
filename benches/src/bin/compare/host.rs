//! The place the whole run happens in: a mount namespace of its own, so that no mount outlives it;
//! for an ordinary user a user namespace too, in which everything is measured.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::child;
use crate::fault::{Doing, Result};

/// What the caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Root: both kinds of systems, loop devices, cold caches.
    Root,
    /// Root of an own user namespace only.
    User,
}

/// Moves this process there. Must come before any thread starts.
///
/// # Errors
/// Where the kernel does not allow the namespaces.
pub fn enter() -> Result<Caller> {
    let caller = if geteuid().is_root() {
        unshare(CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace")?;
        Caller::Root
    } else {
        child::new_namespace()?;
        Caller::User
    };
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .doing(|| "keep mounts private")?;
    Ok(caller)
}

/// Writes everything back and empties the kernel's caches. False where that is not allowed.
pub fn drop_caches() -> bool {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
