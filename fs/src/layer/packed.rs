//! A lower layer that is a packed one.
//!
//! Its index is mapped, so looking up, listing and asking for attributes make no system call. What it
//! shows is what the index says: there are no marks in names or xattrs, and what looks like one is a
//! user's.
//!
//! A layer has a device number of its own, made from its digest: inode numbers are the index's, and
//! mean the same wherever the store lies.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use super::{At, DirMarks, Found, Layer, Listed, LowerRef, Metacopy};
use crate::attr::{Attr, Kind, Time};
use crate::ident::LayerId;
use crate::packed::{Content, Entry, EntryKind, Packed};
use crate::sys::file::Part;
use crate::sys::{self, Errno, Result};

/// An inode of a packed layer.
#[derive(Clone, Debug)]
pub struct PackedAt {
    packed: Arc<Packed>,
    ino: u32,
}

impl PackedAt {
    /// Whether both are one inode of one layer.
    pub fn same(&self, other: &PackedAt) -> bool {
        self.ino == other.ino && Arc::ptr_eq(&self.packed, &other.packed)
    }

    /// The inode of a name in this directory, if it is an object.
    pub fn child(&self, name: &[u8]) -> Option<PackedAt> {
        let found = self.packed.find(self.ino, name).ok()??;
        matches!(found.kind, EntryKind::Node(_))
            .then(|| PackedAt { packed: Arc::clone(&self.packed), ino: found.ino })
    }
}

/// The number of the root directory.
const ROOT: u32 = 1;
/// Set in the device numbers of packed layers; the kernel's have 32 bits.
const OURS: u64 = 1 << 63;

/// A packed layer of a union.
#[derive(Debug)]
pub struct PackedLayer {
    id: LayerId,
    packed: Arc<Packed>,
    dev: u64,
    /// The device of the store of objects, once it was asked for.
    store_dev: OnceLock<u64>,
    /// Where its hard links to paths of the layers below lead.
    below: OnceLock<HashMap<u64, (LowerRef, Attr)>>,
}

impl PackedLayer {
    /// An open packed layer as layer `id`.
    pub fn new(packed: Packed, id: LayerId) -> PackedLayer {
        let start = packed.id().0.first_chunk().copied().unwrap_or_default();
        let dev = u64::from_le_bytes(start) | OURS;
        PackedLayer {
            id,
            packed: Arc::new(packed),
            dev,
            store_dev: OnceLock::new(),
            below: OnceLock::new(),
        }
    }

    fn ino(&self, at: &LowerRef) -> Result<u32> {
        match &at.at {
            At::Packed(PackedAt { ino, .. }) => Ok(*ino),
            _ => Err(Errno::EIO), // of another layer
        }
    }

    /// Where a hard link to a path of the layers below leads: `EIO` where they have nothing there.
    fn linked(&self, ino: u32) -> Result<&(LowerRef, Attr)> {
        self.below.get().and_then(|all| all.get(&u64::from(ino))).ok_or(Errno::EIO)
    }

    fn at(&self, ino: u32) -> LowerRef {
        let at = At::Packed(PackedAt { packed: Arc::clone(&self.packed), ino });
        LowerRef { layer: self.id, at }
    }
}

impl Layer for PackedLayer {
    fn root(&self) -> LowerRef {
        self.at(ROOT)
    }

    fn lookup(&self, dir: &LowerRef, name: &[u8]) -> Result<Found> {
        Ok(match self.packed.find(self.ino(dir)?, name)? {
            None => Found::Nothing,
            Some(Entry { kind: EntryKind::Whiteout, .. }) => Found::Whiteout,
            Some(Entry { ino, kind: EntryKind::Below }) => {
                let (at, attr) = self.linked(ino)?;
                Found::Object(at.clone(), *attr)
            }
            Some(Entry { ino, .. }) => {
                Found::Object(self.at(ino), self.packed.attr(ino, self.dev)?)
            }
        })
    }

    fn child(&self, dir: &LowerRef, name: &[u8], kind: Kind) -> Result<LowerRef> {
        match self.packed.find(self.ino(dir)?, name)? {
            Some(Entry { ino, kind: EntryKind::Node(found) }) if found == kind => Ok(self.at(ino)),
            Some(Entry { ino, kind: EntryKind::Below }) => Ok(self.linked(ino)?.0.clone()),
            _ => Err(Errno::EIO),
        }
    }

