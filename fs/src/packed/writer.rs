//! Making a packed layer from entries in the order of an archive.
//!
//! Content goes to its place at once: small files to the end of the data file, large ones to the
//! store of objects. Names and attributes are collected in memory, because a later entry may replace an
//! earlier one, and written when the last has come. Nothing is synced: the caller, who has more to
//! write, does that once for all before he makes the layer known.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::format::{self, Header, InodeRecord, NameRecord, ObjectRecord};
use super::index::EntryKind;
use super::objects::{self, Objects};
use super::tree::{Body, Inode, Link, Meta, Seen, Slot, Special, Tree};
use super::{Content, Context as _, DATA, Digest, INDEX, LARGE, OBJECTS, PackError};
use crate::attr::Kind;
use crate::sys;

/// The data file is written in pieces of this size.
const BUFFER: usize = 256 * 1024;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Stands for all of the layer: names, attributes and content.
    pub id: Digest,
    /// Number of inodes.
    pub inodes: u32,
    /// Bytes of content in the files of the layer, wherever they lie.
    pub bytes: u64,
    /// Bytes of the data file.
    pub data_len: u64,
    /// Bytes of the index.
    pub index_len: u64,
    /// Bytes of objects that were not in the store before.
    pub new_objects: u64,
}

/// A packed layer in the making.
#[derive(Debug)]
pub struct Writer {
    dir: OwnedFd,
    at: PathBuf,
    tree: Tree,
    data: BufWriter<File>,
    data_len: u64,
    data_hash: Sha256,
    objects: Arc<Objects>,
    known: HashMap<Digest, ObjectRecord>,
    new_objects: u64,
    buf: Vec<u8>,
}

