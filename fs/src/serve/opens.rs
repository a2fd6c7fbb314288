//! Open files in passthrough mode: the kernel reads and writes the host's file itself.
//!
//! The kernel has one rule: while a file is open, all who open it get the same file of the host. A
//! copy-up breaks that: whoever opened before reads the lower's, whoever opens now needs the upper's.
//! Such an open is answered with `ESTALE`; the kernel then looks the name up again and is given
//! another number for the same file (an *alias*), which it takes for a file of its own, with the same
//! `st_ino`. So the descriptors opened before go on reading the lower's data, as on kernel overlayfs,
//! and a number of the kernel's leads to one file of the host as long as it is open there.
//!
//! A lower's file is never given to an open for writing: `Overlay::backing` refuses that, and the
//! lowers are reached by mounts of our own that cannot be written to.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::NOTIFY_INVAL_INODE;
use super::reply::{self, Body, Ttl};
use super::session::Session;
use crate::ident::NodeId;
use crate::overlay::{Backing, SetAttr, Unprivileged};
use crate::sys::dir::SetTime;
use crate::sys::{self, Errno, Result};

/// `FOPEN_DIRECT_IO`.
const DIRECT_IO: u32 = 1;
/// `FOPEN_PASSTHROUGH`.
const PASSTHROUGH: u32 = 1 << 7;
/// Numbers from here on are aliases; the union counts its own from 1.
const ALIASES: u64 = 1 << 62;

/// A file as the kernel numbers it: the union's number, or an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// What the kernel has open, and which numbers of its stand for which file.
#[derive(Debug, Default)]
pub(super) struct Opens {
    /// There has been an alias: lets the common path do without a lock.
    aliased: AtomicBool,
    next: AtomicU64,
    aliases: Mutex<Aliases>,
    open: Mutex<HashMap<Handle, Open>>,
}

#[derive(Debug, Default)]
struct Aliases {
    /// What a file is called to the kernel now.
    current: HashMap<NodeId, Handle>,
    /// Which file an alias stands for, and how many times the kernel was told so.
    files: HashMap<Handle, (NodeId, u64)>,
}

/// A file that is open.
#[derive(Debug)]
struct Open {
    times: u32,
    for_writing: u32,
    /// The host's file.
    key: (u64, u64),
    /// Who reads and writes it.
    by: By,
}

/// Who reads and writes an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The kernel, which knows the host's file by this number.
    Kernel(i32),
    /// We, and the kernel keeps what it has read: it did not take the host's file.
    Us,
    /// We, each time: the file is also open where the kernel does it.
    UsAlone,
}

/// The answer to an open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    /// Who was opened.
    pub handle: Handle,
    /// Comes back with the release: whether it was opened for writing.
    pub for_writing: bool,
    by: By,
}

impl Opened {
    /// `struct fuse_open_out`. What the kernel knows from before may be old: no `FOPEN_KEEP_CACHE`.
    pub fn reply(self, body: &mut Body) {
        let (flags, id) = match self.by {
            By::Kernel(id) => (PASSTHROUGH, id),
            By::Us => (0, 0),
            By::UsAlone => (DIRECT_IO, 0),
        };
        body.u64(self.for_writing.into()).u32(flags).u32(id as u32);
    }
}

impl Opens {
    /// The file behind a number of the kernel's.
    pub fn file(&self, handle: Handle) -> NodeId {
        if handle.0 < ALIASES {
            return NodeId(handle.0);
        }
        // Unknown ones lead nowhere: the union says ESTALE.
        self.aliases.lock().files.get(&handle).map_or(NodeId(handle.0), |(file, _)| *file)
    }

    /// What to call a file in a reply that pins it.
    pub fn name(&self, file: NodeId) -> Handle {
        let own = Handle(file.0);
        if !self.aliased.load(Ordering::Acquire) {
            return own;
        }
        let mut aliases = self.aliases.lock();
        let Some(handle) = aliases.current.get(&file).copied() else { return own };
        if let Some((_, pins)) = aliases.files.get_mut(&handle) {
            *pins += 1;
        }
        handle
    }

