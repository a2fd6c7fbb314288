//! The store of objects: content of large files, named by what it is.
//!
//! An object `abcd…` is the file `ab/cd…`. Its name is the SHA-256 of its content. Only where most of a
//! very large file is holes it is made of its blocks that are not zeros instead, each with its place,
//! so that nobody has to hash terabytes of zeros; which of the two counts is told by the index. Blocks
//! of zeros are holes in either case.
//!
//! New objects are made in a directory of the caller's and come into the store when he says so
//! ([`Objects::publish`]): whoever gives up before that leaves nothing in the store.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::format::{EXTENTS, ObjectRecord};
use super::{Context as _, Digest, PackError};
use crate::sys::{self, Errno};

/// Zeros of this size and alignment are left out: the block size of nearly all filesystems.
const BLOCK: usize = 4096;
/// Content is moved in pieces of this size, which is a multiple of [`BLOCK`].
const PIECE: usize = 256 * 1024;
/// Where so many bytes are in holes, an object is named by its extents.
const MANY_HOLES: u64 = 64 << 20;
/// Objects may be read by all who reach the store, and written by nobody.
const MODE: u32 = 0o444;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Directory and name of an object below its store.
pub(super) fn place(digest: Digest) -> (String, String) {
    let name = digest.to_string();
    let (dir, rest) = name.split_at(2);
    (dir.to_owned(), rest.to_owned())
}

/// A store of objects, and a directory for new ones. It may be shared by many writers.
#[derive(Debug)]
pub struct Objects {
    published: OwnedFd,
    staging: OwnedFd,
    published_at: PathBuf,
    staging_at: PathBuf,
    staged: Mutex<BTreeSet<Digest>>,
    next: AtomicU64,
}

fn open_dir(path: &Path) -> Result<OwnedFd, PackError> {
    sys::dir::open_dir_path(path).on("open", path)
}

impl Objects {
    /// The store in the directory `published`; new objects are made in `staging`, on the same filesystem.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn new(published: &Path, staging: &Path) -> Result<Objects, PackError> {
        Ok(Objects {
            published: open_dir(published)?,
            staging: open_dir(staging)?,
            published_at: published.into(),
            staging_at: staging.into(),
            staged: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// New objects and where they are, as long as they are not published.
    pub fn staged(&self) -> Vec<(Digest, PathBuf)> {
        let staged = self.staged.lock();
        staged.iter().map(|d| (*d, self.staging_at.join(d.to_string()))).collect()
    }

    /// Moves the new objects into the store.
    ///
    /// # Errors
    /// When the host refuses that. It can be called again.
    pub fn publish(&self) -> Result<(), PackError> {
        let mut staged = self.staged.lock();
        while let Some(digest) = staged.first().copied() {
            let (dir, name) = place(digest);
            match sys::dir::mkdirat(self.published.as_fd(), dir.as_bytes(), 0o755) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e).on("make", self.published_at.join(dir)),
            }
            let to = self.published_at.join(&dir).join(&name);
            let into = sys::dir::open_dir(self.published.as_fd(), dir.as_bytes());
            let into = into.on("open", self.published_at.join(&dir))?;
            let from = digest.to_string();
            sys::dir::renameat2(
                self.staging.as_fd(),
                from.as_bytes(),
                into.as_fd(),
                name.as_bytes(),
                0,
            )
            .on("make", to)?;
            staged.pop_first();
        }
        Ok(())
    }

    /// Whether the store, or what is to come into it, has an object of this name and length.
    fn has(&self, digest: Digest, len: u64) -> bool {
        let (dir, name) = place(digest);
        self.staged.lock().contains(&digest)
            || sys::dir::open_dir(self.published.as_fd(), dir.as_bytes())
                .and_then(|dir| sys::dir::statat(dir.as_fd(), name.as_bytes()))
                .is_ok_and(|attr| attr.size == len)
    }

