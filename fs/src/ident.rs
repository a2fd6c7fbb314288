//! Who is who: node numbers, layers, and inode numbers that stay the same.
//!
//! A [`NodeId`] is what FUSE calls a file; it is our own running number, never reused in one mount
//! and never derived from a name or an inode number. An [`Ino`] is what users see in `st_ino`; it is
//! composed from the [`FileKey`] of the object that first carried the file (the lower one, for a
//! file copied up), so it is the same before and after copy-up and after a remount. The key of a
//! copied-up object's origin is kept in an xattr (see `format`).

use std::collections::HashMap;
use std::fmt;

use parking_lot::Mutex;

use crate::attr::Time;

/// FUSE node number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount (`FUSE_ROOT_ID`).
    pub const ROOT: NodeId = NodeId(1);
}

/// Position of a lower layer, 0 is the topmost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LayerId(pub u16);

impl LayerId {
    /// As an index into the list of layers.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Inode number shown to users.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ino(pub u64);

/// The real identity of an object on the host: which of the mount's filesystems, and its inode.
/// Every known file has one: ten bytes, without gaps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(Rust, packed(2))]
pub struct FileKey {
    /// Number of the filesystem in the mount's [`FsTable`].
    pub fs: u16,
    /// Inode number there.
    pub ino: u64,
}

/// Bits of an inode number left to the filesystem itself; the rest carries its number, as
/// overlayfs's `xino` does.
const INO_BITS: u32 = 48;

impl FileKey {
    /// The identity of one name of a file with several, where each is to be a file of its own
    /// (`index=off`): made of the file's, its directory's and the name, so it is the same at every
    /// mount.
    pub fn of_one_name(self, dir: FileKey, name: &[u8]) -> FileKey {
        let numbers = [u64::from(self.fs), self.ino, u64::from(dir.fs), dir.ino];
        let parts = numbers.into_iter().chain(name.iter().map(|&b| u64::from(b)));
        let ino = parts.fold(0, spread);
        FileKey { fs: NAMES, ino }
    }

    /// The number shown to users. Unique as long as inode numbers fit in 48 bits; wider ones (some
    /// network and FUSE filesystems hash them) are folded, which can make two files *show* one
    /// number but never makes them one file.
    pub fn shown(self) -> Ino {
        let folded = self.ino ^ (self.ino >> INO_BITS);
        let low = if self.ino >> INO_BITS == 0 { self.ino } else { folded & ((1 << INO_BITS) - 1) };
        Ino(low | (u64::from(self.fs) << INO_BITS))
    }
}

/// Bits of a short inode number left to the filesystem itself.
const SHORT_BITS: u32 = 30;

/// Shown inode numbers squeezed into 32 bits (`ino32_t`).
///
/// The first three filesystems keep theirs, as long as these are below 2³⁰: they are the same at every
/// mount. All others are numbered as they are met, up to 2³⁰ of them, and remembered until the
/// unmount, so that no two files share one.
#[derive(Debug, Default)]
pub struct ShortInos {
    met: Mutex<HashMap<u64, u32>>,
}

impl ShortInos {
    /// The short form of a number that [`FileKey::shown`] made.
    pub fn of(&self, ino: u64) -> u64 {
        const OTHERS: u64 = 3;
        const MOST: u64 = (1 << SHORT_BITS) - 1;
        let (fs, own) = (ino >> INO_BITS, ino & ((1 << INO_BITS) - 1));
        if fs < OTHERS && own <= MOST {
            return (fs << SHORT_BITS) | own;
        }
        let mut met = self.met.lock();
        let next = (met.len() as u64).min(MOST) as u32;
        (OTHERS << SHORT_BITS) | u64::from(*met.entry(ino).or_insert(next))
    }
}

/// Bytes of a recorded origin.
const ORIGIN_LEN: usize = 18;

/// A key as it is recorded with a copied-up object: with the tag of the layers it was valid for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The lower object.
    pub key: FileKey,
    /// Tag of the lowers on that filesystem (see [`FsTable`]).
    pub tag: u64,
}

impl Origin {
    /// Eighteen bytes, little-endian: filesystem number, inode number, tag.
    pub fn to_bytes(self) -> Vec<u8> {
        let (fs, ino) = (self.key.fs.to_le_bytes(), self.key.ino.to_le_bytes());
        [&fs[..], &ino, &self.tag.to_le_bytes()].concat()
    }

    /// The same, and eight bytes more: the epoch in which the file's data was copied up, while that is
    /// not known to be on the disk.
    pub fn to_bytes_unsynced(self, epoch: u64) -> Vec<u8> {
        [&self.to_bytes()[..], &epoch.to_le_bytes()].concat()
    }

    /// Reads either form: the origin, and the epoch if there is one.
    pub fn read(bytes: &[u8]) -> (Option<Origin>, Option<u64>) {
        match bytes.split_last_chunk() {
            Some((origin, epoch)) if origin.len() == ORIGIN_LEN => {
                (Origin::from_bytes(origin), Some(u64::from_le_bytes(*epoch)))
            }
            _ => (Origin::from_bytes(bytes), None),
        }
    }