    /// Notes that the kernel gives back pins; returns the file.
    pub fn forget(&self, handle: Handle, n: u64) -> NodeId {
        if handle.0 < ALIASES {
            return NodeId(handle.0);
        }
        let mut aliases = self.aliases.lock();
        let Some((file, pins)) = aliases.files.get_mut(&handle) else { return NodeId(handle.0) };
        let file = *file;
        *pins = pins.saturating_sub(n);
        let unknown = *pins == 0;
        drop(aliases);
        if unknown {
            self.tidy(file, Some(handle));
        }
        file
    }

    /// Drops what a file is called now, and `also`, if the kernel does not know it. The present name
    /// stays as long as the file is open under its own number, which must not be given out again.
    fn tidy(&self, file: NodeId, also: Option<Handle>) {
        let own_in_use = self.open.lock().contains_key(&Handle(file.0));
        let mut aliases = self.aliases.lock();
        let current = aliases.current.get(&file).copied();
        for handle in current.into_iter().chain(also) {
            let unknown = aliases.files.get(&handle).is_some_and(|(_, pins)| *pins == 0);
            if unknown && !(own_in_use && Some(handle) == current) {
                aliases.files.remove(&handle);
                if Some(handle) == current {
                    aliases.current.remove(&file);
                }
            }
        }
    }

    /// From now on a file is called anew.
    fn rename(&self, file: NodeId) {
        let handle = Handle(ALIASES + self.next.fetch_add(1, Ordering::Relaxed));
        let mut aliases = self.aliases.lock();
        let old = aliases.current.insert(file, handle);
        aliases.files.insert(handle, (file, 0));
        // One that nobody was told about.
        if let Some(old) = old
            && aliases.files.get(&old).is_some_and(|(_, pins)| *pins == 0)
        {
            aliases.files.remove(&old);
        }
        self.aliased.store(true, Ordering::Release);
    }

    /// How long attributes may be kept: not while someone may change the file without our knowledge,
    /// and not by a number that others no longer use.
    pub fn ttl(&self, handle: Handle, usual: Ttl) -> Ttl {
        let changing = || self.open.lock().get(&handle).is_some_and(|o| o.for_writing > 0);
        let old = || {
            self.aliased.load(Ordering::Acquire) && {
                let aliases = self.aliases.lock();
                let file = match aliases.files.get(&handle) {
                    Some((file, _)) => *file,
                    None => NodeId(handle.0),
                };
                aliases.current.get(&file).is_some_and(|current| *current != handle)
            }
        };
        if changing() || old() { Ttl { sec: 0, nsec: 0 } } else { usual }
    }
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// For writing.
    pub write: bool,
    /// Emptied first.
    pub truncate: bool,
    /// On behalf of someone who may not keep set-user-ID over that.
    pub unprivileged: Option<Unprivileged>,
}

impl How {
    /// From the flags of open(2).
    pub fn from_flags(flags: u32, unprivileged: Option<Unprivileged>) -> How {
        let truncate = flags & libc::O_TRUNC as u32 != 0;
        let write = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 || truncate;
        How { write, truncate, unprivileged }
    }
}

impl Session {
    /// Opens a file.
    ///
    /// # Errors
    /// `ESTALE` when the kernel must look the name up again; errors of copying up and opening.
    pub(super) fn open(&self, handle: Handle, how: How) -> Result<Opened> {
        let file = self.opens.file(handle);
        if how.truncate {
            let change = SetAttr {
                size: Some(0),
                mtime: Some(SetTime::Now),
                unprivileged: how.unprivileged,
                ..SetAttr::default()
            };
            self.overlay.setattr(file, &change)?;
        }
        let mut backing = self.overlay.backing(file, how.write)?;
        let mut open = self.opens.open.lock();
        // Copied up meanwhile: memory and at most one open(2), so this ends.
        let now = self.overlay.backing(file, how.write)?;
        if now.key != backing.key {
            backing = now;
        }
        // Whether a write takes set-user-ID away depends on who writes: only we are told.
        let aside = how.write && backing.privileged;
        let first_writer = match open.get_mut(&handle) {
            Some(known)
                if known.key != backing.key || (aside && matches!(known.by, By::Kernel(_))) =>
            {
                drop(open);
                self.opens.rename(file);
                self.distrust(handle)?;
                return Err(Errno::ESTALE);
            }
            Some(known) => {
                known.times += 1;
                known.for_writing += u32::from(how.write);
                how.write && known.for_writing == 1
            }
            None => {
                let for_writing = u32::from(how.write);
                let by = if aside { By::UsAlone } else { self.offer(&backing) };
                open.insert(handle, Open { times: 1, for_writing, key: backing.key, by });
                how.write
            }
        };
        let by = open.get(&handle).map_or(By::Us, |o| o.by);
        drop(open);
        if first_writer {
            self.distrust(handle)?;
        }
        Ok(Opened { handle, for_writing: how.write, by })
    }

