//! From a directory tree to archive entries: what `export`, `commit` and `cp` write.
//!
//! Walks by descriptors and never follows a symbolic link. The tree may belong to a container that
//! runs: a file that shrinks meanwhile is filled up with zeros, one that grows is cut, one that goes
//! is left out.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, minor};
use nix::unistd::{Whence, lseek};

use super::tar::{Entry, Kind, Segment, TarWriter, Time, show};
use crate::sys::attribute;

/// Data is moved in pieces of this size.
const BUFFER: usize = 256 * 1024;
/// Attributes by which union filesystems steer themselves: never part of an image.
const PRIVATE: [&[u8]; 4] =
    [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A file cannot be read.
    #[error("cannot read '{}': {}", show(path), source.desc())]
    Read {
        /// Its path.
        path: Vec<u8>,
        /// Why.
        source: Errno,
    },
    /// The output failed.
    #[error("cannot write the archive: {0}")]
    Write(#[from] io::Error),
}

/// Writes files of trees into an archive.
pub struct Walker<W> {
    tar: TarWriter<W>,
    /// Names under which files with several names were written.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Walker<W> {
    /// Nothing is written yet.
    pub fn new(output: W) -> Self {
        Walker { tar: TarWriter::new(output), links: HashMap::new(), buffer: vec![0; BUFFER] }
    }

    /// Writes an entry without data.
    ///
    /// # Errors
    /// The output's.
    pub fn plain(&mut self, entry: &Entry) -> Result<(), WalkError> {
        Ok(self.tar.entry(entry)?)
    }

    /// Completes the archive.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(self) -> Result<W, WalkError> {
        Ok(self.tar.finish()?)
    }

    /// Writes all that lies in `directory`, under names that begin with `prefix`.
    ///
    /// # Errors
    /// When something cannot be read, or the output fails.
    pub fn content(&mut self, directory: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), WalkError> {
        let read = |source| WalkError::Read { path: prefix.to_vec(), source };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let listed = Dir::openat(directory, ".", flags, Mode::empty()).map_err(read)?;
        let mut names = Vec::new();
        for entry in listed {
            let name: CString = entry.map_err(read)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let name = name.to_bytes();
            let path = [prefix, name].concat();
            self.whole(directory, name, &path)?;
        }
        Ok(())
    }

    /// Writes the file `name` of `directory` as `path`, and all that lies in it.
    ///
    /// # Errors
    /// When something cannot be read, or the output fails.
    pub fn whole(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), WalkError> {
        if self.one(directory, name, path)? != Some(SFlag::S_IFDIR) {
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(directory, OsStr::from_bytes(name), flags, Mode::empty()) {
            Ok(inner) => self.content(inner.as_fd(), &[path, b"/"].concat()),
            Err(Errno::ENOENT) => Ok(()),
            Err(source) => Err(WalkError::Read { path: path.to_vec(), source }),
        }
    }

    /// Writes the file `name` of `directory` as `path`, without what lies in it. Its type; `None`
    /// when it is gone, or is a socket, which archives do not hold.
    ///
    /// # Errors
    /// When it cannot be read, or the output fails.
    pub fn one(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<SFlag>, WalkError> {
        let read = |source| WalkError::Read { path: path.to_vec(), source };
        let os_name = OsStr::from_bytes(name);
        let stat = match fstatat(directory, os_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(None),
            other => other.map_err(read)?,
        };
        let flag = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        let mut entry = entry(path, &stat);
        entry.kind = match flag {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFLNK => Kind::Symlink,
            SFlag::S_IFCHR => Kind::CharDevice,
            SFlag::S_IFBLK => Kind::BlockDevice,
            SFlag::S_IFIFO => Kind::Fifo,
            _ => return Ok(None),
        };
        if flag != SFlag::S_IFDIR && stat.st_nlink > 1 {
            let first = self.links.entry((stat.st_dev, stat.st_ino));
            match first {
                std::collections::hash_map::Entry::Occupied(first) => {
                    entry.kind = Kind::HardLink;
                    entry.link.clone_from(first.get());
                    self.tar.entry(&entry)?;
                    return Ok(Some(flag));
                }
                std::collections::hash_map::Entry::Vacant(first) => {
                    first.insert(path.to_vec());
                }
            }
        }
        entry.xattrs = attribute::all_of_entry(directory, name).map_err(read)?;
        entry.xattrs.retain(|(name, _)| !PRIVATE.iter().any(|private| name.starts_with(private)));
        match flag {
            SFlag::S_IFREG => self.file(directory, os_name, entry)?,
            SFlag::S_IFDIR => {
                entry.path.push(b'/');
                self.tar.entry(&entry)?;
            }
            SFlag::S_IFLNK => {
                entry.link = readlinkat(directory, os_name).map_err(read)?.as_bytes().to_vec();
                self.tar.entry(&entry)?;
            }
            _ => self.tar.entry(&entry)?,
        }
        Ok(Some(flag))
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        mut entry: Entry,
    ) -> Result<(), WalkError> {
        let path = entry.path.clone();
        let read = |source| WalkError::Read { path: path.clone(), source };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            other => File::from(other.map_err(read)?),
        };
        let segments = holes(&file, entry.size).map_err(read)?;
        entry.sparse = (segments.as_slice() != [Segment { offset: 0, length: entry.size }]
            && entry.size > 0)
            .then(|| segments.clone());
        self.tar.entry(&entry)?;
        for segment in segments {
            let mut at = segment.offset;
            let end = segment.offset + segment.length;
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER);
                let room = self.buffer.get_mut(..wanted).unwrap_or_default();
                let mut count = file.read_at(room, at).map_err(|error| {
                    read(Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))
                })?;
                if count == 0 {
                    room.fill(0);
                    count = wanted;
                }
                self.tar.data(room.get(..count).unwrap_or(&[]))?;
                at += count as u64;
            }
        }
        Ok(())
    }
}

fn entry(path: &[u8], stat: &FileStat) -> Entry {
    let size = if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() {
        u64::try_from(stat.st_size).unwrap_or(0)
    } else {
        0
    };
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    Entry {
        path: path.to_vec(),
        link: Vec::new(),
        kind: Kind::File,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size,
        mtime: Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        atime: None,
        device: (number(major(stat.st_rdev)), number(minor(stat.st_rdev))),
        xattrs: Vec::new(),
        sparse: None,
        data_offset: 0,
    }
}

/// Where the data of a file lie; a single piece where its filesystem does not tell.
fn holes(file: &File, size: u64) -> Result<Vec<Segment>, Errno> {
    let mut segments = Vec::new();
    let end = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    let mut at = 0;
    while at < end {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start.min(end),
            // Only a hole is left.
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => {
                return Ok(vec![Segment { offset: 0, length: size }]);
            }
            Err(error) => return Err(error),
        };
        let stop = lseek(file, start, Whence::SeekHole)?.min(end);
        if stop <= start {
            break;
        }
        segments.push(Segment {
            offset: u64::try_from(start).unwrap_or(0),
            length: u64::try_from(stop - start).unwrap_or(0),
        });
        at = stop;
    }
    Ok(segments)
}

/// A directory of a tree, by a path whose symbolic links are not followed.
///
/// # Errors
/// When it is not there.
pub fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = openat(root, ".", flags, Mode::empty())?;
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        here = openat(&here, OsStr::from_bytes(part), flags, Mode::empty())?;
    }
    Ok(here)
}