    /// Reads what [`Origin::to_bytes`] wrote; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Origin> {
        let (fs, rest) = bytes.split_first_chunk()?;
        let (ino, rest) = rest.split_first_chunk()?;
        let (tag, rest) = rest.split_first_chunk()?;
        rest.is_empty().then_some(Origin {
            key: FileKey { fs: u16::from_le_bytes(*fs), ino: u64::from_le_bytes(*ino) },
            tag: u64::from_le_bytes(*tag),
        })
    }
}

impl FileKey {
    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<FileKey> {
        let (fs, ino) = std::str::from_utf8(text).ok()?.split_once('-')?;
        let key = FileKey {
            fs: u16::from_str_radix(fs, 16).ok()?,
            ino: u64::from_str_radix(ino, 16).ok()?,
        };
        (key.to_string().as_bytes() == text).then_some(key)
    }
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileKey { fs, ino } = *self;
        write!(f, "{fs:x}-{ino:x}")
    }
}

/// Multiplier of the FNV-1a hash: the tags need spreading, not secrecy.
const FNV_PRIME: u64 = 0x100_0000_01b3;

fn spread(hash: u64, part: u64) -> u64 {
    (hash ^ part).wrapping_mul(FNV_PRIME).rotate_left(23)
}

/// Stands for no filesystem, but for names that are files of their own.
const NAMES: u16 = u16::MAX;

/// What tells the lowers on one filesystem from others: recorded by what was copied up from them.
///
/// Not everything can be found out at every mount (a seccomp profile may forbid statx(2), `uuid=off`
/// leaves the UUID out), so what it is made of is kept beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag {
    /// The number that stands in records.
    pub value: u64,
    /// Made of the roots' inode numbers, of their birth times, and of the filesystem's UUID; 0: not
    /// known.
    parts: [u64; 3],
}

impl Tag {
    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Tag> {
        let mut numbers =
            std::str::from_utf8(text).ok()?.split('-').map(|n| u64::from_str_radix(n, 16));
        let mut next = || numbers.next()?.ok();
        let tag = Tag { value: next()?, parts: [next()?, next()?, next()?] };
        (tag.to_string().as_bytes() == text).then_some(tag)
    }

    /// This tag, found at an earlier mount, with what `now` knows more of the same layers; `None` when
    /// they are others.
    pub fn joined(self, now: Tag) -> Option<Tag> {
        let mut parts = self.parts;
        for (part, now) in parts.iter_mut().zip(now.parts) {
            match (*part, now) {
                (0, _) => *part = now,
                (_, 0) => {}
                (known, now) if known == now => {}
                _ => return None,
            }
        }
        Some(Tag { value: self.value, parts })
    }

    fn add(&mut self, part: usize, numbers: &[u64]) {
        if let Some(part) = self.parts.get_mut(part) {
            *part = numbers.iter().fold(*part, |hash, n| spread(hash, *n)).max(1);
        }
        self.value = self.parts.into_iter().fold(0, spread);
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [inodes, births, uuid] = self.parts;
        write!(f, "{:x}-{inodes:x}-{births:x}-{uuid:x}", self.value)
    }
}

/// The filesystems (`st_dev`) that the layers of a mount lie on, numbered in the order upper,
/// topmost lower, …, lowest lower: the same at every mount of the same layers.
///
/// Inode numbers mean nothing once layers were copied to another disk or extracted anew. Each
/// filesystem therefore has a [`Tag`]; what was recorded under another tag is ignored.
#[derive(Debug, Default)]
pub struct FsTable {
    devs: Vec<u64>,
    tags: Vec<Tag>,
    /// How many of them are the roots' own; others are numbered as they are met.
    stable: usize,
}

impl FsTable {
    /// The number of `dev`, added when new.
    pub fn add(&mut self, dev: u64) -> u16 {
        if let Some(n) = self.number(dev) {
            return n;
        }
        self.devs.push(dev);
        self.tags.push(Tag::default());
        (self.devs.len() - 1).min(usize::from(NAMES) - 1) as u16
    }

    /// Adds the root of a lower: its filesystem, and what tells it from a copy of it: inode number,
    /// birth time, and lasting number of the filesystem (0: not known).
    pub fn add_root(&mut self, dev: u64, ino: u64, birth: Option<Time>, uuid: u64) {
        let number = self.add(dev);
        let Some(tag) = self.tags.get_mut(usize::from(number)) else { return };
        tag.add(0, &[ino]);
        if let Some(birth) = birth {
            tag.add(1, &[birth.sec as u64, u64::from(birth.nsec)]);
        }
        if uuid != 0 {
            tag.add(2, &[uuid]);
        }
    }

    /// The record of a key, if it will mean the same at the next mount.
    pub fn record(&self, key: FileKey) -> Option<Origin> {
        if key.fs == NAMES {
            let tag = self.tags.iter().take(self.stable).fold(0, |all, tag| spread(all, tag.value));
            return Some(Origin { key, tag });
        }
        let tag = self.tags.get(usize::from(key.fs))?.value;
        self.is_stable(key.fs).then_some(Origin { key, tag })
    }