    /// Makes a file of the host known to the kernel. What it does not take (files on an overlayfs,
    /// for one) is read and written through us.
    fn offer(&self, backing: &Backing) -> By {
        if !backing.whole {
            return By::Us;
        }
        let id = sys::fuse::backing_open(self.device.as_fd(), backing.data.fd());
        id.map_or(By::Us, By::Kernel)
    }

    /// A file is closed for good.
    pub(super) fn release(&self, handle: Handle, for_writing: bool) -> Result<()> {
        let mut open = self.opens.open.lock();
        let Some(known) = open.get_mut(&handle) else { return Ok(()) };
        known.times = known.times.saturating_sub(1);
        known.for_writing = known.for_writing.saturating_sub(u32::from(for_writing));
        if known.times > 0 {
            return Ok(());
        }
        let by = open.remove(&handle).map(|o| o.by);
        drop(open);
        if self.opens.aliased.load(Ordering::Acquire) {
            self.opens.tidy(self.opens.file(handle), None);
        }
        match by {
            Some(By::Kernel(id)) => sys::fuse::backing_close(self.device.as_fd(), id),
            _ => Ok(()),
        }
    }

    /// Lets the kernel ask for a file's attributes again.
    fn distrust(&self, handle: Handle) -> Result<()> {
        const ATTRIBUTES_ONLY: u64 = u64::MAX; // a negative offset
        let mut body = Body::default();
        body.u64(handle.0).u64(ATTRIBUTES_ONLY).u64(0);
        let mut head = Body::default();
        head.u32((reply::HEADER + body.len()) as u32).u32(NOTIFY_INVAL_INODE as u32).u64(0);
        let parts = [IoSlice::new(head.bytes()), IoSlice::new(body.bytes())];
        match sys::fuse::send(self.device.as_fd(), &parts) {
            Err(Errno::ENOENT) => Ok(()), // the kernel does not know the file any more
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_lives_as_long_as_the_kernel_knows_it() {
        let opens = Opens::default();
        let file = NodeId(7);
        assert_eq!(opens.name(file), Handle(7));
        opens.rename(file);
        let alias = opens.name(file);
        assert_ne!(alias, Handle(7));
        assert_eq!(opens.file(alias), file);
        assert_eq!(opens.file(Handle(7)), file);
        let usual = Ttl { sec: 5, nsec: 0 };
        assert_eq!(opens.ttl(alias, usual), usual);
        assert_eq!(opens.ttl(Handle(7), usual).sec, 0);
        opens.name(file);
        assert_eq!(opens.forget(alias, 1), file);
        assert_eq!(opens.name(file), alias);
        assert_eq!(opens.forget(alias, 2), file);
        assert_eq!(opens.name(file), Handle(7));
        assert!(opens.aliases.lock().files.is_empty());
    }

    #[test]
    fn an_own_number_in_use_is_not_given_out_again() {
        let opens = Opens::default();
        let file = NodeId(7);
        let open = Open { times: 1, for_writing: 0, key: (1, 1), by: By::Kernel(1) };
        opens.open.lock().insert(Handle(7), open);
        opens.rename(file);
        let alias = opens.name(file);
        // The kernel gives the number back that it got to look at and asks again.
        opens.forget(alias, 1);
        assert_eq!(opens.name(file), alias);
        opens.forget(alias, 1);
        opens.open.lock().clear();
        opens.tidy(file, None);
        assert_eq!(opens.name(file), Handle(7));
    }

    #[test]
    fn a_name_that_nobody_learned_is_not_kept() {
        let opens = Opens::default();
        opens.rename(NodeId(7));
        opens.rename(NodeId(7));
        assert_eq!(opens.aliases.lock().files.len(), 1);
    }

    #[test]
    fn truncation_is_writing() {
        let how = How::from_flags((libc::O_RDONLY | libc::O_TRUNC) as u32, None);
        assert!(how.write && how.truncate);
        assert!(!How::from_flags(libc::O_RDONLY as u32, None).write);
        assert!(How::from_flags(libc::O_WRONLY as u32, None).write);
    }
}
