//! The mounts of a container, with Docker's options and in Docker's order.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::tree::{For, Kind, Root, kind_of};
use super::{Error, Plan, Streams, device, step};
use crate::spec::{Network, Volume};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};

/// Hidden: they show or change the machine. A file becomes /dev/null, a directory empty.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Readable only: writing to them would change the machine.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The files Docker writes for each container.
const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// Mounts everything below `root`; opens the terminal when there shall be one.
pub fn furnish(
    root: &mut Root,
    plan: &Plan,
    streams: &Streams,
) -> Result<Option<device::Terminal>, Error> {
    // See `device`: nodes in the image, or made in the container, do not open.
    mount::set_attributes(root.fd(), false, NODEV)
        .map_err(step("forbid devices in the root filesystem"))?;
    fresh(root, "/proc", c"proc", &[], NOSUID | NODEV | NOEXEC)?;
    let devices = device::furnish(root)?;
    fresh(
        root,
        "/dev/shm",
        c"tmpfs",
        &[(c"mode", Some(c"1777")), (c"size", Some(c"64m"))],
        NOSUID | NODEV | NOEXEC,
    )?;
    fresh(root, "/dev/mqueue", c"mqueue", &[], NOSUID | NODEV | NOEXEC)?;
    if plan.user_namespace && plan.spec.network == Network::Host {
        // A new sysfs needs privileges over the network namespace that it shows.
        let sys = tree_of(Path::new("/sys"), true)?;
        attach(root, &sys, "/sys", Kind::Directory, RDONLY | NOSUID | NODEV | NOEXEC, true)?;
    } else {
        fresh(root, "/sys", c"sysfs", &[], RDONLY | NOSUID | NODEV | NOEXEC)?;
    }
    let terminal = match streams {
        Streams::Terminal(size) => Some(device::open_terminal(root, &devices, size.as_ref())?),
        Streams::Separate(_) => None,
    };
    for (file, target) in FILES {
        // A volume on the same place replaces ours, as in Docker.
        if !plan.spec.volumes.iter().any(|volume| volume.target == Path::new(target)) {
            let tree = tree_of(&plan.files.join(file), false)?;
            attach(root, &tree, target, Kind::File, 0, false)?;
        }
    }
    for volume in &plan.spec.volumes {
        bind(root, volume)?;
    }
    for path in READ_ONLY {
        if let Some(place) = root.find(Path::new(path))? {
            let copy = mount::open_tree(place.as_fd(), OsStr::new(""), true)
                .map_err(step(format!("copy the mount {path}")))?;
            mount::set_attributes(copy.as_fd(), true, RDONLY)
                .map_err(step(format!("make {path} read-only")))?;
            mount::attach(copy.as_fd(), place.as_fd())
                .map_err(step(format!("make {path} read-only")))?;
        }
    }
    for path in MASKED {
        mask(root, path)?;
    }
    Ok(terminal)
}

fn mask(root: &Root, path: &str) -> Result<(), Error> {
    let Some(place) = root.find(Path::new(path))? else {
        return Ok(());
    };
    let failed = || step(format!("hide {path}"));
    let cover = match kind_of(place.as_fd()).map_err(failed())? {
        Kind::Directory => {
            let options: &[(&CStr, Option<&CStr>)] =
                &[(c"size", Some(c"0")), (c"nr_inodes", Some(c"1"))];
            mount::create(c"tmpfs", options, RDONLY).map_err(failed())?
        }
        Kind::File => {
            let null = root.find(Path::new("/dev/null"))?;
            let null = null.ok_or_else(|| failed()(Errno::ENOENT))?;
            mount::open_tree(null.as_fd(), OsStr::new(""), false).map_err(failed())?
        }
    };
    mount::attach(cover.as_fd(), place.as_fd()).map_err(failed())
}

/// Mounts a new kernel filesystem.
pub fn fresh(
    root: &mut Root,
    target: &str,
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: u64,
) -> Result<OwnedFd, Error> {
    let place = root.mountpoint(Path::new(target), Kind::Directory, For::Engine)?;
    let name = kind.to_string_lossy();
    let failed = || step(format!("mount {name} on {target} in the container"));
    let mounted = mount::create(kind, options, attributes).map_err(failed())?;
    mount::attach(mounted.as_fd(), place.as_fd()).map_err(failed())?;
    Ok(mounted)
}

/// A detached copy of what is mounted at a path of this machine.
pub fn tree_of(source: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    mount::open_tree(AT_FDCWD, source.as_os_str(), recursive)
        .map_err(step(format!("open {}", source.display())))
}

fn attach(
    root: &mut Root,
    tree: &OwnedFd,
    target: &str,
    kind: Kind,
    attributes: u64,
    recursive: bool,
) -> Result<(), Error> {
    let place = root.mountpoint(Path::new(target), kind, For::Engine)?;
    mount::set_attributes(tree.as_fd(), recursive, attributes)
        .and_then(|()| mount::attach(tree.as_fd(), place.as_fd()))
        .map_err(step(format!("mount {target} in the container")))
}

fn bind(root: &mut Root, volume: &Volume) -> Result<(), Error> {
    let tree = tree_of(&volume.source, true)?;
    let failed =
        || step(format!("mount {} on {}", volume.source.display(), volume.target.display()));
    let kind = kind_of(tree.as_fd()).map_err(failed())?;
    let place = root.mountpoint(&volume.target, kind, For::User)?;
    let mut attributes = if volume.read_only { RDONLY } else { 0 };
    // Devices open only where the user gave some; a container may make nodes in the others.
    if kind == Kind::Directory && !volume.source.starts_with("/dev") {
        attributes |= NODEV;
    }
    mount::set_attributes(tree.as_fd(), true, attributes)
        .and_then(|()| mount::attach(tree.as_fd(), place.as_fd()))
        .map_err(failed())
}

/// Text for a mount option.
pub fn option_value(number: u32) -> Result<CString, Error> {
    CString::new(number.to_string())
        .map_err(|_| Error::Step("write an option".to_owned(), Errno::EINVAL))
}
