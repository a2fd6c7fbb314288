//! A lower layer that is a directory tree of the host.
//!
//! Directories are opened one component at a time from the root's descriptor and kept in the
//! mount's cache of directory descriptors; a path is never handed to the kernel.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{At, DirMarks, Found, Layer, Listed, LowerRef, Metacopy};
use crate::attr::{Attr, Kind, Time};
use crate::fdcache::{DirKey, FdCache};
use crate::format::{self, Mark};
use crate::ident::LayerId;
use crate::ownership::Ownership;
use crate::sys::dir::RawEntry;
use crate::sys::file::Part;
use crate::sys::{self, Errno, Result};

/// A directory of a host tree: its place is its chain of names.
#[derive(Debug)]
pub struct HostDir {
    /// Key of its descriptor in the cache.
    key: DirKey,
    parent: Option<Arc<HostDir>>,
    label: Label,
}

/// Longest name that is kept in a [`HostDir`] itself.
const SHORT: usize = 22;

/// What a directory is called. A merged directory has one in each layer that holds it, so names of
/// usual length take no room of their own.
#[derive(Debug)]
enum Label {
    Short {
        len: u8,
        name: [u8; SHORT],
    },
    Long(Box<[u8]>),
    /// Another filesystem is mounted here and the layer stays on its own: shown empty.
    Foreign(Box<[u8]>),
}

impl Label {
    fn new(name: &[u8]) -> Label {
        let mut short = [0; SHORT];
        match short.get_mut(..name.len()) {
            Some(part) => {
                part.copy_from_slice(name);
                Label::Short { len: name.len() as u8, name: short }
            }
            None => Label::Long(name.into()),
        }
    }
}

impl HostDir {
    fn name(&self) -> &[u8] {
        match &self.label {
            Label::Short { len, name } => name.get(..usize::from(*len)).unwrap_or_default(),
            Label::Long(name) | Label::Foreign(name) => name,
        }
    }

    fn foreign(&self) -> bool {
        matches!(self.label, Label::Foreign(_))
    }
}

/// How a host directory is to be seen.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Show directories that other filesystems are mounted on as empty.
    pub one_file_system: bool,
    /// Paths of the host that are not shown (`-o hide=`), as (device, inode).
    pub hidden: HashSet<(u64, u64)>,
    /// Where owners, modes and nodes are kept that the host refused.
    pub ownership: Ownership,
    /// Owner ids that this user namespace does not map are shown as 0.
    pub unmapped_to_root: bool,
}

/// A directory tree of the host as a layer.
#[derive(Debug)]
pub struct HostLayer {
    id: LayerId,
    dev: u64,
    root_fd: OwnedFd,
    root: Arc<HostDir>,
    fds: Arc<FdCache>,
    view: View,
    /// The ids under which this user namespace sees owners that it does not map.
    overflow: (u32, u32),
}

impl HostLayer {
    /// The open directory `root_fd` as layer `id`.
    ///
    /// # Errors
    /// Errors of fstat(2).
    pub fn new(root_fd: OwnedFd, id: LayerId, fds: Arc<FdCache>, view: View) -> Result<HostLayer> {
        let dev = sys::dir::fstat(root_fd.as_fd())?.dev;
        let ownership = view.ownership.of_layer(root_fd.as_fd())?;
        let view = View { ownership, ..view };
        let root = Arc::new(HostDir { key: fds.new_key(), parent: None, label: Label::new(b"") });
        Ok(HostLayer { id, dev, root_fd, root, fds, view, overflow: sys::process::overflow_ids() })
    }

