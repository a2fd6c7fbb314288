//! renameat2(2): files and directories, with `RENAME_NOREPLACE` and `RENAME_EXCHANGE`.
//!
//! The old name's whiteout is made by the same system call that moves the object
//! (`RENAME_WHITEOUT`), so a crash shows either all or nothing. A directory with content in the
//! lowers keeps it by a redirect mark, written before the move.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::copyup::Amount;
use super::{Overlay, Redirects, lock_two};
use crate::attr::Kind;
use crate::format::{Mark, Namespace};
use crate::ident::NodeId;
use crate::inode::{Link, Names, Node};
use crate::merge::{Entry, Flags, Merged};
use crate::sys::{self, Errno, Result};
use crate::upper::{Upper, WhiteoutForm};

/// One side of a rename.
struct Side<'a> {
    dir: &'a Arc<Node>,
    fd: Arc<OwnedFd>,
    name: &'a [u8],
}

fn merged(names: &mut Names) -> Result<&mut Merged> {
    names.merged.as_mut().ok_or(Errno::EIO)
}

impl Overlay {
    /// Renames `name` in `parent` to `newname` in `newparent`; returns the directories that have
    /// another parent now, and so another `..`.
    ///
    /// # Errors
    /// As renameat2(2); `EINVAL` for flags other than `RENAME_NOREPLACE` and `RENAME_EXCHANGE`;
    /// `EXDEV` for a directory with lower content where a redirect cannot be stored, or must not be.
    pub fn rename(
        &self,
        parent: NodeId,
        name: &[u8],
        newparent: NodeId,
        newname: &[u8],
        flags: u32,
    ) -> Result<Vec<NodeId>> {
        let upper = self.need_upper()?;
        if flags & !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        let (parent, newparent) = (self.node(parent)?, self.node(newparent)?);
        let source = self.find(&parent, name)?;
        let target = match self.find(&newparent, newname) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e),
        };
        let done = match &target {
            Ok(target) => self.rename_nodes(
                upper,
                (&parent, name, &source),
                (&newparent, newname, target.as_ref()),
                flags,
            ),
            Err(e) => Err(*e),
        };
        let mut moved = Vec::new();
        if parent.id != newparent.id {
            let exchanged = target.iter().flatten().filter(|_| flags & libc::RENAME_EXCHANGE != 0);
            let sides = exchanged.chain([&source]);
            moved.extend(sides.filter(|node| node.dir.is_some()).map(|node| node.id));
        }
        self.forget(source.id, 1);
        if let Ok(Some(target)) = &target {
            self.forget(target.id, 1);
        }
        done.map(|()| moved)
    }

    fn rename_nodes(
        &self,
        upper: &Upper,
        (parent, name, source): (&Arc<Node>, &[u8], &Arc<Node>),
        (newparent, newname, target): (&Arc<Node>, &[u8], Option<&Arc<Node>>),
        flags: u32,
    ) -> Result<()> {
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        match target {
            Some(_) if flags & libc::RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
            None if exchange => return Err(Errno::ENOENT),
            // Two names of one file: rename(2) does nothing.
            Some(target) if target.id == source.id => return Ok(()),
            _ => {}
        }
        self.may_move(source)?;
        if let (Some(target), true) = (target, exchange) {
            self.may_move(target)?;
        }
        self.ensure_upper(source, Amount::Attributes)?;
        self.pin_source(upper, source)?;
        self.ensure_upper_dir(parent)?;
        self.ensure_upper_dir(newparent)?;
        if let (Some(target), true) = (target, exchange) {
            self.ensure_upper(target, Amount::Attributes)?;
            self.pin_source(upper, target)?;
        }
        let moves_dir =
            source.dir.is_some() || (exchange && target.is_some_and(|t| t.dir.is_some()));
        // Redirects are found by walking up names, so before the locks.
        let redirect = self.redirect_for(source)?;
        let back = match target {
            Some(target) if exchange => self.redirect_for(target)?,
            _ => None,
        };
        let (_shared, _alone) = if moves_dir {
            (None, Some(self.tree.write()))
        } else {
            (Some(self.tree.read_recursive()), None)
        };
        let from = Side { dir: parent, fd: self.upper_dir_fd(parent)?, name };
        let to = Side { dir: newparent, fd: self.upper_dir_fd(newparent)?, name: newname };
        upper.check_name(to.fd.as_fd(), newname)?;
        if exchange {
            upper.check_name(from.fd.as_fd(), name)?;
        }
        let (mut from_names, mut to_names) = lock_two(parent, newparent)?;
        self.load(parent, &mut from_names)?;
        if let Some(names) = &mut to_names {
            self.load(newparent, names)?;
        }
        self.own_name(source, &mut from_names, from.fd.as_fd(), name)?;
        if let (Some(target), true) = (target, exchange) {
            let names = to_names.as_mut().unwrap_or(&mut from_names);
            self.own_name(target, names, to.fd.as_fd(), newname)?;
        }
        let from_entry = merged(&mut from_names)?.visible(name).ok_or(Errno::ENOENT)?;
        let names = to_names.as_mut().unwrap_or(&mut from_names);
        let to_entry = merged(names)?.get(newname);
        if names.removed {
            return Err(Errno::ENOENT);
        }
        self.impure_before_move(upper, source, names, to.fd.as_fd())?;
        if let (Some(target), true) = (target, exchange) {
            self.impure_before_move(upper, target, &mut from_names, from.fd.as_fd())?;
        }
        let below = to_entry.is_some_and(|e| e.flags.has(Flags::LOWER));
        self.prepare_dir(upper, source, &from, redirect.as_deref(), below)?;
        let mut noted = false;
        if exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            let below = from_entry.flags.has(Flags::LOWER);
            self.prepare_dir(upper, target, &to, back.as_deref(), below)?;
            sys::dir::renameat2(
                from.fd.as_fd(),
                name,
                to.fd.as_fd(),
                newname,
                libc::RENAME_EXCHANGE,
            )?;
            self.moved(target, &to, &from);
        } else {
            if let (Some(target), Some(entry)) = (target, &to_entry) {
                self.clear_target(upper, target, &to, entry)?;
                let in_upper = entry.flags.has(Flags::UPPER);
                noted = self.note_loss(upper, newparent, newname, target, in_upper);
            }
            let moved =
                self.move_object(upper, &from, &to, source.kind, &from_entry, to_entry.as_ref());
            if let (Err(e), Some(target)) = (moved, target) {
                if target.dir.is_some() {
                    target.state.write().held = None;
                } else {
                    self.release(target, &mut target.state.write());
                    if noted {
                        upper.forget_plan(target.key);
                    }
                }
                return Err(e); // it keeps its name
            }
            moved?;
        }
        self.moved(source, &from, &to);
        // From here on only memory changes: nothing can fail half-way.
        let (kind, ino) = (source.kind, source.ino().0);
        let needs_whiteout = from_entry.flags.has(Flags::LOWER);
        if exchange {
            if let Some(target) = target {
                let (kind, ino) = (target.kind, target.ino().0);
                merged(&mut from_names)?.set_upper(name, kind, ino, target.id, true);
            }
        } else {
            merged(&mut from_names)?.set_removed(name, needs_whiteout);
        }
        let names = to_names.as_mut().unwrap_or(&mut from_names);
        merged(names)?.set_upper(newname, kind, ino, source.id, true);
        if let Some(target) = target {
            if exchange {
                // it lives on under the other name
            } else if let Some(dir) = &target.dir {
                dir.merged.lock().removed = true;
                self.lose_dir_link(target);
            } else {
                self.after_unlink(upper, newparent, newname, target, noted);
            }
        }
        Ok(())
    }

    /// Without redirects a directory with content in the lowers stays where it is; asked before
    /// anything is copied up for it.
    fn may_move(&self, node: &Arc<Node>) -> Result<()> {
        if self.settings.redirects == Redirects::Made || node.dir.is_none() {
            return Ok(());
        }
        let _tree = self.tree.read_recursive();
        if self.names(node)?.lowers.is_empty() { Ok(()) } else { Err(Errno::EXDEV) }
    }

    /// Where the lowers show the content of a directory that is about to move; `None` for anything
    /// that has nothing there.
    fn redirect_for(&self, node: &Arc<Node>) -> Result<Option<Vec<u8>>> {
        if node.dir.is_none() {
            return Ok(None);
        }
        let _tree = self.tree.read_recursive();
        if self.names(node)?.lowers.is_empty() {
            return Ok(None);
        }
        self.lower_path(node).map(Some)
    }

    /// Before a directory moves: content in the lowers is pinned by a redirect; without any, it must
    /// not pick up what lies below its new name.
    fn prepare_dir(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        at: &Side<'_>,
        redirect: Option<&[u8]>,
        below: bool,
    ) -> Result<()> {
        if node.dir.is_none() {
            return Ok(());
        }
        match redirect {
            Some(path) => {
                let value = [b"/", path].concat();
                upper
                    .set_mark(at.fd.as_fd(), at.name, Mark::Redirect, &value)
                    .map_err(|e| if e == Errno::EOPNOTSUPP { Errno::EXDEV } else { e })?;
                let mut names = node.dir()?.merged.lock();
                names.redirect = Some(value);
                Ok(())
            }
            None if below => upper.set_opaque(at.fd.as_fd(), at.name),
            None => Ok(()),
        }
    }

    /// Before an object is renamed over `target`.
    fn clear_target(
        &self,
        upper: &Upper,
        target: &Arc<Node>,
        to: &Side<'_>,
        entry: &Entry,
    ) -> Result<()> {
        if target.dir.is_none() {
            return self.before_unlink(upper, to.dir, to.fd.as_fd(), to.name, target);
        }
        let mut inner = self.names(target)?;
        let Some(m) = &inner.merged else { return Err(Errno::EIO) };
        if !m.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        if entry.flags.has(Flags::UPPER) {
            let held = self.upper_dir_fd(target)?;
            let marker = inner.marker || upper.features().namespace == Namespace::None;
            if marker || !m.whiteouts().is_empty() {
                upper.strip_dir(to.fd.as_fd(), to.name)?;
                // Opaque and bare now, should the rename fail: to be read again.
                inner.lowers = Arc::default();
                inner.merged = None;
            }
            target.state.write().held = Some(held);
        }
        Ok(())
    }

    /// Moves the object, leaving a whiteout where a lower's name would show.
    fn move_object(
        &self,
        upper: &Upper,
        from: &Side<'_>,
        to: &Side<'_>,
        kind: Kind,
        from_entry: &Entry,
        to_entry: Option<&Entry>,
    ) -> Result<()> {
        let whiteout = from_entry.flags.has(Flags::LOWER);
        let over_whiteout = to_entry.is_some_and(|e| e.flags.has(Flags::WHITEOUT));
        let (a, b) = (from.fd.as_fd(), to.fd.as_fd());
        if upper.features().whiteouts == WhiteoutForm::Aufs {
            // The object wins over a mark of its name, so each step leaves a consistent union.
            if whiteout {
                upper.add_whiteout(a, from.name)?;
            }
            if over_whiteout {
                upper.make_way(b, to.name, kind)?;
            }
            sys::dir::renameat2(a, from.name, b, to.name, 0)?;
            return if over_whiteout { upper.remove_aufs(b, to.name) } else { Ok(()) };
        }
        if kind == Kind::Dir && over_whiteout {
            // A directory cannot replace the whiteout, but it can change places with it.
            sys::dir::renameat2(a, from.name, b, to.name, libc::RENAME_EXCHANGE)?;
            return if whiteout { Ok(()) } else { sys::dir::unlinkat(a, from.name) };
        }
        if !whiteout {
            return sys::dir::renameat2(a, from.name, b, to.name, 0);
        }
        if upper.features().rename_whiteout {
            return sys::dir::renameat2(a, from.name, b, to.name, libc::RENAME_WHITEOUT);
        }
        self.move_without_whiteout_flag(upper, (a, from.name), (b, to.name), kind)
    }

    /// A filesystem without `RENAME_WHITEOUT`: the file gets its new name first, then the old one
    /// becomes a whiteout. A directory cannot have two names and is left to the caller to copy.
    fn move_without_whiteout_flag(
        &self,
        upper: &Upper,
        from: (BorrowedFd<'_>, &[u8]),
        to: (BorrowedFd<'_>, &[u8]),
        kind: Kind,
    ) -> Result<()> {
        if kind == Kind::Dir {
            return Err(Errno::EXDEV);
        }
        let tmp = upper.temp_name();
        sys::dir::linkat(from.0, from.1, upper.work(), &tmp)?;
        sys::dir::renameat2(upper.work(), &tmp, to.0, to.1, 0)?;
        upper.replace_by_whiteout(from.0, from.1)
    }

    /// The node has moved: its name changes with it.
    fn moved(&self, node: &Arc<Node>, from: &Side<'_>, to: &Side<'_>) {
        let mut state = node.state.write();
        let new = Link { parent: Arc::clone(to.dir), name: to.name.into() };
        self.nodes.pin(to.dir.id, 1);
        let old =
            state.links.iter_mut().find(|l| l.parent.id == from.dir.id && *l.name == *from.name);
        match old {
            Some(link) => {
                *link = new;
                drop(state);
                self.forget(from.dir.id, 1);
            }
            None => state.links.push(new),
        }
    }

    /// The new directory is going to hold an entry with marks. A crash must not find the entry there
    /// and nobody to look at them.
    fn impure_before_move(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        names: &mut Names,
        fd: BorrowedFd<'_>,
    ) -> Result<()> {
        if node.key.fs != 0 || !self.lowers.is_empty() {
            self.impure_for(upper, node, names, fd)?;
        }
        Ok(())
    }
}
