//! From a request to an operation of the union and back.

use super::chown;
use super::discard::Lost;
use super::opens::{Handle, How};
use super::reply::{self, Body, Ttl};
use super::session::{Answer, Scratch, Session, forget_listing};
use super::wire::{self, Cursor, Header, decode_dev, fattr, op};
use crate::attr::{Kind, Time};
use crate::ident::NodeId;
use crate::overlay::{Caller, Looked, NewNode, SetAttr, SetXattr, Unprivileged};
use crate::sys::dir::SetTime;
use crate::sys::file::Fsxattr;
use crate::sys::{Errno, Result};

/// Bits of a mode that are not its type.
const PERMISSIONS: u32 = 0o7777;

/// A time as the kernel writes it: seconds signed in 64 bits, nanoseconds.
fn time(sec: u64, nsec: u32) -> Time {
    Time { sec: sec as i64, nsec }
}

impl Session {
    pub(super) fn forget(&self, head: &Header, mut body: Cursor<'_>) -> Result<()> {
        if head.opcode == op::FORGET {
            let n = body.u64()?;
            self.forget_node(Handle(head.nodeid), n);
            return Ok(());
        }
        let count = body.u32()?;
        body.u32()?;
        for _ in 0..count {
            let (node, n) = (body.u64()?, body.u64()?);
            self.forget_node(Handle(node), n);
        }
        Ok(())
    }

    fn forget_node(&self, handle: Handle, n: u64) {
        let node = self.opens.forget(handle, n);
        // The kernel keeps a file that is open: nobody is left who could be told of a failure.
        let _nobody = self.failed.take(node);
        self.overlay.forget(node, n);
    }

