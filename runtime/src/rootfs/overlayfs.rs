//! A root filesystem mounted by kernel overlayfs, where there is no `/dev/fuse`.
//!
//! In a user namespace the kernel takes its marks from `user.overlay.*` (`userxattr`; Linux 5.11),
//! which is how layers are unpacked there. Directories are named to the kernel by descriptor: an
//! option string has room for one page only, and paths may hold any byte
//! (Documentation/filesystems/overlayfs.rst).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount as mount2};
use nix::sys::stat::Mode;

use super::{Driver, Error, Lower, Rootfs, keeper};
use crate::store::tree;
use crate::userns;

/// Mounts the layers, unpacked where they are not yet, and the write layer of the container in `dir`.
pub fn mount(lower: &Lower, dir: &Path, lock: BorrowedFd<'_>) -> Result<Rootfs, Error> {
    let Lower::Layers { directories, .. } = lower else {
        return Err(Error::OnlyCowlfs("a container on this machine's own root filesystem"));
    };
    let trees = tree::of(directories)?;
    attach(&trees, dir).map_err(Error::Overlayfs)?;
    let server = keeper::start(lock)?;
    Ok(Rootfs { mountpoint: dir.join("rootfs"), server, driver: Driver::Overlayfs })
}

/// Mounts on `dir/rootfs` the directories `lowers`, topmost first, under `dir/upper`.
pub(super) fn attach(lowers: &[PathBuf], dir: &Path) -> nix::Result<()> {
    let open_dir = |path: &Path| {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
    };
    let lowers: Vec<OwnedFd> =
        lowers.iter().map(|path| open_dir(path)).collect::<nix::Result<_>>()?;
    let (upper, work) = (open_dir(&dir.join("upper"))?, open_dir(&dir.join("work"))?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = lowers.iter().map(name).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{}",
        lowers.join(":"),
        name(&upper),
        name(&work),
        if userns::inside() { ",userxattr" } else { "" }
    );
    let target = dir.join("rootfs");
    mount2(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
}

/// Keeps what is mounted from now on in this mount namespace.
pub(super) fn private() -> Result<(), Errno> {
    mount2(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}
