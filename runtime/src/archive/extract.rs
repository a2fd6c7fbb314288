//! From archive entries to a directory tree: what `cp` writes.
//!
//! Nothing outside of the target directory is touched, whatever the archive or the tree say: every
//! directory on the way is opened without following symbolic links, and what is in the way of a
//! file is removed rather than written through. A directory never replaces something else, nor the
//! other way round.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev,
    mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::name;
use super::tar::{Entry, Kind, Skip, Stream, TarError, TarReader, Time, show};
use crate::sys::attribute;

/// Data is moved in pieces of this size.
const BUFFER: usize = 256 * 1024;

/// Whom what is written belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Whom the archive says.
    Archive,
    /// This user and group.
    Fixed(u32, u32),
    /// Whoever runs the command.
    Caller,
}

/// Why an archive cannot be written into a tree.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive itself is bad.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// An entry is not acceptable.
    #[error("the entry '{}' is refused: {why}", show(path))]
    Refused {
        /// The entry's name.
        path: Vec<u8>,
        /// What is wrong with it.
        why: String,
    },
    /// Something else is in its place.
    #[error("cannot overwrite {} '{}' with {}", found, show(path), wanted)]
    InTheWay {
        /// The entry's name.
        path: Vec<u8>,
        /// What is there.
        found: &'static str,
        /// What was to be there.
        wanted: &'static str,
    },
    /// The host refused something.
    #[error("cannot {action} '{}': {}", show(path), source.desc())]
    Host {
        /// What was tried.
        action: &'static str,
        /// On which entry.
        path: Vec<u8>,
        /// Why it failed.
        source: Errno,
    },
}

trait Context<T> {
    fn on(self, action: &'static str, path: &[u8]) -> Result<T, ExtractError>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn on(self, action: &'static str, path: &[u8]) -> Result<T, ExtractError> {
        self.map_err(|source| ExtractError::Host { action, path: path.to_owned(), source })
    }
}

/// Writes `archive` into `target`. `rename` gives each entry the name it shall have there; `None`
/// leaves it out.
///
/// # Errors
/// When the archive is bad, would leave `target`, or the host refuses something; what was written
/// before stays.
pub fn extract(
    archive: impl Read,
    target: BorrowedFd<'_>,
    owner: Owner,
    rename: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), ExtractError> {
    let mut reader = TarReader::new(Stream(archive));
    let mut extractor =
        Extractor { target, owner, directories: HashMap::new(), buffer: vec![0; BUFFER] };
    while let Some(mut entry) = reader.next_entry()? {
        let Some(path) = rename(&entry.path) else { continue };
        entry.path = path;
        if entry.kind == Kind::HardLink {
            match rename(&entry.link) {
                Some(link) => entry.link = link,
                None => continue,
            }
        }
        extractor.entry(&entry, &mut reader)?;
    }
    extractor.finish()
}

struct Extractor<'a> {
    target: BorrowedFd<'a>,
    owner: Owner,
    /// Times of directories, set when everything is in them.
    directories: HashMap<Vec<u8>, Time>,
    buffer: Vec<u8>,
}

const NO_FOLLOW: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_CLOEXEC);

