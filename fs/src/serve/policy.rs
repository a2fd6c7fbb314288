//! What is negotiated with the kernel, and how long it may cache: the one place for both.
//!
//! We are the only writer of the upper and the lowers do not change, so nothing that the kernel was
//! told can become wrong behind its back: names (also missing ones), attributes and symbolic links
//! may be kept without limit, opens and closes need no request at all, and written pages may stay in
//! the page cache until the kernel writes them back.

use super::reply::Ttl;

/// Flags of `FUSE_INIT`.
mod flag {
    pub const ASYNC_READ: u64 = 1;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub const ASYNC_DIO: u64 = 1 << 15;
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const PASSTHROUGH: u64 = 1 << 37;
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
}

/// "Without limit": ten years, in seconds (the kernel turns it into jiffies).
const FOREVER: u64 = 10 * 365 * 24 * 3600;
/// Largest write and read request, bytes: what 256 pages hold, the kernel's usual limit.
pub const MAX_IO: usize = 1 << 20;
/// Requests that the kernel may have under way for read-ahead and write-back.
const MAX_BACKGROUND: u16 = 64;
/// From this many on it holds back.
const CONGESTION: u16 = 48;
/// How deep filesystems may be stacked on each other, this one included: 1, that is, the host's files
/// may not lie on an overlayfs themselves, so that this mount can be a layer of one.
const STACK_DEPTH: u32 = 1;
/// Protocol version spoken.
pub const VERSION: (u32, u32) = (7, 45);

/// The choices for one mount.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long names and attributes may be kept.
    pub ttl: Ttl,
    /// Dirty pages stay in the kernel until it writes them back.
    pub writeback: bool,
    /// The kernel reads and writes the host's files itself; `writeback` does not apply then.
    pub passthrough: bool,
    /// The kernel enforces POSIX ACLs.
    pub acls: bool,
    /// Requests for xattrs are answered; else the kernel stops sending them.
    pub xattrs: bool,
    /// Setting [`super::chown::NAME`] changes owners (`chown_xattr`).
    pub chown_xattr: bool,
    /// Threads that answer requests to begin with; more are started when all have work.
    pub threads: usize,
    /// How many files may be known before the kernel is asked to let go of some (`cache=`).
    pub cache: Option<usize>,
}

impl Policy {
    /// The default for a mount that can (or cannot) be written and whose layers have ACLs (or not).
    pub fn new(writable: bool, acls: bool) -> Policy {
        Policy {
            ttl: Ttl { sec: FOREVER, nsec: 0 },
            writeback: writable,
            passthrough: false,
            acls,
            xattrs: true,
            chown_xattr: false,
            threads: 2,
            cache: None,
        }
    }

    /// Lets the kernel read and write the host's files itself, where it can.
    pub fn set_passthrough(&mut self, passthrough: bool) {
        self.passthrough = passthrough;
    }

    /// Whether names and attributes expire.
    pub fn limited(&self) -> bool {
        self.ttl.sec < FOREVER
    }

    /// Lets names and attributes expire after so many seconds (`timeout=`).
    pub fn set_timeout(&mut self, seconds: f64) {
        let seconds = seconds.clamp(0.0, FOREVER as f64);
        self.ttl = Ttl { sec: seconds as u64, nsec: (seconds.fract() * 1e9) as u32 };
    }
}

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The flags of the reply.
    pub flags: u64,
    /// Opening a file needs no request.
    pub no_open: bool,
    /// Opening a directory needs no request.
    pub no_opendir: bool,
    /// Written pages may stay in the kernel.
    pub writeback: bool,
    /// Whoever changes data has the kernel's word whether set-user-ID must go.
    pub killpriv: bool,
    /// The kernel enforces POSIX ACLs.
    pub acls: bool,
    /// The kernel may be given files of the host to read and write.
    pub passthrough: bool,
    /// setxattr requests carry flags of FUSE's own.
    pub setxattr_ext: bool,
    /// Read-ahead, bytes.
    pub max_readahead: u32,
}

