//! The first content of a new volume: what the image has where it is mounted, as in Docker.
//!
//! Runs before the volume is mounted, in the process that will be PID 1. Both trees are walked by
//! descriptors, and no link is followed. Owners, modes, times and extended attributes come along.
//! A copy that was interrupted is begun anew: it is marked while it goes on.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::{Error, step};
use crate::sys::attribute;
use crate::sys::descriptor::{LockKind, lock};

fn io_errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

/// Fills the volume in directory `volume` from `source`, when it is empty or half filled.
pub fn fill(volume: &Path, source: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    let failed = || step(format!("fill the volume {}", volume.display()));
    let io_failed = |error: io::Error| failed()(io_errno(&error));
    let held = File::create(volume.join(".lock")).map_err(io_failed)?;
    lock(held.as_fd(), LockKind::Exclusive).map_err(failed())?;
    let (data, mark) = (volume.join("_data"), volume.join(".filling"));
    let half = mark.exists();
    let empty = fs::read_dir(&data).map_err(io_failed)?.next().is_none();
    let Some(source) = source.filter(|_| half || empty) else { return Ok(()) };
    let from = reopen(source).map_err(failed())?;
    if half {
        for entry in fs::read_dir(&data).map_err(io_failed)? {
            let entry = entry.map_err(io_failed)?;
            let removed = if entry.file_type().map_err(io_failed)?.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.map_err(io_failed)?;
        }
    }
    File::create(&mark).map_err(io_failed)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let to = open(&data, flags, Mode::empty()).map_err(failed())?;
    directory(from, &to, 0).map_err(failed())?;
    fs::remove_file(&mark).map_err(io_failed)
}

/// Opens a directory that is known by a path descriptor.
fn reopen(dir: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(dir, ".", flags, Mode::empty())
}

/// As deep as a path can be named.
const DEEPEST: usize = 2048;

/// Copies the content and the attributes of a directory.
fn directory(from: OwnedFd, to: &OwnedFd, depth: usize) -> nix::Result<()> {
    if depth > DEEPEST {
        return Err(Errno::ELOOP);
    }
    let stat = fstat(&from)?;
    let mut listing = Dir::from_fd(from.try_clone().map_err(|error| io_errno(&error))?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        use std::os::unix::ffi::OsStrExt;
        one(&from, to, OsStr::from_bytes(name.to_bytes()), depth)?;
    }
    attributes(&from, to)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", to.as_raw_fd()));
    owner(to.as_fd(), OsStr::new(""), &stat)?;
    fchmodat(nix::fcntl::AT_FDCWD, &path, mode(&stat), FchmodatFlags::FollowSymlink)?;
    times(nix::fcntl::AT_FDCWD, path.as_os_str(), &stat, UtimensatFlags::FollowSymlink)
}

fn mode(stat: &FileStat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode & 0o7777)
}

/// An owner that this user namespace cannot give stays the caller's.
fn owner(dir: BorrowedFd<'_>, name: &OsStr, stat: &FileStat) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH;
    match fchownat(dir, name, Some(uid), Some(gid), flags) {
        Err(Errno::EINVAL | Errno::EPERM) => Ok(()),
        other => other,
    }
}

fn times(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    stat: &FileStat,
    flag: UtimensatFlags,
) -> nix::Result<()> {
    let access = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let modification = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    utimensat(dir, name, &access, &modification, flag)
}

/// What there is of them; a filesystem without any has none.
fn listed(from: &OwnedFd) -> nix::Result<Vec<attribute::Attribute>> {
    match attribute::all(from.as_fd()) {
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        other => other,
    }
}

/// Extended attributes; those that the volume's filesystem refuses stay behind.
fn attributes(from: &OwnedFd, to: &OwnedFd) -> nix::Result<()> {
    for (name, value) in listed(from)? {
        match attribute::set(to.as_fd(), &name, &value) {
            Ok(()) | Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &OsStr, depth: usize) -> nix::Result<()> {
    let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & nix::libc::S_IFMT);
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let flags = read | OFlag::O_DIRECTORY;
            let (inner, made) = (
                openat(from, name, flags, Mode::empty())?,
                openat(to, name, flags, Mode::empty())?,
            );
            return directory(inner, &made, depth.saturating_add(1));
        }
        SFlag::S_IFREG => {
            let source = openat(from, name, read, Mode::empty())?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let made = openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
            let (mut reader, mut writer) = (
                File::from(source.try_clone().map_err(|error| io_errno(&error))?),
                File::from(made.try_clone().map_err(|error| io_errno(&error))?),
            );
            io::copy(&mut reader, &mut writer).map_err(|error| io_errno(&error))?;
            owner(to.as_fd(), name, &stat)?;
            attributes(&source, &made)?;
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name)?;
            symlinkat(target.as_os_str(), to, name)?;
            owner(to.as_fd(), name, &stat)?;
            return times(to.as_fd(), name, &stat, UtimensatFlags::NoFollowSymlink);
        }
        other => {
            // A device that cannot be made here (in a user namespace) stays behind.
            match mknodat(to, name, other, Mode::S_IRUSR | Mode::S_IWUSR, stat.st_rdev) {
                Err(Errno::EPERM) => return Ok(()),
                made => made?,
            }
            owner(to.as_fd(), name, &stat)?;
        }
    }
    fchmodat(to, name, mode(&stat), FchmodatFlags::FollowSymlink)?;
    times(to.as_fd(), name, &stat, UtimensatFlags::NoFollowSymlink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_new_volume_gets_the_images_content_once() {
        let dir = tempfile::tempdir().unwrap();
        let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
        fs::create_dir_all(image.join("sub/deep")).unwrap();
        fs::create_dir_all(volume.join("_data")).unwrap();
        fs::write(image.join("sub/file"), "content").unwrap();
        fs::set_permissions(image.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/passwd", image.join("link")).unwrap();
        let source = File::open(&image).unwrap();
        fill(&volume, Some(source.as_fd())).unwrap();
        let data = volume.join("_data");
        assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "content");
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&data.join("sub/file")), mode(&data)), (0o4751, 0o1777));
        assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(image.join("sub/file")), time(data.join("sub/file")));
        assert!(!volume.join(".filling").exists());

        // What is there is never touched, and what was half done is done again.
        fs::write(data.join("sub/file"), "changed").unwrap();
        fill(&volume, Some(source.as_fd())).unwrap();
        assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "changed");
        fs::write(volume.join(".filling"), "").unwrap();
        fill(&volume, Some(source.as_fd())).unwrap();
        assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "content");
    }
}
