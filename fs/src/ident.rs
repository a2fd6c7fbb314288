//! Who is who: node numbers, layers, and inode numbers that stay the same.
//!
//! A [`NodeId`] is what FUSE calls a file; it is our own running number, never reused in one mount
//! and never derived from a name or an inode number. An [`Ino`] is what users see in `st_ino`; it is
//! composed from the [`FileKey`] of the object that first carried the file (the lower one, for a
//! file copied up), so it is the same before and after copy-up and after a remount. The key of a
//! copied-up object's origin is kept in an xattr (see `format`).

use std::fmt;

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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
    /// The number shown to users. Unique as long as inode numbers fit in 48 bits; wider ones (some
    /// network and FUSE filesystems hash them) are folded, which can make two files *show* one
    /// number but never makes them one file.
    pub fn shown(self) -> Ino {
        let folded = self.ino ^ (self.ino >> INO_BITS);
        let low = if self.ino >> INO_BITS == 0 { self.ino } else { folded & ((1 << INO_BITS) - 1) };
        Ino(low | (u64::from(self.fs) << INO_BITS))
    }

    /// Ten bytes, little-endian: filesystem number, inode number (the value of the `ino` xattr).
    pub fn to_bytes(self) -> [u8; 10] {
        let mut out = [0u8; 10];
        let (fs, ino) = out.split_at_mut(2);
        fs.copy_from_slice(&self.fs.to_le_bytes());
        ino.copy_from_slice(&self.ino.to_le_bytes());
        out
    }

    /// Reads what [`FileKey::to_bytes`] wrote; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<FileKey> {
        if bytes.len() != 10 {
            return None;
        }
        let (fs, ino) = bytes.split_at_checked(2)?;
        Some(FileKey {
            fs: u16::from_le_bytes(fs.try_into().ok()?),
            ino: u64::from_le_bytes(ino.try_into().ok()?),
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
        write!(f, "{:x}-{:x}", self.fs, self.ino)
    }
}

/// The filesystems (`st_dev`) that the layers of a mount lie on, numbered in the order upper,
/// topmost lower, …, lowest lower: the same at every mount of the same layers.
#[derive(Debug, Default)]
pub struct FsTable {
    devs: Vec<u64>,
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
        (self.devs.len() - 1).min(usize::from(u16::MAX)) as u16
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
    fn key_bytes_round_trip_and_refuse_other_lengths() {
        let k = FileKey { fs: 3, ino: 0x1234_5678_9abc };
        assert_eq!(FileKey::from_bytes(&k.to_bytes()), Some(k));
        assert_eq!(FileKey::from_bytes(b"short"), None);
        assert_eq!(FileKey::parse(k.to_string().as_bytes()), Some(k));
        for other in [&b"3-"[..], b"3-x", b"3-1.count", b"03-1", b"+3-1", b""] {
            assert_eq!(FileKey::parse(other), None);
        }
    }
}
