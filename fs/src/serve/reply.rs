//! Replies as the kernel reads them (include/uapi/linux/fuse.h).

use super::opens::Handle;
use super::wire::encode_dev;
use crate::attr::{Attr, Time};

/// Bytes of `struct fuse_out_header`.
pub const HEADER: usize = 16;
/// Bytes of `struct fuse_entry_out`.
pub const ENTRY: usize = 128;
/// Bytes of `struct fuse_dirent` before the name.
const DIRENT: usize = 24;
/// Directory entries are padded to this.
const ALIGN: usize = 8;

/// How long the kernel may believe what it is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ttl {
    /// Seconds.
    pub sec: u64,
    /// Nanoseconds.
    pub nsec: u32,
}

impl Ttl {
    /// Not at all.
    pub const ZERO: Ttl = Ttl { sec: 0, nsec: 0 };
}

/// The body of a reply under construction.
#[derive(Debug, Default)]
pub struct Body(Vec<u8>);

impl Body {
    /// Starts again.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The finished bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A 16-bit number.
    pub fn u16(&mut self, v: u16) -> &mut Body {
        self.0.extend(v.to_ne_bytes());
        self
    }

    /// A 32-bit number.
    pub fn u32(&mut self, v: u32) -> &mut Body {
        self.0.extend(v.to_ne_bytes());
        self
    }

    /// A 64-bit number.
    pub fn u64(&mut self, v: u64) -> &mut Body {
        self.0.extend(v.to_ne_bytes());
        self
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Body {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Zero bytes.
    pub fn zeros(&mut self, n: usize) -> &mut Body {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    /// `struct fuse_attr`.
    pub fn attr(&mut self, a: &Attr) -> &mut Body {
        self.u64(a.ino).u64(a.size).u64(a.blocks);
        for t in [a.atime, a.mtime, a.ctime] {
            self.u64(t.sec as u64); // the kernel reads it as signed
        }
        for t in [a.atime, a.mtime, a.ctime] {
            self.u32(t.nsec);
        }
        self.u32(a.mode()).u32(a.nlink).u32(a.uid).u32(a.gid);
        self.u32(encode_dev(a.rdev)).u32(a.blksize).u32(0)
    }

    /// `struct fuse_attr_out`.
    pub fn attr_out(&mut self, a: &Attr, ttl: Ttl) -> &mut Body {
        self.u64(ttl.sec).u32(ttl.nsec).u32(0).attr(a)
    }

    /// `struct fuse_entry_out`: how long the name may be kept, and the attributes.
    pub fn entry(&mut self, file: Handle, a: &Attr, name: Ttl, attr: Ttl) -> &mut Body {
        self.u64(file.0).u64(0).u64(name.sec).u64(attr.sec).u32(name.nsec).u32(attr.nsec).attr(a)
    }

    /// An entry that says: there is no such name, and that may be believed for `ttl`.
    pub fn negative_entry(&mut self, ttl: Ttl) -> &mut Body {
        self.u64(0).u64(0).u64(ttl.sec).u64(0).u32(ttl.nsec).u32(0).zeros(88)
    }

    /// Bytes that an entry of a listing takes.
    pub fn dirent_len(name: &[u8]) -> usize {
        (DIRENT + name.len()).next_multiple_of(ALIGN)
    }

    /// `struct fuse_dirent`.
    pub fn dirent(&mut self, ino: u64, next: u64, dtype: u32, name: &[u8]) -> &mut Body {
        let pad = Self::dirent_len(name) - DIRENT - name.len();
        self.u64(ino).u64(next).u32(name.len() as u32).u32(dtype).raw(name).zeros(pad)
    }

    /// `struct fuse_statx_out` with `struct fuse_statx`.
    pub fn statx(&mut self, a: &Attr, birth: Option<Time>, ttl: Ttl) -> &mut Body {
        let mut mask = libc::STATX_BASIC_STATS;
        if birth.is_some() {
            mask |= libc::STATX_BTIME;
        }
        self.u64(ttl.sec).u32(ttl.nsec).u32(0).u64(0).u64(0);
        self.u32(mask).u32(a.blksize).u64(0).u32(a.nlink).u32(a.uid).u32(a.gid);
        self.u16(a.mode() as u16).u16(0).u64(a.ino).u64(a.size).u64(a.blocks).u64(0);
        for t in [a.atime, birth.unwrap_or_default(), a.ctime, a.mtime] {
            self.u64(t.sec as u64).u32(t.nsec).u32(0);
        }
        self.u32(libc::major(a.rdev)).u32(libc::minor(a.rdev)).u32(0).u32(0).zeros(14 * 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Kind;

    fn attr() -> Attr {
        let t = Time { sec: -5, nsec: 7 };
        Attr {
            dev: 0,
            ino: 9,
            kind: Kind::File,
            perm: 0o644,
            nlink: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
            size: 3,
            blocks: 8,
            blksize: 4096,
            atime: t,
            mtime: t,
            ctime: t,
        }
    }

    #[test]
    fn sizes_are_those_of_the_kernel_structs() {
        let ttl = Ttl { sec: 1, nsec: 0 };
        let len = |f: &dyn Fn(&mut Body) -> usize| {
            let mut b = Body::default();
            f(&mut b)
        };
        assert_eq!(len(&|b| b.attr(&attr()).len()), 88);
        assert_eq!(len(&|b| b.attr_out(&attr(), ttl).len()), 104);
        assert_eq!(len(&|b| b.entry(Handle(2), &attr(), ttl, ttl).len()), ENTRY);
        assert_eq!(len(&|b| b.negative_entry(ttl).len()), ENTRY);
        assert_eq!(len(&|b| b.statx(&attr(), None, ttl).len()), 32 + 256);
        assert_eq!(len(&|b| b.dirent(1, 2, 4, b"abc").len()), 32);
    }
}
