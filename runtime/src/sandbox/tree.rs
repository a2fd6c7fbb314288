//! Places inside a root filesystem whose content is not trusted.
//!
//! A path is first resolved by reading each link inside the root (an absolute link starts at that
//! root, `..` stops there), making what is missing; the result has no links left and is opened
//! once more with openat2 and RESOLVE_NO_SYMLINKS, so that somebody who changes a shared
//! directory meanwhile gets an error and not a way out.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, readlinkat};
use nix::sys::stat::{Mode, UtimensatFlags, fstat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;

use super::{Error, step};
use crate::sys::descriptor::open_below;

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;

/// What a mountpoint must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

/// Whether a mountpoint that is missing belongs to the engine or was asked for by the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Taken away again at the end, and not a change that `diff` shows.
    Engine,
    /// Stays, as in Docker.
    User,
}

/// The root filesystem.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    made: Vec<PathBuf>,
}

impl Root {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(step("open the root filesystem"))?;
        Ok(Self { fd, made: Vec::new() })
    }

    /// Its directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The mountpoints that were made for the engine, absolute, outer ones first.
    pub fn made(self) -> Vec<PathBuf> {
        self.made
    }

    /// Opens what is at `path` (as processes in the container will see it); none when missing.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>, Error> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match open_below(self.fd.as_fd(), path, how) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(step(format!("open {} in the container", path.display()))(errno)),
        }
    }

    /// Opens a file of the kernel's, for writing.
    pub fn open_for_writing(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        open_below(self.fd.as_fd(), path, how)
    }

    fn strict(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        open_below(self.fd.as_fd(), path, how)
    }

    /// The mountpoint at `path`, made when missing, with the directories above it.
    pub fn mountpoint(&mut self, path: &Path, kind: Kind, by: For) -> Result<OwnedFd, Error> {
        let failed = |what: &str, errno| {
            Error::Step(format!("{what} the mountpoint {} in the container", path.display()), errno)
        };
        let mut resolved = PathBuf::new();
        let mut links = 0;
        let mut rest: VecDeque<OsString> = parts(path);
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                resolved.pop();
                continue;
            }
            let parent = self.strict(&resolved).map_err(|errno| failed("open", errno))?;
            let here = resolved.join(&part);
            match readlinkat(&parent, part.as_os_str()) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(failed("resolve", Errno::ELOOP));
                    }
                    let target = PathBuf::from(target);
                    if target.is_absolute() {
                        resolved = PathBuf::new();
                    }
                    for part in parts(&target).into_iter().rev() {
                        rest.push_front(part);
                    }
                    continue;
                }
                Err(Errno::EINVAL) => {} // there, and no link
                Err(Errno::ENOENT) => {
                    let kind = if rest.is_empty() { kind } else { Kind::Directory };
                    make(&parent, &part, kind, by).map_err(|errno| failed("make", errno))?;
                    // What lies in another mount is not in the root filesystem.
                    let device = |fd| fstat(fd).map(|stat| stat.st_dev);
                    if by == For::Engine && device(&parent) == device(&self.fd) {
                        self.made.push(Path::new("/").join(&here));
                    }
                }
                Err(errno) => return Err(failed("open", errno)),
            }
            resolved = here;
        }
        let found = self.strict(&resolved).map_err(|errno| failed("open", errno))?;
        let is_directory = fstat(&found)
            .map(|stat| stat.st_mode & libc_mode::S_IFMT == libc_mode::S_IFDIR)
            .map_err(|errno| failed("look at", errno))?;
        match (is_directory, kind) {
            (true, Kind::File) => Err(failed("mount a file on", Errno::EISDIR)),
            (false, Kind::Directory) => Err(failed("mount a directory on", Errno::ENOTDIR)),
            _ => Ok(found),
        }
    }
}

/// File type bits of a mode.
mod libc_mode {
    pub use nix::libc::{S_IFDIR, S_IFMT};
}

/// Names of a path, from the root; a leading or inner `..` stays.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn make(parent: &OwnedFd, name: &OsString, kind: Kind, by: For) -> nix::Result<()> {
    let before = fstat(parent)?;
    let mode = Mode::from_bits_truncate(0o755); // Docker's, for files too
    match kind {
        Kind::Directory => mkdirat(parent, name.as_os_str(), mode)?,
        Kind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            drop(nix::fcntl::openat(parent, name.as_os_str(), flags, mode)?);
        }
    }
    if by == For::Engine {
        // The directory's time shall not tell of it.
        let access = TimeSpec::new(before.st_atime, before.st_atime_nsec);
        let modification = TimeSpec::new(before.st_mtime, before.st_mtime_nsec);
        let path = std::format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(parent));
        let cwd = nix::fcntl::AT_FDCWD;
        utimensat(cwd, path.as_str(), &access, &modification, UtimensatFlags::FollowSymlink)?;
    }
    Ok(())
}

/// Whether something is a directory, for choosing the kind of a mountpoint.
pub fn kind_of(fd: BorrowedFd<'_>) -> nix::Result<Kind> {
    let stat = fstatat(fd, "", nix::fcntl::AtFlags::AT_EMPTY_PATH)?;
    let directory = stat.st_mode & libc_mode::S_IFMT == libc_mode::S_IFDIR;
    Ok(if directory { Kind::Directory } else { Kind::File })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn setup() -> (tempfile::TempDir, Root) {
        let outer = tempfile::tempdir().unwrap();
        let inside = outer.path().join("root");
        fs::create_dir_all(inside.join("real/dir")).unwrap();
        fs::create_dir(outer.path().join("host")).unwrap();
        symlink("/real/dir", inside.join("absolute")).unwrap();
        symlink("../../../../host", inside.join("real/out")).unwrap();
        symlink("run/missing/file", inside.join("dangling")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        let root = Root::open(&inside).unwrap();
        (outer, root)
    }

    #[test]
    fn links_stay_inside() {
        let (outer, mut root) = setup();
        let inside = outer.path().join("root");
        root.mountpoint(Path::new("/absolute/new"), Kind::Directory, For::User).unwrap();
        assert!(inside.join("real/dir/new").is_dir());
        root.mountpoint(Path::new("/real/out/x"), Kind::Directory, For::User).unwrap();
        assert!(inside.join("host/x").is_dir());
        root.mountpoint(Path::new("/../../y"), Kind::File, For::User).unwrap();
        assert!(inside.join("y").is_file());
        root.mountpoint(Path::new("/dangling"), Kind::File, For::User).unwrap();
        assert!(inside.join("run/missing/file").is_file());
        assert_eq!(fs::read_dir(outer.path().join("host")).unwrap().count(), 0);
        assert!(root.mountpoint(Path::new("/loop"), Kind::File, For::User).is_err());
        assert!(root.mountpoint(Path::new("/y"), Kind::Directory, For::User).is_err());
        assert!(root.mountpoint(Path::new("/real"), Kind::File, For::User).is_err());
        assert!(root.mountpoint(Path::new("/y/z"), Kind::File, For::User).is_err());
    }

    #[test]
    fn what_the_engine_makes_is_noted_and_leaves_no_trace_in_times() {
        let (outer, mut root) = setup();
        let real = outer.path().join("root/real");
        let before = fs::metadata(&real).unwrap();
        root.mountpoint(Path::new("/real/a/b"), Kind::File, For::Engine).unwrap();
        root.mountpoint(Path::new("/real/dir"), Kind::Directory, For::Engine).unwrap();
        let after = fs::metadata(&real).unwrap();
        assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
        assert_eq!(root.made(), [Path::new("/real/a"), Path::new("/real/a/b")]);
    }
}
