//! Removing a tree: of any depth, whatever its modes, without following a link.
//!
//! Only two descriptors are open at a time, so that a tree deeper than the limit of open files can
//! be removed. Nobody else changes the tree meanwhile (callers first move it out of sight), which
//! makes going up by `..` sound.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes `name` in `parent`, a file or a whole tree; a missing one is not an error.
///
/// # Errors
/// The kernel's, of the call that failed.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    let mut current = open_directory(parent, name)?;
    let mut above: Vec<CString> = Vec::new();
    loop {
        if let Some(child) = empty(&current)? {
            let below = open_directory(current.as_fd(), &child)?;
            above.push(child);
            current = below;
        } else if let Some(done) = above.pop() {
            current = open_directory(current.as_fd(), c"..")?;
            unlinkat(&current, done.as_c_str(), UnlinkatFlags::RemoveDir)?;
        } else {
            return unlinkat(parent, name, UnlinkatFlags::RemoveDir);
        }
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::EACCES) => {
            // Our own directory, with a mode that shuts us out.
            fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            openat(parent, name, flags, Mode::empty())
        }
        other => other,
    }
}

/// Removes everything in `directory` but directories that are not empty; returns one of those.
fn empty(directory: &OwnedFd) -> Result<Option<CString>, Errno> {
    let mut retried = false;
    loop {
        match empty_once(directory) {
            Err(Errno::EACCES) if !retried => {
                nix::sys::stat::fchmod(directory, Mode::S_IRWXU)?;
                retried = true;
            }
            other => return other,
        }
    }
}

fn empty_once(directory: &OwnedFd) -> Result<Option<CString>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::openat(directory, c".", flags, Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR | Errno::EPERM) => {
                match unlinkat(directory, name, UnlinkatFlags::RemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(Errno::ENOTEMPTY | Errno::EEXIST) => return Ok(Some(name.to_owned())),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
