//! The root filesystem of a container: layers and a write layer.
//!
//! cowlfs mounts it, as a child of the monitor and in the monitor's mount namespace, so that
//! nothing of it shows on the machine and everything goes with the namespace, whoever is killed.
//! Where there is no `/dev/fuse`, kernel overlayfs does, in the same place ([`Driver`]).
//!
//! Either way a process stands for the root filesystem: cowlfs, or a [`keeper`] that does nothing
//! but hold the container's lock and die with the monitor. So the rest of the runtime does not
//! know the difference.

mod cowlfs;
pub mod driver;
mod keeper;
mod overlayfs;

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::container::Config;
use crate::sys::process::Child;
use crate::{sys, userns};

pub use cowlfs::program;
pub use driver::Driver;

/// The environment variable that names another mount program.
pub const PROGRAM_VARIABLE: &str = "COWLFS";

/// How long cowlfs may take from unmount to exit before it is asked, and then made, to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What lies under the write layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lower {
    /// An image's layers.
    Layers {
        /// Their directories, topmost first.
        directories: Vec<PathBuf>,
        /// Whether what the host refuses to store (owners, devices) is kept in an attribute, as
        /// the layers have it: in a user namespace.
        owners_kept: bool,
    },
    /// This machine's own root filesystem, without what is mounted on it and without the store.
    Machine {
        /// The store, to be hidden.
        store: PathBuf,
        /// Whether ids that this user namespace lacks are shown as root's.
        unmapped_to_root: bool,
    },
}

impl Lower {
    /// What lies under the write layer of a container of the store at `root`.
    pub fn of(config: &Config, root: &Path) -> Self {
        let inside = userns::inside();
        if config.image_id.is_none() {
            let store = root.canonicalize().unwrap_or_else(|_| root.to_owned());
            return Self::Machine { store, unmapped_to_root: inside };
        }
        let directories = config.layers.iter().map(|layer| layer.path()).collect();
        Self::Layers { directories, owners_kept: inside }
    }
}

/// Why there is no root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount program is missing.
    #[error(
        "cannot find the mount program cowlfs: put it beside cowl or into PATH, or name it in the \
         environment variable COWLFS"
    )]
    NoProgram,
    /// It could not be started.
    #[error("cannot start {program}: {source}", program = .program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before the mount was usable.
    #[error("cowlfs cannot mount the root filesystem: {0}")]
    Mount(String),
    /// The kernel refuses to mount it.
    #[error(
        "kernel overlayfs cannot mount the root filesystem: {desc}; /dev/fuse cannot be opened \
         either: make it readable and writable for you",
        desc = .0.desc()
    )]
    Overlayfs(Errno),
    /// What only cowlfs can do.
    #[error(
        "{0} needs cowlfs, and /dev/fuse cannot be opened: make it readable and writable for you"
    )]
    OnlyCowlfs(&'static str),
    /// The layers cannot be unpacked for it.
    #[error(transparent)]
    Tree(#[from] crate::store::tree::Error),
    /// The container was made by another driver than there is now.
    #[error(transparent)]
    Driver(#[from] driver::Error),
    /// The user went away meanwhile.
    #[error("interrupted while the root filesystem was being mounted")]
    Interrupted,
    /// A system call.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    System(&'static str, Errno),
}

/// A mounted root filesystem.
#[derive(Debug)]
pub struct Rootfs {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// cowlfs, which ends when it is unmounted, or a keeper, which is told to.
    server: Child,
    driver: Driver,
}

impl AsFd for Rootfs {
    /// Readable when the process that stands for it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.server.as_fd()
    }
}

impl Rootfs {
    /// Mounts the layers for the container in `dir`, in this mount namespace. `lock` is inherited
    /// by the process that stands for the mount, which thereby keeps the container locked as long
    /// as it lives. `interrupt` becoming readable gives up.
    pub fn mount(
        lower: &Lower,
        dir: &Path,
        lock: BorrowedFd<'_>,
        interrupt: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
        match driver::of(dir)? {
            Driver::Cowlfs => cowlfs::mount(lower, dir, lock, interrupt),
            Driver::Overlayfs => overlayfs::mount(lower, dir, lock),
        }
    }

    /// The process that stands for it.
    pub fn pid(&self) -> Pid {
        self.server.pid
    }

    /// Removes the mountpoints that the engine made, where the container left them empty.
    pub fn remove_mountpoints(&self, made: &[PathBuf]) {
        for path in made.iter().rev() {
            let Ok(inside) = path.strip_prefix("/") else { continue };
            let place = self.mountpoint.join(inside);
            // A container may have replaced anything on the way by a link to somewhere else.
            let canonical = place.parent().and_then(|parent| parent.canonicalize().ok());
            let Some(parent) = canonical.filter(|parent| parent.starts_with(&self.mountpoint))
            else {
                continue;
            };
            let Ok(found) = fs::symlink_metadata(&place) else { continue };
            let before = fs::metadata(&parent).and_then(|parent| {
                Ok(FileTimes::new()
                    .set_accessed(parent.accessed()?)
                    .set_modified(parent.modified()?))
            });
            // Whatever cannot be removed stays as an empty name, which `diff` knows about.
            let removed = if found.is_dir() {
                fs::remove_dir(&place)
            } else if found.is_file() && found.len() == 0 {
                fs::remove_file(&place)
            } else {
                continue;
            };
            if let (Ok(()), Ok(before)) = (removed, before) {
                // The directory's time shall not tell of it.
                File::open(&parent).and_then(|parent| parent.set_times(before)).ok();
            }
        }
    }

    /// Unmounts and waits until cowlfs has written everything and ended.
    pub fn unmount(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        match umount2(&self.mountpoint, MntFlags::empty()) {
            Err(Errno::EBUSY) => {
                umount2(&self.mountpoint, MntFlags::MNT_DETACH)
                    .map_err(|errno| Error::System("unmount the root filesystem", errno))?;
            }
            // Not mounted (any more): cowlfs was killed or never came so far.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOTCONN) => {}
            Err(errno) => return Err(Error::System("unmount the root filesystem", errno)),
        }
        if self.driver != Driver::Cowlfs {
            sys::process::kill(self.as_fd(), Signal::SIGTERM as i32).ok();
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if self.ended_within(PATIENCE) {
                break;
            }
            sys::process::kill(self.as_fd(), signal as i32).ok();
        }
        self.server
            .wait()
            .map(drop)
            .map_err(|errno| Error::System("wait for the root filesystem's process", errno))
    }

    fn ended_within(&self, patience: Duration) -> bool {
        let start = Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => return false,
                Ok(_) => return true,
            }
        }
    }
}
