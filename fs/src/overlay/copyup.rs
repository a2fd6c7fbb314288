//! Copy-up: a lower object gets its own copy in the upper before it is changed.
//!
//! The copy is made complete in the work directory (data, owner, mode, xattrs with ACLs, times; an
//! error in any of them fails the copy-up) and published by one rename, so nobody ever sees half of
//! it. The node stays the same, and with it every handle, cached page, lock and watch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Overlay;
use super::duplicate::Copied;
use crate::attr::Kind;
use crate::fdcache::DataFd;
use crate::format::Mark;
use crate::ident::FileKey;
use crate::inode::{Names, Node, Place, Source};
use crate::merge::Flags;
use crate::sys::{self, Errno, Result};
use crate::upper::Upper;

/// What the operation is going to do with a file, which decides how much of its data a copy-up brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Change attributes or names only.
    Attributes,
    /// Change some of its data.
    Change,
    /// Keep the first so many bytes: the rest is about to be cut off.
    Prefix(u64),
    /// Something that needs all of it in the upper.
    Whole,
}

impl Overlay {
    /// Makes sure that the object of `node` is in the upper, ready for `amount`.
    pub(super) fn ensure_upper(&self, node: &Arc<Node>, amount: Amount) -> Result<()> {
        let upper = self.need_upper()?;
        if node.in_upper() {
            let lacking = node.state.read().source().is_some();
            return if lacking { self.bring(upper, node, amount) } else { Ok(()) };
        }
        if node.dir.is_some() {
            return self.ensure_upper_dir(node);
        }
        let _copying = node.copying.lock();
        let Place::Lower(lower) = self.place(node) else { return Ok(()) };
        // The way there first: its directories are needed whatever happens to the file meanwhile.
        if let Some(link) = node.state.read().first() {
            self.ensure_upper_dir(&link.parent)?;
        }
        let several = node.keyed();
        let data = node.state.read().source().cloned();
        let copy = |amount| {
            let mut copied = self.duplicate(upper, &lower, data.as_ref(), amount)?;
            self.publish_file(upper, node, &mut copied, several)
                .inspect_err(|_| self.discard(upper, &copied))
        };
        match copy(amount) {
            // The directory cannot say that it holds something special: nothing special, then.
            Err(Errno::EOPNOTSUPP) if !matches!(amount, Amount::Whole | Amount::Prefix(0)) => {
                copy(Amount::Whole)
            }
            other => other,
        }
    }