impl Extractor<'_> {
    fn entry<R: Skip>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), ExtractError> {
        let path = &entry.path;
        let refused = |why| ExtractError::Refused { path: path.clone(), why };
        let mut parts = name::components(path).map_err(refused)?;
        let Some(name) = parts.pop() else {
            // The target itself: it is there already.
            return Ok(());
        };
        let parent = self.parent(&parts, path)?;
        let os_name = OsStr::from_bytes(name);
        let found = match fstatat(&parent, os_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error).on("look at", path),
        };
        let in_the_way =
            |found, wanted| ExtractError::InTheWay { path: path.clone(), found, wanted };
        if entry.kind == Kind::Directory {
            match found {
                Some(SFlag::S_IFDIR) => {}
                Some(_) => return Err(in_the_way("non-directory", "a directory")),
                None => mkdirat(&parent, os_name, Mode::S_IRWXU).on("create directory", path)?,
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | NO_FOLLOW;
            let directory =
                openat(&parent, os_name, flags, Mode::empty()).on("open directory", path)?;
            self.attributes(directory.as_fd(), entry)?;
            self.directories.insert(path.clone(), entry.mtime);
            return Ok(());
        }
        match found {
            Some(SFlag::S_IFDIR) => return Err(in_the_way("directory", "a non-directory")),
            Some(_) => {
                unlinkat(&parent, os_name, UnlinkatFlags::NoRemoveDir).on("replace", path)?;
            }
            None => {}
        }
        match entry.kind {
            Kind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | NO_FOLLOW;
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                let file = File::from(openat(&parent, os_name, flags, mode).on("create", path)?);
                while let Some((offset, count)) = reader.read_data(&mut self.buffer)? {
                    let piece = self.buffer.get(..count).unwrap_or(&[]);
                    file.write_all_at(piece, offset).map_err(errno).on("write", path)?;
                }
                file.set_len(entry.size).map_err(errno).on("write", path)?;
                self.attributes(file.as_fd(), entry)?;
                let time = timespec(entry.mtime);
                futimens(&file, &time, &time).on("set the times of", path)
            }
            Kind::HardLink => {
                let refused = |why| ExtractError::Refused { path: path.clone(), why };
                let mut parts = name::components(&entry.link).map_err(refused)?;
                let link = parts.pop().ok_or_else(|| {
                    refused("it is a hard link to the directory itself".to_owned())
                })?;
                let from = self.parent(&parts, path)?;
                linkat(&from, OsStr::from_bytes(link), &parent, os_name, AtFlags::empty())
                    .on("link", path)
            }
            Kind::Symlink => {
                symlinkat(OsStr::from_bytes(&entry.link), &parent, os_name)
                    .on("create symbolic link", path)?;
                self.of_name(parent.as_fd(), name, entry)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Directory => {
                let flag = match entry.kind {
                    Kind::CharDevice => SFlag::S_IFCHR,
                    Kind::BlockDevice => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let device = makedev(u64::from(entry.device.0), u64::from(entry.device.1));
                mknodat(&parent, os_name, flag, Mode::S_IRUSR | Mode::S_IWUSR, device)
                    .on("create device", path)?;
                self.of_name(parent.as_fd(), name, entry)
            }
        }
    }

    /// The directory `parts` below the target, made where it is missing.
    fn parent(&self, parts: &[&[u8]], path: &[u8]) -> Result<OwnedFd, ExtractError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | NO_FOLLOW;
        let mut here =
            openat(self.target, ".", flags, Mode::empty()).on("open the directory of", path)?;
        for part in parts {
            let part = OsStr::from_bytes(part);
            here = match openat(&here, part, flags, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    mkdirat(&here, part, Mode::from_bits_truncate(0o755))
                        .on("create the directory of", path)?;
                    openat(&here, part, flags, Mode::empty())
                }
                other => other,
            }
            .on("open the directory of", path)?;
        }
        Ok(here)
    }

    fn ids(&self, entry: &Entry) -> Option<(u32, u32)> {
        match self.owner {
            Owner::Archive => Some((entry.uid, entry.gid)),
            Owner::Fixed(uid, gid) => Some((uid, gid)),
            Owner::Caller => None,
        }
    }

    fn attributes(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), ExtractError> {
        let path = &entry.path;
        let mut mode = entry.mode;
        match self.ids(entry) {
            Some((uid, gid)) => {
                fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .on("set the owner of", path)?;
            }
            // Somebody else's set-user-ID is no right over the caller.
            None => mode &= 0o1777,
        }
        for (name, value) in &entry.xattrs {
            match attribute::set(file, name, value) {
                // As far as the filesystem, and the caller, can.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
                Err(error) => return Err(error).on("set an extended attribute of", path),
            }
        }
        fchmod(file, Mode::from_bits_truncate(mode)).on("set the mode of", path)
    }

    /// The attributes of what cannot be opened.
    fn of_name(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), ExtractError> {
        let path = &entry.path;
        let os_name = OsStr::from_bytes(name);
        if let Some((uid, gid)) = self.ids(entry) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(parent, os_name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .on("set the owner of", path)?;
        }
        if entry.kind != Kind::Symlink {
            let mode = Mode::from_bits_truncate(entry.mode & 0o1777);
            fchmodat(parent, os_name, mode, FchmodatFlags::FollowSymlink)
                .on("set the mode of", path)?;
        }
        let time = timespec(entry.mtime);
        utimensat(parent, os_name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .on("set the times of", path)
    }

    /// Sets the times of directories, deepest first.
    fn finish(self) -> Result<(), ExtractError> {
        let mut directories: Vec<(&Vec<u8>, &Time)> = self.directories.iter().collect();
        directories.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, time) in directories {
            let refused = |why| ExtractError::Refused { path: path.clone(), why };
            let parts = name::components(path).map_err(refused)?;
            let directory = self.parent(&parts, path)?;
            let time = timespec(*time);
            futimens(&directory, &time, &time).on("set the times of", path)?;
        }
        Ok(())
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}

fn timespec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanoseconds))
}