    /// The directory's descriptor, opened again when it was closed.
    fn dir_fd(&self, dir: &Arc<HostDir>) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.fds.get(dir.key) {
            return Ok(fd);
        }
        let fd = self.open_dir(dir)?;
        self.fds.put(dir.key, &fd);
        Ok(fd)
    }

    /// Opens a directory from its nearest open ancestor; what is opened on the way is kept.
    fn open_dir(&self, dir: &Arc<HostDir>) -> Result<Arc<OwnedFd>> {
        let Some(parent) = &dir.parent else {
            return Ok(Arc::new(sys::dir::open_dir(self.root_fd.as_fd(), b".")?));
        };
        let base = self.parent_fd(parent)?;
        Ok(Arc::new(sys::dir::open_dir(base.as_fd(), dir.name())?))
    }

    fn parent_fd(&self, dir: &Arc<HostDir>) -> Result<Arc<OwnedFd>> {
        let mut missing = Vec::new();
        let mut at = dir;
        let mut base = loop {
            if let Some(fd) = self.fds.get(at.key) {
                break fd;
            }
            let Some(parent) = &at.parent else {
                let fd = Arc::new(self.root_fd.try_clone().map_err(|_| Errno::EMFILE)?);
                self.fds.put(at.key, &fd);
                break fd;
            };
            missing.push(at);
            at = parent;
        };
        for dir in missing.into_iter().rev() {
            base = Arc::new(sys::dir::open_dir(base.as_fd(), dir.name())?);
            self.fds.put(dir.key, &base);
        }
        Ok(base)
    }

    /// The descriptor and name that reach `at`; the name is empty for a directory.
    fn reach<'a>(&self, at: &'a LowerRef) -> Result<(Arc<OwnedFd>, &'a [u8])> {
        match &at.at {
            At::HostDir(dir) => Ok((self.dir_fd(dir)?, b"")),
            At::HostFile(dir, name) => Ok((self.dir_fd(dir)?, name)),
            At::Packed(_) => Err(Errno::EIO), // of another layer
        }
    }

    fn dir<'a>(&self, at: &'a LowerRef) -> Result<&'a Arc<HostDir>> {
        match &at.at {
            At::HostDir(dir) => Ok(dir),
            At::HostFile(..) => Err(Errno::ENOTDIR),
            At::Packed(_) => Err(Errno::EIO), // of another layer
        }
    }

    fn host_dir(&self, parent: &Arc<HostDir>, name: &[u8], foreign: bool) -> At {
        At::HostDir(Arc::new(HostDir {
            key: self.fds.new_key(),
            parent: Some(Arc::clone(parent)),
            label: if foreign { Label::Foreign(name.into()) } else { Label::new(name) },
        }))
    }

    fn present(&self, mut attr: Attr) -> Attr {
        // Where owners are kept, a layer is our own and the overflow id in it is just an id.
        if self.view.unmapped_to_root && self.view.ownership == Ownership::Native {
            if attr.uid == self.overflow.0 {
                attr.uid = 0;
            }
            if attr.gid == self.overflow.1 {
                attr.gid = 0;
            }
        }
        attr
    }

    /// Whether the entry is a whiteout in device or xattr form.
    fn is_whiteout(&self, fd: BorrowedFd<'_>, name: &[u8], attr: &Attr) -> Result<bool> {
        Ok(attr.is_whiteout_device()
            || (attr.kind == Kind::File
                && attr.size == 0
                && format::read(fd, b"", Mark::Opaque)?.is_some_and(|v| v == b"x")
                && format::read(fd, name, Mark::Whiteout)?.is_some()))
    }
}

impl Layer for HostLayer {
    fn root(&self) -> LowerRef {
        LowerRef { layer: self.id, at: At::HostDir(Arc::clone(&self.root)) }
    }

    fn lookup(&self, at: &LowerRef, name: &[u8]) -> Result<Found> {
        let dir = self.dir(at)?;
        if dir.foreign() || name.starts_with(format::AUFS_WHITEOUT) {
            return Ok(Found::Nothing);
        }
        let fd = self.dir_fd(dir)?;
        let attr = match sys::dir::statat(fd.as_fd(), name) {
            Ok(attr) => attr,
            Err(Errno::ENOENT) => {
                let mark = [format::AUFS_WHITEOUT, name].concat();
                return match sys::dir::statat(fd.as_fd(), &mark) {
                    Ok(_) => Ok(Found::Whiteout),
                    Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(Found::Nothing),
                    Err(e) => Err(e),
                };
            }
            Err(e) => return Err(e),
        };
        if self.view.hidden.contains(&(attr.dev, attr.ino)) {
            return Ok(Found::Nothing);
        }
        if self.is_whiteout(fd.as_fd(), name, &attr)? {
            return Ok(Found::Whiteout);
        }
        let at = if attr.kind == Kind::Dir {
            self.host_dir(dir, name, self.view.one_file_system && attr.dev != self.dev)
        } else {
            At::HostFile(Arc::clone(dir), name.into())
        };
        let attr = self.view.ownership.shown(fd.as_fd(), name, attr)?;
        Ok(Found::Object(LowerRef { layer: self.id, at }, self.present(attr)))
    }

    fn child(&self, at: &LowerRef, name: &[u8], kind: Kind) -> Result<LowerRef> {
        let dir = self.dir(at)?;
        let at = if kind == Kind::Dir {
            let foreign = self.view.one_file_system
                && sys::dir::statat(self.dir_fd(dir)?.as_fd(), name)?.dev != self.dev;
            self.host_dir(dir, name, foreign)
        } else {
            At::HostFile(Arc::clone(dir), name.into())
        };
        Ok(LowerRef { layer: self.id, at })
    }

