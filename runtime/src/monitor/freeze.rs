//! Freezing every process of a container, and letting them go on.
//!
//! The control group's freezer does it. Where there is none, each process is stopped by SIGSTOP, until no new one
//! is found: what is stopped starts no others. Unlike a freezer's, this is noticed by a parent
//! inside that asks for it (waitpid with WUNTRACED).

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Failure, failed};
use crate::cgroup::{self, Group};
use crate::container::{Container, Live, processes};

/// Freezes or thaws.
pub(super) fn freeze(container: &Container, live: &Live, frozen: bool) -> Result<(), Failure> {
    let group = Group::open(&container.config);
    match if frozen { group.freeze() } else { group.thaw() } {
        Err(cgroup::Error::NoFreezer) => {}
        done => return done.map_err(Failure::engine),
    }
    let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    let mut done = std::collections::BTreeSet::new();
    loop {
        let found = processes::inside(live);
        let new: Vec<i32> = found.difference(&done).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in new {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(failed("stop the container's processes")(errno)),
            }
            done.insert(pid);
        }
    }
}