    /// The key of a record, if it was made over the same layers.
    pub fn verify(&self, origin: Origin) -> Option<FileKey> {
        (self.record(origin.key) == Some(origin)).then_some(origin.key)
    }

    /// Number and tag of each filesystem that is the same at every mount.
    pub fn stable_tags(&self) -> Vec<(u16, Tag)> {
        self.tags.iter().take(self.stable).enumerate().map(|(n, t)| (n as u16, *t)).collect()
    }

    /// Goes on with the tag of an earlier mount of the same layers.
    pub fn adopt(&mut self, number: u16, tag: Tag) {
        if let Some(own) = self.tags.get_mut(usize::from(number)) {
            *own = tag;
        }
    }

    /// Ends the numbering that is the same at every mount.
    pub fn seal(&mut self) {
        self.stable = self.devs.len();
    }

    /// Whether a number means the same filesystem at every mount of the same layers.
    pub fn is_stable(&self, number: u16) -> bool {
        usize::from(number) < self.stable
    }

    /// The number of `dev`, if it is one of the mount's.
    pub fn number(&self, dev: u64) -> Option<u16> {
        self.devs.iter().position(|&d| d == dev).map(|n| n as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_numbers_of_ordinary_inodes_are_distinct_across_filesystems() {
        let a = FileKey { fs: 0, ino: 12 }.shown();
        let b = FileKey { fs: 1, ino: 12 }.shown();
        assert_eq!(a, Ino(12));
        assert_ne!(a, b);
    }

    #[test]
    fn short_numbers_are_distinct_and_lasting() {
        let short = ShortInos::default();
        let all: Vec<u64> = [0u16, 1, 2, 3, 4, 900]
            .iter()
            .flat_map(|fs| {
                [1, 2, (1 << 30) - 1, 1 << 30, 1 << 32, (1 << 32) + 1, (1 << 48) - 1]
                    .map(|ino| FileKey { fs: *fs, ino }.shown().0)
            })
            .collect();
        let numbers: Vec<u64> = all.iter().map(|ino| short.of(*ino)).collect();
        assert!(numbers.iter().all(|n| *n <= u64::from(u32::MAX)));
        assert_eq!(numbers.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(numbers, all.iter().map(|ino| short.of(*ino)).collect::<Vec<_>>());
        assert_eq!(short.of(12), 12);
    }

    #[test]
    fn records_round_trip_and_refuse_other_lengths() {
        let key = FileKey { fs: 3, ino: 0x1234_5678_9abc };
        let origin = Origin { key, tag: 77 };
        assert_eq!(Origin::read(&origin.to_bytes()), (Some(origin), None));
        assert_eq!(Origin::read(&origin.to_bytes_unsynced(9)), (Some(origin), Some(9)));
        assert_eq!(Origin::from_bytes(b"short"), None);
        assert_eq!(Origin::from_bytes(&[0; 19]), None);
        assert_eq!(FileKey::parse(key.to_string().as_bytes()), Some(key));
        for other in [&b"3-"[..], b"3-x", b"3-1.count", b"03-1", b"+3-1", b""] {
            assert_eq!(FileKey::parse(other), None);
        }
    }

    #[test]
    fn tags_join_where_one_knows_less() {
        let tag = |ino, birth: Option<i64>, uuid| {
            let mut t = FsTable::default();
            t.add_root(7, ino, birth.map(|sec| Time { sec, nsec: 0 }), uuid);
            t.seal();
            t.stable_tags()[0].1
        };
        let whole = tag(1, Some(2), 3);
        for less in [tag(1, None, 3), tag(1, Some(2), 0), tag(1, None, 0)] {
            assert_eq!(
                less.joined(whole).map(|t| (t.value, t.parts)),
                Some((less.value, whole.parts))
            );
            assert_eq!(whole.joined(less), Some(whole));
        }
        for other in [tag(9, Some(2), 3), tag(1, Some(9), 3), tag(1, Some(2), 9), tag(1, None, 9)] {
            assert_eq!((whole.joined(other), other.joined(whole)), (None, None));
        }
        assert_eq!(Tag::parse(whole.to_string().as_bytes()), Some(whole));
        for bad in [&b"1-2-3"[..], b"1-2-3-4-5", b"x-2-3-4", b"01-2-3-4", b""] {
            assert_eq!(Tag::parse(bad), None);
        }
    }

    #[test]
    fn records_of_other_layers_do_not_count() {
        let table = |ino| {
            let mut t = FsTable::default();
            t.add(7);
            t.add_root(7, ino, None, 0);
            t.add_root(8, 2, Some(Time { sec: 5, nsec: 6 }), 1);
            t.seal();
            t.add(9);
            t
        };
        let origin = table(2).record(FileKey { fs: 0, ino: 12 }).unwrap();
        assert_eq!(table(2).verify(origin), Some(origin.key));
        assert_eq!(table(3).verify(origin), None);
        assert_eq!(table(2).record(FileKey { fs: 2, ino: 12 }), None);
    }
}