impl Writer {
    /// Begins a layer in the directory `dir`, which has no layer yet. Its objects are those of `store`,
    /// in the layer's directory; `None`: there is a directory of that name already. A relative `store`
    /// counts from where the layer will lie in the end.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn create(
        dir: &Path,
        objects: Arc<Objects>,
        store: Option<&Path>,
    ) -> Result<Writer, PackError> {
        use std::os::unix::ffi::OsStrExt;
        let fd = sys::dir::open_dir_path(dir).on("open", dir)?;
        if let Some(store) = store {
            sys::dir::symlinkat(store.as_os_str().as_bytes(), fd.as_fd(), OBJECTS.as_bytes())
                .on("make", dir.join(OBJECTS))?;
        }
        let data = create(&fd, dir, DATA)?;
        Ok(Writer {
            dir: fd,
            at: dir.into(),
            tree: Tree::new(),
            data: BufWriter::with_capacity(BUFFER, data),
            data_len: 0,
            data_hash: Sha256::new(),
            objects,
            known: HashMap::new(),
            new_objects: 0,
            buf: Vec::new(),
        })
    }

    /// What the layer holds at a path, as far as it was written.
    pub fn at(&self, path: &[u8]) -> Option<Seen<'_>> {
        self.tree.at(path)
    }

    /// Adds a regular file of `size` bytes, of which `segments` (offset and length, in order) are data
    /// and the rest holes; `None`: all of it. `content` has the data alone, and is read no further.
    ///
    /// # Errors
    /// See [`PackError`]; the layer is to be given up then.
    pub fn file(
        &mut self,
        path: &[u8],
        meta: &Meta,
        size: u64,
        segments: Option<&[(u64, u64)]>,
        content: &mut dyn Read,
    ) -> Result<Content, PackError> {
        self.tree.may_put(path, meta)?;
        if size > i64::MAX as u64 {
            return Err(PackError::Refused { path: path.into(), why: "it is too large" });
        }
        let content = match size {
            0 => Content::Empty,
            small if small < LARGE => self.small(path, small, segments, content)?,
            large => {
                let (record, new) = self.objects.add(path, large, segments, content)?;
                self.new_objects += new;
                self.known.insert(record.digest, record);
                Content::Object { digest: record.digest, len: large }
            }
        };
        self.tree.put(path, meta, Body::File(content))?;
        Ok(content)
    }

    fn small(
        &mut self,
        path: &[u8],
        size: u64,
        segments: Option<&[(u64, u64)]>,
        content: &mut dyn Read,
    ) -> Result<Content, PackError> {
        let whole = [(0, size)];
        let segments = segments.unwrap_or(&whole);
        if objects::data_in(segments, size).is_none() {
            return Err(PackError::Refused { path: path.into(), why: "its holes make no sense" });
        }
        self.buf.clear();
        self.buf.resize(size as usize, 0);
        for &(start, len) in segments {
            let part = self.buf.get_mut(start as usize..(start + len) as usize).unwrap_or_default();
            content
                .read_exact(part)
                .map_err(|why| PackError::Content { path: path.into(), why })?;
        }
        self.data_hash.update(&self.buf);
        self.data.write_all(&self.buf).on("write", self.at.join(DATA))?;
        let at = self.data_len;
        self.data_len += size;
        Ok(Content::Data { at, len: size })
    }

    /// Adds a directory, or gives one that is there its attributes. An empty path is the root.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn dir(&mut self, path: &[u8], meta: &Meta) -> Result<(), PackError> {
        self.tree.put_dir(path, meta)
    }

    /// Adds a symbolic link, device, pipe or socket.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn special(
        &mut self,
        path: &[u8],
        meta: &Meta,
        special: Special<'_>,
    ) -> Result<(), PackError> {
        let body = match special {
            Special::Symlink(target) => Body::Symlink(target.into()),
            Special::Char(major, minor) => Body::Device(Kind::Char, major, minor),
            Special::Block(major, minor) => Body::Device(Kind::Block, major, minor),
            Special::Fifo => Body::Other(Kind::Fifo),
            Special::Socket => Body::Other(Kind::Socket),
        };
        self.tree.put(path, meta, body)
    }

    /// Adds a hard link to `target`: to the file that the layer holds there, or else to that of the
    /// layers below, with whose attributes it will be seen.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn link(&mut self, path: &[u8], target: &[u8], meta: &Meta) -> Result<Link, PackError> {
        self.tree.link(path, target, meta)
    }

    /// Hides a name in the layers below. What this layer holds under it, before or after, stays.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), PackError> {
        self.tree.whiteout(path)
    }

    /// Hides what the layers below hold in this directory.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn opaque(&mut self, path: &[u8]) -> Result<(), PackError> {
        self.tree.opaque(path)
    }

    /// Writes the index. Data and index are not synced; the new objects are not published.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn finish(mut self) -> Result<Summary, PackError> {
        self.data.flush().on("write", self.at.join(DATA))?;
        let table = Table::of(&self.tree, &self.known)?;
        let mut header = Header {
            inodes: table.inodes,
            names: (table.names.len() / format::NAME) as u32,
            objects: table.object_numbers.len() as u32,
            below: (table.below.len() / format::BELOW) as u32,
            heap: table.heap.len() as u32,
            data_len: self.data_len,
            data: Digest(self.data_hash.finalize().into()),
            body: Digest([0; 32]),
            id: Digest([0; 32]),
        };
        let parts = [&table.records, &table.names, &table.objects, &table.below, &table.heap];
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        header.body = Digest(hash.finalize().into());
        let mut index = BufWriter::with_capacity(BUFFER, create(&self.dir, &self.at, INDEX)?);
        let sealed = header.seal();
        let write = [&sealed].into_iter().chain(parts).try_for_each(|part| index.write_all(part));
        write.and_then(|()| index.flush()).on("write", self.at.join(INDEX))?;
        Ok(Summary {
            id: header.id,
            inodes: header.inodes,
            bytes: table.bytes,
            data_len: self.data_len,
            index_len: sealed.len() as u64 + parts.iter().map(|p| p.len() as u64).sum::<u64>(),
            new_objects: self.new_objects,
        })
    }
}

