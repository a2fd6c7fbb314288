//! Looking things up in the layer being unpacked and the layers below it, as a container would see
//! them, one directory at a time and without following links.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::name::{DOT_OPAQUE, dot_whiteout};
use crate::sys::attribute as xattr;

/// The two names under which overlayfs keeps an opaque mark.
const OPAQUE_ATTRIBUTES: [&std::ffi::CStr; 2] = [c"trusted.overlay.opaque", c"user.overlay.opaque"];

/// A directory: what of it lies in the layer being unpacked, and in the layers below, topmost first.
pub struct Union {
    pub own: Option<OwnedFd>,
    pub lowers: Vec<OwnedFd>,
}

/// What a name is in a [`Union`].
pub enum Found {
    Absent,
    Directory(Union),
    Symlink(Vec<u8>),
    /// Any other file; in the layer being unpacked, or in the lower with this index.
    Other {
        lower: Option<usize>,
    },
}

impl Union {
    /// The root directory.
    pub fn root(own: &OwnedFd, lowers: &[OwnedFd]) -> Result<Union, Errno> {
        let again = |fd: &OwnedFd| open_directory(fd.as_fd(), b".");
        let mut union = Union { own: Some(again(own)?), lowers: Vec::new() };
        if !is_opaque(own.as_fd())? {
            for lower in lowers {
                union.lowers.push(again(lower)?);
                if is_opaque(lower.as_fd())? {
                    break;
                }
            }
        }
        Ok(union)
    }

    /// What `name` is here. A symbolic link is returned whichever layer has it.
    pub fn child(&self, name: &[u8]) -> Result<Found, Errno> {
        let mut below = Union { own: None, lowers: Vec::new() };
        let own = self.own.iter().map(|fd| (None, fd));
        let lowers = self.lowers.iter().enumerate().map(|(index, fd)| (Some(index), fd));
        for (lower, directory) in own.chain(lowers) {
            let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) if has_dot_whiteout(directory, name)? => break,
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(error),
            };
            if is_whiteout(&stat) {
                break;
            }
            let nothing_above = below.own.is_none() && below.lowers.is_empty();
            match kind(&stat) {
                SFlag::S_IFDIR => {
                    let child = open_directory(directory.as_fd(), name)?;
                    let opaque = is_opaque(child.as_fd())?;
                    match lower {
                        None => below.own = Some(child),
                        Some(_) => below.lowers.push(child),
                    }
                    if opaque {
                        break;
                    }
                }
                SFlag::S_IFLNK if nothing_above => {
                    let target: OsString = readlinkat(directory, name)?;
                    return Ok(Found::Symlink(target.into_vec()));
                }
                _ if nothing_above => return Ok(Found::Other { lower }),
                // A directory above hides it, and everything below it.
                _ => break,
            }
        }
        if below.own.is_none() && below.lowers.is_empty() {
            return Ok(Found::Absent);
        }
        Ok(Found::Directory(below))
    }

    /// The file `name` of the lower layers, if they show one that is no directory: the layer's
    /// directory here, and what it is.
    pub fn lower_file(&self, name: &[u8]) -> Result<Option<(&OwnedFd, FileStat)>, Errno> {
        for directory in &self.lowers {
            match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if is_whiteout(&stat) || kind(&stat) == SFlag::S_IFDIR => return Ok(None),
                Ok(stat) => return Ok(Some((directory, stat))),
                Err(Errno::ENOENT) if has_dot_whiteout(directory, name)? => return Ok(None),
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The type bits of a file's mode.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether this is overlayfs's mark for a deleted name.
pub fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

fn has_dot_whiteout(directory: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match dot_whiteout(name) {
        Some(dotted) => exists(directory.as_fd(), &dotted),
        None => Ok(false),
    }
}

fn exists(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    for attribute in OPAQUE_ATTRIBUTES {
        match xattr::get(directory, attribute) {
            Ok(value) if value == b"y" => return Ok(true),
            Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => {}
            Err(error) => return Err(error),
        }
    }
    exists(directory, DOT_OPAQUE)
}

/// Opens the directory `name`, which must not be a symbolic link.
pub fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
