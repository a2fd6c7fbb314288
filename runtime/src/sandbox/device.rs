//! `/dev`: a small tmpfs with the nodes every container has, and its own pseudo-terminals.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::symlinkat;

use super::mounts::{fresh, option_value};
use super::tree::Root;
use super::{Error, step};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, STRICTATIME};
use crate::sys::tty::{self, WindowSize};

const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The group that owns terminals on every distribution.
const TTY_GROUP: u32 = 5;

/// The mounted devices.
#[derive(Debug)]
pub struct Devices {
    dev: OwnedFd,
    pts: OwnedFd,
}

/// Both sides of the container's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Ours.
    pub master: OwnedFd,
    /// The container's.
    pub slave: OwnedFd,
}

/// Makes `/dev`.
///
/// The nodes are this machine's, bind-mounted one by one, also for root. The tmpfs itself is
/// `nodev`, as the root filesystem is: a container may have CAP_MKNOD, as in Docker, and with no
/// device control group to forbid it, a node it makes for the machine's disk must not open.
pub fn furnish(root: &mut Root) -> Result<Devices, Error> {
    let options: &[_] = &[(c"mode", Some(c"755")), (c"size", Some(c"65536k"))];
    let dev = fresh(root, "/dev", c"tmpfs", options, NOSUID | NODEV | STRICTATIME)?;
    for name in NODES {
        node(&dev, name).map_err(step(format!("make /dev/{name} in the container")))?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &dev, name)
            .map_err(step(format!("make /dev/{name} in the container")))?;
    }
    for dir in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, dir, Mode::from_bits_truncate(0o755))
            .map_err(step(format!("make /dev/{dir} in the container")))?;
    }
    let group = option_value(TTY_GROUP)?;
    let mut options =
        vec![(c"newinstance", None), (c"ptmxmode", Some(c"0666")), (c"mode", Some(c"0620"))];
    if group_is_mapped(TTY_GROUP) {
        options.push((c"gid", Some(group.as_c_str())));
    }
    let pts = fresh(root, "/dev/pts", c"devpts", &options, NOSUID | NOEXEC)?;
    Ok(Devices { dev, pts })
}

fn node(dev: &OwnedFd, name: &str) -> nix::Result<()> {
    let source = Path::new("/dev").join(name);
    let tree = mount::open_tree(AT_FDCWD, source.as_os_str(), false)?;
    mount::set_attributes(tree.as_fd(), false, NOSUID | NOEXEC)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    drop(openat(dev, name, flags, Mode::from_bits_truncate(0o666))?);
    let place = openat(dev, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    mount::attach(tree.as_fd(), place.as_fd())
}

/// Whether a group exists in this user namespace (devpts refuses one that does not).
fn group_is_mapped(group: u32) -> bool {
    let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(first), Some(_), Some(count)) => {
                (first..first.saturating_add(count)).contains(&u64::from(group))
            }
            _ => false,
        }
    })
}

/// Opens a terminal of the container's own devpts, and shows it as /dev/console too.
pub fn open_terminal(
    root: &Root,
    devices: &Devices,
    size: Option<&WindowSize>,
) -> Result<Terminal, Error> {
    let failed = || step("open a terminal in the container");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = openat(&devices.pts, "ptmx", flags, Mode::empty()).map_err(failed())?;
    let slave = tty::open_peer(master.as_fd()).map_err(failed())?;
    if let Some(size) = size {
        tty::set_window_size(master.as_fd(), size).map_err(failed())?;
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file =
        openat(&devices.dev, "console", flags, Mode::from_bits_truncate(0o600)).map_err(failed())?;
    fchmod(&file, Mode::from_bits_truncate(0o600)).map_err(failed())?;
    let number = tty::number(master.as_fd()).map_err(failed())?;
    let path = format!("/dev/pts/{number}");
    let source = root
        .find(Path::new(&path))?
        .ok_or_else(|| Error::Step(format!("find {path} in the container"), Errno::ENOENT))?;
    let tree =
        mount::open_tree(source.as_fd(), std::ffi::OsStr::new(""), false).map_err(failed())?;
    let place = root.find(Path::new("/dev/console"))?.ok_or_else(|| {
        Error::Step("find /dev/console in the container".to_owned(), Errno::ENOENT)
    })?;
    mount::attach(tree.as_fd(), place.as_fd()).map_err(failed())?;
    Ok(Terminal { master, slave })
}
