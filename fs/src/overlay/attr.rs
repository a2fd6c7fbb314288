//! Attributes: reading them, changing them, and those of the whole filesystem.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::copyup::Amount;
use super::{Overlay, soft};
use crate::attr::{Attr, Kind, Time};
use crate::ident::NodeId;
use crate::inode::{Node, Place};
use crate::layer::Layer;
use crate::sys::dir::SetTime;
use crate::sys::{self, Errno, Result};

/// A change of attributes, as setattr requests have it.
#[derive(Clone, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (12 bits).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size, bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// The change time that the kernel shows, where it keeps the times.
    pub ctime: Option<Time>,
    /// A caller who may not keep set-user-ID and set-group-ID over a change of content.
    pub unprivileged: Option<Unprivileged>,
}

/// A caller without `CAP_FSETID`.
#[derive(Clone, Copy, Debug)]
pub struct Unprivileged {
    /// Its filesystem group id.
    pub gid: u32,
    /// Its process, to ask for its other groups.
    pub pid: u32,
    /// It may keep set-group-ID where members of the group may (root, who has the capability after
    /// all, and loses set-user-ID by chown(2) all the same).
    pub member: bool,
}

/// Figures of the filesystem, as statfs(2) has them.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// Blocks in all, free, and free to ordinary users, of `frsize` bytes.
    pub blocks: [u64; 3],
    /// Inodes in all, and free.
    pub files: [u64; 2],
    /// Preferred I/O size, bytes.
    pub bsize: u32,
    /// Unit of `blocks`, bytes.
    pub frsize: u32,
    /// Longest name, bytes.
    pub namelen: u32,
}

impl Overlay {
    /// Attributes of a node.
    pub fn getattr(&self, id: NodeId) -> Result<Attr> {
        self.attr_of(&self.node(id)?)
    }

    /// When the file was made, where the layer's filesystem knows.
    pub fn birth_time(&self, id: NodeId) -> Result<Option<Time>> {
        let node = self.node(id)?;
        match self.place(&node) {
            Place::Lower(at) => self.layer(at.layer)?.birth_time(&at),
            _ => self.with_upper(&node, sys::dir::birth_time),
        }
    }

    /// Attributes of the object, as its layer has them.
    pub(super) fn raw_attr(&self, node: &Arc<Node>) -> Result<Attr> {
        // Taken before the place is read, so that a copy-up in between is seen whole.
        let _tree = self.tree.read_recursive();
        match self.place(node) {
            Place::Lower(at) => self.lower_attr(&at),
            _ => self.with_upper(node, |fd, name| self.settings.ownership.stat(fd, name)),
        }
    }

    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Result<Attr> {
        Ok(self.present(node, self.raw_attr(node)?))
    }

    /// The attributes users see for an object's own.
    pub(super) fn present(&self, node: &Node, mut attr: Attr) -> Attr {
        attr.ino = self.shown_ino(node.ino().0);
        if let Some(source) = node.state.read().source() {
            attr.blocks = attr.blocks.max(source.allocated);
        }
        (attr.uid, attr.gid) = self.settings.ids.show(attr.uid, attr.gid);
        if let Some(mapped) = &self.settings.mapped {
            (attr.uid, attr.gid) = mapped.or_root(attr.uid, attr.gid);
        }
        match &node.dir {
            None => {
                let state = node.state.read();
                if state.plain().is_some() {
                    // its own count
                } else if let Some(n) = state.nlink {
                    attr.nlink = n;
                } else if matches!(state.place, Place::Lower(_) | Place::Stash)
                    && state.links.is_empty()
                {
                    attr.nlink = 0; // deleted, still open
                }
            }
            Some(dir) => {
                let gone = node.id != NodeId::ROOT && node.state.read().links.is_empty();
                match dir.links.load(Ordering::Relaxed) {
                    _ if gone => attr.nlink = 0,
                    _ if self.settings.static_nlink => attr.nlink = 1,
                    0 => {} // from one layer and not counted: its own count
                    n => attr.nlink = n,
                }
            }
        }
        attr
    }

