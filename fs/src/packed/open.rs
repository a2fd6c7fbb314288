//! An open packed layer: its index, and where the content is.

use std::io::{self, Read};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::index::Bad;
use super::{Content, Context as _, DATA, Index, OBJECTS, PackError, format, objects};
use crate::sys::map::Map;
use crate::sys::{self, Errno};

/// An open packed layer. Everything that the index answers is reached by [`Index`]'s methods.
#[derive(Debug)]
pub struct Packed {
    path: PathBuf,
    index: Index,
    dir: Arc<OwnedFd>,
    data: OnceLock<Arc<OwnedFd>>,
    objects: OnceLock<Arc<OwnedFd>>,
    view: OnceLock<Arc<OwnedFd>>,
}

impl Deref for Packed {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

/// Whether the file is an index, by its first bytes.
pub(crate) fn is_index(file: BorrowedFd<'_>) -> sys::Result<bool> {
    let mut magic = format::MAGIC;
    magic.fill(0);
    Ok(sys::file::pread_full(file, &mut magic, 0)? == magic.len() && magic == format::MAGIC)
}

impl Packed {
    /// Opens the layer of an index file. Only the header is looked at, and that the data file is there.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn open(index: &Path) -> Result<Packed, PackError> {
        let dir = match index.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let dir = sys::dir::open_dir_path(dir).on("open", dir)?;
        let file = std::fs::File::open(index).on("open", index)?;
        Packed::of(dir, file.into(), index)
    }

    /// The layer of an open index and the directory it is in.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn of(dir: OwnedFd, index: OwnedFd, path: &Path) -> Result<Packed, PackError> {
        let damaged = |what: &str| PackError::Damaged { path: path.into(), what: what.into() };
        let attr = sys::dir::fstat(index.as_fd()).on("look at", path)?;
        if attr.kind != crate::attr::Kind::File {
            return Err(PackError::NotPacked(path.into()));
        }
        if attr.size < format::HEADER as u64 {
            return Err(match is_index(index.as_fd()).on("read", path)? {
                true => damaged("its index is cut short"),
                false => PackError::NotPacked(path.into()),
            });
        }
        let len = usize::try_from(attr.size).map_err(|_| damaged("its index is too long"))?;
        let map = Map::of(index.as_fd(), len).on("map", path)?;
        let index = Index::open(map).map_err(|bad| match bad {
            Bad::NotPacked => PackError::NotPacked(path.into()),
            Bad::Version(version) => PackError::Version(path.into(), version),
            Bad::Damaged(what) => damaged(what),
        })?;
        let data_len = index.header().data_len;
        if data_len > 0 {
            let data = path.with_file_name(DATA);
            let attr = sys::dir::statat(dir.as_fd(), DATA.as_bytes()).on("look at", data)?;
            if attr.size != data_len {
                return Err(damaged("its data file has another length"));
            }
        }
        let (data, objects, view) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Packed { path: path.into(), index, dir: Arc::new(dir), data, objects, view })
    }

    /// The index file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory it is in.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A descriptor that stands for content of no bytes: nothing is ever read from it.
    pub(crate) fn nothing(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.dir)
    }

    /// Bytes of the data file.
    pub fn data_len(&self) -> u64 {
        self.index.header().data_len
    }

    /// The open data file.
    ///
    /// # Errors
    /// Errors of opening it; `EIO` where it has another length than the index says.
    pub fn data(&self) -> sys::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.data.get() {
            return Ok(Arc::clone(fd));
        }
        let fd = open_file(self.dir.as_fd(), DATA.as_bytes())?;
        if sys::dir::fstat(fd.as_fd())?.size != self.data_len() {
            return Err(Errno::EIO);
        }
        Ok(Arc::clone(self.data.get_or_init(|| Arc::new(fd))))
    }

    /// Opens the store of objects now, if the layer has any.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open_store(&self) -> Result<(), PackError> {
        if self.index.header().objects > 0 {
            self.store().on("open", self.path.with_file_name(OBJECTS))?;
        }
        Ok(())
    }

    /// The store of objects, if it was opened.
    pub(crate) fn opened_store(&self) -> Option<&Arc<OwnedFd>> {
        self.objects.get()
    }

    /// Takes objects by way of this directory from now on: a read-only view of the store.
    pub(crate) fn set_view(&self, view: OwnedFd) {
        self.view.get_or_init(|| Arc::new(view));
    }

    /// The open store of objects.
    pub(crate) fn store(&self) -> sys::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.view.get().or(self.objects.get()) {
            return Ok(Arc::clone(fd));
        }
        let fd = sys::dir::open_dir_followed(self.dir.as_fd(), OBJECTS.as_bytes())?;
        Ok(Arc::clone(self.objects.get_or_init(|| Arc::new(fd))))
    }

    /// Opens the file that has some content, and tells from which byte on.
    ///
    /// # Errors
    /// Errors of opening it; `EIO` where it is shorter than the content.
    pub fn open_content(&self, content: &Content) -> sys::Result<(Arc<OwnedFd>, u64)> {
        match *content {
            Content::Empty => Err(Errno::EINVAL),
            Content::Data { at, len } => {
                let end = at.checked_add(len).ok_or(Errno::EIO)?;
                if end > self.data_len() {
                    return Err(Errno::EIO);
                }
                Ok((self.data()?, at))
            }
            Content::Object { digest, len } => {
                let (dir, name) = objects::place(digest);
                let dir = sys::dir::open_dir(self.store()?.as_fd(), dir.as_bytes())?;
                let fd = open_file(dir.as_fd(), name.as_bytes())?;
                if sys::dir::fstat(fd.as_fd())?.size != len {
                    return Err(Errno::EIO);
                }
                Ok((Arc::new(fd), 0))
            }
        }
    }

    /// Reads content at `offset`; fewer bytes than `buf` has room for only at its end.
    ///
    /// # Errors
    /// Errors of opening and reading.
    pub fn read(&self, content: &Content, offset: u64, buf: &mut [u8]) -> sys::Result<usize> {
        let left = content.len().saturating_sub(offset);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let (file, at) = self.open_content(content)?;
        read_part(file.as_fd(), at + offset, buf.get_mut(..want).unwrap_or_default())
    }

    /// All of some content, as a stream.
    pub fn reader(&self, content: &Content) -> Reader<'_> {
        Reader { packed: self, content: *content, at: 0, open: None }
    }
}

fn read_part(file: BorrowedFd<'_>, at: u64, buf: &mut [u8]) -> sys::Result<usize> {
    let n = sys::file::pread_full(file, buf, at)?;
    if n < buf.len() { Err(Errno::EIO) } else { Ok(n) }
}

fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> sys::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    match sys::dir::openat(dir, name, flags | libc::O_NOATIME, 0) {
        // Only the owner may ask for no atime update.
        Err(Errno::EPERM) => sys::dir::openat(dir, name, flags, 0),
        other => other,
    }
}

/// Content as a stream.
#[derive(Debug)]
pub struct Reader<'a> {
    packed: &'a Packed,
    content: Content,
    at: u64,
    open: Option<(Arc<OwnedFd>, u64)>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.content.len() - self.at;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let (file, start) = match self.open.take() {
            Some(open) => open,
            None => self.packed.open_content(&self.content)?,
        };
        let part = buf.get_mut(..want).unwrap_or_default();
        let n = read_part(file.as_fd(), start + self.at, part)?;
        self.open = Some((file, start));
        self.at += n as u64;
        Ok(n)
    }
}
