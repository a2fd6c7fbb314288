//! Reading an index: every byte is hostile, every access is checked.
//!
//! Names of a directory lie side by side, sorted by their bytes, so looking one up is a binary search.
//! A directory's number is larger than that of the directory it is in, and its record tells
//! its one name, so every walk ends, and meets no directory twice.

use super::format::{self, Header, InodeRecord, NameRecord, ObjectRecord};
use super::{Content, Digest};
use crate::attr::{Attr, Kind, Time};
use crate::sys::map::Map;
use crate::sys::{Errno, NAME_MAX, Result};

/// What an index says when it does not add up.
const DAMAGED: Errno = Errno::EIO;
/// Longest name of an xattr (Linux `XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;
/// Preferred I/O size, shown as `st_blksize`.
const IO_SIZE: u32 = 4096;

/// An index.
pub struct Index {
    map: Map,
    header: Header,
    tables: [u64; 6],
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("id", &self.header.id).finish_non_exhaustive()
    }
}

/// The end of a walk: all was well, or why it broke off.
type Done<E> = std::result::Result<(), E>;

/// What an index holds under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode; 0 for a whiteout.
    pub ino: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The name is hidden in the layers below.
    Whiteout,
    /// A hard link to a path of the layers below.
    Below,
    /// An object of this type.
    Node(Kind),
}

impl EntryKind {
    /// As it is written.
    pub(super) fn code(self) -> u8 {
        match self {
            EntryKind::Whiteout => format::WHITEOUT,
            EntryKind::Below => format::TYPE_BELOW,
            EntryKind::Node(kind) => kind.dtype() as u8,
        }
    }

    fn from_code(code: u8) -> Result<EntryKind> {
        match code {
            format::WHITEOUT => Ok(EntryKind::Whiteout),
            format::TYPE_BELOW => Ok(EntryKind::Below),
            code => Kind::from_dtype(code).map(EntryKind::Node).ok_or(DAMAGED),
        }
    }
}

/// Why bytes are not taken for an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Another magic number.
    NotPacked,
    /// Another version.
    Version(u32),
    /// The header does not add up.
    Damaged(&'static str),
}

/// Whether a name can be that of an entry.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

