//! The on-disk language of union layers: names and xattrs that are marks, not data.
//!
//! Written: kernel overlayfs's format (Documentation/filesystems/overlayfs.rst), in the `trusted.`
//! namespace where the mount may use it, else in `user.` (as overlayfs does with `userxattr`).
//! Read as well: AUFS's `.wh.` files and fuse-overlayfs's `user.fuseoverlayfs.` xattrs.

use std::os::fd::BorrowedFd;

use crate::ident::Origin;
use crate::sys::{self, Errno, Result};

/// Prefix of AUFS (and OCI layer) whiteout files.
pub const AUFS_WHITEOUT: &[u8] = b".wh.";
/// Name of AUFS's opaque marker file.
pub const AUFS_OPAQUE: &[u8] = b".wh..wh..opq";

/// The device that stands for a user's character device 0:0 (with the mark): major 0 is never a real
/// one.
pub const STAND_IN: u64 = 0xff;

/// The xattr namespaces marks are looked for in; the written one comes first.
const PREFIXES: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs."];

/// A mark in an xattr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `y`: the directory hides the same directory of the layers below. `x`: it holds regular files
    /// that are whiteouts.
    Opaque,
    /// Where in the layers below the content of a renamed directory lies.
    Redirect,
    /// `y`: the directory holds entries that were copied up, whose shown inode number is theirs.
    Impure,
    /// An empty regular file with this is a whiteout (Linux 6.7, "xwhiteouts").
    Whiteout,
    /// The file has attributes only; its data is the lower file's (overlayfs `metacopy`).
    Metacopy,
    /// Our own, on a character device [`STAND_IN`]: users made it as 0:0, which by itself would be a
    /// whiteout.
    StandIn,
    /// Our own: the [`Origin`] that the file had before it was copied up.
    Origin,
    /// Our own: only some of the file's data is in the upper (see `partial`).
    Partial,
}

impl Mark {
    fn suffix(self) -> &'static [u8] {
        match self {
            Mark::Opaque => b"opaque",
            Mark::Redirect => b"redirect",
            Mark::Impure => b"impure",
            Mark::Whiteout => b"whiteout",
            Mark::Metacopy => b"metacopy",
            Mark::StandIn => b"cowl.rdev",
            Mark::Origin => b"cowl.origin",
            Mark::Partial => b"cowl.partial",
        }
    }
}

/// Which namespace the marks of a mount are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// `trusted.overlay.`: root in the initial user namespace.
    Trusted,
    /// `user.overlay.`: everyone else.
    User,
    /// The upper's filesystem has no xattrs at all: opaque directories become AUFS marker files.
    None,
}

impl Namespace {
    /// Full xattr name of `mark`, `None` where there are no xattrs.
    pub fn name(self, mark: Mark) -> Option<Vec<u8>> {
        let prefix: &[u8] = match self {
            Namespace::Trusted => b"trusted.overlay.",
            Namespace::User => b"user.overlay.",
            Namespace::None => return None,
        };
        Some([prefix, mark.suffix()].concat())
    }
}

/// Whether an xattr is one of the format's own and therefore never shown nor settable.
pub fn is_private(name: &[u8]) -> bool {
    PREFIXES.iter().any(|p| name.starts_with(p)) || crate::ownership::is_record(name)
}

/// Errors that mean "there is no such mark here".
pub fn absent(e: Errno) -> bool {
    matches!(e, Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM | Errno::EACCES)
}

