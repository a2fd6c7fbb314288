//! The layout of an index, as numbers: what `docs/layer-format.md` says in words.
//!
//! Everything is little-endian. After the header the tables follow each other without gaps: inodes,
//! names, objects, links below, and the heap of bytes that they refer to.

use sha2::{Digest as _, Sha256};

use super::Digest;

/// First bytes of an index.
pub const MAGIC: [u8; 8] = *b"cowl.ix\n";
/// The version written and read.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER: usize = 256;
/// Bytes of a record of an inode.
pub const INODE: usize = 64;
/// Bytes of a record of a name.
pub const NAME: usize = 12;
/// Bytes of a record of an object.
pub const OBJECT: usize = 56;
/// Bytes of a record of a link to a path of the layers below.
pub const BELOW: usize = 4;

/// The number of the root directory; 0 is no inode.
pub const ROOT: u32 = 1;

/// Flag of an inode: the directory hides that of the layers below.
pub const OPAQUE: u32 = 1;
/// Flag of an inode: the layer has no entry for the directory, only for what is in it.
pub const IMPLIED: u32 = 2;
/// Flag of an inode: a regular file whose content is an object.
pub const IN_OBJECT: u32 = 4;
/// Flag of an inode: a hard link to a path of the layers below.
pub const LINK_BELOW: u32 = 8;
/// All flags that are known.
pub const KNOWN_FLAGS: u32 = OPAQUE | IMPLIED | IN_OBJECT | LINK_BELOW;

/// Flag of an object: its name is made from its extents (see `objects`).
pub const EXTENTS: u64 = 1;

/// The type of a name that is a whiteout; all others are `DT_*` values, and 0 is a link below.
pub const WHITEOUT: u8 = 0xff;
/// The type of a name that links to a path of the layers below.
pub const TYPE_BELOW: u8 = 0;

/// Numbers one after the other.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of these bytes.
    pub fn of(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    /// The next `N` bytes; zeros beyond the end.
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => {
                self.0 = &[];
                [0; N]
            }
        }
    }

    /// The next number of one byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    /// The next number of two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// The next number of four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// The next number of eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of inodes.
    pub inodes: u32,
    /// Number of names.
    pub names: u32,
    /// Number of objects.
    pub objects: u32,
    /// Number of links to paths of the layers below.
    pub below: u32,
    /// Bytes of the heap.
    pub heap: u32,
    /// Bytes of the data file.
    pub data_len: u64,
    /// SHA-256 of the data file.
    pub data: Digest,
    /// SHA-256 of the index after the header.
    pub body: Digest,
    /// SHA-256 of the header up to here; stands for the whole layer.
    pub id: Digest,
}

/// Where the SHA-256 of the header lies.
const SEAL: usize = HEADER - 32;

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

impl Header {
    /// Writes it, and notes its digest.
    pub fn seal(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.inodes, self.names, self.objects, self.below, self.heap] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.data_len.to_le_bytes());
        out.extend_from_slice(&self.data.0);
        out.extend_from_slice(&self.body.0);
        out.resize(SEAL, 0);
        self.id = digest(&out);
        out.extend_from_slice(&self.id.0);
        out
    }

    /// Reads one; `Err` has the version when that is not known, or `None` for what is no index.
    pub fn parse(bytes: &[u8]) -> Result<Header, Option<u32>> {
        let mut fields = Fields::of(bytes.get(..HEADER).ok_or(None)?);
        if fields.take() != MAGIC {
            return Err(None);
        }
        let version = fields.u32();
        if version != VERSION {
            return Err(Some(version));
        }
        let header = Header {
            inodes: fields.u32(),
            names: fields.u32(),
            objects: fields.u32(),
            below: fields.u32(),
            heap: fields.u32(),
            data_len: fields.u64(),
            data: Digest(fields.take()),
            body: Digest(fields.take()),
            id: Digest(bytes.get(SEAL..HEADER).and_then(|b| b.try_into().ok()).ok_or(None)?),
        };
        Ok(header)
    }

    /// Whether the header is as it was written: unused bytes are zero, and the digest is that of the
    /// rest.
    pub fn sound(&self) -> bool {
        let mut again = *self;
        again.seal();
        again.id == self.id
    }

    /// Where the tables begin: inodes, names, objects, links below, heap; and the end of the file.
    pub fn tables(&self) -> [u64; 6] {
        let mut at = HEADER as u64;
        let sizes = [
            u64::from(self.inodes) * INODE as u64,
            u64::from(self.names) * NAME as u64,
            u64::from(self.objects) * OBJECT as u64,
            u64::from(self.below) * BELOW as u64,
            u64::from(self.heap),
            0,
        ];
        sizes.map(|size| {
            let start = at;
            at += size;
            start
        })
    }
}

