//! What this machine allows, one sentence each, for `cowl info`.
//!
//! Nothing is concluded from a version or a name where it can be tried; what is tried leaves no
//! trace. (Run inside the user namespace, when there is one: that is where containers live.)

use std::fs::{self, OpenOptions};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::statfs;

use crate::rootfs;
use crate::sys;
use crate::sys::process::Side;
use crate::userns::{self, Standing};

/// One finding: what about, and the sentence.
pub type Finding = (&'static str, String);

/// Runs an experiment in a child process, so that whatever it changes goes with it.
fn works(experiment: impl FnOnce() -> bool) -> bool {
    match sys::process::fork() {
        Ok(Side::Child) => sys::process::exit(u8::from(!experiment())),
        Ok(Side::Parent(child)) => child.wait() == Ok(0),
        Err(_) => false,
    }
}

fn privileges(standing: &Standing) -> String {
    match standing {
        Standing::Root if userns::inside() => {
            "root of a user namespace that was there already; it is used as it is".to_owned()
        }
        Standing::Root => "root of this machine; no user namespace is needed".to_owned(),
        Standing::Subordinate { ids } => {
            format!("an ordinary user, made root of a user namespace with {ids} ids")
        }
        Standing::Single { reason } => format!(
            "an ordinary user, made root of a user namespace with one id only ({reason}); other \
             owners and users in containers are kept by a supervisor and shown as root's"
        ),
    }
}

fn user_namespaces() -> String {
    if works(|| unshare(CloneFlags::CLONE_NEWUSER).is_ok()) {
        "can be made".to_owned()
    } else {
        "cannot be made here".to_owned()
    }
}

fn fuse() -> String {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => "can be opened; root filesystems are mounted by cowlfs".to_owned(),
        Err(error) => format!(
            "cannot be opened ({error}), so root filesystems are mounted by kernel overlayfs where \
             that is allowed: load the module fuse, or make /dev/fuse readable and writable for you"
        ),
    }
}

fn cowlfs() -> String {
    match rootfs::program() {
        Ok(program) => program.display().to_string(),
        Err(error) => error.to_string(),
    }
}

fn overlayfs() -> String {
    let listed = fs::read_to_string("/proc/filesystems").is_ok_and(|list| {
        list.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
    });
    if listed {
        "the kernel has it; it is used where /dev/fuse cannot be opened".to_owned()
    } else {
        "the kernel does not have it; it is not needed".to_owned()
    }
}

fn cgroups() -> String {
    let controllers = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        format!("version 2 ({})", controllers("/sys/fs/cgroup/cgroup.controllers"))
    } else {
        let first = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut names: Vec<_> = first
            .lines()
            .filter_map(|line| line.split(':').nth(1))
            .filter(|name| !name.is_empty())
            .collect();
        names.sort_unstable();
        if names.is_empty() {
            "none".to_owned()
        } else {
            format!("version 1 ({})", names.join(" "))
        }
    };
    let writable = ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs"]
        .into_iter()
        .any(|path| OpenOptions::new().write(true).open(path).is_ok());
    let delegated =
        if writable { "groups could be made here" } else { "no groups can be made here" };
    format!("{version}; {delegated}")
}

fn seccomp() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kernel = if status.lines().any(|line| line.starts_with("Seccomp:")) {
        "the kernel has it"
    } else {
        "the kernel does not have it"
    };
    format!("{kernel}; containers have Docker's default profile")
}

fn network() -> String {
    let made =
        works(|| unshare(CloneFlags::CLONE_NEWNET).is_ok() && sys::network::loopback_up().is_ok());
    if made {
        "network namespaces can be made; containers get none (the default) or the host's".to_owned()
    } else {
        "network namespaces cannot be made, so only --network host works".to_owned()
    }
}

fn store(root: &Path) -> String {
    let existing = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).map_or_else(
        |errno| errno.desc().to_owned(),
        |found| filesystem_name(found.filesystem_type().0),
    );
    format!("{} on {kind}", root.display())
}

/// Names of the filesystems that stores lie on, by their magic numbers in linux/magic.h.
fn filesystem_name(magic: i64) -> String {
    match magic {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0x6573_5546 => "fuse".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        other => format!("a filesystem of type {other:#x}"),
    }
}

/// Everything, in the order in which it is shown.
pub fn findings(standing: &Standing, root: &Path) -> Vec<Finding> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Kernel", kernel.trim().to_owned()),
        ("Privileges", privileges(standing)),
        ("User namespaces", user_namespaces()),
        ("Network", network()),
        ("/dev/fuse", fuse()),
        ("Mount program", cowlfs()),
        ("Kernel overlayfs", overlayfs()),
        ("Cgroups", cgroups()),
        ("Seccomp", seccomp()),
        ("Store", store(root)),
    ]
}