    pub(super) fn answer(
        &self,
        head: &Header,
        mut body: Cursor<'_>,
        s: &mut Scratch,
    ) -> Result<Answer> {
        let o = &self.overlay;
        let handle = Handle(head.nodeid);
        let node = self.opens.file(handle);
        match head.opcode {
            op::LOOKUP => return self.lookup(node, body.name()?, s),
            op::GETATTR => {
                // See `failed`.
                let for_open_file = body.u32()? & wire::GETATTR_FH != 0;
                if for_open_file && let Some(error) = self.failed.take(node) {
                    return Err(error);
                }
                let attr = o.getattr(node)?;
                let told = !self.failed.waits(node);
                s.body.attr_out(&attr, if told { self.ttl(handle) } else { Ttl::ZERO });
            }
            op::STATX => {
                let attr = o.getattr(node)?;
                let birth = o.birth_time(node).ok().flatten();
                s.body.statx(&attr, birth, self.ttl(handle));
            }
            op::SETATTR => {
                let attr = o.setattr(node, &self.setattr(head, &mut body)?)?;
                s.body.attr_out(&attr, self.ttl(handle));
            }
            op::READLINK => {
                let target = o.readlink(node)?;
                s.body.raw(&target);
            }
            op::SYMLINK => {
                let (name, target) = (body.name()?, body.name()?);
                let caller = caller(head, 0);
                let made = o.create(node, name, NewNode::Symlink(target), 0o777, &caller)?;
                self.entry(made, s);
            }
            op::MKNOD => {
                let (mode, rdev, umask) = (body.u32()?, body.u32()?, body.u32()?);
                body.u32()?;
                let new = match Kind::from_mode(mode) {
                    Kind::File => NewNode::File,
                    kind => NewNode::Special(kind, decode_dev(rdev)),
                };
                let perm = mode & PERMISSIONS;
                let made = o.create(node, body.name()?, new, perm, &caller(head, umask))?;
                self.entry(made, s);
            }
            op::MKDIR => {
                let (mode, umask) = (body.u32()?, body.u32()?);
                let perm = mode & PERMISSIONS;
                let made =
                    o.create(node, body.name()?, NewNode::Dir, perm, &caller(head, umask))?;
                self.entry(made, s);
            }
            op::TMPFILE => {
                let (_flags, mode, umask) = (body.u32()?, body.u32()?, body.u32()?);
                let made = o.tmpfile(node, mode & PERMISSIONS, &caller(head, umask))?;
                let handle = self.entry(made, s);
                if self.agreed.passthrough {
                    self.open_made(handle, s)?;
                } else {
                    s.body.u64(0).u32(0).u32(0); // struct fuse_open_out
                }
            }
            op::OPEN if self.agreed.passthrough => {
                let (flags, kill) = (body.u32()?, body.u32()? & wire::OPEN_KILL_SUIDGID != 0);
                let by =
                    kill.then_some(Unprivileged { gid: head.gid, pid: head.pid, member: false });
                let opened = self.open(handle, How::from_flags(flags, by))?;
                opened.reply(&mut s.body);
                s.opened = Some(opened);
            }
            op::CREATE if self.agreed.passthrough => {
                let (_flags, mode, umask) = (body.u32()?, body.u32()?, body.u32()?);
                body.u32()?;
                let (perm, caller) = (mode & PERMISSIONS, caller(head, umask));
                let made = o.create(node, body.name()?, NewNode::File, perm, &caller)?;
                let handle = self.entry(made, s);
                self.open_made(handle, s)?;
            }
            op::RELEASE if self.agreed.passthrough => {
                let for_writing = body.u64()? != 0;
                self.release(handle, for_writing)?;
            }
            op::UNLINK => o.unlink(node, body.name()?)?,
            op::RMDIR => o.rmdir(node, body.name()?)?,
            op::RENAME | op::RENAME2 => {
                let newparent = self.opens.file(Handle(body.u64()?));
                let mut flags = 0;
                if head.opcode == op::RENAME2 {
                    flags = body.u32()?;
                    body.u32()?;
                }
                let (name, newname) = (body.name()?, body.name()?);
                for moved in o.rename(node, name, newparent, newname, flags)? {
                    forget_listing(&self.device, moved)?;
                }
            }
            op::LINK => {
                let old = self.opens.file(Handle(body.u64()?));
                let made = o.link(old, node, body.name()?)?;
                self.entry(made, s);
            }
            op::READ => return self.read(node, body, s),
            op::WRITE => {
                body.u64()?;
                let (offset, size, flags) = (body.u64()?, body.u32()?, body.u32()?);
                body.take(16)?; // lock owner, open flags, padding
                let data = body.take(size as usize)?;
                let kill = flags & wire::WRITE_KILL_SUIDGID != 0;
                let by =
                    kill.then_some(Unprivileged { gid: head.gid, pid: head.pid, member: false });
                if let Err(error) = o.write(node, data, offset, by.as_ref()) {
                    if flags & wire::WRITE_CACHE != 0 {
                        self.failed.note(node, error);
                        s.lost = Some(Lost { node, offset, len: size });
                    }
                    return Err(error);
                }
                s.body.u32(size).u32(0);
            }
            op::STATFS => {
                let st = o.statfs()?;
                s.body.u64(st.blocks[0]).u64(st.blocks[1]).u64(st.blocks[2]);
                s.body.u64(st.files[0]).u64(st.files[1]);
                s.body.u32(st.bsize).u32(st.namelen).u32(st.frsize).zeros(28);
            }
            // Sent only for files made by O_TMPFILE; there is no handle to release.
            op::RELEASE | op::RELEASEDIR | op::DESTROY => {}
            op::FSYNC | op::FSYNCDIR => {
                body.u64()?;
                o.fsync(node, body.u32()? & wire::FSYNC_FDATASYNC != 0)?;
            }
            op::SYNCFS => o.sync_all()?,
            op::SETXATTR | op::GETXATTR | op::LISTXATTR | op::REMOVEXATTR
                if !self.policy.xattrs =>
            {
                return Err(Errno::ENOSYS);
            }
            op::SETXATTR => self.setxattr(node, body)?,
            op::GETXATTR => {
                let size = body.u32()? as usize;
                body.u32()?;
                let value = o.getxattr(node, body.name()?)?;
                sized(&mut s.body, &value, size)?;
            }
            op::LISTXATTR => {
                let size = body.u32()? as usize;
                let names = o.listxattr(node, head.uid == 0)?;
                sized(&mut s.body, &names, size)?;
            }
            op::REMOVEXATTR => o.removexattr(node, body.name()?)?,
            op::READDIR | op::READDIRPLUS => {
                body.u64()?;
                let (from, size) = (body.u64()?, body.u32()? as usize);
                if head.opcode == op::READDIR {
                    self.readdir(node, from, size, s)?;
                } else {
                    self.readdirplus(node, from, size, s)?;
                }
            }
            op::FALLOCATE => {
                body.u64()?;
                let (offset, length, mode) = (body.u64()?, body.u64()?, body.u32()?);
                o.fallocate(node, mode as i32, offset, length)?;
            }
            // Pages that the kernel has not written back would seem holes to us, and to have them
            // written first is a wait of ours for ourselves. Without an answer the kernel takes all
            // of a file for data.
            op::LSEEK if self.agreed.writeback => return Err(Errno::ENOSYS),
            op::LSEEK => {
                body.u64()?;
                let (offset, whence) = (body.u64()?, body.u32()? as i32);
                s.body.u64(o.seek(node, offset, whence)?);
            }
            op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => {
                body.u64()?;
                let (offset, out) = (body.u64()?, self.opens.file(Handle(body.u64()?)));
                body.u64()?;
                let (out_offset, len) = (body.u64()?, body.u64()?);
                // The shorter reply counts in 32 bits.
                let len = len.min(u64::from(u32::MAX) & !0xfff);
                let n = o.copy_range(node, offset, out, out_offset, len)?;
                if head.opcode == op::COPY_FILE_RANGE {
                    s.body.u32(n as u32).u32(0);
                } else {
                    s.body.u64(n as u64);
                }
            }
            op::IOCTL => self.ioctl(node, body, s)?,
            // OPEN, OPENDIR, CREATE, FLUSH, ACCESS among them: the kernel does without from then on.
            _ => return Err(Errno::ENOSYS),
        }
        Ok(Answer::Body)
    }