    /// Changes attributes. Truncation copies up no more than what is kept.
    ///
    /// # Errors
    /// `EROFS` without an upper; `EINVAL` for an owner the mapping cannot store; errors of the upper.
    pub fn setattr(&self, id: NodeId, change: &SetAttr) -> Result<Attr> {
        let node = self.node(id)?;
        if self.changes_nothing(&node, change)? {
            return self.attr_of(&node);
        }
        if let Some(attr) = self.has_times(&node, change)? {
            return Ok(self.present(&node, attr));
        }
        let uid = change.uid.map(|u| self.settings.ids.store_uid(u).ok_or(Errno::EINVAL));
        let gid = change.gid.map(|g| self.settings.ids.store_gid(g).ok_or(Errno::EINVAL));
        let (uid, gid) = (uid.transpose()?, gid.transpose()?);
        let amount = change.size.map_or(Amount::Attributes, Amount::Prefix);
        self.ensure_upper(&node, amount)?;
        if let Some(size) = change.size {
            if node.kind == Kind::Dir {
                return Err(Errno::EISDIR);
            }
            let file = self.open_data(&node, true)?;
            // truncate(2) to the same size: the kernel, which keeps the times, leaves them alone.
            let same = !self.settings.no_writeback
                && change.mtime.is_none()
                && sys::dir::fstat(file.fd())?.size == size;
            let resize = |fd: BorrowedFd<'_>| {
                let cut = || sys::file::ftruncate(fd, size);
                if same { Ok(()) } else { self.cut(&node, &file, size, cut) }
            };
            match &change.unprivileged {
                Some(caller) => {
                    resize(file.fd())?;
                    self.drop_privileges(&node, caller)?;
                }
                None => self.keep_privileges(&file, resize)?,
            }
        }
        // chown(2) with neither an owner nor a group takes the privileges all the same.
        if let (Some(caller), None, None, None, None) =
            (&change.unprivileged, change.size, change.mode, uid, gid)
            && !matches!(node.kind, Kind::Dir | Kind::Symlink)
        {
            self.drop_privileges(&node, caller)?;
        }
        self.with_upper(&node, |fd, name| {
            if uid.is_some() || gid.is_some() {
                self.settings.ownership.chown(fd, name, uid, gid)?;
            }
            if let Some(mode) = change.mode
                && node.kind != Kind::Symlink
            {
                self.settings.ownership.chmod(fd, name, mode & 0o7777)?;
            }
            if change.atime.is_some() || change.mtime.is_some() {
                let omit = SetTime::Omit;
                let (a, m) = (change.atime.unwrap_or(omit), change.mtime.unwrap_or(omit));
                sys::dir::utimesat(fd, name, a, m)?;
            }
            Ok(())
        })?;
        self.attr_of(&node)
    }

    /// Whether a request only repeats the times of a lower file. The kernel sends such ones of its own
    /// accord: with the writeback cache it is the keeper of the times and flushes them when it lets
    /// go of an inode, for example after one of several hard links was removed.
    fn changes_nothing(&self, node: &Arc<Node>, change: &SetAttr) -> Result<bool> {
        if change.mode.is_some()
            || change.uid.is_some()
            || change.gid.is_some()
            || change.size.is_some()
            || node.in_upper()
        {
            return Ok(false);
        }
        let attr = self.raw_attr(node)?;
        let privileges = || match self.place(node) {
            Place::Lower(at) => {
                let capable = |layer: &dyn Layer| layer.xattr(&at, b"security.capability").is_ok();
                attr.perm & 0o6000 != 0 || self.layer(at.layer).is_ok_and(capable)
            }
            _ => true,
        };
        if change.unprivileged.is_some() && node.kind != Kind::Dir && privileges() {
            return Ok(false);
        }
        let same = |set: Option<SetTime>, now| set.is_none_or(|t| t == SetTime::At(now));
        Ok(same(change.atime, attr.atime) && same(change.mtime, attr.mtime))
    }

    /// The attributes of an upper file that has the times of a request for nothing else already.
    ///
    /// After a rename, a link or an unlink the kernel, as the keeper of the times, sends those of the
    /// file; the host has set its change time with the same operation.
    fn has_times(&self, node: &Arc<Node>, change: &SetAttr) -> Result<Option<Attr>> {
        let SetAttr {
            mode: None,
            uid: None,
            gid: None,
            size: None,
            atime: None,
            mtime: Some(SetTime::At(mtime)),
            ctime: Some(ctime),
            unprivileged: None,
        } = change
        else {
            return Ok(None);
        };
        if !node.in_upper() {
            return Ok(None);
        }
        let attr = self.raw_attr(node)?;
        Ok((attr.mtime == *mtime && attr.ctime >= *ctime).then_some(attr))
    }

    /// Takes set-user-ID, set-group-ID and file capabilities away, as a write by someone without
    /// `CAP_FSETID` does (write(2), capabilities(7)).
    pub(super) fn drop_privileges(&self, node: &Arc<Node>, by: &Unprivileged) -> Result<()> {
        const SUID: u32 = 0o4000;
        const SGID: u32 = 0o2000;
        const GROUP_EXEC: u32 = 0o010;
        self.with_upper(node, |fd, name| {
            let own = self.settings.ownership;
            let attr = own.stat(fd, name)?;
            let mode = u32::from(attr.perm);
            let mut kept = mode & !SUID;
            // Without group execution the bit once meant mandatory locking: members of the group
            // keep it (setattr_should_drop_sgid in the kernel).
            let member = || {
                let (_, group) = self.settings.ids.show(attr.uid, attr.gid);
                by.member
                    || by.gid == group
                    || sys::process::in_group(by.pid, group).unwrap_or(false)
            };
            if mode & SGID != 0 && (mode & GROUP_EXEC != 0 || !member()) {
                kept &= !SGID;
            }
            if kept != mode {
                own.chmod(fd, name, kept)?;
            }
            soft(sys::xattr::remove(fd, name, b"security.capability"))
        })
    }

    /// Figures of the filesystem that takes the writes (or of the topmost layer).
    pub fn statfs(&self) -> Result<StatFs> {
        let st = match (&self.upper, self.lowers.first()) {
            (Some(upper), _) => sys::dir::statvfs(upper.root())?,
            (None, Some(layer)) => sys::dir::statvfs(layer.root_fd())?,
            (None, None) => return Err(Errno::EIO),
        };
        Ok(StatFs {
            blocks: [st.f_blocks, st.f_bfree, st.f_bavail],
            files: [st.f_files, st.f_ffree],
            bsize: st.f_bsize as u32,
            frsize: st.f_frsize as u32,
            namelen: st.f_namemax as u32,
        })
    }
}
