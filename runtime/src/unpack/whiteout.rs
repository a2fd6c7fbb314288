//! Deleted names and opaque directories, and the directories that take their place.
//!
//! A whiteout speaks about the layers below. Entries of the layer itself win over it, whichever
//! comes first in the archive: a directory that meets a whiteout of its own name becomes opaque.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Unpacker;
use super::place::Place;
use super::union::{is_whiteout, kind, open_directory};
use crate::archive::name::{DOT_OPAQUE, dot_whiteout};
use crate::sys::attribute as xattr;

impl Unpacker<'_> {
    /// Deletes the lower layers' `name`.
    pub(super) fn whiteout(&mut self, place: &Place, name: &[u8]) -> Result<(), Errno> {
        match fstatat(&place.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFDIR => {
                let directory = open_directory(place.fd.as_fd(), name)?;
                return self.make_opaque(&directory);
            }
            Ok(_) => return Ok(()),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        match mknodat(&place.fd, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                let dotted = dot_whiteout(name).ok_or(Errno::ENAMETOOLONG)?;
                self.dot_whiteouts = true;
                touch(&place.fd, &dotted)
            }
            other => other,
        }
    }

    /// Hides everything that the lower layers have in `directory`.
    pub(super) fn make_opaque(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        // The first belongs to the initial user namespace; overlayfs mounted in another one, like
        // cowlfs, reads the second.
        for attribute in [b"trusted.overlay.opaque".as_slice(), b"user.overlay.opaque"] {
            match xattr::set(directory.as_fd(), attribute, b"y") {
                Ok(()) => return Ok(()),
                Err(Errno::EPERM | Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        touch(directory, DOT_OPAQUE)
    }

    /// Makes the directory `name`, unless there is one; any other file of that name in this layer
    /// goes, and a whiteout turns into opacity.
    pub(super) fn make_directory(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let mut hides_lower = false;
        match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                if kind(&stat) == SFlag::S_IFDIR {
                    return Ok(());
                }
                hides_lower = is_whiteout(&stat);
                unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
                mkdirat(parent, name, Mode::S_IRWXU)?;
            }
            Err(error) => return Err(error),
        }
        hides_lower |= self.take_dot_whiteout(parent, name)?;
        if hides_lower {
            let directory = open_directory(parent.as_fd(), name)?;
            self.make_opaque(&directory)?;
        }
        Ok(())
    }

    /// Removes the file form of a whiteout of `name`; whether there was one.
    pub(super) fn take_dot_whiteout(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
    ) -> Result<bool, Errno> {
        let Some(dotted) = dot_whiteout(name).filter(|_| self.dot_whiteouts) else {
            return Ok(false);
        };
        match unlinkat(parent, dotted.as_slice(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn touch(directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(directory, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
}
