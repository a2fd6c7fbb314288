//! The mounts of a container, in the order of the plan; then what is hidden and made read-only.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::stat::Mode;

use super::plan::{Mount, Source};
use super::tree::{For, Kind, Root, kind_of};
use super::{Error, Plan, Streams, device, fill, step};
use crate::sys::mount::{self, Change, RDONLY};

/// Mounts everything below `root`; opens the terminal when there shall be one.
pub fn furnish(
    root: &mut Root,
    plan: &Plan,
    streams: &Streams,
) -> Result<Option<device::Terminal>, Error> {
    let change = Change { set: plan.rootfs_set, ..Change::default() };
    mount::change(root.fd(), false, change)
        .map_err(step("set the root filesystem's attributes"))?;
    for mount in &plan.mounts {
        mount_one(root, mount)?;
    }
    device::furnish(root, plan)?;
    let terminal = match streams {
        Streams::Terminal(size) => Some(device::open_terminal(root, size.as_ref())?),
        Streams::Separate(_) => None,
    };
    for (name, value) in &plan.sysctls {
        set_kernel(root, name, value)?;
    }
    for path in &plan.read_only_paths {
        read_only(root, path)?;
    }
    for path in &plan.masked {
        mask(root, path)?;
    }
    Ok(terminal)
}

fn mount_one(root: &mut Root, wanted: &Mount) -> Result<(), Error> {
    let target = wanted.target.display();
    let (tree, kind) = match &wanted.source {
        Source::Kernel { kind, options } => {
            let options: Vec<_> =
                options.iter().map(|(key, value)| (key.as_c_str(), value.as_deref())).collect();
            let made = mount::create(kind, &options, wanted.set);
            let name = kind.to_string_lossy();
            let failed = step(format!("mount {name} on {target} in the container"));
            (made.map_err(failed), Kind::Directory)
        }
        Source::Volume { dir, fill, subpath } => {
            let there = if *fill { root.find(&wanted.target)? } else { None };
            if let Some(there) = there
                && kind_of(there.as_fd()) == Ok(Kind::Directory)
            {
                fill::fill(dir, Some(there.as_fd()))?;
            }
            let tree = volume_tree(dir, subpath.as_deref())?;
            let kind = kind_of(tree.as_fd()).map_err(step(format!("look at {target}")))?;
            (Ok(tree), kind)
        }
        Source::Bind { path, recursive } => match tree_of(path, *recursive) {
            Ok(tree) => {
                let kind = kind_of(tree.as_fd()).map_err(step(format!("look at {target}")))?;
                (Ok(tree), kind)
            }
            Err(error) => (Err(error), Kind::Directory),
        },
    };
    let tree = match tree {
        Err(_) if wanted.optional => return Ok(()),
        other => other?,
    };
    let failed = || match &wanted.source {
        Source::Kernel { .. } => step(format!("mount {target} in the container")),
        Source::Volume { dir, .. } => step(format!("mount {} on {target}", dir.display())),
        Source::Bind { path, .. } => step(format!("mount {} on {target}", path.display())),
    };
    let place = root.mountpoint(&wanted.target, kind, wanted.by)?;
    let change = match &wanted.source {
        // Made with its attributes.
        Source::Kernel { .. } => {
            Change { propagation: wanted.propagation.kind, ..Change::default() }
        }
        Source::Bind { .. } | Source::Volume { .. } => {
            Change { set: wanted.set, clear: wanted.clear, propagation: wanted.propagation.kind }
        }
    };
    if wanted.recursive == wanted.propagation.recursive {
        mount::change(tree.as_fd(), wanted.recursive, change).map_err(failed())?;
    } else {
        let (attributes, propagation) = change.split();
        mount::change(tree.as_fd(), wanted.recursive, attributes).map_err(failed())?;
        mount::change(tree.as_fd(), wanted.propagation.recursive, propagation).map_err(failed())?;
    }
    mount::attach(tree.as_fd(), place.as_fd()).map_err(failed())
}

