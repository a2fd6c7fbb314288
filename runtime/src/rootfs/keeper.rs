//! A process that stands for a root filesystem which needs none: it holds the container's lock and
//! mount namespace as long as it lives, and dies with the monitor, as cowlfs does.

use std::os::fd::BorrowedFd;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::setsid;

use super::Error;
use crate::sys;
use crate::sys::process::{Child, Side};

/// Starts it. The caller has one thread.
///
/// # Errors
/// When no process can be made.
pub fn start(lock: BorrowedFd<'_>) -> Result<Child, Error> {
    let failed = |errno| Error::System("start the process that keeps the root filesystem", errno);
    match sys::process::fork().map_err(failed)? {
        Side::Parent(child) => Ok(child),
        Side::Child => {
            let ended = keep(lock);
            sys::process::exit(u8::from(ended.is_err()));
        }
    }
}

fn keep(lock: BorrowedFd<'_>) -> nix::Result<()> {
    let parent = nix::unistd::getppid();
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if nix::unistd::getppid() != parent {
        return Ok(()); // it has died before it could be told
    }
    setsid()?;
    prctl::set_name(c"cowl-rootfs")?;
    sys::descriptor::close_all_but(lock)?;
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.thread_block()?;
    set.wait().map(drop)
}
