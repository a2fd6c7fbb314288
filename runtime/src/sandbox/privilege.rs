//! What PID 1 may do: its ids and capabilities.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, fchown, setgid, setgroups, setuid};
use std::os::fd::AsFd;
use std::path::Path;
use std::{fs, io};

use super::plan::Process;
use super::{Error, step};
use crate::spec::user::Identity;
use crate::sys;
use crate::sys::capability::{self, CapabilitySet};

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
pub fn drop_to(identity: &Identity, process: &Process) -> Result<(), Error> {
    let user_namespace = process.user_namespace;
    if let Some(profile) = &process.apparmor {
        confine(profile)?;
    }
    if process.no_new_privileges {
        prctl::set_no_new_privs().map_err(step("forbid new privileges"))?;
    }
    // Without no_new_privileges only now: it takes the capability that is given up below.
    if let Some(program) = process.seccomp.as_ref().filter(|_| !process.no_new_privileges) {
        sys::seccomp::install(program).map_err(step("limit the system calls"))?;
    }
    let wanted = &process.capabilities;
    capability::bound(wanted.bounding).map_err(step("limit the capabilities"))?;
    let keep = identity.uid != 0 && !wanted.only_for_root;
    if keep {
        capability::keep_over_setuid().map_err(step("keep capabilities"))?;
    }
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
    // For another user than root the kernel has cleared them already, unless they were kept.
    let none = CapabilitySet(0);
    let (effective, permitted) = match identity.uid == 0 || keep {
        true => (wanted.effective, wanted.permitted),
        false => (none, none),
    };
    capability::set(effective, permitted, wanted.inheritable, wanted.ambient)
        .map_err(step("limit the capabilities"))?;
    if let Some(program) = process.seccomp.as_ref().filter(|_| process.no_new_privileges) {
        sys::seccomp::install(program).map_err(step("limit the system calls"))?;
    }
    Ok(())
}

/// Asks AppArmor to confine the command, where this machine has it; `unconfined` is no request.
fn confine(profile: &str) -> Result<(), Error> {
    let file = ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"]
        .into_iter()
        .find(|file| Path::new(file).exists());
    let Some(file) = file.filter(|_| profile != "unconfined" && has_apparmor()) else {
        return Ok(());
    };
    fs::write(file, format!("exec {profile}"))
        .map_err(|error| Error::Io(format!("apply the AppArmor profile {profile}"), error))
}

fn has_apparmor() -> bool {
    Path::new("/proc/self/attr/apparmor").exists()
        || fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y'))
}

fn unmapped(errno: Errno, kind: &'static str, id: u32) -> Error {
    match errno {
        Errno::EINVAL => Error::Unmapped { kind, id },
        other => Error::Step(format!("become {kind} {id}"), other),
    }
}