/// What is shown of a volume. A container with the volume may have put links into it: they do not
/// lead out.
fn volume_tree(dir: &Path, subpath: Option<&Path>) -> Result<OwnedFd, Error> {
    let data = dir.join("_data");
    let Some(subpath) = subpath else { return tree_of(&data, false) };
    let failed = || step(format!("open {} in the volume {}", subpath.display(), dir.display()));
    let found = Root::open(&data)?.find(subpath)?.ok_or_else(|| failed()(Errno::ENOENT))?;
    mount::open_tree(found.as_fd(), OsStr::new(""), false).map_err(failed())
}

/// Sets a kernel setting of the container's namespaces.
fn set_kernel(root: &Root, name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let failed = || step(format!("set the kernel's {name} to {value:?}"));
    let file = root.open_for_writing(&path).map_err(failed())?;
    nix::unistd::write(&file, value.as_bytes()).map(drop).map_err(failed())
}

fn read_only(root: &Root, path: &Path) -> Result<(), Error> {
    let Some(place) = root.find(path)? else { return Ok(()) };
    let failed = || step(format!("make {} read-only", path.display()));
    let copy = mount::open_tree(place.as_fd(), OsStr::new(""), true).map_err(failed())?;
    let change = Change { set: RDONLY, ..Change::private() };
    mount::change(copy.as_fd(), true, change).map_err(failed())?;
    mount::attach(copy.as_fd(), place.as_fd()).map_err(failed())
}

fn mask(root: &Root, path: &Path) -> Result<(), Error> {
    let Some(place) = root.find(path)? else {
        return Ok(());
    };
    let failed = || step(format!("hide {}", path.display()));
    let cover = match kind_of(place.as_fd()).map_err(failed())? {
        Kind::Directory => {
            let options: &[(&CStr, Option<&CStr>)] =
                &[(c"size", Some(c"0")), (c"nr_inodes", Some(c"1"))];
            mount::create(c"tmpfs", options, RDONLY).map_err(failed())?
        }
        // The machine's, not the container's: an image may have put something else there.
        Kind::File => {
            mount::open_tree(AT_FDCWD, OsStr::new("/dev/null"), false).map_err(failed())?
        }
    };
    mount::attach(cover.as_fd(), place.as_fd()).map_err(failed())
}

/// Makes the root filesystem read-only; it is the root already.
pub fn read_only_root() -> Result<(), Error> {
    let failed = || step("make the root filesystem read-only");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open("/", flags, Mode::empty()).map_err(failed())?;
    mount::change(root.as_fd(), false, Change { set: RDONLY, ..Change::default() })
        .map_err(failed())
}

/// A detached copy of what is mounted at a path of this machine.
pub fn tree_of(source: &Path, recursive: bool) -> Result<OwnedFd, Error> {
    mount::open_tree(AT_FDCWD, source.as_os_str(), recursive)
        .map_err(step(format!("open {}", source.display())))
}

/// Shows a node of the machine at an open place.
pub fn show_node(source: &Path, place: BorrowedFd<'_>) -> nix::Result<()> {
    let tree = mount::open_tree(AT_FDCWD, source.as_os_str(), false)?;
    let set = mount::NOSUID | mount::NOEXEC;
    mount::change(tree.as_fd(), false, Change { set, ..Change::private() })?;
    mount::attach(tree.as_fd(), place)
}

/// Shows a node of the machine at a path of the container.
pub fn show(root: &mut Root, source: &Path, target: &Path) -> Result<(), Error> {
    let place = root.mountpoint(target, Kind::File, For::Engine)?;
    show_node(source, place.as_fd()).map_err(|errno| match errno {
        Errno::ENOENT => Error::Step(format!("find the device {}", source.display()), errno),
        errno => Error::Step(format!("show the device {}", source.display()), errno),
    })
}
