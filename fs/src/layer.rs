//! What a read-only lower layer can answer.
//!
//! A layer knows nothing of the others: it tells what it holds under a name, including the marks
//! that hide names of the layers below it. It is never written. Positions in a layer ([`LowerRef`])
//! are stable for the life of a mount, because a layer does not change.

pub mod gather;
pub mod hostdir;
pub mod packed;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::attr::{Attr, Kind};
use crate::ident::LayerId;
use crate::sys::Result;
use crate::sys::file::Part;
use hostdir::HostDir;
use packed::PackedAt;

/// A file or directory of a lower layer.
#[derive(Clone, Debug)]
pub struct LowerRef {
    /// Which layer.
    pub layer: LayerId,
    /// Where in it.
    pub at: At,
}

/// A position inside a layer, by kind of layer.
#[derive(Clone, Debug)]
pub enum At {
    /// A directory of a host directory tree.
    HostDir(Arc<HostDir>),
    /// A non-directory of a host directory tree: its directory and name.
    HostFile(Arc<HostDir>, Box<[u8]>),
    /// An inode of a packed layer.
    Packed(PackedAt),
}

/// What a layer holds under one name.
#[derive(Clone, Debug)]
pub enum Found {
    /// Nothing: the next layer decides.
    Nothing,
    /// A whiteout: the name is hidden in all layers below.
    Whiteout,
    /// An object.
    Object(LowerRef, Attr),
}

/// One entry of a listing.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The name that is shown or hidden.
    pub name: &'a [u8],
    /// Its inode number in the layer (0 for a whiteout).
    pub ino: u64,
    /// The device number (`st_dev`) that the inode numbers of this listing belong to.
    pub dev: u64,
    /// Its type; `None` for a whiteout.
    pub kind: Option<Kind>,
}

/// Marks on a directory of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirMarks {
    /// The same directory of the layers below is hidden.
    pub opaque: bool,
    /// The layers below hold its content at this path (overlayfs `redirect`).
    pub redirect: Option<Vec<u8>>,
    /// It holds objects that were copied up from the layers below.
    pub impure: bool,
}

/// A file that has only attributes; the layers below have its data (overlayfs `metacopy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metacopy {
    /// Where: a path, or a name in the same directory; `None`: under the same name.
    pub redirect: Option<Vec<u8>>,
}

/// A read-only layer.
pub trait Layer: Send + Sync + std::fmt::Debug {
    /// Its root directory.
    fn root(&self) -> LowerRef;
    /// What it holds under `name` in `dir`.
    fn lookup(&self, dir: &LowerRef, name: &[u8]) -> Result<Found>;
    /// The position of `name`, which a listing of `dir` has just shown to be a `kind`.
    fn child(&self, dir: &LowerRef, name: &[u8], kind: Kind) -> Result<LowerRef>;
    /// Calls `sink` for each name of `dir`, whiteouts included, in any order, each name once;
    /// returns the marks on `dir` itself.
    fn list(
        &self,
        dir: &LowerRef,
        sink: &mut dyn FnMut(Listed<'_>) -> Result<()>,
    ) -> Result<DirMarks>;
    /// The marks on `dir`, without listing it.
    fn marks(&self, dir: &LowerRef) -> Result<DirMarks>;
    /// Whether the file has its data elsewhere; asked only in directories marked impure.
    fn metacopy(&self, at: &LowerRef) -> Result<Option<Metacopy>>;
    /// Attributes.
    fn attr(&self, at: &LowerRef) -> Result<Attr>;
    /// Birth time, where known.
    fn birth_time(&self, at: &LowerRef) -> Result<Option<crate::attr::Time>>;
    /// Target of a symbolic link.
    fn readlink(&self, at: &LowerRef) -> Result<Vec<u8>>;
    /// Value of an xattr (`ENODATA` when absent).
    fn xattr(&self, at: &LowerRef, name: &[u8]) -> Result<Vec<u8>>;
    /// Names of all xattrs, each ended by a NUL.
    fn xattr_names(&self, at: &LowerRef) -> Result<Vec<u8>>;
    /// Opens a regular file for reading.
    fn open(&self, at: &LowerRef) -> Result<Part>;
    /// The device on which the data lies as a file of its own, which may be shared block by block; the
    /// file has these attributes.
    fn data_dev(&self, _: &LowerRef, attr: &Attr) -> u64 {
        attr.dev
    }
    /// A number that tells the layer's filesystem from others wherever it is mounted; 0: not known, or
    /// made from a UUID where that is not to count.
    ///
    /// # Errors
    /// Errors of asking it.
    fn lasting_id(&self, no_uuid: bool) -> Result<u64> {
        if no_uuid { Ok(0) } else { crate::sys::dir::lasting_fsid(self.root_fd()) }
    }
    /// Its hard links to paths of the layers below: a number for each, and the path.
    ///
    /// # Errors
    /// Errors of looking.
    fn links_below(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        Ok(Vec::new())
    }
    /// How many names such a link has.
    ///
    /// # Errors
    /// Errors of looking.
    fn link_names(&self, _: u64) -> Result<u32> {
        Ok(1)
    }
    /// Tells it where these links lead; from then on it answers with what is there.
    fn bind(&self, _: HashMap<u64, (LowerRef, Attr)>) {}
    /// Whether the layer has no entry for the directory itself, so that its attributes are those of the
    /// layers below.
    ///
    /// # Errors
    /// Errors of looking.
    fn implied(&self, _: &LowerRef) -> Result<bool> {
        Ok(false)
    }
    /// A descriptor of the root directory, for filesystem statistics.
    fn root_fd(&self) -> BorrowedFd<'_>;
}
