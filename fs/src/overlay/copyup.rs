//! Copy-up: a lower object gets its own copy in the upper before it is changed.
//!
//! The copy is made complete in the work directory (data, owner, mode, xattrs with ACLs, times; an
//! error in any of them fails the copy-up) and published by one rename, so nobody ever sees half of
//! it. The node stays the same, and with it every handle, cached page, lock and watch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Overlay;
use crate::acl;
use crate::attr::{Attr, Kind};
use crate::format::{self, Mark};
use crate::inode::{Names, Node, Place};
use crate::layer::LowerRef;
use crate::merge::Flags;
use crate::sys::{self, Errno, Result};
use crate::upper::{self, Upper};

/// How much of a regular file's data a copy-up has to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// All of it.
    Whole,
    /// The first so many bytes: the rest is about to be cut off.
    Prefix(u64),
}

/// Bytes per read and write where the kernel cannot copy by itself.
const COPY_BUFFER: usize = 1 << 20;
/// Bytes asked of one `copy_file_range`: long enough to be cheap, short enough to be interruptible.
const COPY_STEP: u64 = 64 << 20;

impl Overlay {
    /// Makes sure that the object of `node` is in the upper.
    pub(super) fn ensure_upper(&self, node: &Arc<Node>, amount: Amount) -> Result<()> {
        let upper = self.need_upper()?;
        if node.in_upper() {
            let attributes_only = node.state.read().data.is_some();
            return if attributes_only { self.complete(node, amount) } else { Ok(()) };
        }
        if node.dir.is_some() {
            return self.ensure_upper_dir(node);
        }
        let _copying = node.copying.lock();
        let Place::Lower(lower) = self.place(node) else { return Ok(()) };
        // The way there first: its directories are needed whatever happens to the file meanwhile.
        if let Some(link) = node.state.read().links.first().cloned() {
            self.ensure_upper_dir(&link.parent)?;
        }
        let several = node.keyed();
        let source = node.state.read().data.clone();
        let tmp = upper.temp_name();
        let made = self
            .copy_object(upper, &lower, source.as_ref(), &tmp, amount)
            .and_then(|()| self.publish_file(upper, node, &tmp, several));
        if made.is_err() {
            let _may_be_absent = sys::dir::unlinkat(upper.work(), &tmp);
        }
        made
    }

    /// Gives the finished copy `tmp` the name of its node, which has it from then on.
    fn publish_file(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        tmp: &[u8],
        several: bool,
    ) -> Result<()> {
        self.mark_origin(upper, upper.work(), tmp, node.key);
        loop {
            let Some(link) = node.state.read().links.first().cloned() else {
                return self.publish_nameless(upper, node, tmp, several);
            };
            self.ensure_upper_dir(&link.parent)?;
            let _tree = self.tree.read_recursive();
            let mut names = self.names(&link.parent)?;
            let still = node
                .state
                .read()
                .links
                .first()
                .is_some_and(|l| l.parent.id == link.parent.id && l.name == link.name);
            if !still {
                continue; // unlinked meanwhile: by another name, or by none
            }
            let fd = self.upper_dir_fd(&link.parent)?;
            if several {
                self.enter_index(upper, node, tmp)?;
            }
            self.put_in_place(upper, node, tmp, &mut names, fd.as_fd(), &link.name)?;
            let mut state = node.state.write();
            state.place = if several { Place::Index } else { Place::Upper };
            state.data = None;
            self.fds.drop_data(node.id);
            drop(state);
            if let Some(m) = &mut names.merged {
                m.set_upper(&link.name, node.kind, node.ino().0, node.id, false);
            }
            return Ok(());
        }
    }