impl Index {
    /// Reads and checks the header: no more than the first page is looked at.
    pub(super) fn open(map: Map) -> std::result::Result<Index, Bad> {
        let all = map.bytes();
        let header = Header::parse(all).map_err(|e| e.map_or(Bad::NotPacked, Bad::Version))?;
        if !header.sound() {
            return Err(Bad::Damaged("its header is not as it was written"));
        }
        let tables = header.tables();
        if tables.last().copied() != Some(all.len() as u64) {
            return Err(Bad::Damaged("it is not as long as it says"));
        }
        if header.inodes == 0 {
            return Err(Bad::Damaged("it has no root directory"));
        }
        Ok(Index { map, header, tables })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn all(&self) -> &[u8] {
        self.map.bytes()
    }

    /// `value`, unless pages of the file were found to be gone.
    fn whole<T>(&self, value: T) -> Result<T> {
        if self.map.broken() { Err(DAMAGED) } else { Ok(value) }
    }

    /// Bytes of the table number `table`.
    fn slice(&self, table: usize, at: u64, len: u64) -> Result<&[u8]> {
        let (start, end) = match self.tables.get(table..table + 2) {
            Some(&[start, end]) => (start, end),
            _ => return Err(DAMAGED),
        };
        let from = start.checked_add(at).ok_or(DAMAGED)?;
        let to = from.checked_add(len).filter(|to| *to <= end).ok_or(DAMAGED)?;
        let (from, to) = (usize::try_from(from), usize::try_from(to));
        let (Ok(from), Ok(to)) = (from, to) else { return Err(DAMAGED) };
        self.all().get(from..to).ok_or(DAMAGED)
    }

    fn record(&self, table: usize, number: u64, size: usize) -> Result<&[u8]> {
        self.slice(table, number.checked_mul(size as u64).ok_or(DAMAGED)?, size as u64)
    }

    pub(super) fn inode(&self, ino: u32) -> Result<InodeRecord> {
        let number = u64::from(ino).checked_sub(1).ok_or(DAMAGED)?;
        self.whole(InodeRecord::parse(self.record(0, number, format::INODE)?))
    }

    fn name_record(&self, number: u64) -> Result<(NameRecord, &[u8])> {
        let record = NameRecord::parse(self.record(1, number, format::NAME)?);
        let name = self.heap(u64::from(record.at), u64::from(record.len))?;
        self.whole((record, name))
    }

    pub(super) fn object(&self, number: u64) -> Result<ObjectRecord> {
        self.whole(ObjectRecord::parse(self.record(2, number, format::OBJECT)?))
    }

    fn heap(&self, at: u64, len: u64) -> Result<&[u8]> {
        self.slice(4, at, len)
    }

    /// The names of a directory: number of the first, and how many.
    pub(super) fn names_of(&self, dir: u32) -> Result<(u64, u64)> {
        let record = self.inode(dir)?;
        if kind_of(&record)? != Kind::Dir {
            return Err(Errno::ENOTDIR);
        }
        let (first, count) = (record.place, u64::from(record.count));
        let end = first.checked_add(count).ok_or(DAMAGED)?;
        if end > u64::from(self.header.names) {
            return Err(DAMAGED);
        }
        Ok((first, count))
    }

    /// Number of inodes; they are counted from 1, which is the root directory.
    pub fn len(&self) -> u32 {
        self.header.inodes
    }

    /// There is always a root directory.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What stands for all of the layer: names, attributes and content.
    pub fn id(&self) -> Digest {
        self.header.id
    }

    /// What `dir` holds under `name`.
    ///
    /// # Errors
    /// `ENOTDIR`; `EIO` where the index does not add up.
    pub fn find(&self, dir: u32, name: &[u8]) -> Result<Option<Entry>> {
        let (first, count) = self.names_of(dir)?;
        let (mut low, mut high) = (first, first + count);
        while low < high {
            let middle = low + (high - low) / 2;
            let (record, found) = self.name_record(middle)?;
            match found.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let entry = self.entry(&record)?;
                    self.check(dir, entry, middle)?;
                    return self.whole(Some(entry));
                }
            }
        }
        self.whole(None)
    }

    fn entry(&self, record: &NameRecord) -> Result<Entry> {
        let kind = EntryKind::from_code(record.kind)?;
        if (kind == EntryKind::Whiteout) != (record.ino == 0) {
            return Err(DAMAGED);
        }
        Ok(Entry { ino: record.ino, kind })
    }

    /// Whether the inode of an entry of `dir`, which is the name number `number`, is what the entry says.
    fn check(&self, dir: u32, entry: Entry, number: u64) -> Result<()> {
        let right = match entry.kind {
            EntryKind::Whiteout => entry.ino == 0,
            EntryKind::Below => self.inode(entry.ino)?.flags & format::LINK_BELOW != 0,
            EntryKind::Node(kind) => {
                let inode = self.inode(entry.ino)?;
                let home = (inode.parent, u64::from(inode.home));
                let placed = kind != Kind::Dir || (home == (dir, number) && entry.ino > dir);
                inode.flags & format::LINK_BELOW == 0 && kind_of(&inode)? == kind && placed
            }
        };
        if right { Ok(()) } else { Err(DAMAGED) }
    }

    /// Calls `sink` for each name of `dir`, in the order of their bytes, each once.
    ///
    /// # Errors
    /// `ENOTDIR`; `EIO` where the index does not add up; the first error of `sink`.
    pub fn list(&self, dir: u32, sink: &mut dyn FnMut(&[u8], Entry) -> Result<()>) -> Result<()> {
        let (first, count) = self.names_of(dir)?;
        let mut before: &[u8] = b"";
        for number in first..first + count {
            let (record, name) = self.name_record(number)?;
            if !is_name(name) || name <= before {
                return Err(DAMAGED);
            }
            let entry = self.entry(&record)?;
            if entry.kind == EntryKind::Node(Kind::Dir) && entry.ino <= dir {
                return Err(DAMAGED);
            }
            sink(name, entry)?;
            before = name;
        }
        self.whole(())
    }

    /// Attributes of an inode; `dev` is the device number to show.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn attr(&self, ino: u32, dev: u64) -> Result<Attr> {
        let inode = self.inode(ino)?;
        let kind = kind_of(&inode)?;
        if inode.mtime_nsec >= 1_000_000_000 || inode.size > i64::MAX as u64 {
            return Err(DAMAGED);
        }
        let mtime = Time { sec: inode.mtime, nsec: inode.mtime_nsec };
        let (size, blocks, rdev) = match kind {
            Kind::Dir => (u64::from(inode.count) * format::NAME as u64, 0, 0),
            Kind::File if inode.flags & format::IN_OBJECT != 0 => {
                (inode.size, self.object(inode.place)?.blocks, 0)
            }
            Kind::File => (inode.size, inode.size.div_ceil(512), 0),
            Kind::Symlink => (inode.size, 0, 0),
            Kind::Char | Kind::Block => {
                (0, 0, libc::makedev((inode.place >> 32) as u32, inode.place as u32))
            }
            Kind::Fifo | Kind::Socket => (0, 0, 0),
        };
        Ok(Attr {
            dev,
            ino: u64::from(ino),
            kind,
            perm: (inode.mode & 0o7777) as u16,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev,
            size,
            blocks,
            blksize: IO_SIZE,
            atime: mtime,
            mtime,
            ctime: mtime,
        })
    }

    /// Whether the directory hides that of the layers below.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn opaque(&self, ino: u32) -> Result<bool> {
        Ok(self.inode(ino)?.flags & format::OPAQUE != 0)
    }

    /// Whether the layer has no entry for the directory itself.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn implied(&self, ino: u32) -> Result<bool> {
        Ok(self.inode(ino)?.flags & format::IMPLIED != 0)
    }

    /// The target of a symbolic link, or the path that a link below leads to.
    ///
    /// # Errors
    /// `EINVAL` for anything else; `EIO` where the index does not add up.
    pub fn target(&self, ino: u32) -> Result<&[u8]> {
        let inode = self.inode(ino)?;
        if inode.flags & format::LINK_BELOW == 0 && kind_of(&inode)? != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = self.heap(inode.place, inode.size)?;
        if target.is_empty() || target.len() >= libc::PATH_MAX as usize || target.contains(&0) {
            return Err(DAMAGED);
        }
        self.whole(target)
    }

    /// Where the content of a regular file is.
    ///
    /// # Errors
    /// `EINVAL` for anything else; `EIO` where the index does not add up.
    pub fn content(&self, ino: u32) -> Result<Content> {
        let inode = self.inode(ino)?;
        if inode.flags & format::LINK_BELOW != 0 || kind_of(&inode)? != Kind::File {
            return Err(Errno::EINVAL);
        }
        let len = inode.size;
        if inode.flags & format::IN_OBJECT != 0 {
            let object = self.object(inode.place)?;
            return if object.len == len {
                Ok(Content::Object { digest: object.digest, len })
            } else {
                Err(DAMAGED)
            };
        }
        if len == 0 {
            return Ok(Content::Empty);
        }
        let end = inode.place.checked_add(len).ok_or(DAMAGED)?;
        if end > self.header.data_len {
            return Err(DAMAGED);
        }
        Ok(Content::Data { at: inode.place, len })
    }

    /// Calls `sink` for each xattr until it answers false.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn xattrs(&self, ino: u32, sink: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        let Some(at) = self.inode(ino)?.xattrs.checked_sub(1) else { return Ok(()) };
        let mut at = u64::from(at);
        let mut take = |len: u64| {
            let bytes = self.heap(at, len);
            at += len;
            bytes
        };
        let count = format::Fields::of(take(4)?).u32();
        for _ in 0..count {
            let mut lengths = format::Fields::of(take(6)?);
            let (name, value) = (lengths.u16(), lengths.u32());
            let (name, value) = (take(u64::from(name))?, take(u64::from(value))?);
            if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
                return Err(DAMAGED);
            }
            if !sink(name, value) {
                break;
            }
        }
        self.whole(())
    }

    /// Value of an xattr (`ENODATA` when absent).
    ///
    /// # Errors
    /// `ENODATA`; `EIO` where the index does not add up.
    pub fn xattr(&self, ino: u32, name: &[u8]) -> Result<Vec<u8>> {
        let mut found = None;
        self.xattrs(ino, &mut |n, value| {
            found = (n == name).then(|| value.to_vec());
            found.is_none()
        })?;
        found.ok_or(Errno::ENODATA)
    }

    /// The objects that hold content of this layer, with their lengths.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn objects(&self) -> impl Iterator<Item = Result<(Digest, u64)>> {
        (0..u64::from(self.header.objects))
            .map(|number| self.object(number).map(|o| (o.digest, o.len)))
    }

    /// The inodes that are hard links to paths of the layers below.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn links_below(&self) -> impl Iterator<Item = Result<u32>> {
        (0..u64::from(self.header.below)).map(|number| {
            let ino = format::Fields::of(self.record(3, number, format::BELOW)?).u32();
            self.target(ino).map(|_| ino)
        })
    }

    /// What the layer holds at a path; symbolic links are not followed.
    ///
    /// # Errors
    /// `EIO` where the index does not add up.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Entry>> {
        let mut at = Entry { ino: format::ROOT, kind: EntryKind::Node(Kind::Dir) };
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".") {
            if at.kind != EntryKind::Node(Kind::Dir) {
                return Ok(None);
            }
            match self.find(at.ino, name)? {
                Some(found) => at = found,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Calls `sink` for everything in the layer with its path: a directory before what is in it, names in
    /// the order of their bytes. The root comes first, with an empty path.
    ///
    /// # Errors
    /// `EIO` where the index does not add up; the first error of `sink`.
    pub fn walk<E: From<Errno>>(&self, mut sink: impl FnMut(&[u8], Entry) -> Done<E>) -> Done<E> {
        let root = Entry { ino: format::ROOT, kind: EntryKind::Node(Kind::Dir) };
        sink(b"", root)?;
        // No directory is met twice: `check` asks each for the one name that it has.
        let mut left: Vec<(Vec<u8>, u32, u64)> = Vec::new();
        let enter = |left: &mut Vec<(Vec<u8>, u32, u64)>, path: &[u8], dir| {
            let (first, count) = self.names_of(dir)?;
            if count > 0 {
                left.push((path.to_vec(), dir, first));
            }
            Ok::<(), Errno>(())
        };
        enter(&mut left, b"", format::ROOT)?;
        while let Some((base, dir, number)) = left.last_mut() {
            let (first, count) = self.names_of(*dir)?;
            if *number >= first + count {
                left.pop();
                continue;
            }
            let (record, name) = self.name_record(*number)?;
            let sorted = *number == first || self.name_record(*number - 1)?.1 < name;
            if !is_name(name) || !sorted {
                return Err(DAMAGED.into());
            }
            let entry = self.entry(&record)?;
            self.check(*dir, entry, *number)?;
            *number += 1;
            let mut path = base.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            sink(&path, entry)?;
            if entry.kind == EntryKind::Node(Kind::Dir) {
                enter(&mut left, &path, entry.ino)?;
            }
        }
        self.whole(()).map_err(E::from)
    }
}

/// The type of an inode.
pub(super) fn kind_of(inode: &InodeRecord) -> Result<Kind> {
    let kind = Kind::from_mode(inode.mode);
    // Anything unknown counts as a regular file there.
    if inode.mode & libc::S_IFMT == kind.mode() && inode.mode & !(libc::S_IFMT | 0o7777) == 0 {
        Ok(kind)
    } else {
        Err(DAMAGED)
    }
}
