//! Owners, modes, extended attributes and times of unpacked files.
//!
//! In a user namespace that maps few ids, or one, the host cannot store an image's owners. They are
//! then kept, with the mode, in the attribute `user.containers.override_stat` as
//! containers/storage and fuse-overlayfs write it: `uid:gid:octal mode:type`. The file on the host
//! keeps our own ids and gets no set-user-ID bit: that would be a right over *us*.

use std::os::fd::{AsFd, BorrowedFd};

use cowl_fs::attr::Attr;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::{Context, UnpackError};
use crate::archive::tar::{Entry, Time, show};
use crate::sys::attribute as xattr;

/// Where owners are kept that the host refuses.
const OVERRIDE: &[u8] = b"user.containers.override_stat";
/// Attributes by which union filesystems steer themselves: an image has no say in those.
const PRIVATE: [&[u8]; 4] =
    [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];
/// What a directory gets that nobody describes.
const IMPLIED_MODE: u32 = 0o755;

/// `override_stat`'s word for a directory.
pub const DIRECTORY: &str = "dir";
/// `override_stat`'s word for a regular file.
pub const FILE: &str = "file";

/// What a file is to be like.
#[derive(Debug, Clone)]
pub struct Attributes {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    /// Access and modification time; `None` leaves them as they are.
    times: Option<(Time, Time)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Copied from a file of this store: everything is as the host can have it.
    copied: bool,
}

impl Attributes {
    /// What the archive says.
    pub fn of_entry(entry: &Entry) -> Attributes {
        Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            // Docker's rule: not earlier than the last change.
            times: Some((entry.atime.unwrap_or(entry.mtime).max(entry.mtime), entry.mtime)),
            xattrs: entry.xattrs.clone(),
            copied: false,
        }
    }

    /// What a packed layer says.
    pub fn of_packed(attr: &Attr, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Attributes {
        let mtime = Time { seconds: attr.mtime.sec, nanoseconds: attr.mtime.nsec };
        Attributes {
            uid: attr.uid,
            gid: attr.gid,
            mode: u32::from(attr.perm),
            times: Some((mtime, mtime)),
            xattrs,
            copied: false,
        }
    }

    /// For a directory that no layer describes.
    pub fn implied() -> Attributes {
        Attributes {
            uid: 0,
            gid: 0,
            mode: IMPLIED_MODE,
            times: None,
            xattrs: Vec::new(),
            copied: false,
        }
    }

    /// Those of a file of a lower layer.
    pub fn of_lower(file: BorrowedFd<'_>) -> Result<Attributes, Errno> {
        let mut attributes = Attributes::of_stat(&nix::sys::stat::fstat(file)?);
        attributes.xattrs = xattr::all(file)?;
        attributes.xattrs.retain(|(name, _)| name == OVERRIDE || !is_private(name));
        Ok(attributes)
    }

    /// Those of a file of a lower layer that cannot be opened.
    pub fn of_stat(stat: &FileStat) -> Attributes {
        let time = |seconds, nanoseconds: i64| Time {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        };
        Attributes {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            times: Some((
                time(stat.st_atime, stat.st_atime_nsec),
                time(stat.st_mtime, stat.st_mtime_nsec),
            )),
            xattrs: Vec::new(),
            copied: true,
        }
    }
}

fn is_private(name: &[u8]) -> bool {
    PRIVATE.iter().any(|prefix| name.starts_with(prefix))
}

/// What could not be kept, counted rather than listed.
#[derive(Debug, Default)]
pub struct Losses {
    attributes: Tally,
    owners: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    first: String,
}

impl Tally {
    fn add(&mut self, what: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = what();
        }
        self.count += 1;
    }
}

impl Losses {
    fn attribute(&mut self, name: &[u8], path: &[u8], error: Errno) {
        self.attributes.add(|| format!("{} of '{}': {}", show(name), show(path), error.desc()));
    }

    /// An owner that the host refuses and that could not be kept as an attribute either.
    fn owner(&mut self, wanted: &Attributes, path: &[u8], error: Errno) {
        self.owners
            .add(|| format!("{}:{} of '{}': {}", wanted.uid, wanted.gid, show(path), error.desc()));
    }

    /// One sentence for each kind of loss.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for (tally, what) in
            [(&self.attributes, "extended attribute(s)"), (&self.owners, "owner(s)")]
        {
            if tally.count > 0 {
                sentences.push(format!(
                    "{} {what} could not be kept here, the first: {}",
                    tally.count, tally.first
                ));
            }
        }
        sentences
    }
}

