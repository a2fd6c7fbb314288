//! From a layer's archive to a packed layer. Nothing is unpacked: the archive is read once, and
//! what it says goes into the packed layer's index and contents.
//!
//! The archive is hostile. Promises:
//! - names are split into components, and `..` is refused;
//! - a directory on the way that is a symbolic link in the image means what it means inside a
//!   container: its target within the image's root. A target above the root, or one that the image
//!   does not have, is refused with a sentence (see `place`);
//! - whatever the archive records is kept, whoever the caller is: owners, modes with set-user-ID,
//!   attributes, times to the nanosecond, holes, devices.
//!
//! A whiteout speaks about the layers below; entries of the layer itself win over it, whichever
//! comes first in the archive. Directories that the layer implies without listing them are like
//! the lower ones. The layers below are consulted only where a name leads through a symbolic link
//! of theirs ([`Report::depends_on_parents`]).

mod place;

use std::io::{self, Read};

use cowl_fs::attr;
use cowl_fs::packed::{self, Content, Meta, Seen, Special, Summary, Writer};

use crate::archive::name::{self, Target};
use crate::archive::record::Recorder;
use crate::archive::tar::{Entry, Kind, Skip, TarError, TarReader, show};
use crate::view::View;

/// Attributes by which union filesystems steer themselves: an image has no say in those.
const PRIVATE: [&[u8]; 4] =
    [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];

/// Why a layer cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
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
    /// The packed layer cannot be written, or one below it not be read.
    #[error("{0}")]
    Host(io::Error),
}

impl From<packed::PackError> for PackError {
    fn from(error: packed::PackError) -> PackError {
        PackError::Host(io::Error::other(error))
    }
}

/// What was learned about a layer by packing it.
#[derive(Debug, Default, Clone)]
pub struct Report {
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
}

fn refused(path: &[u8], why: impl Into<String>) -> PackError {
    PackError::Refused { path: path.to_owned(), why: why.into() }
}

/// Packs `archive` with `writer`. `below` are the layers under it.
///
/// # Errors
/// When the archive is malformed, tries to leave its directory, or the disk refuses something;
/// what `writer` has written is then to be discarded.
pub fn pack<R: Read>(
    archive: &mut TarReader<Recorder<R>>,
    writer: Writer,
    below: &View,
) -> Result<(Report, Summary), PackError> {
    let mut packer = Packer { writer, below, report: Report::default() };
    while let Some(entry) = archive.next_entry()? {
        packer.report.entries += 1;
        packer.entry(&entry, archive)?;
    }
    packer.report.saw_end = archive.saw_end();
    let summary = packer.writer.finish()?;
    Ok((packer.report, summary))
}

/// A layer in the making.
struct Packer<'a> {
    writer: Writer,
    below: &'a View,
    report: Report,
}

impl Packer<'_> {
    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        archive: &mut TarReader<Recorder<R>>,
    ) -> Result<(), PackError> {
        match name::parse(&entry.path).map_err(|why| refused(&entry.path, why))? {
            Target::Ignored => Ok(()),
            Target::Root if entry.kind == Kind::Directory => {
                self.report.lists_root = true;
                Ok(self.writer.dir(b"", &meta(entry))?)
            }
            Target::Root => Err(refused(&entry.path, "it would replace the root directory")),
            Target::Opaque { parents } => {
                let place = self.place(&parents, &entry.path)?;
                Ok(self.writer.opaque(&place)?)
            }
            Target::Whiteout { parents, name } => {
                let place = self.place(&parents, &entry.path)?;
                Ok(self.writer.whiteout(&join(&place, name))?)
            }
            Target::Node { parents, name } => {
                let place = self.place(&parents, &entry.path)?;
                self.node(&join(&place, name), entry, archive)
            }
        }
    }

    fn node<R: Read>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        archive: &mut TarReader<Recorder<R>>,
    ) -> Result<(), PackError> {
        let meta = meta(entry);
        let (major, minor) = entry.device;
        match entry.kind {
            Kind::Directory => self.writer.dir(path, &meta)?,
            Kind::File => self.file(path, &meta, entry, archive)?,
            Kind::HardLink => self.hard_link(path, &meta, entry)?,
            Kind::Symlink if entry.link.is_empty() => {
                return Err(refused(&entry.path, "it is a symbolic link to nowhere"));
            }
            Kind::Symlink => self.writer.special(path, &meta, Special::Symlink(&entry.link))?,
            Kind::CharDevice => self.writer.special(path, &meta, Special::Char(major, minor))?,
            Kind::BlockDevice => self.writer.special(path, &meta, Special::Block(major, minor))?,
            Kind::Fifo => self.writer.special(path, &meta, Special::Fifo)?,
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &[u8],
        meta: &Meta,
        entry: &Entry,
        archive: &mut TarReader<Recorder<R>>,
    ) -> Result<(), PackError> {
        let segments: Option<Vec<(u64, u64)>> = entry
            .sparse
            .as_ref()
            .map(|map| map.iter().map(|segment| (segment.offset, segment.length)).collect());
        archive.input_mut().begin_content();
        let mut data = Data { archive, error: None };
        let written = self.writer.file(path, meta, entry.size, segments.as_deref(), &mut data);
        if let Some(error) = data.error {
            return Err(error.into());
        }
        let content: Content = written?;
        self.report.size += entry.size;
        archive
            .input_mut()
            .end_content(content, entry.size, segments.as_deref())
            .map_err(PackError::Host)
    }

    fn hard_link(&mut self, path: &[u8], meta: &Meta, entry: &Entry) -> Result<(), PackError> {
        let mut parents = name::components(&entry.link)
            .map_err(|why| refused(&entry.path, format!("the file it links to: {why}")))?;
        let name = parents
            .pop()
            .ok_or_else(|| refused(&entry.path, "it is a hard link to the root directory"))?;
        let target = join(&self.place(&parents, &entry.path)?, name);
        let missing = || {
            let target = show(&entry.link);
            let why = format!(
                "it is a hard link to '{target}', which neither this layer nor those below it have"
            );
            refused(&entry.path, why)
        };
        match self.writer.at(&target) {
            Some(Seen::Dir { .. }) => {
                return Err(refused(&entry.path, "it is a hard link to a directory"));
            }
            Some(Seen::Whiteout) => return Err(missing()),
            Some(_) => {}
            None => match self.shown_below(&target)? {
                None => return Err(missing()),
                Some(node) if node.kind == attr::Kind::Dir => {
                    return Err(refused(&entry.path, "it is a hard link to a directory"));
                }
                Some(_) => {}
            },
        }
        if target != path {
            self.writer.link(path, &target, meta)?;
        }
        Ok(())
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn meta(entry: &Entry) -> Meta {
    let private = |name: &[u8]| PRIVATE.iter().any(|prefix| name.starts_with(prefix));
    Meta {
        perm: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: attr::Time { sec: entry.mtime.seconds, nsec: entry.mtime.nanoseconds },
        xattrs: entry.xattrs.iter().filter(|(name, _)| !private(name)).cloned().collect(),
    }
}

/// The data of the current entry; an error of the archive is kept as it is.
struct Data<'a, R> {
    archive: &'a mut TarReader<R>,
    error: Option<TarError>,
}

impl<R: Skip> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.archive.read_data(buffer) {
            Ok(piece) => Ok(piece.map_or(0, |(_, count)| count)),
            Err(error) => {
                self.error = Some(error);
                Err(io::Error::other("the archive cannot be read"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