    /// Takes the content of `size` bytes of which `segments` are data (`None`: all); `content` gives the
    /// data alone. Returns its record, and how many bytes the store grows by.
    pub(super) fn add(
        &self,
        path: &[u8],
        size: u64,
        segments: Option<&[(u64, u64)]>,
        content: &mut dyn Read,
    ) -> Result<(ObjectRecord, u64), PackError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temp = format!("new-{number:x}");
        let at = self.staging_at.join(&temp);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let file = sys::dir::openat(self.staging.as_fd(), temp.as_bytes(), flags, 0o600);
        let file = file.on("make", &at)?;
        let taken = self.fill(&file, &at, path, size, segments, content).and_then(|record| {
            if self.has(record.digest, size) {
                return Ok((record, false));
            }
            sys::dir::chmodat(file.as_fd(), b"", MODE).on("set the mode of", &at)?;
            let name = record.digest.to_string();
            let staging = self.staging.as_fd();
            sys::dir::renameat2(staging, temp.as_bytes(), staging, name.as_bytes(), 0)
                .on("rename", &at)?;
            self.staged.lock().insert(record.digest);
            Ok((record, true))
        });
        if !matches!(taken, Ok((_, true))) {
            // Nobody looks for it, and the directory goes with the caller's attempt.
            let _left_for_the_caller = sys::dir::unlinkat(self.staging.as_fd(), temp.as_bytes());
        }
        taken.map(|(record, new)| (record, if new { record.blocks * 512 } else { 0 }))
    }

    fn fill(
        &self,
        file: &OwnedFd,
        at: &Path,
        path: &[u8],
        size: u64,
        segments: Option<&[(u64, u64)]>,
        content: &mut dyn Read,
    ) -> Result<ObjectRecord, PackError> {
        let data = match segments {
            Some(segments) => data_in(segments, size).ok_or_else(|| PackError::Refused {
                path: path.into(),
                why: "its holes make no sense",
            })?,
            None => size,
        };
        let mut shape = Shape::new(size, size - data >= MANY_HOLES);
        let whole = [(0, size)];
        let mut buf = vec![0; PIECE];
        let mut sink = |offset: u64, piece: &[u8]| {
            sys::file::pwrite_all(file.as_fd(), piece, offset).on("write", at)
        };
        sys::file::ftruncate(file.as_fd(), size).on("write", at)?;
        for &(start, len) in segments.unwrap_or(&whole) {
            shape.go_to(start, &mut sink)?;
            let end = start + len;
            let mut offset = start;
            while offset < end {
                let want = (buf.len() as u64).min(end - offset) as usize;
                let Some(piece) = buf.get_mut(..want) else { break };
                content
                    .read_exact(piece)
                    .map_err(|why| PackError::Content { path: path.to_owned(), why })?;
                shape.take(piece, &mut sink)?;
                offset += want as u64;
            }
        }
        shape.go_to(size, &mut sink)?;
        shape.finish(&mut sink)
    }
}

/// How many bytes the segments of a file of `size` bytes hold; `None` where they are not in order or
/// reach beyond its end.
pub(super) fn data_in(segments: &[(u64, u64)], size: u64) -> Option<u64> {
    let (mut data, mut at) = (0, 0);
    for &(start, len) in segments {
        let end = start.checked_add(len)?;
        if start < at || end > size {
            return None;
        }
        (data, at) = (data + len, end);
    }
    Some(data)
}

/// Checks the object of this record in the store `objects`.
pub(super) fn check(objects: BorrowedFd<'_>, record: &ObjectRecord) -> Result<(), String> {
    let (dir, name) = place(record.digest);
    let failed = |e: Errno| format!("object {}: {}", record.digest, e.desc());
    let dir = sys::dir::open_dir(objects, dir.as_bytes()).map_err(failed)?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let file = sys::dir::openat(dir.as_fd(), name.as_bytes(), flags, 0).map_err(failed)?;
    if sys::dir::fstat(file.as_fd()).map_err(failed)?.size != record.len {
        return Err(format!("object {} has another length", record.digest));
    }
    let mut shape = Shape::new(record.len, record.flags & EXTENTS != 0);
    let mut buf = vec![0; PIECE];
    let mut nowhere = |_: u64, _: &[u8]| Ok::<(), Errno>(());
    let mut at = 0;
    while at < record.len {
        let start = match sys::file::seek(file.as_fd(), at, libc::SEEK_DATA) {
            Ok(start) => start.min(record.len),
            Err(Errno::ENXIO) => break,
            Err(_) => at,
        };
        let end = sys::file::seek(file.as_fd(), start, libc::SEEK_HOLE).unwrap_or(record.len);
        let end = if end > start { end.min(record.len) } else { record.len };
        shape.go_to(start, &mut nowhere).map_err(failed)?;
        at = start;
        while at < end {
            let want = (buf.len() as u64).min(end - at) as usize;
            let piece = buf.get_mut(..want).unwrap_or_default();
            let n = sys::file::pread_full(file.as_fd(), piece, at).map_err(failed)?;
            if n < want {
                return Err(format!("object {} became shorter", record.digest));
            }
            shape.take(piece, &mut nowhere).map_err(failed)?;
            at += n as u64;
        }
    }
    shape.go_to(record.len, &mut nowhere).map_err(failed)?;
    let found: ObjectRecord = shape.finish(&mut nowhere).map_err(failed)?;
    if found.digest != record.digest {
        return Err(format!("object {} holds something else", record.digest));
    }
    if found.blocks != record.blocks {
        return Err(format!("object {} has other holes than recorded", record.digest));
    }
    Ok(())
}