    fn list(
        &self,
        dir: &LowerRef,
        sink: &mut dyn FnMut(Listed<'_>) -> Result<()>,
    ) -> Result<DirMarks> {
        let dir = self.ino(dir)?;
        self.packed.list(dir, &mut |name, entry| {
            let (ino, kind) = match entry.kind {
                EntryKind::Whiteout => (0, None),
                EntryKind::Below => {
                    let kind = self.linked(entry.ino).map_or(Kind::File, |(_, attr)| attr.kind);
                    (0, Some(kind))
                }
                // It is shown with the number of the directory that it takes its attributes from.
                EntryKind::Node(Kind::Dir) if self.packed.implied(entry.ino)? => {
                    (0, Some(Kind::Dir))
                }
                EntryKind::Node(kind) => (u64::from(entry.ino), Some(kind)),
            };
            sink(Listed { name, ino, dev: self.dev, kind })
        })?;
        Ok(DirMarks { opaque: self.packed.opaque(dir)?, ..DirMarks::default() })
    }

    fn marks(&self, dir: &LowerRef) -> Result<DirMarks> {
        let opaque = self.packed.opaque(self.ino(dir)?)?;
        Ok(DirMarks { opaque, ..DirMarks::default() })
    }

    fn metacopy(&self, _: &LowerRef) -> Result<Option<Metacopy>> {
        Ok(None)
    }

    fn attr(&self, at: &LowerRef) -> Result<Attr> {
        self.packed.attr(self.ino(at)?, self.dev)
    }

    fn birth_time(&self, _: &LowerRef) -> Result<Option<Time>> {
        Ok(None)
    }

    fn readlink(&self, at: &LowerRef) -> Result<Vec<u8>> {
        Ok(self.packed.target(self.ino(at)?)?.to_vec())
    }

    fn xattr(&self, at: &LowerRef, name: &[u8]) -> Result<Vec<u8>> {
        self.packed.xattr(self.ino(at)?, name)
    }

    fn xattr_names(&self, at: &LowerRef) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        self.packed.xattrs(self.ino(at)?, &mut |name, _| {
            names.extend_from_slice(name);
            names.push(0);
            true
        })?;
        Ok(names)
    }

    fn open(&self, at: &LowerRef) -> Result<Part> {
        match self.packed.content(self.ino(at)?)? {
            Content::Empty => Ok(Part::window(self.packed.nothing(), 0, 0)),
            content @ Content::Data { .. } => {
                let (file, start) = self.packed.open_content(&content)?;
                Ok(Part::window(file, start, content.len()))
            }
            content @ Content::Object { .. } => {
                Ok(Part::whole(self.packed.open_content(&content)?.0))
            }
        }
    }

    fn data_dev(&self, at: &LowerRef, _: &Attr) -> u64 {
        let content = self.ino(at).and_then(|ino| self.packed.content(ino));
        if !matches!(content, Ok(Content::Object { .. })) {
            return 0;
        }
        *self.store_dev.get_or_init(|| {
            let store = self.packed.store();
            store.and_then(|s| sys::dir::fstat(s.as_fd())).map_or(0, |attr| attr.dev)
        })
    }

    fn lasting_id(&self, _: bool) -> Result<u64> {
        Ok(self.dev)
    }

    fn links_below(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        let links = self.packed.links_below();
        links
            .map(|ino| ino.and_then(|i| Ok((u64::from(i), self.packed.target(i)?.to_vec()))))
            .collect()
    }

    fn link_names(&self, link: u64) -> Result<u32> {
        let ino = u32::try_from(link).map_err(|_| Errno::EIO)?;
        Ok(self.packed.attr(ino, self.dev)?.nlink)
    }

    fn bind(&self, links: HashMap<u64, (LowerRef, Attr)>) {
        self.below.get_or_init(|| links);
    }

    fn implied(&self, at: &LowerRef) -> Result<bool> {
        self.packed.implied(self.ino(at)?)
    }

    fn root_fd(&self) -> BorrowedFd<'_> {
        self.packed.dir()
    }
}