    /// Renames a finished copy to its name. That is no change users made: the directory's times stay.
    fn put_in_place(
        &self,
        upper: &Upper,
        node: &Node,
        tmp: &[u8],
        names: &mut Names,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<()> {
        let before = sys::dir::fstat(dir)?;
        upper.publish(tmp, node.kind, dir, name, false)?;
        self.note_impure(upper, names, dir);
        upper.restore_times(dir, &before);
        Ok(())
    }

    /// Links the copy of a file with several names into the index, with its link count.
    fn enter_index(&self, upper: &Upper, node: &Arc<Node>, tmp: &[u8]) -> Result<()> {
        let known = node.state.read().nlink;
        let count = match known {
            Some(n) => n,
            None => self.raw_attr(node)?.nlink,
        };
        upper.write_count(node.key, count)?;
        let name = Upper::index_name(node.key);
        match sys::dir::linkat(upper.work(), tmp, upper.index(), &name) {
            // Left by a filesystem killed between this step and the next.
            Err(Errno::EEXIST) => {
                sys::dir::unlinkat(upper.index(), &name)?;
                sys::dir::linkat(upper.work(), tmp, upper.index(), &name)?;
            }
            other => other?,
        }
        let ino = sys::dir::statat(upper.index(), &name)?.ino;
        self.indexed.lock().insert(ino, node.key);
        node.state.write().nlink = Some(count);
        Ok(())
    }

    /// A file without a known name is copied up for those who have it open. It may have other names
    /// that nobody has looked up; the index has it then.
    fn publish_nameless(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        tmp: &[u8],
        several: bool,
    ) -> Result<()> {
        let named = several && node.state.read().nlink != Some(0);
        let mut held = None;
        if named {
            self.enter_index(upper, node, tmp)?;
        } else {
            held = Some(Arc::new(hold(upper.work(), tmp, node.kind)?));
        }
        sys::dir::unlinkat(upper.work(), tmp)?;
        let mut state = node.state.write();
        self.set_held(&mut state, held);
        state.place = if named { Place::Index } else { Place::Upper };
        state.data = None;
        self.fds.drop_data(node.id);
        Ok(())
    }

    /// Makes sure that a directory, and those above it, exist in the upper.
    pub(super) fn ensure_upper_dir(&self, node: &Arc<Node>) -> Result<()> {
        let mut chain = Vec::new();
        let mut at = Arc::clone(node);
        while !at.in_upper() {
            let link = at.state.read().links.first().cloned().ok_or(Errno::ENOENT)?;
            chain.push(at);
            at = link.parent;
        }
        chain.into_iter().rev().try_for_each(|dir| self.copy_up_dir(&dir))
    }

    fn copy_up_dir(&self, node: &Arc<Node>) -> Result<()> {
        let upper = self.need_upper()?;
        let _copying = node.copying.lock();
        let Place::Lower(lower) = self.place(node) else { return Ok(()) };
        let tmp = upper.temp_name();
        let made = self
            .copy_object(upper, &lower, None, &tmp, Amount::Whole)
            .and_then(|()| self.publish_dir(upper, node, &tmp));
        if made.is_err() {
            let _may_be_absent = sys::dir::rmdirat(upper.work(), &tmp);
        }
        made
    }

    fn publish_dir(&self, upper: &Upper, node: &Arc<Node>, tmp: &[u8]) -> Result<()> {
        self.mark_origin(upper, upper.work(), tmp, node.key);
        let _tree = self.tree.read_recursive();
        let link = node.state.read().links.first().cloned().ok_or(Errno::ENOENT)?;
        let mut names = self.names(&link.parent)?;
        // Removed while we waited for the lock.
        if node.state.read().links.is_empty() {
            return Err(Errno::ENOENT);
        }
        let fd = self.upper_dir_fd(&link.parent)?;
        self.put_in_place(upper, node, tmp, &mut names, fd.as_fd(), &link.name)?;
        node.state.write().place = Place::Upper;
        if let Some(m) = &mut names.merged {
            m.set_upper(&link.name, Kind::Dir, node.ino().0, node.id, false);
        }
        Ok(())
    }

    /// Marks a directory as holding entries whose inode number is recorded with them.
    pub(super) fn note_impure(&self, upper: &Upper, names: &mut Names, fd: BorrowedFd<'_>) {
        if !names.impure {
            upper.set_soft_mark(fd, b"", Mark::Impure, b"y");
            names.impure = true;
        }
    }

    /// Gives a file of the index the upper name that a rename needs to move.
    pub(super) fn own_name(
        &self,
        node: &Arc<Node>,
        names: &mut Names,
        fd: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<()> {
        let upper = self.need_upper()?;
        let Some(m) = &mut names.merged else { return Err(Errno::EIO) };
        if m.get(name).is_some_and(|e| e.flags.has(Flags::UPPER)) {
            return Ok(());
        }
        sys::dir::linkat(upper.index(), &Upper::index_name(node.key), fd, name)?;
        m.set_upper(name, node.kind, node.ino().0, node.id, false);
        Ok(())
    }

    /// Copies a lower object to the work directory, complete; its data may be that of another file.
    fn copy_object(
        &self,
        upper: &Upper,
        lower: &LowerRef,
        data: Option<&LowerRef>,
        tmp: &[u8],
        amount: Amount,
    ) -> Result<()> {
        const PRIVATE: u32 = 0o600;
        let layer = self.layer(lower.layer)?;
        let attr = layer.attr(lower)?;
        let work = upper.work();
        let mut file = None;
        match attr.kind {
            Kind::Dir => sys::dir::mkdirat(work, tmp, 0o700)?,
            Kind::Symlink => sys::dir::symlinkat(&layer.readlink(lower)?, work, tmp)?,
            Kind::File => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let to = sys::dir::openat(work, tmp, flags, PRIVATE)?;
                let len = match amount {
                    Amount::Whole => attr.size,
                    Amount::Prefix(n) => n.min(attr.size),
                };
                if len > 0 {
                    let source = data.unwrap_or(lower);
                    copy_data(self.layer(source.layer)?.open(source)?.fd(), to.as_fd(), len)?;
                }
                if len < attr.size {
                    sys::file::ftruncate(to.as_fd(), len)?;
                }
                file = Some(to);
            }
            kind => {
                self.settings.ownership.mknod(work, tmp, kind.mode() | PRIVATE, attr.rdev)?;
            }
        }
        self.copy_meta(upper, lower, tmp, &attr)?;
        if let Some(file) = file
            && !upper.volatile()
            && attr.size > 0
        {
            sys::file::fsync(file.as_fd(), false)?;
        }
        Ok(())
    }

    fn copy_meta(&self, upper: &Upper, lower: &LowerRef, tmp: &[u8], attr: &Attr) -> Result<()> {
        let layer = self.layer(lower.layer)?;
        let work = upper.work();
        // Only what differs: an ordinary user may not even set what is there already.
        let own = self.settings.ownership;
        let made = own.stat(work, tmp)?;
        let uid = (made.uid != attr.uid).then_some(attr.uid);
        let gid = (made.gid != attr.gid).then_some(attr.gid);
        if uid.is_some() || gid.is_some() {
            own.chown(work, tmp, uid, gid)?;
        }
        let names = match layer.xattr_names(lower) {
            Err(Errno::EOPNOTSUPP | Errno::EACCES) => Vec::new(),
            other => other?,
        };
        for name in names.split(|&b| b == 0).filter(|n| !n.is_empty()) {
            if format::is_private(name) {
                continue;
            }
            let value = match layer.xattr(lower, name) {
                Err(Errno::ENODATA) => continue,
                other => other?,
            };
            match sys::xattr::set(work, tmp, name, &value, 0) {
                // As overlayfs: what the upper cannot store is lost, unless it guards access.
                Err(Errno::EOPNOTSUPP) if !guards_access(name) => {}
                other => other?,
            }
        }
        if attr.kind != Kind::Symlink {
            own.chmod(work, tmp, u32::from(attr.perm))?;
        }
        let (atime, mtime) = upper::times_of(attr);
        sys::dir::utimesat(work, tmp, atime, mtime)
    }
}

/// Whether losing this xattr would change who may do what.
fn guards_access(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT || name == b"security.capability"
}

/// Opens an upper object that is about to lose its name, with as much access as there is.
pub(super) fn hold(dir: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<OwnedFd> {
    if kind == Kind::File {
        for flags in [libc::O_RDWR, libc::O_RDONLY] {
            match sys::dir::openat(dir, name, flags | libc::O_NONBLOCK, 0) {
                Err(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY) => {}
                other => return other,
            }
        }
    }
    sys::dir::openat(dir, name, libc::O_PATH, 0)
}

/// Copies the first `len` bytes, sharing blocks where the filesystem can and keeping holes.
pub(super) fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> Result<()> {
    if sys::file::clone(from, to).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < len {
        let start = match sys::file::seek(from, at, libc::SEEK_DATA) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break, // only a hole is left
            Err(_) => at,               // a filesystem that cannot tell
        };
        if start >= len {
            break;
        }
        let end = sys::file::seek(from, start, libc::SEEK_HOLE).unwrap_or(len).min(len);
        let end = if end > start { end } else { len };
        copy_extent(from, to, start, end)?;
        at = end;
    }
    sys::file::ftruncate(to, len)
}

fn copy_extent(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let mut at = start;
    while at < end {
        match sys::file::copy_range(from, at, to, at, (end - at).min(COPY_STEP) as usize) {
            Ok(0) => break,
            Ok(n) => at += n as u64,
            Err(Errno::EINTR) => {}
            // Another filesystem, or one that cannot: by hand.
            Err(
                Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM,
            ) => {
                break;
            }
            Err(e) => return Err(e),
        }
    }
    let mut buf = vec![0u8; COPY_BUFFER.min((end - at) as usize)];
    while at < end {
        let want = buf.len().min((end - at) as usize);
        let part = buf.get_mut(..want).ok_or(Errno::EIO)?;
        let n = sys::file::pread_full(from, part, at)?;
        if n == 0 {
            break; // the lower file became shorter: the rest is a hole
        }
        sys::file::pwrite_all(to, part.get(..n).ok_or(Errno::EIO)?, at)?;
        at += n as u64;
    }
    Ok(())
}
