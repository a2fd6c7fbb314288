//! A container's filesystem, for a command outside of the container.
//!
//! That of a container that runs is reached through its processes. For one that does not, the
//! command mounts it in a mount namespace of its own, and keeps the container locked meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::container::lock::{Holder, Lock};
use crate::container::{self, Container};
use crate::rootfs::{self, Lower, Rootfs};
use crate::sys::descriptor::open_below;

/// Why a container's filesystem cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The container.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// Its filesystem cannot be mounted.
    #[error(transparent)]
    Mount(#[from] rootfs::Error),
    /// A system call.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    System(&'static str, Errno),
    /// It is being started or stopped.
    #[error("container {0} is being started or stopped: try again")]
    Busy(String),
}

/// A container's filesystem.
pub struct Access {
    root: OwnedFd,
    mounted: Option<(Rootfs, Lock)>,
}

impl Access {
    /// The image and what the container changed, without what is mounted in it.
    ///
    /// # Errors
    /// When it cannot be reached or mounted.
    pub fn files(container: &Container, store: &Path) -> Result<Access, AccessError> {
        match container.state.status.live() {
            Some(live) if container.alive()? => {
                // cowlfs is in the mount namespace in which it is mounted.
                let inside = container.dir.join("rootfs");
                let inside = inside.strip_prefix("/").unwrap_or(&inside);
                let path = Path::new("/proc").join(live.filesystem.pid.to_string());
                Self::through(&path.join("root").join(inside))
            }
            _ => Self::mount(container, store),
        }
    }

    /// What a process in the container sees; for a container that does not run, what it would see
    /// but for volumes.
    ///
    /// # Errors
    /// When it cannot be reached or mounted.
    pub fn inside(container: &Container, store: &Path) -> Result<Access, AccessError> {
        match container.state.status.live() {
            Some(live) if container.alive()? => {
                Self::through(&Path::new("/proc").join(live.init.pid.to_string()).join("root"))
            }
            _ => Self::mount(container, store),
        }
    }

    fn through(path: &Path) -> Result<Access, AccessError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty())
            .map_err(|errno| AccessError::System("reach the container's filesystem", errno))?;
        Ok(Access { root, mounted: None })
    }

    fn mount(container: &Container, store: &Path) -> Result<Access, AccessError> {
        if Lock::probe(&container.dir)? == Holder::Somebody {
            return Err(AccessError::Busy(container.config.name.clone()));
        }
        let lock = Lock::container(&container.dir)?;
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| {
                let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            })
            .map_err(|errno| AccessError::System("make a mount namespace", errno))?;
        let lower = Lower::of(&container.config, store);
        // Nobody writes to it: only the end of this process ends the mounting.
        let (interrupt, _kept) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map_err(|errno| AccessError::System("make a pipe", errno))?;
        let rootfs = Rootfs::mount(&lower, &container.dir, lock.as_fd(), interrupt.as_fd())?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(&rootfs.mountpoint, flags, Mode::empty()) {
            Ok(root) => Ok(Access { root, mounted: Some((rootfs, lock)) }),
            Err(errno) => {
                rootfs.unmount()?;
                Err(AccessError::System("open the container's filesystem", errno))
            }
        }
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path as a process in the container would, and never anything outside of it.
    ///
    /// # Errors
    /// The host's.
    pub fn open(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { b"/" } else { path };
        open_below(self.root.as_fd(), OsStr::from_bytes(path), how)
    }

    /// Where an open file of the container is, as a path of the container.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn path_of(file: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
        use std::os::fd::AsRawFd;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        nix::fcntl::readlink(link.as_str()).map(PathBuf::from)
    }

    /// Ends the access: what was mounted for it goes, and everything written is in the write layer.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub fn close(self) -> Result<(), AccessError> {
        drop(self.root);
        if let Some((rootfs, _lock)) = self.mounted {
            rootfs.unmount()?;
        }
        Ok(())
    }
}