/// Reads `mark` of `name` in `dir` in any of the namespaces.
pub fn read(dir: BorrowedFd<'_>, name: &[u8], mark: Mark) -> Result<Option<Vec<u8>>> {
    for prefix in PREFIXES {
        match sys::xattr::get(dir, name, &[prefix, mark.suffix()].concat()) {
            Ok(v) => return Ok(Some(v)),
            Err(e) if absent(e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The marks a directory carries in its xattrs.
#[derive(Debug, Default)]
pub struct XattrMarks {
    /// Hides the same directory of the layers below.
    pub opaque: bool,
    /// Holds whiteouts in the form of regular files.
    pub xwhiteouts: bool,
    /// Holds entries that were copied up.
    pub impure: bool,
    /// Where the layers below hold its content.
    pub redirect: Option<Vec<u8>>,
}

/// Reads all marks of the directory `name` in `dir`: one system call when it has no xattrs.
pub fn dir_marks(dir: BorrowedFd<'_>, name: &[u8]) -> Result<XattrMarks> {
    let mut marks = XattrMarks::default();
    each_mark(dir, name, |suffix, value| {
        match suffix {
            b"opaque" => match value()?.as_deref() {
                Some(b"y") => marks.opaque = true,
                Some(b"x") => marks.xwhiteouts = true,
                _ => {}
            },
            b"impure" => marks.impure = true,
            b"redirect" => marks.redirect = marks.redirect.take().or(value()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(marks)
}

/// Calls `f` with the name of each mark, without its prefix, and a way to read its value.
fn each_mark(
    dir: BorrowedFd<'_>,
    name: &[u8],
    mut f: impl FnMut(&[u8], &dyn Fn() -> Result<Option<Vec<u8>>>) -> Result<()>,
) -> Result<()> {
    let names = match sys::xattr::list(dir, name) {
        Ok(names) => names,
        // EBADF: a directory that may be searched but not read, so no xattrs either.
        Err(e) if absent(e) || e == Errno::EBADF => return Ok(()),
        Err(e) => return Err(e),
    };
    for attr in names.split(|&b| b == 0) {
        let Some(suffix) = PREFIXES.iter().find_map(|p| attr.strip_prefix(*p)) else { continue };
        let value = || match sys::xattr::get(dir, name, attr) {
            Ok(v) => Ok(Some(v)),
            Err(e) if absent(e) => Ok(None),
            Err(e) => Err(e),
        };
        f(suffix, &value)?;
    }
    Ok(())
}

/// The marks an object carries in its xattrs when it was copied up.
#[derive(Debug, Default)]
pub struct ObjectMarks {
    /// Which object it was.
    pub origin: Option<Origin>,
    /// The epoch in which its data was copied up, if that is not known to be on the disk.
    pub unsynced: Option<u64>,
    /// Its data is still that of the lower file.
    pub metacopy: bool,
    /// Part of its data is still that of the lower file: the mark, not yet understood.
    pub partial: Option<Vec<u8>>,
    /// Where the layers below hold that, if not under the same name.
    pub redirect: Option<Vec<u8>>,
}

/// Reads the marks of the object `name` in `dir`: one system call when it has no xattrs.
pub fn object_marks(dir: BorrowedFd<'_>, name: &[u8]) -> Result<ObjectMarks> {
    let mut marks = ObjectMarks::default();
    each_mark(dir, name, |suffix, value| {
        match suffix {
            b"cowl.origin" => {
                let (origin, unsynced) = value()?.map_or((None, None), |v| Origin::read(&v));
                (marks.origin, marks.unsynced) = (origin, unsynced);
            }
            b"cowl.partial" => marks.partial = value()?,
            b"metacopy" => marks.metacopy = true,
            b"redirect" => marks.redirect = value()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(marks)
}

/// The name that an AUFS whiteout file hides; `None` when `name` is no such file.
pub fn aufs_hidden(name: &[u8]) -> Option<&[u8]> {
    let hidden = name.strip_prefix(AUFS_WHITEOUT)?;
    (!hidden.is_empty() && !hidden.starts_with(AUFS_WHITEOUT)).then_some(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aufs_names() {
        for (name, hidden) in [
            (&b".wh.a"[..], Some(&b"a"[..])),
            (b".wh.", None),
            (b".wh..wh..opq", None),
            (b".wh..wh.plnk", None),
            (b"a.wh.b", None),
            (b".wh..hidden", Some(b".hidden")),
        ] {
            assert_eq!(aufs_hidden(name), hidden, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn private_names() {
        assert!(is_private(b"trusted.overlay.opaque"));
        assert!(is_private(b"user.overlay.anything"));
        assert!(is_private(b"user.fuseoverlayfs.opaque"));
        assert!(!is_private(b"user.overlayx"));
        assert!(!is_private(b"user.comment"));
    }
}