    /// Hands a pinned node to the kernel.
    fn entry(&self, looked: Looked, s: &mut Scratch) -> Handle {
        let handle = self.opens.name(looked.node.id);
        s.pinned.push(handle);
        s.body.entry(handle, &looked.attr, self.policy.ttl, self.ttl(handle));
        handle
    }

    /// Opens what was just made, as part of the same reply.
    fn open_made(&self, handle: Handle, s: &mut Scratch) -> Result<()> {
        let how = How { write: true, truncate: false, unprivileged: None };
        match self.open(handle, how) {
            Ok(opened) => {
                opened.reply(&mut s.body);
                s.opened = Some(opened);
                Ok(())
            }
            Err(e) => {
                for handle in s.pinned.drain(..) {
                    self.overlay.forget(self.opens.forget(handle, 1), 1);
                }
                Err(e)
            }
        }
    }

    /// How long the kernel may keep the attributes of a file.
    fn ttl(&self, handle: Handle) -> Ttl {
        let usual = self.policy.ttl;
        if self.agreed.passthrough { self.opens.ttl(handle, usual) } else { usual }
    }

    fn lookup(&self, parent: NodeId, name: &[u8], s: &mut Scratch) -> Result<Answer> {
        match self.overlay.lookup(parent, name) {
            Ok(found) => {
                self.entry(found, s);
            }
            Err(Errno::ENOENT) => {
                s.body.negative_entry(self.policy.ttl);
            }
            Err(e) => return Err(e),
        }
        Ok(Answer::Body)
    }

    fn read(&self, node: NodeId, mut body: Cursor<'_>, s: &mut Scratch) -> Result<Answer> {
        body.u64()?;
        let (offset, size) = (body.u64()?, body.u32()? as usize);
        if size > s.data.len() {
            s.data.resize(size, 0);
        }
        let buf = s.data.get_mut(..size).ok_or(Errno::EIO)?;
        self.overlay.read(node, buf, offset).map(Answer::Data)
    }

    fn setxattr(&self, node: NodeId, mut body: Cursor<'_>) -> Result<()> {
        let (size, flags) = (body.u32()?, body.u32()?);
        let mut own = 0;
        if self.agreed.setxattr_ext {
            own = body.u32()?;
            body.u32()?;
        }
        let name = body.name()?;
        let value = body.take(size as usize)?;
        if self.policy.chown_xattr && name == chown::NAME {
            let change = chown::parse(value).ok_or(Errno::EINVAL)?;
            return self.overlay.setattr(node, &change).map(drop);
        }
        let kill_sgid = own & wire::SETXATTR_ACL_KILL_SGID != 0;
        self.overlay.setxattr(node, &SetXattr { name, value, flags: flags as i32, kill_sgid })
    }

    fn readdir(&self, node: NodeId, from: u64, size: usize, s: &mut Scratch) -> Result<()> {
        let body = &mut s.body;
        self.overlay.readdir(node, from, |e| {
            if body.len() + Body::dirent_len(e.name) > size {
                return false;
            }
            body.dirent(e.ino, e.next, e.kind.dtype(), e.name);
            true
        })
    }

    fn readdirplus(&self, node: NodeId, from: u64, size: usize, s: &mut Scratch) -> Result<()> {
        let (body, pinned) = (std::cell::RefCell::new(&mut s.body), &mut s.pinned);
        let fits =
            |name: &[u8]| body.borrow().len() + reply::ENTRY + Body::dirent_len(name) <= size;
        self.overlay.readdirplus(node, from, fits, |e, looked| {
            let mut body = body.borrow_mut();
            match &looked {
                Some(l) => {
                    let handle = self.opens.name(l.node.id);
                    pinned.push(handle);
                    body.entry(handle, &l.attr, self.policy.ttl, self.ttl(handle));
                }
                // Node 0: the kernel takes the name and looks it up when it needs it.
                None => {
                    body.zeros(reply::ENTRY);
                }
            }
            body.dirent(e.ino, e.next, e.kind.dtype(), e.name);
        })
    }

