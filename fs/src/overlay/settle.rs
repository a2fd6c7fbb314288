//! What was copied up without waiting for the disk is brought there later: after some seconds, at
//! fsync of the file, before it gets another name, and at unmount.
//!
//! Until then the file carries a mark with the epoch in which it was copied. After a crash of the
//! machine or of the disk (another epoch) the mount shows the lower's data again, as if the file had not been
//! changed; a file that was synced is never affected. So a copy-up costs no wait, and a crash never
//! leaves a file with neither the old nor the new data.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::copyup::Amount;
use super::duplicate::copy_data;
use super::metacopy::unmark;
use super::{Looked, Overlay, Redirects};
use crate::attr::Kind;
use crate::format::{self, Mark, ObjectMarks};
use crate::ident::NodeId;
use crate::inode::Node;
use crate::layer::{LowerRef, Metacopy};
use crate::partial::{Partial, Snapshot};
use crate::sys::{self, Errno, Result};
use crate::upper::{self, Upper};

/// More files than this are synced together with their whole filesystem, which then costs less.
const FEW: usize = 8;

/// The files that are not known to be on the disk, each with a pin, and with its blocks where it has
/// (or had) only some.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Mutex<HashMap<NodeId, Option<Arc<Partial>>>>);

/// One of them on its way to the disk.
struct Settling {
    id: NodeId,
    partial: Option<Arc<Partial>>,
    snapshot: Option<Snapshot>,
}

impl Settling {
    fn new(id: NodeId, partial: Option<Arc<Partial>>) -> Settling {
        let snapshot = partial.as_ref().and_then(|p| p.snapshot());
        Settling { id, partial, snapshot }
    }
}

impl Overlay {
    /// Notes that a file is to be brought to the disk.
    pub(super) fn settle_later(&self, node: &Node, partial: Option<&Arc<Partial>>) {
        let mut all = self.unsettled.0.lock();
        match all.get_mut(&node.id) {
            Some(known) => *known = partial.cloned().or(known.take()),
            None => {
                self.nodes.pin(node.id, 1);
                all.insert(node.id, partial.cloned());
            }
        }
    }

