//! Packed layers: a layer of an image in a few files instead of an unpacked tree.
//!
//! A packed layer is a directory with an *index* ([`INDEX`]: names, attributes, xattrs, link groups,
//! marks) and a *data file* ([`DATA`]: the content of small files, one after the other). The content of
//! large files lies in a store of *objects* named by the SHA-256 of what they hold, which all layers of
//! an image store share ([`OBJECTS`], a directory or a symbolic link to one). The format is told byte
//! by byte in `docs/layer-format.md`.
//!
//! Owners, devices and xattrs are numbers and bytes in the index, so no privilege is needed to hold any
//! layer, and none of the store's filesystem. The index is mapped: opening a layer costs the same
//! however large it is, and looking into it makes no system call.
//!
//! Promises: every byte of an index is taken to be hostile. Whatever it holds, reading it ends, stays
//! inside the file, and gives a value or an error; names in it are single names; a directory has one
//! parent, above it. What [`Packed::verify`] has found to be right is what the writer wrote.
//!
//! This room knows nothing of unions or FUSE; `layer::packed` shows it to the union.

mod format;
mod index;
mod objects;
mod open;
mod tree;
mod verify;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use index::{Entry, EntryKind, Index};
pub use objects::Objects;
pub use open::{Packed, Reader};
pub use tree::{Link, Meta, Seen, Special};
pub use writer::{Summary, Writer};

use crate::sys::Errno;

/// Name of the index in a layer's directory.
pub const INDEX: &str = "layer.index";
/// Name of the data file beside it.
pub const DATA: &str = "layer.data";
/// Name of the store of objects beside it, or of the symbolic link that leads there.
pub const OBJECTS: &str = "objects";

/// Files from this size on are objects. An object takes whole blocks of the host's filesystem, on
/// average half a block of 4 KiB more than it holds: from 64 KiB on that is at most 3 %.
pub const LARGE: u64 = 64 * 1024;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 in 64 lower-case hexadecimal digits")]
pub struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Digest, NoDigest> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut out = [0; 32];
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(NoDigest) };
        if pairs.len() != out.len() {
            return Err(NoDigest);
        }
        for (byte, [high, low]) in out.iter_mut().zip(pairs) {
            *byte = digit(*high).ok_or(NoDigest)? << 4 | digit(*low).ok_or(NoDigest)?;
        }
        Ok(Digest(out))
    }
}

/// Where the content of a regular file is. It stays readable in the layer also when no entry refers to
/// it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// There is none.
    Empty,
    /// In the data file.
    Data {
        /// From this byte on.
        at: u64,
        /// So many bytes.
        len: u64,
    },
    /// An object.
    Object {
        /// Its name.
        digest: Digest,
        /// Its length.
        len: u64,
    },
}

impl Content {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match *self {
            Content::Empty => 0,
            Content::Data { len, .. } | Content::Object { len, .. } => len,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a packed layer cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The host refused something.
    #[error("cannot {action} {path}: {why}", path = path.display(), why = why.desc())]
    Host {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        why: Errno,
    },
    /// Not an index.
    #[error("{path} is not the index of a packed layer", path = .0.display())]
    NotPacked(PathBuf),
    /// Of a version that is not known.
    #[error("{path} is a packed layer of version {version}, and this program reads version {known}; use a newer one", path = .0.display(), version = .1, known = format::VERSION)]
    Version(PathBuf, u32),
    /// An index, data file or object is not what it was when it was written.
    #[error("the packed layer {path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// An entry cannot be taken.
    #[error("the entry '{path}' is refused: {why}", path = String::from_utf8_lossy(path))]
    Refused {
        /// Its path.
        path: Vec<u8>,
        /// Why.
        why: &'static str,
    },
    /// A parent of an entry is something else than a directory in the same layer.
    #[error("the entry '{path}' lies below '{parent}', which is no directory", path = String::from_utf8_lossy(path), parent = String::from_utf8_lossy(parent))]
    NotADirectory {
        /// The entry.
        path: Vec<u8>,
        /// What is no directory.
        parent: Vec<u8>,
    },
    /// The source of a file's content failed.
    #[error("cannot read the content of '{path}': {why}", path = String::from_utf8_lossy(path))]
    Content {
        /// The entry.
        path: Vec<u8>,
        /// Why.
        why: std::io::Error,
    },
    /// More than the format can hold.
    #[error("the layer holds more {0} than a packed layer can")]
    TooMuch(&'static str),
}

/// Attaches to an errno what was tried.
trait Context<T> {
    fn on(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, PackError>;
}

impl<T> Context<T> for crate::sys::Result<T> {
    fn on(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, PackError> {
        self.map_err(|why| PackError::Host { action, path: path.into(), why })
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn on(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, PackError> {
        self.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(Errno::EIO as i32)))
            .on(action, path)
    }
}

#[cfg(test)]
mod tests;