    /// `FS_IOC_GETFLAGS`, `FS_IOC_FSGETXATTR` and their like for setting; anything else is not for a filesystem of layers.
    fn ioctl(&self, node: NodeId, mut body: Cursor<'_>, s: &mut Scratch) -> Result<()> {
        body.u64()?;
        let (_flags, cmd, _arg) = (body.u32()?, body.u32()?, body.u64()?);
        let (in_size, out_size) = (body.u32()?, body.u32()?);
        // The numbers differ between 32- and 64-bit callers only in the encoded size.
        const GETFLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
        const SETFLAGS: [u32; 2] = [0x4008_6602, 0x4004_6602];
        const FSGETXATTR: u32 = 0x801c_581f;
        const FSSETXATTR: u32 = 0x401c_5820;
        if GETFLAGS.contains(&cmd) {
            let flags = self.overlay.flags(node)?;
            s.body.u32(0).u32(0).u32(0).u32(0).u32(flags);
            s.body.zeros((out_size as usize).saturating_sub(4));
            return Ok(());
        }
        if SETFLAGS.contains(&cmd) && in_size >= 4 {
            self.overlay.set_flags(node, body.u32()?)?;
            s.body.zeros(16);
            return Ok(());
        }
        if cmd == FSGETXATTR {
            let x = self.overlay.fsxattr(node)?;
            s.body.zeros(16).raw(&x);
            return Ok(());
        }
        if cmd == FSSETXATTR {
            let x = body.take(size_of::<Fsxattr>())?.try_into().map_err(|_| Errno::EIO)?;
            self.overlay.set_fsxattr(node, x)?;
            s.body.zeros(16);
            return Ok(());
        }
        Err(Errno::ENOTTY)
    }
}

fn caller(head: &Header, umask: u32) -> Caller {
    Caller { uid: head.uid, gid: head.gid, umask }
}

/// Either the size of a value, or the value when there is room.
fn sized(body: &mut Body, value: &[u8], room: usize) -> Result<()> {
    if room == 0 {
        body.u32(value.len() as u32).u32(0);
    } else if value.len() <= room {
        body.raw(value);
    } else {
        return Err(Errno::ERANGE);
    }
    Ok(())
}

impl Session {
    /// `struct fuse_setattr_in`.
    fn setattr(&self, head: &Header, body: &mut Cursor<'_>) -> Result<SetAttr> {
        let valid = body.u32()?;
        body.take(12)?; // padding, file handle
        let size = body.u64()?;
        body.u64()?; // lock owner
        let (atime, mtime, ctime) = (body.u64()?, body.u64()?, body.u64()?);
        let (atimensec, mtimensec, ctimensec) = (body.u32()?, body.u32()?, body.u32()?);
        let mode = body.u32()?;
        body.u32()?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let has = |bit: u32| valid & bit != 0;
        let set = |bit, now, t| match (has(bit), has(now)) {
            (false, _) => None,
            (true, true) => Some(SetTime::Now),
            (true, false) => Some(SetTime::At(t)),
        };
        let mtime = set(fattr::MTIME, fattr::MTIME_NOW, time(mtime, mtimensec));
        // Who keeps the times? With the writeback cache the kernel, which sends them; otherwise we.
        // Then truncate(2) is a change where the size changes, ftruncate(2) (which names a handle)
        // always.
        let ours = has(fattr::SIZE)
            && !self.agreed.writeback
            && (has(fattr::FH)
                || self.overlay.getattr(self.opens.file(Handle(head.nodeid)))?.size != size);
        let mtime = mtime.or_else(|| ours.then_some(SetTime::Now));
        Ok(SetAttr {
            mode: has(fattr::MODE).then_some(mode & PERMISSIONS),
            uid: has(fattr::UID).then_some(uid),
            gid: has(fattr::GID).then_some(gid),
            size: has(fattr::SIZE).then_some(size),
            atime: set(fattr::ATIME, fattr::ATIME_NOW, time(atime, atimensec)),
            mtime,
            ctime: has(fattr::CTIME).then(|| time(ctime, ctimensec)),
            // chown(2) of neither owner nor group arrives with nothing in it, and takes the privileges.
            unprivileged: (has(fattr::KILL_SUIDGID) || valid & fattr::CHANGES == 0).then_some(
                Unprivileged {
                    gid: head.gid,
                    pid: head.pid,
                    member: valid & fattr::CHANGES == 0 && head.uid == 0,
                },
            ),
        })
    }
}