/// Whether a kernel that offers these flags can be given files of the host to read and write.
pub fn offers_passthrough(offered: u64) -> bool {
    offered & flag::PASSTHROUGH != 0
}

/// Answers an offer of the kernel.
pub fn negotiate(policy: &Policy, offered: u64, max_readahead: u32) -> Agreed {
    let mut want = flag::ASYNC_READ
        | flag::BIG_WRITES
        | flag::DONT_MASK
        | flag::HAS_IOCTL_DIR
        | flag::DO_READDIRPLUS
        | flag::READDIRPLUS_AUTO
        | flag::ASYNC_DIO
        | flag::PARALLEL_DIROPS
        | flag::ABORT_ERROR
        | flag::MAX_PAGES
        | flag::CACHE_SYMLINKS
        | flag::NO_OPENDIR_SUPPORT
        | flag::EXPLICIT_INVAL_DATA
        | flag::HANDLE_KILLPRIV_V2
        | flag::SETXATTR_EXT
        | flag::INIT_EXT
        // Node numbers mean nothing after FORGET: file handles are refused, not broken (defect D43).
        | flag::NO_EXPORT_SUPPORT;
    if policy.writeback && !policy.passthrough {
        want |= flag::WRITEBACK_CACHE;
    }
    // Opens are asked for where they have to be answered with a file of the host; truncation comes
    // with them then, so that nothing is copied up only to be thrown away.
    want |= if policy.passthrough {
        flag::PASSTHROUGH | flag::ATOMIC_O_TRUNC | flag::DIRECT_IO_ALLOW_MMAP
    } else {
        flag::NO_OPEN_SUPPORT
    };
    if policy.acls {
        want |= flag::POSIX_ACL;
    }
    let flags = want & offered;
    Agreed {
        flags,
        no_open: flags & flag::NO_OPEN_SUPPORT != 0,
        no_opendir: flags & flag::NO_OPENDIR_SUPPORT != 0,
        writeback: flags & flag::WRITEBACK_CACHE != 0,
        killpriv: flags & flag::HANDLE_KILLPRIV_V2 != 0,
        acls: flags & flag::POSIX_ACL != 0,
        passthrough: flags & flag::PASSTHROUGH != 0,
        setxattr_ext: flags & flag::SETXATTR_EXT != 0,
        max_readahead,
    }
}

impl Agreed {
    /// `struct fuse_init_out`.
    pub fn reply(&self) -> super::reply::Body {
        let mut b = super::reply::Body::default();
        b.u32(VERSION.0).u32(VERSION.1).u32(self.max_readahead).u32(self.flags as u32);
        b.u16(MAX_BACKGROUND).u16(CONGESTION).u32(MAX_IO as u32);
        b.u32(1); // time granularity: 1 ns
        b.u16((MAX_IO / 4096) as u16).u16(0); // pages per request, mapping alignment
        b.u32((self.flags >> 32) as u32);
        b.u32(if self.passthrough { STACK_DEPTH } else { 0 }).u16(0).zeros(22);
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_is_agreed() {
        let policy = Policy::new(true, true);
        let all = negotiate(&policy, u64::MAX, 131_072);
        assert!(all.no_open && all.no_opendir && all.setxattr_ext);
        assert_ne!(all.flags & flag::WRITEBACK_CACHE, 0);
        let none = negotiate(&policy, 0, 131_072);
        assert_eq!(none.flags, 0);
        assert!(!none.no_open);
        assert_eq!(all.reply().len(), 64);
    }

    #[test]
    fn a_read_only_union_does_not_ask_for_writeback() {
        let agreed = negotiate(&Policy::new(false, false), u64::MAX, 0);
        assert_eq!(agreed.flags & (flag::WRITEBACK_CACHE | flag::POSIX_ACL), 0);
    }
}