fn create(dir: &OwnedFd, at: &Path, name: &str) -> Result<File, PackError> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let file = sys::dir::openat(dir.as_fd(), name.as_bytes(), flags, 0o644);
    file.map(File::from).on("make", at.join(name))
}

/// The tables of an index.
#[derive(Default)]
struct Table {
    inodes: u32,
    records: Vec<u8>,
    names: Vec<u8>,
    objects: Vec<u8>,
    object_numbers: HashMap<Digest, u32>,
    below: Vec<u8>,
    heap: Vec<u8>,
    xattr_sets: HashMap<Vec<u8>, u32>,
    bytes: u64,
}

/// Where a directory's names went.
#[derive(Clone, Copy, Default)]
struct Placed {
    first: u64,
    count: u32,
    parent: u32,
    home: u32,
    subdirs: u32,
}

impl Table {
    /// Numbers everything so that what is in one directory lies together, as a walk meets it, and writes
    /// the tables.
    fn of(tree: &Tree, known: &HashMap<Digest, ObjectRecord>) -> Result<Table, PackError> {
        let mut table = Table { inodes: format::ROOT, ..Table::default() };
        // By place in the tree: the number that was given.
        let mut numbers = vec![0u32; tree.inodes.len()];
        let mut order = vec![0usize];
        let mut placed: HashMap<usize, Placed> = HashMap::new();
        if let Some(root) = numbers.first_mut() {
            *root = format::ROOT;
        }
        let mut left = vec![(0usize, format::ROOT, 0)];
        while let Some((at, parent, home)) = left.pop() {
            let Some(Body::Dir(dir)) = tree.inodes.get(at).map(|i| &i.body) else { continue };
            let number = numbers.get(at).copied().unwrap_or(0);
            let mut place = Placed {
                first: (table.names.len() / format::NAME) as u64,
                count: count(dir.names.len(), "names")?,
                parent,
                home,
                subdirs: 0,
            };
            let mut below = Vec::new();
            for (name, slot) in &dir.names {
                let ino = match slot.inode {
                    None => 0,
                    Some(inode) => {
                        let number = numbers.get_mut(inode).ok_or(PackError::TooMuch("files"))?;
                        if *number == 0 {
                            *number = count(order.len() + 1, "files")?;
                            order.push(inode);
                        }
                        *number
                    }
                };
                let home = count(table.names.len() / format::NAME, "names")?;
                let kind = table.name(tree, name, slot, ino)?;
                if let (EntryKind::Node(Kind::Dir), Some(inode)) = (kind, slot.inode) {
                    below.push((inode, number, home));
                    place.subdirs += 1;
                }
            }
            placed.insert(at, place);
            left.extend(below.into_iter().rev());
        }
        count(table.names.len() / format::NAME, "names")?;
        table.inodes = count(order.len(), "files")?;
        for at in order {
            let Some(inode) = tree.inodes.get(at) else { continue };
            let place = placed.get(&at).copied().unwrap_or_default();
            let number = numbers.get(at).copied().unwrap_or(0);
            table.inode(inode, number, place, known)?;
        }
        count(table.heap.len(), "names and attributes")?;
        Ok(table)
    }

    fn name(
        &mut self,
        tree: &Tree,
        name: &[u8],
        slot: &Slot,
        ino: u32,
    ) -> Result<EntryKind, PackError> {
        let kind = match slot.inode.and_then(|at| tree.inodes.get(at)).map(|inode| &inode.body) {
            None => EntryKind::Whiteout,
            Some(Body::Below(_)) => EntryKind::Below,
            Some(Body::Dir(_)) => EntryKind::Node(Kind::Dir),
            Some(Body::File(_)) => EntryKind::Node(Kind::File),
            Some(Body::Symlink(_)) => EntryKind::Node(Kind::Symlink),
            Some(Body::Device(kind, ..) | Body::Other(kind)) => EntryKind::Node(*kind),
        };
        let at = self.put(name)?;
        let len = name.len() as u8;
        NameRecord { at, ino, len, kind: kind.code() }.write(&mut self.names);
        Ok(kind)
    }