/// Content on its way: split into blocks, of which those of zeros are left out, and hashed.
struct Shape {
    size: u64,
    hash: Sha256,
    /// Named by its extents.
    extents: bool,
    /// Bytes in whole blocks so far.
    done: u64,
    /// The block that is not full yet.
    block: Vec<u8>,
    /// Data to be written at once, and where.
    run: Vec<u8>,
    run_at: u64,
    blocks: u64,
}

impl Shape {
    fn new(size: u64, extents: bool) -> Shape {
        let mut hash = Sha256::new();
        if extents {
            hash.update(b"cowl extents\n");
            hash.update(size.to_le_bytes());
        }
        Shape {
            size,
            hash,
            extents,
            done: 0,
            block: Vec::with_capacity(BLOCK),
            run: Vec::new(),
            run_at: 0,
            blocks: 0,
        }
    }

    fn position(&self) -> u64 {
        self.done + self.block.len() as u64
    }

    /// Zeros up to `to`.
    fn go_to<E>(
        &mut self,
        to: u64,
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.position() < to {
            let left = to - self.position();
            if self.extents && self.block.is_empty() && left >= BLOCK as u64 {
                self.flush(sink)?;
                self.done += left - left % BLOCK as u64;
                continue;
            }
            let n = (BLOCK - self.block.len()).min(usize::try_from(left).unwrap_or(BLOCK));
            self.take(ZEROS.get(..n).unwrap_or_default(), sink)?;
        }
        Ok(())
    }

    fn take<E>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.extents {
            self.hash.update(bytes);
        }
        while !bytes.is_empty() {
            if self.block.is_empty() && bytes.len() >= BLOCK {
                let (block, rest) = bytes.split_at(BLOCK);
                self.put(block, sink)?;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((BLOCK - self.block.len()).min(bytes.len()));
            self.block.extend_from_slice(part);
            bytes = rest;
            if self.block.len() == BLOCK {
                self.put_own(sink)?;
            }
        }
        Ok(())
    }

    /// The block that was collected.
    fn put_own<E>(&mut self, sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut block = std::mem::take(&mut self.block);
        self.put(&block, sink)?;
        block.clear();
        self.block = block;
        Ok(())
    }

    /// One block, or the shorter last one.
    fn put<E>(
        &mut self,
        block: &[u8],
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if ZEROS.get(..block.len()) == Some(block) {
            self.flush(sink)?;
        } else {
            if self.extents {
                self.hash.update(self.done.to_le_bytes());
                self.hash.update(block);
            }
            if self.run.is_empty() {
                self.run_at = self.done;
            }
            self.run.extend_from_slice(block);
            self.blocks += (BLOCK / 512) as u64;
            if self.run.len() >= PIECE {
                self.flush(sink)?;
            }
        }
        self.done += block.len() as u64;
        Ok(())
    }

    fn flush<E>(&mut self, sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        if !self.run.is_empty() {
            sink(self.run_at, &self.run)?;
            self.run.clear();
        }
        Ok(())
    }

    fn finish<E>(
        mut self,
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<ObjectRecord, E> {
        if !self.block.is_empty() {
            self.put_own(sink)?;
        }
        self.flush(sink)?;
        Ok(ObjectRecord {
            digest: Digest(self.hash.finalize().into()),
            len: self.size,
            blocks: self.blocks,
            flags: if self.extents { EXTENTS } else { 0 },
        })
    }
}