    fn list(
        &self,
        at: &LowerRef,
        sink: &mut dyn FnMut(Listed<'_>) -> Result<()>,
    ) -> Result<DirMarks> {
        let dir = self.dir(at)?;
        if dir.foreign() {
            return Ok(DirMarks { opaque: true, ..DirMarks::default() });
        }
        // A descriptor that nobody else has yet can be read as it is, and is kept afterwards.
        let cached = self.fds.get(dir.key);
        let fresh = cached.is_none();
        let fd = cached.map_or_else(|| self.open_dir(dir), Ok)?;
        let dev = sys::dir::fstat(fd.as_fd())?.dev;
        let marks = format::dir_marks(fd.as_fd(), b"")?;
        let xwhiteouts = marks.xwhiteouts;
        let mut opaque = marks.opaque;
        let mut each = |e: RawEntry<'_>| {
            if e.name.starts_with(format::AUFS_WHITEOUT) {
                opaque |= e.name == format::AUFS_OPAQUE;
                return match format::aufs_hidden(e.name) {
                    Some(name) => sink(Listed { name, ino: 0, dev, kind: None }),
                    None => Ok(()),
                };
            }
            let mut kind = Kind::from_dtype(e.dtype);
            let suspect = kind.is_none()
                || kind == Some(Kind::Char)
                || (xwhiteouts && kind == Some(Kind::File))
                || self.view.hidden.iter().any(|&(_, ino)| ino == e.ino);
            if suspect {
                let attr = match sys::dir::statat(fd.as_fd(), e.name) {
                    Ok(attr) => attr,
                    // Vanished between listing and looking: a live host directory may do that.
                    Err(Errno::ENOENT) => return Ok(()),
                    Err(err) => return Err(err),
                };
                if self.view.hidden.contains(&(attr.dev, attr.ino)) {
                    return Ok(());
                }
                if self.is_whiteout(fd.as_fd(), e.name, &attr)? {
                    return sink(Listed { name: e.name, ino: 0, dev, kind: None });
                }
                kind = Some(attr.kind);
            }
            sink(Listed { name: e.name, ino: e.ino, dev, kind })
        };
        if fresh {
            sys::dir::list_once(fd.as_fd(), &mut each)?;
            self.fds.put(dir.key, &fd);
        } else {
            sys::dir::list(fd.as_fd(), each)?;
        }
        Ok(DirMarks { opaque, redirect: marks.redirect, impure: marks.impure })
    }

    fn marks(&self, at: &LowerRef) -> Result<DirMarks> {
        let dir = self.dir(at)?;
        if dir.foreign() {
            return Ok(DirMarks { opaque: true, ..DirMarks::default() });
        }
        let fd = self.dir_fd(dir)?;
        let marks = format::dir_marks(fd.as_fd(), b"")?;
        let opaque = marks.opaque
            || match sys::dir::statat(fd.as_fd(), format::AUFS_OPAQUE) {
                Ok(_) => true,
                Err(Errno::ENOENT | Errno::EACCES) => false,
                Err(e) => return Err(e),
            };
        Ok(DirMarks { opaque, redirect: marks.redirect, impure: marks.impure })
    }

    fn metacopy(&self, at: &LowerRef) -> Result<Option<Metacopy>> {
        let (fd, name) = self.reach(at)?;
        let marks = format::object_marks(fd.as_fd(), name)?;
        if marks.partial.is_some() {
            // An upper with partial files that became a lower: which blocks it has is told by a record
            // that is out of reach. It has to be completed first.
            return Err(Errno::EIO);
        }
        Ok(marks.metacopy.then_some(Metacopy { redirect: marks.redirect }))
    }

    fn attr(&self, at: &LowerRef) -> Result<Attr> {
        let (fd, name) = self.reach(at)?;
        Ok(self.present(self.view.ownership.stat(fd.as_fd(), name)?))
    }

    fn birth_time(&self, at: &LowerRef) -> Result<Option<Time>> {
        let (fd, name) = self.reach(at)?;
        sys::dir::birth_time(fd.as_fd(), name)
    }

    fn readlink(&self, at: &LowerRef) -> Result<Vec<u8>> {
        let (fd, name) = self.reach(at)?;
        sys::dir::readlinkat(fd.as_fd(), name)
    }

    fn xattr(&self, at: &LowerRef, name: &[u8]) -> Result<Vec<u8>> {
        let (fd, file) = self.reach(at)?;
        sys::xattr::get(fd.as_fd(), file, name)
    }

    fn xattr_names(&self, at: &LowerRef) -> Result<Vec<u8>> {
        let (fd, file) = self.reach(at)?;
        sys::xattr::list(fd.as_fd(), file)
    }

    fn open(&self, at: &LowerRef) -> Result<Part> {
        let (fd, name) = self.reach(at)?;
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let fd = match sys::dir::openat(fd.as_fd(), name, flags | libc::O_NOATIME, 0) {
            // Only the owner may ask for no atime update.
            Err(Errno::EPERM) => sys::dir::openat(fd.as_fd(), name, flags, 0)?,
            other => other?,
        };
        Ok(Part::whole(Arc::new(fd)))
    }

    fn root_fd(&self) -> BorrowedFd<'_> {
        self.root_fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_small_and_keeps_its_name() {
        // With the two counts of an `Arc`: what malloc(3) has room for in a chunk of 64 bytes.
        assert!(size_of::<HostDir>() + 16 <= 56, "{}", size_of::<HostDir>());
        for len in [0, 1, SHORT, SHORT + 1, sys::NAME_MAX] {
            let name = vec![b'n'; len];
            let label = Label::new(&name);
            assert_eq!(matches!(label, Label::Long(_)), len > SHORT);
            let fds = FdCache::new(64);
            assert_eq!(HostDir { key: fds.new_key(), parent: None, label }.name(), name);
        }
    }
}