/// Gives the open file or directory its attributes. `kind` is `override_stat`'s word for it.
pub fn apply_to_open(
    file: impl AsFd,
    wanted: &Attributes,
    kind: &str,
    path: &[u8],
    losses: &mut Losses,
) -> Result<(), UnpackError> {
    let file = file.as_fd();
    let refused = chown_refusal(fchown(
        file,
        Some(Uid::from_raw(wanted.uid)),
        Some(Gid::from_raw(wanted.gid)),
    ))
    .on("set the owner of", path)?;
    // Owner first: changing it drops security.capability and the set-user-ID bit.
    for (name, value) in &wanted.xattrs {
        if wanted.copied || !is_private(name) {
            keep_xattr(xattr::set(file, name, value), name, path, losses)?;
        }
    }
    let mode = match refused {
        // A placeholder (any other word) always needs the attribute: see `placeholder`.
        None if matches!(kind, FILE | DIRECTORY) => wanted.mode,
        _ => keep_override(file, wanted, kind, path, losses)?,
    };
    fchmod(file, Mode::from_bits_truncate(mode)).on("set the mode of", path)?;
    if let Some((atime, mtime)) = wanted.times {
        futimens(file, &timespec(atime), &timespec(mtime)).on("set the times of", path)?;
    }
    Ok(())
}

/// Writes `override_stat`, and returns the mode that the file gets on the host.
fn keep_override(
    file: BorrowedFd<'_>,
    wanted: &Attributes,
    kind: &str,
    path: &[u8],
    losses: &mut Losses,
) -> Result<u32, UnpackError> {
    let value = format!("{}:{}:{:04o}:{kind}", wanted.uid, wanted.gid, wanted.mode);
    match xattr::set(file, OVERRIDE, value.as_bytes()) {
        Ok(()) => {}
        Err(error @ (Errno::EOPNOTSUPP | Errno::EPERM)) => losses.owner(wanted, path, error),
        Err(error) => return Err(error).on("keep the owner of", path),
    }
    let ours = if kind == DIRECTORY { 0o700 } else { 0o600 };
    Ok(wanted.mode & 0o777 | ours)
}

/// Gives a symbolic link, a device or a pipe its attributes. `Ok(false)`: the host refuses the
/// owner, and such a file cannot carry `override_stat`.
pub fn apply_to_name(
    directory: impl AsFd,
    name: &[u8],
    wanted: &Attributes,
    is_link: bool,
    path: &[u8],
    losses: &mut Losses,
) -> Result<bool, UnpackError> {
    let directory = directory.as_fd();
    let owner = Some(Uid::from_raw(wanted.uid));
    let group = Some(Gid::from_raw(wanted.gid));
    let result = fchownat(directory, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW);
    if let Some(error) = chown_refusal(result).on("set the owner of", path)? {
        if !is_link {
            return Ok(false);
        }
        losses.owner(wanted, path, error);
    }
    for (attribute, value) in &wanted.xattrs {
        if wanted.copied || !is_private(attribute) {
            keep_xattr(
                xattr::set_entry(directory, name, attribute, value),
                attribute,
                path,
                losses,
            )?;
        }
    }
    if !is_link {
        // Not a link: it has just been made as something else, and nobody else is here.
        fchmodat(
            directory,
            name,
            Mode::from_bits_truncate(wanted.mode),
            FchmodatFlags::FollowSymlink,
        )
        .on("set the mode of", path)?;
    }
    if let Some((atime, mtime)) = wanted.times {
        let (atime, mtime) = (timespec(atime), timespec(mtime));
        utimensat(directory, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)
            .on("set the times of", path)?;
    }
    Ok(true)
}

/// Ids that are not mapped (EINVAL) or not ours to give (EPERM) are no failure.
fn chown_refusal(result: Result<(), Errno>) -> Result<Option<Errno>, Errno> {
    match result {
        Ok(()) => Ok(None),
        Err(error @ (Errno::EPERM | Errno::EINVAL)) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// A filesystem without attributes, or a namespace that may not set this one, is no failure.
fn keep_xattr(
    result: Result<(), Errno>,
    name: &[u8],
    path: &[u8],
    losses: &mut Losses,
) -> Result<(), UnpackError> {
    match result {
        Err(error @ (Errno::EOPNOTSUPP | Errno::EPERM)) => {
            losses.attribute(name, path, error);
            Ok(())
        }
        other => other.on("set an extended attribute of", path),
    }
}

fn timespec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanoseconds))
}