    /// Brings everything that waits for it to the disk.
    ///
    /// # Errors
    /// The first error; what failed is tried again the next time.
    pub fn settle(&self) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let all = std::mem::take(&mut *self.unsettled.0.lock());
        let each = all.len() <= FEW;
        // The data that a snapshot speaks of is written before it is taken, so it is synced after.
        let all: Vec<Settling> = all.into_iter().map(|(id, p)| Settling::new(id, p)).collect();
        let mut done = Ok(());
        if !each {
            done = sys::file::syncfs(upper.root());
        }
        for one in all {
            let tried = done.and_then(|()| self.settle_one(upper, &one, each));
            done = done.and(self.settled(one, tried));
        }
        done
    }

    /// The mount has ended: everything is brought to the disk, and an upper in which no file lacks data
    /// is no longer marked as having any.
    ///
    /// # Errors
    /// The first error.
    pub fn close(&self) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        self.settle()?;
        if upper.may_be_partial() && upper.records().is_some_and(|r| r.none_left()) {
            upper.forget_partial()?;
        }
        upper.close()
    }

    /// Brings one file to the disk, if it waits for that. True when it did.
    pub(super) fn settle_now(&self, upper: &Upper, id: NodeId) -> Result<bool> {
        let Some(partial) = self.unsettled.0.lock().remove(&id) else { return Ok(false) };
        let one = Settling::new(id, partial);
        let tried = self.settle_one(upper, &one, true);
        self.settled(one, tried).map(|()| true)
    }

    /// Gives the pin back, or what failed back to the list.
    fn settled(&self, one: Settling, tried: Result<()>) -> Result<()> {
        if tried.is_ok() {
            self.forget(one.id, 1);
            return tried;
        }
        if let (Some(partial), Some(snapshot)) = (&one.partial, &one.snapshot) {
            partial.give_back(snapshot);
        }
        match self.unsettled.0.lock().entry(one.id) {
            Entry::Vacant(free) => {
                free.insert(one.partial);
                return tried;
            }
            // Noted again meanwhile, with a pin of its own.
            Entry::Occupied(mut known) => {
                let partial = known.get_mut().take().or(one.partial);
                known.insert(partial);
            }
        }
        self.forget(one.id, 1);
        tried
    }

    fn settle_one(&self, upper: &Upper, one: &Settling, sync: bool) -> Result<()> {
        let Some(node) = self.nodes.get(one.id) else { return Ok(()) };
        let opened = self.with_upper(&node, |dir, name| {
            if name.is_empty() {
                return dir.try_clone_to_owned().map_err(|_| Errno::EMFILE);
            }
            sys::dir::openat(dir, name, libc::O_RDONLY | libc::O_NONBLOCK, 0)
        });
        let file = match opened {
            Err(Errno::ENOENT) => return Ok(()), // removed
            Err(Errno::EACCES) => self.open_unreadable(&node)?,
            other => other?,
        };
        let file = file.as_fd();
        if sync {
            sys::file::fsync(file, true)?;
        }
        let Some(partial) = &one.partial else { return self.clear_unsynced(upper, &node, file) };
        let records = upper.records().ok_or(Errno::EIO)?;
        if partial.complete() {
            unmark(file, Mark::Metacopy)?;
            unmark(file, Mark::Partial)?;
            unmark(file, Mark::Redirect)?;
            partial.drop_record(records);
            return Ok(());
        }
        let Some(snapshot) = &one.snapshot else { return Ok(()) };
        if !partial.set_durable() {
            // From now on a lost record is an error; its name has to be as lasting as that.
            let mark = partial.mark(records, &partial.held()).to_bytes();
            upper.set_mark(file, b"", Mark::Partial, &mark)?;
            records.sync_names()?;
            sys::file::fsync(file, false)?;
        }
        partial.write_durable(records, snapshot)
    }

    /// A file that its owner may not read, in a user namespace where we are nobody special: its data is
    /// opened as it is opened for writing back.
    fn open_unreadable(&self, node: &Arc<Node>) -> Result<OwnedFd> {
        let file = self.open_data(node, false)?;
        file.fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)
    }

    /// The data is on the disk: the mark says so.
    fn clear_unsynced(&self, upper: &Upper, node: &Arc<Node>, fd: BorrowedFd<'_>) -> Result<()> {
        let Some(origin) = self.fs.read().record(node.key) else { return Ok(()) };
        let set = || upper.set_mark(fd, b"", Mark::Origin, &origin.to_bytes());
        match set() {
            // Its mode was changed meanwhile, and xattrs of users follow the mode (xattr(7)).
            Err(Errno::EACCES) => {
                const OWNER_WRITES: u32 = 0o200;
                let mode = u32::from(sys::dir::fstat(fd)?.perm);
                sys::dir::chmodat(fd, b"", mode | OWNER_WRITES)?;
                let done = set();
                sys::dir::chmodat(fd, b"", mode)?;
                done
            }
            other => other,
        }
    }

    /// Before a file gets another name, under which its lower would not be found: what it lacks is
    /// found by a redirect from now on, or it lacks nothing any more.
    pub(super) fn pin_source(&self, upper: &Upper, node: &Arc<Node>) -> Result<()> {
        if node.kind != Kind::File {
            return Ok(());
        }
        let lacking = node.state.read().source().is_some();
        if !lacking {
            return self.settle_now(upper, node.id).map(drop);
        }
        if self.settings.redirects != Redirects::Made {
            return self.bring(upper, node, Amount::Whole);
        }
        let Some(link) = node.state.read().first() else { return Ok(()) };
        let path = {
            let _tree = self.tree.read_recursive();
            let mut path = vec![b'/'];
            path.extend(self.lower_path(&link.parent)?);
            if path.len() > 1 {
                path.push(b'/');
            }
            path.extend(&*link.name);
            path
        };
        self.with_upper(node, |dir, name| {
            if format::object_marks(dir, name)?.redirect.is_some() {
                return Ok(());
            }
            upper.set_mark(dir, name, Mark::Redirect, &path)
        })
    }

    /// A file whose last name is gone needs no record any more.
    pub(super) fn drop_record_of(&self, upper: &Upper, node: &Node) {
        let Some((_, partial)) = self.parts(node) else { return };
        let state = node.state.read();
        let names = match (&state.held, &state.place) {
            (Some(fd), _) => sys::dir::fstat(fd.as_fd()).map_or(1, |a| a.nlink),
            (None, crate::inode::Place::Stash) => 0,
            _ => 1,
        };
        if let (true, 0, Some(records)) = (state.links.is_empty(), names, upper.records()) {
            partial.drop_record(records);
        }
    }

    /// A file that was copied up in an earlier run of the machine and never synced: what the upper has
    /// may be anything. It gets the data of the lower again; its attributes were always safe. Where
    /// the lower is gone, what the upper has is the best there is.
    pub(super) fn restore(
        &self,
        upper: &Upper,
        dir: BorrowedFd<'_>,
        name: &[u8],
        marks: &ObjectMarks,
        find: impl FnOnce(&Metacopy) -> Result<LowerRef>,
    ) -> Result<()> {
        let file = sys::dir::openat(dir, name, libc::O_RDWR | libc::O_NONBLOCK, 0)?;
        let file = file.as_fd();
        let before = sys::dir::fstat(file)?;
        match find(&Metacopy { redirect: marks.redirect.clone() }) {
            Ok(at) => {
                let layer = self.layer(at.layer)?;
                let from = layer.open(&at)?;
                sys::file::ftruncate(file, 0)?;
                copy_data(from.fd(), file, layer.attr(&at)?.size)?;
            }
            Err(Errno::EIO) => {}
            Err(e) => return Err(e),
        }
        if sys::dir::fstat(file)?.perm != before.perm {
            sys::dir::chmodat(file, b"", u32::from(before.perm))?;
        }
        let (atime, mtime) = upper::times_of(&before);
        sys::dir::futimes(file, atime, mtime)?;
        sys::file::fsync(file, false)?;
        match marks.origin {
            Some(origin) => upper.set_mark(file, b"", Mark::Origin, &origin.to_bytes()),
            None => Ok(()),
        }
    }

    /// Gives every file of the upper all its data, brings it to the disk, and takes the mark off the
    /// upper, which any tool that knows overlayfs's format can use from then on. Returns how many
    /// files lacked data.
    ///
    /// # Errors
    /// The path of the file or directory, from the root of the union, and what went wrong with it.
    pub fn complete_all(&self) -> std::result::Result<u64, (Vec<u8>, Errno)> {
        let Some(upper) = &self.upper else { return Err((b"/".to_vec(), Errno::EROFS)) };
        let mut completed = 0;
        let mut todo = vec![(NodeId::ROOT, Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            let done = self.complete_dir(upper, dir, &path, &mut todo);
            if dir != NodeId::ROOT {
                self.forget(dir, 1);
            }
            completed += done?;
        }
        let at_root = |e| (b"/".to_vec(), e);
        self.settle().map_err(at_root)?;
        upper.sweep_records().and_then(|()| upper.forget_partial()).map_err(at_root)?;
        Ok(completed)
    }

    fn complete_dir(
        &self,
        upper: &Upper,
        dir: NodeId,
        path: &[u8],
        todo: &mut Vec<(NodeId, Vec<u8>)>,
    ) -> std::result::Result<u64, (Vec<u8>, Errno)> {
        let mut names = Vec::new();
        self.readdir(dir, 0, |e| {
            names.push(e.name.to_vec());
            true
        })
        .map_err(|e| (path.to_vec(), e))?;
        let mut completed = 0;
        for name in names.into_iter().filter(|n| *n != b"." && *n != b"..") {
            let path = [path, b"/", &name].concat();
            let failed = |e| (path.clone(), e);
            let Looked { node, .. } = self.lookup(dir, &name).map_err(failed)?;
            if node.dir.is_some() && node.in_upper() {
                todo.push((node.id, path));
                continue;
            }
            let lacking = node.in_upper() && node.state.read().source().is_some();
            let done = match lacking {
                true => self.bring(upper, &node, Amount::Whole),
                false => Ok(()),
            };
            self.forget(node.id, 1);
            done.map_err(failed)?;
            completed += u64::from(lacking);
        }
        Ok(completed)
    }
}