/// The record of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeRecord {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names in this layer; of a directory: 2, and one for each directory in it.
    pub nlink: u32,
    /// Last change of the content: seconds, may be negative.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nsec: u32,
    /// See [`OPAQUE`] and the others.
    pub flags: u32,
    /// Bytes of content, of a link's target, or of the path that a link below leads to.
    pub size: u64,
    /// By type: where the content is in the data file, or the number of the object; where the target is
    /// in the heap; the device (major in the upper half); the number of a directory's first name.
    pub place: u64,
    /// Of a directory: how many names it has.
    pub count: u32,
    /// Of a directory: the one it is in.
    pub parent: u32,
    /// Where its xattrs are in the heap, and one more; 0: it has none.
    pub xattrs: u32,
    /// Of a directory: the number of the name that it has.
    pub home: u32,
}

impl InodeRecord {
    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        for number in [self.mode, self.uid, self.gid, self.nlink] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.mtime.to_le_bytes());
        out.extend_from_slice(&self.mtime_nsec.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.place.to_le_bytes());
        for number in [self.count, self.parent, self.xattrs, self.home] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Reads one.
    pub fn parse(bytes: &[u8]) -> InodeRecord {
        let mut fields = Fields::of(bytes);
        InodeRecord {
            mode: fields.u32(),
            uid: fields.u32(),
            gid: fields.u32(),
            nlink: fields.u32(),
            mtime: fields.u64() as i64,
            mtime_nsec: fields.u32(),
            flags: fields.u32(),
            size: fields.u64(),
            place: fields.u64(),
            count: fields.u32(),
            parent: fields.u32(),
            xattrs: fields.u32(),
            home: fields.u32(),
        }
    }
}

/// The record of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRecord {
    /// Where its bytes are in the heap.
    pub at: u32,
    /// The inode; 0 for a whiteout.
    pub ino: u32,
    /// How many bytes.
    pub len: u8,
    /// The `DT_*` value of the inode's type, [`TYPE_BELOW`] or [`WHITEOUT`].
    pub kind: u8,
}

impl NameRecord {
    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.at.to_le_bytes());
        out.extend_from_slice(&self.ino.to_le_bytes());
        out.extend_from_slice(&[self.len, self.kind, 0, 0]);
    }

    /// Reads one.
    pub fn parse(bytes: &[u8]) -> NameRecord {
        let mut fields = Fields::of(bytes);
        NameRecord { at: fields.u32(), ino: fields.u32(), len: fields.u8(), kind: fields.u8() }
    }
}

/// The record of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub len: u64,
    /// How much of it is no hole, in units of 512 bytes.
    pub blocks: u64,
    /// See [`EXTENTS`].
    pub flags: u64,
}

impl ObjectRecord {
    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digest.0);
        for number in [self.len, self.blocks, self.flags] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Reads one.
    pub fn parse(bytes: &[u8]) -> ObjectRecord {
        let mut fields = Fields::of(bytes);
        ObjectRecord {
            digest: Digest(fields.take()),
            len: fields.u64(),
            blocks: fields.u64(),
            flags: fields.u64(),
        }
    }
}
