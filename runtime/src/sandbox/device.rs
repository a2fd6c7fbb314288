//! `/dev`: the nodes and links every container has, and its own pseudo-terminals.
//!
//! The nodes are the machine's, bind-mounted one by one, also for root. Where they lie, a tmpfs,
//! may be `nodev`, as the root filesystem is: a container may have CAP_MKNOD, as in Docker, and
//! where no control group forbids it, a node it makes for the machine's disk must not open.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fchmodat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::plan::{Device, NodeKind};
use super::tree::{For, Kind, Root};
use super::{Error, Plan, mounts, step};
use crate::sys::mount;
use crate::sys::tty::{self, WindowSize};

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Both sides of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Ours.
    pub master: OwnedFd,
    /// The container's.
    pub slave: OwnedFd,
}

/// Makes nodes and links, where `/dev` is a mount of the plan's and not one of the machine's.
pub fn furnish(root: &mut Root, plan: &Plan) -> Result<(), Error> {
    for device in &plan.devices {
        match device {
            Device::Shown { source, target } => mounts::show(root, source, target)?,
            Device::Made { target, kind, number, mode, owner } => {
                let kind = match kind {
                    NodeKind::Character => SFlag::S_IFCHR,
                    NodeKind::Block => SFlag::S_IFBLK,
                    NodeKind::Fifo => SFlag::S_IFIFO,
                };
                make(root, target, kind, *number, *mode, *owner)?;
            }
        }
    }
    let shown = plan.mounts.iter().any(|mount| {
        mount.target == Path::new("/dev")
            && matches!(mount.source, super::plan::Source::Bind { .. })
    });
    let Some(dev) = root.find(Path::new("/dev"))?.filter(|_| !shown) else { return Ok(()) };
    for (target, name) in LINKS {
        match symlinkat(target, &dev, name) {
            // Asked for by the user, or the image's.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(step(format!("make /dev/{name} in the container"))(errno)),
        }
    }
    Ok(())
}

/// Makes a node; shows the machine's where the kernel refuses (in a user namespace it does).
fn make(
    root: &mut Root,
    target: &Path,
    kind: SFlag,
    number: (u64, u64),
    mode: u32,
    owner: (u32, u32),
) -> Result<(), Error> {
    let failed = || step(format!("make {} in the container", target.display()));
    let (Some(above), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(failed()(Errno::EINVAL));
    };
    let dir = root.mountpoint(above, Kind::Directory, For::Engine)?;
    let permissions = Mode::from_bits_truncate(mode);
    let mut made = mknodat(&dir, name, kind, permissions, makedev(number.0, number.1));
    if made == Err(Errno::EEXIST) {
        nix::unistd::unlinkat(&dir, name, nix::unistd::UnlinkatFlags::NoRemoveDir)
            .map_err(failed())?;
        made = mknodat(&dir, name, kind, permissions, makedev(number.0, number.1));
    }
    match made {
        Err(Errno::EPERM) => return mounts::show(root, target, target),
        other => other.map_err(failed())?,
    }
    fchmodat(&dir, name, permissions, nix::sys::stat::FchmodatFlags::FollowSymlink)
        .map_err(failed())?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    fchownat(&dir, name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(failed())
}

/// Opens a terminal of the container's own devpts, and shows it as /dev/console too.
pub fn open_terminal(root: &mut Root, size: Option<&WindowSize>) -> Result<Terminal, Error> {
    let failed = || step("open a terminal in the container");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let pts = root.find(Path::new("/dev/pts"))?.ok_or_else(|| failed()(Errno::ENOENT))?;
    let master = openat(&pts, "ptmx", flags, Mode::empty()).map_err(failed())?;
    let terminal = other_side(master, size)?;
    let place = root.mountpoint(Path::new("/dev/console"), Kind::File, For::Engine)?;
    let number = tty::number(terminal.master.as_fd()).map_err(failed())?;
    let path = format!("/dev/pts/{number}");
    let source = root
        .find(Path::new(&path))?
        .ok_or_else(|| Error::Step(format!("find {path} in the container"), Errno::ENOENT))?;
    let tree =
        mount::open_tree(source.as_fd(), std::ffi::OsStr::new(""), false).map_err(failed())?;
    mount::attach(tree.as_fd(), place.as_fd()).map_err(failed())?;
    Ok(terminal)
}

/// One more terminal, for a process that has the container's root already.
pub fn new_terminal(size: Option<&WindowSize>) -> Result<Terminal, Error> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())
        .map_err(step("open a terminal in the container"))?;
    other_side(master, size)
}

fn other_side(master: OwnedFd, size: Option<&WindowSize>) -> Result<Terminal, Error> {
    let failed = || step("open a terminal in the container");
    let slave = tty::open_peer(master.as_fd()).map_err(failed())?;
    if let Some(size) = size {
        tty::set_window_size(master.as_fd(), size).map_err(failed())?;
    }
    Ok(Terminal { master, slave })
}
