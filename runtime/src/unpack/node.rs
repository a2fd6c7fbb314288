//! Making files of each kind.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mknodat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::attributes::{self, Attributes};
use super::place::Place;
use super::union::kind;
use super::{Context, UnpackError, Unpacker, refused};
use crate::archive::tar::{Entry, Kind, Skip, TarReader};
use crate::store::remove_tree;

impl Unpacker<'_> {
    pub(super) fn directory(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        self.make_directory(&place.fd, name).on("create directory", &entry.path)?;
        self.directories.insert(place.join(name), Attributes::of_entry(entry));
        Ok(())
    }

    pub(super) fn file<R: Skip>(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
        archive: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let path = &entry.path;
        let file = File::from(self.create_file(place, name).on("create", path)?);
        let mut end = 0;
        while let Some((offset, count)) = archive.read_data(&mut self.buffer)? {
            let piece = self.buffer.get(..count).unwrap_or(&[]);
            file.write_all_at(piece, offset).map_err(errno).on("write", path)?;
            end = offset + count as u64;
        }
        if end != entry.size {
            // A hole at the end.
            file.set_len(entry.size).map_err(errno).on("write", path)?;
        }
        self.report.size += entry.size;
        let wanted = Attributes::of_entry(entry);
        attributes::apply_to_open(&file, &wanted, attributes::FILE, path, &mut self.losses)
    }

    pub(super) fn symlink(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        if entry.link.is_empty() {
            return Err(refused(&entry.path, "it is a symbolic link to nowhere"));
        }
        let target = entry.link.as_slice();
        self.create(place, name, |parent| symlinkat(target, parent, name))
            .on("create symbolic link", &entry.path)?;
        let wanted = Attributes::of_entry(entry);
        attributes::apply_to_name(&place.fd, name, &wanted, true, &entry.path, &mut self.losses)
            .map(drop)
    }

    /// Devices and pipes.
    pub(super) fn special(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let path = &entry.path;
        let (major, minor) = entry.device;
        let (flag, word) = match entry.kind {
            Kind::CharDevice => (SFlag::S_IFCHR, format!("char-{major}-{minor}")),
            Kind::BlockDevice => (SFlag::S_IFBLK, format!("block-{major}-{minor}")),
            _ => (SFlag::S_IFIFO, "pipe".to_owned()),
        };
        let wanted = Attributes::of_entry(entry);
        let device = makedev(u64::from(major), u64::from(minor));
        let made = self.create(place, name, |parent| {
            mknodat(parent, name, flag, Mode::S_IRUSR | Mode::S_IWUSR, device)
        });
        match made {
            Ok(()) => {
                if attributes::apply_to_name(
                    &place.fd,
                    name,
                    &wanted,
                    false,
                    path,
                    &mut self.losses,
                )? {
                    return Ok(());
                }
            }
            // User namespaces may not make devices.
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error).on("create device", path),
        }
        // A placeholder: an empty file whose attribute says what it stands for.
        let file = self.create_file(place, name).on("create", path)?;
        attributes::apply_to_open(&file, &wanted, &word, path, &mut self.losses)
    }

    /// A new empty regular file in place of whatever this layer has under that name.
    pub(super) fn create_file(&mut self, place: &Place, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.create(place, name, |parent| {
            openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        })
    }

    /// Runs `make`, and once more after clearing the place if something is in it.
    pub(super) fn create<T>(
        &mut self,
        place: &Place,
        name: &[u8],
        make: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let made = match make(&place.fd) {
            Err(Errno::EEXIST) => {
                self.clear(place, name)?;
                make(&place.fd)
            }
            other => other,
        }?;
        self.take_dot_whiteout(&place.fd, name)?;
        Ok(made)
    }

    /// Removes what an earlier entry of this layer put here.
    fn clear(&mut self, place: &Place, name: &[u8]) -> Result<(), Errno> {
        let stat = fstatat(&place.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind(&stat) != SFlag::S_IFDIR {
            return unlinkat(&place.fd, name, UnlinkatFlags::NoRemoveDir);
        }
        let path = place.join(name);
        self.directories.retain(|directory, _| {
            directory
                .strip_prefix(path.as_slice())
                .is_none_or(|rest| !rest.is_empty() && !rest.starts_with(b"/"))
        });
        self.places.clear();
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        remove_tree(place.fd.as_fd(), &name)
    }
}

/// The errno of an error that a system call returned.
pub fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}
