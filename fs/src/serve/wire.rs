//! Requests as the kernel writes them (include/uapi/linux/fuse.h, protocol 7.45): taken apart
//! without assumptions; whatever is too short is refused with `EIO`.

use crate::sys::{Errno, Result};

/// Bytes of `struct fuse_in_header`.
pub const HEADER: usize = 40;

macro_rules! opcodes {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// Numbers of the requests (enum fuse_opcode): those that are answered, and some that are
        /// refused once.
        pub mod op {
            #![allow(missing_docs, dead_code, reason = "the names are the kernel's")]
            $(pub const $name: u32 = $number;)*

            /// What the kernel calls a request.
            pub fn name(opcode: u32) -> Option<&'static str> {
                match opcode {
                    $($name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    LOOKUP = 1,
    FORGET = 2,
    GETATTR = 3,
    SETATTR = 4,
    READLINK = 5,
    SYMLINK = 6,
    MKNOD = 8,
    MKDIR = 9,
    UNLINK = 10,
    RMDIR = 11,
    RENAME = 12,
    LINK = 13,
    OPEN = 14,
    READ = 15,
    WRITE = 16,
    STATFS = 17,
    RELEASE = 18,
    FSYNC = 20,
    SETXATTR = 21,
    GETXATTR = 22,
    LISTXATTR = 23,
    REMOVEXATTR = 24,
    FLUSH = 25,
    INIT = 26,
    OPENDIR = 27,
    READDIR = 28,
    RELEASEDIR = 29,
    FSYNCDIR = 30,
    GETLK = 31,
    ACCESS = 34,
    CREATE = 35,
    INTERRUPT = 36,
    DESTROY = 38,
    IOCTL = 39,
    POLL = 40,
    BATCH_FORGET = 42,
    FALLOCATE = 43,
    READDIRPLUS = 44,
    RENAME2 = 45,
    LSEEK = 46,
    COPY_FILE_RANGE = 47,
    SYNCFS = 50,
    TMPFILE = 51,
    STATX = 52,
    COPY_FILE_RANGE_64 = 53,
}

/// Flags of `SETATTR` (FATTR_*).
pub mod fattr {
    #![allow(missing_docs, reason = "the names are the kernel's")]
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const FH: u32 = 1 << 6;
    pub const MTIME: u32 = 1 << 5;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
    /// Those that ask for a change (not a change time, which comes along with others).
    pub const CHANGES: u32 = MODE | UID | GID | SIZE | ATIME | MTIME;
}

/// `FUSE_OPEN_KILL_SUIDGID`.
pub const OPEN_KILL_SUIDGID: u32 = 1;
/// `FUSE_GETATTR_FH`: the kernel asks on behalf of an open file.
pub const GETATTR_FH: u32 = 1;
/// `FUSE_WRITE_CACHE`: pages written back, not a write(2) that waits.
pub const WRITE_CACHE: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`.
pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_FSYNC_FDATASYNC`.
pub const FSYNC_FDATASYNC: u32 = 1;
/// `FUSE_SETXATTR_ACL_KILL_SGID`.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1;

/// Reads fields one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// At the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Errno::EIO)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Errno::EIO)
    }

    /// The next 16-bit number.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    /// The next 32-bit number.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    /// The next 64-bit number.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// The next string, which ends at a NUL.
    pub fn name(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(Errno::EIO)?;
        let name = self.take(end)?;
        self.take(1)?;
        Ok(name)
    }
}

/// The header of a request.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// What is asked.
    pub opcode: u32,
    /// Number of the request, repeated in the reply.
    pub unique: u64,
    /// The node asked about.
    pub nodeid: u64,
    /// The caller's filesystem user id, in the mount's user namespace.
    pub uid: u32,
    /// The caller's filesystem group id.
    pub gid: u32,
    /// The caller's process, 0 when it is none that we could see.
    pub pid: u32,
}

/// Takes a request apart into its header and the rest.
pub fn parse(bytes: &[u8]) -> Result<(Header, Cursor<'_>)> {
    let mut c = Cursor::new(bytes);
    let len = c.u32()? as usize;
    if len != bytes.len() || len < HEADER {
        return Err(Errno::EIO);
    }
    let opcode = c.u32()?;
    let unique = c.u64()?;
    let nodeid = c.u64()?;
    let uid = c.u32()?;
    let gid = c.u32()?;
    let pid = c.u32()?;
    let extensions = usize::from(c.u16()?) * 8;
    c.take(2)?;
    // Extensions follow the body; nothing that carries them is negotiated.
    let body = c.0.len().checked_sub(extensions).ok_or(Errno::EIO)?;
    let body = c.take(body)?;
    Ok((Header { opcode, unique, nodeid, uid, gid, pid }, Cursor::new(body)))
}

/// A device number as FUSE carries it: 32 bits (`new_encode_dev` in include/linux/kdev_t.h).
pub fn encode_dev(dev: u64) -> u32 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The opposite of [`encode_dev`].
pub fn decode_dev(dev: u32) -> u64 {
    let major = (dev & 0xfff00) >> 8;
    let minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
    libc::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (259, 70_000), (4095, 0xfffff)] {
            let dev = libc::makedev(major, minor);
            assert_eq!(decode_dev(encode_dev(dev)), dev);
        }
    }

    #[test]
    fn short_requests_are_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&[4, 0, 0, 0]).is_err());
        let mut request = vec![0u8; HEADER];
        request[0] = HEADER as u8;
        assert!(parse(&request).is_ok());
        request.push(0);
        assert!(parse(&request).is_err());
    }
}
