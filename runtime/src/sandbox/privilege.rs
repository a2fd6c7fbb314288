//! What PID 1 may do: its ids and capabilities.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, fchown, setgid, setgroups, setuid};
use std::io;
use std::os::fd::AsFd;

use super::{Error, step};
use crate::spec::user::Identity;
use crate::sys::capability::{self, CapabilitySet};

/// Docker's default capabilities, by number in linux/capability.h: chown, dac_override, fowner,
/// fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
/// audit_write, setfcap.
const DEFAULT: [u8; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];

fn default_set() -> CapabilitySet {
    CapabilitySet(DEFAULT.iter().fold(0, |set, number| set | 1 << number))
}

/// Gives the streams to the user, so that it can open /dev/stdout again. Where that cannot be
/// (a read-only filesystem, an unmapped id) the streams work all the same.
pub fn own_streams(identity: &Identity) {
    let owner = Some(Uid::from_raw(identity.uid));
    for stream in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        let device = nix::sys::stat::fstat(stream).map_or(0, |stat| stat.st_rdev);
        if device != nix::sys::stat::makedev(1, 3) {
            fchown(stream, owner, None).ok();
        }
    }
}

/// Becomes the user: bounding set, groups, ids, capabilities, in the order in which each step is
/// still allowed.
pub fn drop_to(identity: &Identity, user_namespace: bool) -> Result<(), Error> {
    capability::bound(default_set()).map_err(step("limit the capabilities"))?;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        Ok(()) => {}
        // A namespace of one id: the groups stay the caller's, which it cannot use for more than
        // the caller could.
        Err(Errno::EPERM) if user_namespace => {}
        // Supplementary groups that are not mapped are left out, as nothing can belong to them.
        Err(Errno::EINVAL) if user_namespace => {
            let own: Vec<Gid> = groups.iter().copied().take(1).collect();
            setgroups(&own).map_err(|errno| unmapped(errno, "group", identity.gid))?;
        }
        Err(errno) => return Err(Error::Step("set the groups".to_owned(), errno)),
    }
    setgid(Gid::from_raw(identity.gid)).map_err(|errno| unmapped(errno, "group", identity.gid))?;
    setuid(Uid::from_raw(identity.uid)).map_err(|errno| unmapped(errno, "user", identity.uid))?;
    // For another user than root the kernel has cleared them already.
    capability::limit(default_set()).map_err(step("limit the capabilities"))
}

fn unmapped(errno: Errno, kind: &'static str, id: u32) -> Error {
    match errno {
        Errno::EINVAL => Error::Unmapped { kind, id },
        other => Error::Step(format!("become {kind} {id}"), other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers() {
        // What `docker run alpine grep CapBnd /proc/self/status` prints.
        assert_eq!(default_set().0, 0xa804_25fb);
    }
}