    /// Gives the finished copy the name of its node, which has it from then on.
    fn publish_file(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        copied: &mut Copied,
        several: bool,
    ) -> Result<()> {
        self.mark_copy(upper, node, copied)?;
        loop {
            let Some(link) = node.state.read().first() else {
                return self.publish_nameless(upper, node, copied, several);
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
            if !self.note_impure(upper, &mut names, fd.as_fd()) {
                if copied.source.is_some() {
                    return Err(Errno::EOPNOTSUPP);
                }
                self.sync_copy(upper, node, copied)?;
            }
            if several {
                self.enter_index(upper, node, &copied.tmp)?;
            }
            self.put_in_place(upper, node, &copied.tmp, fd.as_fd(), &link.name)?;
            let place = if several { Place::Index } else { Place::Upper };
            self.came_up(node, place, None, copied);
            if let Some(m) = &mut names.merged {
                m.set_upper(&link.name, node.kind, node.ino().0, node.id, false);
            }
            return Ok(());
        }
    }

    /// Records with a copy which object it was, and makes sure that its data is on the disk, or that
    /// the mark says that it is not.
    fn mark_copy(&self, upper: &Upper, node: &Node, copied: &mut Copied) -> Result<()> {
        let tmp = &copied.tmp;
        if copied.unsynced {
            let value = self.unsynced_origin(upper, node.key);
            let marked = value.is_some_and(|value| {
                upper.set_mark(upper.work(), tmp, Mark::Origin, &value).is_ok()
            });
            if marked {
                return Ok(());
            }
            self.sync_copy(upper, node, copied)?;
        }
        self.mark_origin(upper, upper.work(), &copied.tmp, node.key);
        Ok(())
    }

    /// The mark that says, besides the origin, that the data is not known to be on the disk.
    pub(super) fn unsynced_origin(&self, upper: &Upper, key: FileKey) -> Option<Vec<u8>> {
        let epoch = upper.epoch().filter(|_| !upper.volatile())?;
        self.fs.read().record(key).map(|origin| origin.to_bytes_unsynced(epoch))
    }

    /// Waits until the data of a copy is on the disk.
    fn sync_copy(&self, upper: &Upper, node: &Node, copied: &mut Copied) -> Result<()> {
        if let Some(file) = copied.file.as_ref().filter(|_| copied.unsynced) {
            sys::file::fsync(file.as_fd(), false)?;
            self.mark_origin(upper, upper.work(), &copied.tmp, node.key);
            copied.unsynced = false;
        }
        Ok(())
    }

    /// The copy is in place: the node is what it is from now on.
    fn came_up(
        &self,
        node: &Arc<Node>,
        place: Place,
        held: Option<Arc<OwnedFd>>,
        copied: &mut Copied,
    ) {
        let named = held.is_none();
        let mut state = node.state.write();
        if !named {
            self.set_held(&mut state, held);
        }
        state.place = place;
        state.data = copied.source.take();
        let before = self.fds.data(node.id);
        self.fds.drop_data(node.id);
        self.keep_open(node, state.data.as_ref(), before, copied.file.take());
        // Before anybody can see it in the upper and give it another name.
        if named && copied.unsynced {
            self.settle_later(node, None);
        }
    }

    /// Keeps what is open of a file that was just copied up: the copy, for what is to be done with it
    /// is sure to come, and its lower, where that has the rest of the data.
    fn keep_open(
        &self,
        node: &Node,
        rest: Option<&Source>,
        before: Option<DataFd>,
        copy: Option<OwnedFd>,
    ) {
        let Some(copy) = copy else { return };
        match rest {
            // Attributes only: its data is read elsewhere.
            Some(Source { partial: None, .. }) => return,
            Some(_) => {
                if let Some(lower) = before.filter(|data| !data.writable) {
                    self.fds.put_source(node.id, &lower.part);
                }
            }
            None => {}
        }
        self.fds.put_data(node.id, &DataFd::whole(Arc::new(copy), true));
    }

    /// Renames a finished copy to its name. That is no change users made: the directory's times stay.
    fn put_in_place(
        &self,
        upper: &Upper,
        node: &Node,
        tmp: &[u8],
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<()> {
        let before = sys::dir::fstat(dir)?;
        upper.publish(tmp, node.kind, dir, name, false)?;
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
        copied: &mut Copied,
        several: bool,
    ) -> Result<()> {
        let tmp = &copied.tmp;
        let named = several && node.state.read().nlink != Some(0);
        let mut held = None;
        if named {
            self.enter_index(upper, node, tmp)?;
        } else {
            held = Some(Arc::new(hold(upper.work(), tmp, node.kind)?));
        }
        sys::dir::unlinkat(upper.work(), tmp)?;
        let partial = copied.source.as_ref().and_then(|s| s.partial.as_ref());
        if let (Some(partial), Some(records), false) = (partial, upper.records(), named) {
            partial.drop_record(records); // it ends with the mount
        }
        self.came_up(node, if named { Place::Index } else { Place::Upper }, held, copied);
        Ok(())
    }

    /// Makes sure that a directory, and those above it, exist in the upper.
    pub(super) fn ensure_upper_dir(&self, node: &Arc<Node>) -> Result<()> {
        let mut chain = Vec::new();
        let mut at = Arc::clone(node);
        while !at.in_upper() {
            let link = at.state.read().first().ok_or(Errno::ENOENT)?;
            chain.push(at);
            at = link.parent;
        }
        chain.into_iter().rev().try_for_each(|dir| self.copy_up_dir(&dir))
    }

    fn copy_up_dir(&self, node: &Arc<Node>) -> Result<()> {
        let upper = self.need_upper()?;
        let _copying = node.copying.lock();
        let Place::Lower(lower) = self.place(node) else { return Ok(()) };
        let copied = self.duplicate(upper, &lower, None, Amount::Whole)?;
        self.publish_dir(upper, node, &copied.tmp).inspect_err(|_| self.discard(upper, &copied))
    }

    fn publish_dir(&self, upper: &Upper, node: &Arc<Node>, tmp: &[u8]) -> Result<()> {
        self.mark_origin(upper, upper.work(), tmp, node.key);
        let _tree = self.tree.read_recursive();
        let link = node.state.read().first().ok_or(Errno::ENOENT)?;
        let mut names = self.names(&link.parent)?;
        // Removed while we waited for the lock.
        if node.state.read().links.is_empty() {
            return Err(Errno::ENOENT);
        }
        let fd = self.upper_dir_fd(&link.parent)?;
        self.note_impure(upper, &mut names, fd.as_fd());
        self.put_in_place(upper, node, tmp, fd.as_fd(), &link.name)?;
        node.state.write().place = Place::Upper;
        if let Some(m) = &mut names.merged {
            m.set_upper(&link.name, Kind::Dir, node.ino().0, node.id, false);
        }
        Ok(())
    }

    /// Marks a directory as holding entries with marks of their own. False where that is not possible.
    pub(super) fn note_impure(&self, upper: &Upper, names: &mut Names, fd: BorrowedFd<'_>) -> bool {
        if !names.impure {
            names.unmarkable = upper.set_mark(fd, b"", Mark::Impure, b"y").is_err();
            names.impure = true;
        }
        !names.unmarkable
    }

    /// Before `node` gets a name in a directory: marks that directory, without which nobody would look
    /// at the marks of the file. Where it lacks data, that must not fail.
    pub(super) fn impure_for(
        &self,
        upper: &Upper,
        node: &Node,
        names: &mut Names,
        fd: BorrowedFd<'_>,
    ) -> Result<()> {
        if self.note_impure(upper, names, fd) || node.state.read().source().is_none() {
            return Ok(());
        }
        // There was no room for it, perhaps.
        upper.set_mark(fd, b"", Mark::Impure, b"y")?;
        names.unmarkable = false;
        Ok(())
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