    /// Adds bytes to the heap.
    fn put(&mut self, bytes: &[u8]) -> Result<u32, PackError> {
        let at = count(self.heap.len(), "names and attributes")?;
        self.heap.extend_from_slice(bytes);
        Ok(at)
    }

    fn inode(
        &mut self,
        inode: &Inode,
        number: u32,
        place: Placed,
        known: &HashMap<Digest, ObjectRecord>,
    ) -> Result<(), PackError> {
        let meta = &inode.meta;
        let kind = match &inode.body {
            Body::Dir(_) => Kind::Dir,
            Body::File(_) | Body::Below(_) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
            Body::Device(kind, ..) | Body::Other(kind) => *kind,
        };
        let mut record = InodeRecord {
            mode: kind.mode() | meta.perm,
            uid: meta.uid,
            gid: meta.gid,
            nlink: inode.nlink,
            mtime: meta.mtime.sec,
            mtime_nsec: meta.mtime.nsec,
            flags: 0,
            size: 0,
            place: 0,
            count: 0,
            parent: 0,
            xattrs: self.xattrs(&meta.xattrs)?,
            home: 0,
        };
        match &inode.body {
            Body::Dir(dir) => {
                record.nlink = place.subdirs.saturating_add(2);
                record.place = place.first;
                record.count = place.count;
                record.parent = place.parent;
                record.home = place.home;
                let marks = [(dir.opaque, format::OPAQUE), (dir.implied, format::IMPLIED)];
                record.flags = marks.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum();
            }
            Body::File(content) => {
                record.size = content.len();
                self.bytes += content.len();
                match content {
                    Content::Empty => {}
                    Content::Data { at, .. } => record.place = *at,
                    Content::Object { digest, .. } => {
                        record.flags = format::IN_OBJECT;
                        record.place = u64::from(self.object(*digest, known)?);
                    }
                }
            }
            Body::Symlink(target) => {
                record.size = target.len() as u64;
                record.place = u64::from(self.put(target)?);
            }
            Body::Below(target) => {
                record.flags = format::LINK_BELOW;
                record.size = target.len() as u64;
                record.place = u64::from(self.put(target)?);
                self.below.extend_from_slice(&number.to_le_bytes());
            }
            Body::Device(_, major, minor) => {
                record.place = (u64::from(*major) << 32) | u64::from(*minor);
            }
            Body::Other(_) => {}
        }
        record.write(&mut self.records);
        Ok(())
    }

    fn object(
        &mut self,
        digest: Digest,
        known: &HashMap<Digest, ObjectRecord>,
    ) -> Result<u32, PackError> {
        if let Some(number) = self.object_numbers.get(&digest) {
            return Ok(*number);
        }
        let number = count(self.object_numbers.len(), "objects")?;
        let record = known.get(&digest).ok_or(PackError::TooMuch("objects"))?;
        record.write(&mut self.objects);
        self.object_numbers.insert(digest, number);
        Ok(number)
    }

    /// Adds a set of xattrs to the heap, unless the same is there already.
    fn xattrs(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<u32, PackError> {
        if xattrs.is_empty() {
            return Ok(0);
        }
        let mut set = Vec::new();
        set.extend_from_slice(&count(xattrs.len(), "xattrs")?.to_le_bytes());
        for (name, value) in xattrs {
            set.extend_from_slice(&(name.len() as u16).to_le_bytes());
            set.extend_from_slice(&(value.len() as u32).to_le_bytes());
            set.extend_from_slice(name);
            set.extend_from_slice(value);
        }
        if let Some(at) = self.xattr_sets.get(&set) {
            return Ok(*at);
        }
        let at = count(self.heap.len() + 1, "names and attributes")?;
        self.put(&set)?;
        self.xattr_sets.insert(set, at);
        Ok(at)
    }
}

fn count(n: usize, what: &'static str) -> Result<u32, PackError> {
    u32::try_from(n).map_err(|_| PackError::TooMuch(what))
}
