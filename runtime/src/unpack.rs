//! Unpacking a layer's archive into a directory, in overlayfs's format: for hosts on which packed
//! layers cannot be mounted.
//!
//! The archive is hostile. Promises:
//! - nothing outside the layer's directory is touched: names are split into components, `..` is
//!   refused, every walk starts at a directory descriptor and follows no symbolic link by itself;
//! - a directory on the way that is a symbolic link in the image means what it means inside a
//!   container: its target within the image's root. A target above the root, or one that the image
//!   does not have, is refused with a sentence;
//! - whatever the archive records arrives: owners, modes with set-user-ID, attributes, times to the
//!   nanosecond, holes, devices. Where the host refuses an owner or a device, they are kept in
//!   `user.containers.override_stat` (see `attributes`), and what cannot be kept is reported.
//!
//! A whiteout `.wh.NAME` becomes a character device 0:0, `.wh..wh..opq` an opaque attribute. Layers
//! below are consulted only for what the layer leaves open: the attributes of directories that it
//! implies without listing them, and hard links to lower files ([`Unpacked::depends_on_parents`]).
//!
//! Directories are 0700 and ours while the layer is being unpacked; what the archive says about
//! them is applied at the end, so that neither their times nor their permissions are in the way.

mod attributes;
mod link;
mod node;
mod place;
pub mod root;
mod union;
mod whiteout;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;

use crate::archive::name::{self, Target};
use crate::archive::tar::{Entry, Kind, Skip, TarError, TarReader, show};
use attributes::{Attributes, Losses};
use place::Place;

/// Data is moved in pieces of this size.
const BUFFER: usize = 256 * 1024;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
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
    /// A packed layer cannot be read.
    #[error("cannot read a layer: {0}")]
    Layer(std::io::Error),
}

/// What was learned about a layer by unpacking it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file content.
    pub size: u64,
    /// Number of entries.
    pub entries: u64,
    /// Whether lower layers were consulted: the same archive on other layers may give another tree.
    pub depends_on_parents: bool,
    /// Whether the archive has an entry for the root directory itself.
    pub lists_root: bool,
    /// Whether the archive ended with its end marker.
    pub saw_end: bool,
    /// What could not be kept on this host, in sentences.
    pub warnings: Vec<String>,
}

/// Unpacks `archive` into the empty directory `root`. `lowers` are the directories of the layers
/// below, topmost first.
///
/// # Errors
/// When the archive is malformed, tries to leave its directory, or the host refuses something;
/// then `root` holds a part of the layer and is to be discarded.
pub fn unpack<R: Skip>(
    archive: &mut TarReader<R>,
    root: OwnedFd,
    lowers: &[OwnedFd],
) -> Result<Unpacked, UnpackError> {
    let mut unpacker = Unpacker {
        root,
        lowers,
        places: HashMap::new(),
        directories: HashMap::new(),
        dot_whiteouts: false,
        losses: Losses::default(),
        buffer: vec![0; BUFFER],
        report: Unpacked::default(),
    };
    while let Some(entry) = archive.next_entry()? {
        unpacker.report.entries += 1;
        unpacker.entry(&entry, archive)?;
    }
    unpacker.report.saw_end = archive.saw_end();
    unpacker.finish()
}

/// A layer in the making.
struct Unpacker<'a> {
    root: OwnedFd,
    lowers: &'a [OwnedFd],
    /// Directories that entries were recently put into, by the name the archive uses.
    places: HashMap<Vec<u8>, Rc<Place>>,
    /// What the layer's directories will be like, by their real path.
    directories: HashMap<Vec<u8>, Attributes>,
    /// Some whiteouts are `.wh.` files, since the host refuses character devices.
    dot_whiteouts: bool,
    losses: Losses,
    buffer: Vec<u8>,
    report: Unpacked,
}

/// Attaches what was tried, and on which entry, to an errno.
trait Context<T> {
    fn on(self, action: &'static str, path: &[u8]) -> Result<T, UnpackError>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn on(self, action: &'static str, path: &[u8]) -> Result<T, UnpackError> {
        self.map_err(|source| UnpackError::Host { action, path: path.to_owned(), source })
    }
}

fn refused(path: &[u8], why: impl Into<String>) -> UnpackError {
    UnpackError::Refused { path: path.to_owned(), why: why.into() }
}

impl Unpacker<'_> {
    fn entry<R: Skip>(
        &mut self,
        entry: &Entry,
        archive: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        match name::parse(&entry.path).map_err(|why| refused(&entry.path, why))? {
            Target::Ignored => Ok(()),
            Target::Root if entry.kind == Kind::Directory => {
                self.report.lists_root = true;
                self.directories.insert(Vec::new(), Attributes::of_entry(entry));
                Ok(())
            }
            Target::Root => Err(refused(&entry.path, "it would replace the root directory")),
            Target::Opaque { parents } => {
                let place = self.place(&parents, &entry.path)?;
                self.make_opaque(&place.fd).on("make opaque", &entry.path)
            }
            Target::Whiteout { parents, name } => {
                let place = self.place(&parents, &entry.path)?;
                self.whiteout(&place, name).on("whiteout", &entry.path)
            }
            Target::Node { parents, name } => {
                let place = self.place(&parents, &entry.path)?;
                match entry.kind {
                    Kind::Directory => self.directory(&place, name, entry),
                    Kind::File => self.file(&place, name, entry, archive),
                    Kind::HardLink => self.hard_link(&place, name, entry),
                    Kind::Symlink => self.symlink(&place, name, entry),
                    Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                        self.special(&place, name, entry)
                    }
                }
            }
        }
    }

    /// Gives the directories their attributes, deepest first.
    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        let mut directories: Vec<_> = std::mem::take(&mut self.directories).into_iter().collect();
        if !self.report.lists_root {
            directories.push((Vec::new(), Attributes::implied()));
        }
        directories.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, attributes) in directories {
            let directory = self.open_directory(&path).on("open directory", &path)?;
            attributes::apply_to_open(
                &directory,
                &attributes,
                attributes::DIRECTORY,
                &path,
                &mut self.losses,
            )?;
        }
        self.report.warnings = self.losses.sentences();
        Ok(self.report)
    }
}

#[cfg(test)]
mod tests;
