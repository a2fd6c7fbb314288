//! Hard links. The other name may be in this layer or, what other engines refuse, in a lower one:
//! then the file is copied up under its own name first, so that both stay names of one file.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mknodat};
use nix::unistd::{Whence, linkat, lseek, symlinkat};

use super::attributes::{self, Attributes};
use super::node::errno;
use super::place::Place;
use super::union::{is_whiteout, kind};
use super::{Context, UnpackError, Unpacker, refused};
use crate::archive::name;
use crate::archive::tar::{Entry, show};

impl Unpacker<'_> {
    pub(super) fn hard_link(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let path = &entry.path;
        let mut parents = name::components(&entry.link)
            .map_err(|why| refused(path, format!("the file it links to: {why}")))?;
        let target = parents
            .pop()
            .ok_or_else(|| refused(path, "it is a hard link to the root directory"))?;
        let target_place = self.place(&parents, path)?;
        let stat = match fstatat(&target_place.fd, target, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error).on("link", path),
        };
        match stat {
            Some(stat) if kind(&stat) == SFlag::S_IFDIR => {
                return Err(refused(path, "it is a hard link to a directory"));
            }
            Some(stat) if is_whiteout(&stat) => return Err(missing(entry)),
            Some(_) => {}
            None => self.bring_up(&target_place, target, entry)?,
        }
        if target_place.path == place.path && target == name {
            return Ok(());
        }
        self.create(place, name, |parent| {
            linkat(&target_place.fd, target, parent, name, AtFlags::empty())
        })
        .on("link", path)
    }

    /// Copies a file of the lower layers into this one, under the same name.
    fn bring_up(&mut self, place: &Place, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        const COPY: &str = "copy the lower layer's file for the hard link";
        self.report.depends_on_parents = true;
        let parents: Vec<Vec<u8>> = place
            .path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let union = self.union_at(&parents).on(COPY, &entry.path)?;
        let Some((lower, stat)) = union.lower_file(name).on(COPY, &entry.path)? else {
            return Err(missing(entry));
        };
        match kind(&stat) {
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let from = openat(lower, name, flags, Mode::empty()).on(COPY, &entry.path)?;
                let wanted =
                    Attributes::of_lower(std::os::fd::AsFd::as_fd(&from)).on(COPY, &entry.path)?;
                let to = self.create_file(place, name).on(COPY, &entry.path)?;
                let to = copy_data(from, to, &stat, &mut self.buffer).on(COPY, &entry.path)?;
                self.report.size += u64::try_from(stat.st_size).unwrap_or(0);
                attributes::apply_to_open(
                    &to,
                    &wanted,
                    attributes::FILE,
                    &entry.path,
                    &mut self.losses,
                )
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(lower, name).on(COPY, &entry.path)?;
                symlinkat(target.as_os_str(), &place.fd, name).on(COPY, &entry.path)?;
                self.copy_name_attributes(place, name, &stat, true, entry)
            }
            other => {
                mknodat(&place.fd, name, other, Mode::S_IRUSR | Mode::S_IWUSR, stat.st_rdev)
                    .on(COPY, &entry.path)?;
                self.copy_name_attributes(place, name, &stat, false, entry)
            }
        }
    }

    fn copy_name_attributes(
        &mut self,
        place: &Place,
        name: &[u8],
        stat: &FileStat,
        is_link: bool,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        let wanted = Attributes::of_stat(stat);
        attributes::apply_to_name(&place.fd, name, &wanted, is_link, &entry.path, &mut self.losses)
            .map(drop)
    }
}

fn missing(entry: &Entry) -> UnpackError {
    let target = show(&entry.link);
    let why = format!(
        "it is a hard link to '{target}', which neither this layer nor those below it have"
    );
    refused(&entry.path, why)
}

/// Copies the data and keeps the holes.
fn copy_data(
    from: OwnedFd,
    to: OwnedFd,
    stat: &FileStat,
    buffer: &mut [u8],
) -> Result<File, Errno> {
    let (from, to) = (File::from(from), File::from(to));
    let mut at = 0;
    while at < stat.st_size {
        let data = match lseek(&from, at, Whence::SeekData) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error),
        };
        at = lseek(&from, data, Whence::SeekHole)?;
        let mut position = u64::try_from(data).unwrap_or(0);
        let end = u64::try_from(at).unwrap_or(0);
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let room = buffer.get_mut(..wanted).ok_or(Errno::EINVAL)?;
            let count = from.read_at(room, position).map_err(errno)?;
            if count == 0 {
                return Err(Errno::EIO);
            }
            to.write_all_at(room.get(..count).unwrap_or(&[]), position).map_err(errno)?;
            position += count as u64;
        }
    }
    to.set_len(u64::try_from(stat.st_size).unwrap_or(0)).map_err(errno)?;
    Ok(to)
}
