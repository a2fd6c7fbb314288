//! The files inside an archive, found by name: a tar file, or a directory.
//!
//! A tar file is indexed once by its headers and then read in place. Compressed archives, and
//! those that come through a pipe, are first written to a scratch file. Links inside an archive
//! (old `docker save` archives have them) are followed within it only.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use super::compression::{self, Compression};
use super::tar::{Kind, TarError, TarReader};
use crate::sys::descriptor::open_below;

/// Largest manifest or configuration that is read: 4 MiB is what registries allow.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Links followed inside an archive.
const MAX_LINKS: usize = 16;

/// Where an archive comes from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A file, or a directory that holds what an archive would.
    Path(&'a Path),
    /// Standard input.
    Stdin,
}

/// What can go wrong while looking into an archive.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The archive cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The archive, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive is no tar archive, or a broken one.
    #[error("cannot read {}: {source}", path.display())]
    Tar {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// A file is missing.
    #[error("the archive is incomplete: '{0}' is missing")]
    Missing(String),
    /// A document is too long to be one.
    #[error("the archive's '{0}' is larger than 4 MiB: it is no image")]
    TooLarge(String),
    /// A document is not what it must be.
    #[error("the archive's '{path}' cannot be understood: {source}")]
    Document {
        /// Its name.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// An archive.
#[derive(Debug)]
pub enum Source {
    /// A directory.
    Directory(OwnedFd),
    /// A tar file and where its entries are.
    Tar {
        /// The file.
        file: Arc<File>,
        /// Its entries.
        index: BTreeMap<Vec<u8>, Place>,
    },
}

/// Where an entry of a tar file is.
#[derive(Debug, Clone)]
pub enum Place {
    /// Its data.
    Data {
        /// First byte.
        start: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Another entry, by its full name.
    Link(Vec<u8>),
}

impl Source {
    /// Opens an archive; `scratch` is a directory for what has to be written down first.
    ///
    /// # Errors
    /// When it cannot be read, or is no archive.
    pub fn open(input: Input<'_>, scratch: &Path) -> Result<Source, SourceError> {
        let (path, file) = match input {
            Input::Stdin => (Path::new("standard input"), None),
            Input::Path(path) => (path, Some(open_file(path)?)),
        };
        let read = |source| SourceError::Read { path: path.to_owned(), source };
        let metadata = file.as_ref().map(File::metadata).transpose().map_err(read)?;
        let file = match (file, metadata) {
            (Some(file), Some(metadata)) if metadata.is_dir() => {
                return Ok(Source::Directory(file.into()));
            }
            (Some(mut file), Some(metadata)) if metadata.is_file() => {
                let (compression, _) = compression::detect(&file).map_err(read)?;
                file.rewind().map_err(read)?;
                match compression {
                    Compression::Plain => file,
                    _ => write_down(file, scratch).map_err(read)?,
                }
            }
            (Some(pipe), _) => write_down(pipe, scratch).map_err(read)?,
            (None, _) => write_down(io::stdin(), scratch).map_err(read)?,
        };
        let index =
            index(&file).map_err(|source| SourceError::Tar { path: path.to_owned(), source })?;
        Ok(Source::Tar { file: Arc::new(file), index })
    }

    /// The content of the file `path`, or `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_entry(&self, path: &str) -> Result<Option<Box<dyn Read + Send>>, SourceError> {
        match self {
            Source::Directory(directory) => {
                let read = |source| SourceError::Read { path: path.into(), source };
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
                let file = match open_below(directory.as_fd(), path, how) {
                    Ok(fd) => File::from(fd),
                    Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
                    Err(error) => return Err(read(error.into())),
                };
                if !file.metadata().map_err(read)?.is_file() {
                    return Err(read(io::Error::other("it is not a regular file")));
                }
                Ok(Some(Box::new(file)))
            }
            Source::Tar { file, index } => {
                let mut name = normal(path.as_bytes()).unwrap_or_default();
                for _ in 0..MAX_LINKS {
                    match index.get(&name) {
                        None => return Ok(None),
                        Some(Place::Link(target)) => name.clone_from(target),
                        Some(Place::Data { start, length }) => {
                            let file = Arc::clone(file);
                            let section = Section { file, at: *start, end: start + length };
                            return Ok(Some(Box::new(section)));
                        }
                    }
                }
                Ok(None)
            }
        }
    }

    /// The whole content of a small file, or `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is too large.
    pub fn document(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(entry) = self.open_entry(path)? else { return Ok(None) };
        let mut content = Vec::new();
        entry
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut content)
            .map_err(|source| SourceError::Read { path: path.into(), source })?;
        if content.len() as u64 > MAX_DOCUMENT {
            return Err(SourceError::TooLarge(path.to_owned()));
        }
        Ok(Some(content))
    }
}

/// Opens what the user named. A FIFO is waited for, as usual.
pub fn open_file(path: &Path) -> Result<File, SourceError> {
    File::open(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })
}

/// Writes the decompressed archive to a scratch file.
fn write_down(input: impl Read, scratch: &Path) -> io::Result<File> {
    let (compression, input) = compression::detect(input)?;
    let mut content = compression::decoder(compression, input)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(scratch.join("archive"))?;
    io::copy(&mut content, &mut file)?;
    file.rewind()?;
    Ok(file)
}

fn index(file: &File) -> Result<BTreeMap<Vec<u8>, Place>, TarError> {
    let length = file.metadata()?.len();
    let mut reader = TarReader::new(file);
    let mut index = BTreeMap::new();
    while let Some(entry) = reader.next_entry()? {
        let Some(name) = normal(&entry.path) else { continue };
        let place = match entry.kind {
            Kind::File if entry.sparse.is_none() => {
                let end = entry.data_offset.checked_add(entry.size);
                if end.is_none_or(|end| end > length) {
                    return Err(TarError::Truncated);
                }
                Place::Data { start: entry.data_offset, length: entry.size }
            }
            Kind::HardLink => match normal(&entry.link) {
                Some(target) => Place::Link(target),
                None => continue,
            },
            Kind::Symlink => {
                let directory = entry.path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or(&[]);
                match normal(&[directory, b"/", &entry.link].concat()) {
                    Some(target) => Place::Link(target),
                    None => continue,
                }
            }
            _ => continue,
        };
        index.insert(name, place);
    }
    Ok(index)
}

/// A name without `.`, `..` and doubled slashes; `None` when it leads out of the archive.
fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// A part of a file.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        if room.is_empty() {
            return Ok(0);
        }
        match self.file.read_at(room, self.at)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated")),
            count => {
                self.at += count as u64;
                Ok(count)
            }
        }
    }
}
