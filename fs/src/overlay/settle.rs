//! What was copied up without waiting for the disk is brought there later: after some seconds, at
//! fsync of the file, before it gets another name, and at unmount.
//!
//! Until then the file carries a mark with the epoch in which it was copied. After a crash of the
//! machine or of the disk (another epoch) the mount shows the lower's data again, as if the file had not been
//! changed; a file that was synced is never affected. So a copy-up costs no wait, and a crash never
//! leaves a file with neither the old nor the new data.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::copyup::Amount;
use super::duplicate::copy_data;
use super::metacopy::{lacks_nothing, unnoticed};
use super::{Looked, Overlay, Redirects, stash_name};
use crate::attr::Kind;
use crate::format::{self, Mark, ObjectMarks};
use crate::ident::NodeId;
use crate::inode::Node;
use crate::layer::{LowerRef, Metacopy};
use crate::partial::{Partial, Snapshot};
use crate::sys::{self, Errno, Result};
use crate::upper::Upper;

/// More files than this are synced together with their whole filesystem, which then costs less.
const FEW: usize = 8;

/// What is not known to be on the disk of a file.
#[derive(Clone, Debug)]
enum Lag {
    /// Its data; and its blocks where it has (or had) only some.
    Data(Option<Arc<Partial>>),
    /// Only that its data is there: the marks were changed and not synced. Until they are, fdatasync(2)
    /// is not enough: after a crash the old mark would take the data back.
    Marks,
}

/// The files that are not known to be on the disk.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    waiting: Mutex<Waiting>,
    /// Some are no longer under way.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with a pin.
    files: HashMap<NodeId, Lag>,
    /// Those that a thread is bringing to the disk right now.
    under_way: HashSet<NodeId>,
}

/// One of them on its way to the disk.
struct Settling {
    id: NodeId,
    lag: Lag,
    snapshot: Option<Snapshot>,
    /// All its blocks were in the upper before it was synced.
    complete: bool,
}

impl Settling {
    fn new(id: NodeId, lag: Lag) -> Settling {
        let (mut snapshot, mut complete) = (None, false);
        if let Lag::Data(Some(partial)) = &lag {
            (snapshot, complete) = (partial.snapshot(), partial.complete());
        }
        Settling { id, lag, snapshot, complete }
    }
}

impl Overlay {
    /// Notes that a file is to be brought to the disk.
    pub(super) fn settle_later(&self, node: &Node, partial: Option<&Arc<Partial>>) {
        let mut waiting = self.unsettled.waiting.lock();
        match waiting.files.get_mut(&node.id) {
            Some(Lag::Data(known)) => *known = partial.cloned().or(known.take()),
            Some(marks @ Lag::Marks) => *marks = Lag::Data(partial.cloned()),
            None => {
                self.nodes.pin(node.id, 1);
                waiting.files.insert(node.id, Lag::Data(partial.cloned()));
            }
        }
    }

    /// Brings the data of everything that waits for it to the disk, and then the marks of what was
    /// brought there the last time.
    ///
    /// # Errors
    /// The first error; what failed is tried again the next time.
    pub fn settle(&self) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let all: Vec<(NodeId, Lag)> = {
            let Waiting { files, under_way } = &mut *self.unsettled.waiting.lock();
            let all: Vec<_> = files.extract_if(|id, _| !under_way.contains(id)).collect();
            under_way.extend(all.iter().map(|(id, _)| *id));
            all
        };
        let each = all.len() <= FEW;
        // The data that a snapshot speaks of is written before it is taken, so it is synced after.
        let all: Vec<Settling> = all.into_iter().map(|(id, lag)| Settling::new(id, lag)).collect();
        let synced = if each { Ok(()) } else { sys::file::syncfs(upper.root()) };
        let mut done = Ok(());
        for one in all {
            let tried = synced.and_then(|()| self.settle_one(upper, &one, each));
            done = done.and(self.settled(one, tried));
        }
        done
    }

    /// Brings everything to the disk, data and marks.
    ///
    /// # Errors
    /// The first error.
    pub(super) fn settle_all(&self) -> Result<()> {
        let data = self.settle();
        data.and(self.settle())
    }

    /// The mount has ended: everything is brought to the disk, and an upper in which no file lacks data
    /// is no longer marked as having any.
    ///
    /// # Errors
    /// The first error.
    pub fn close(&self) -> Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        self.settle_all()?;
        upper.all_settled();
        if upper.may_be_partial() && upper.records().is_some_and(|r| r.none_left()) {
            upper.forget_partial()?;
        }
        upper.close()
    }

    /// Brings the data of one file to the disk, if it waits for that, and waits for another thread
    /// that does. True when marks of the file are not on the disk.
    pub(super) fn settle_now(&self, upper: &Upper, id: NodeId) -> Result<bool> {
        let lag = {
            let mut waiting = self.unsettled.waiting.lock();
            while waiting.under_way.contains(&id) {
                self.unsettled.arrived.wait(&mut waiting);
            }
            match waiting.files.get(&id) {
                None => return Ok(false),
                Some(Lag::Marks) => return Ok(true),
                Some(lag @ Lag::Data(_)) => {
                    let lag = lag.clone();
                    waiting.files.remove(&id);
                    waiting.under_way.insert(id);
                    lag
                }
            }
        };
        let one = Settling::new(id, lag);
        let tried = self.settle_one(upper, &one, true);
        self.settled(one, tried).map(|()| true)
    }

    /// Notes what is still to be done: nothing, the marks, or what failed.
    fn settled(&self, one: Settling, tried: Result<()>) -> Result<()> {
        let Settling { id, lag, snapshot, .. } = one;
        let left = match (tried, lag) {
            (Ok(()), Lag::Marks) => None,
            (Ok(()), Lag::Data(_)) => Some(Lag::Marks),
            (Err(_), lag) => {
                if let (Lag::Data(Some(partial)), Some(snapshot)) = (&lag, &snapshot) {
                    partial.give_back(snapshot);
                }
                Some(lag)
            }
        };
        let mut waiting = self.unsettled.waiting.lock();
        let pinned = left.is_some_and(|left| match waiting.files.entry(id) {
            Entry::Vacant(free) => {
                free.insert(left);
                true
            }
            // Noted again meanwhile, with a pin of its own.
            Entry::Occupied(mut known) => {
                if let (Lag::Data(now @ None), Lag::Data(partial)) = (known.get_mut(), left) {
                    *now = partial;
                }
                false
            }
        });
        waiting.under_way.remove(&id);
        self.unsettled.arrived.notify_all();
        drop(waiting);
        if !pinned {
            self.forget(id, 1);
        }
        tried
    }

    fn settle_one(&self, upper: &Upper, one: &Settling, sync: bool) -> Result<()> {
        let Some(node) = self.nodes.get(one.id) else { return Ok(()) };
        let file = match self.open_upper(&node, libc::O_RDONLY) {
            Err(Errno::ENOENT) => return Ok(()), // removed
            Err(Errno::EACCES) => self.open_unreadable(&node)?,
            other => other?,
        };
        let file = file.as_fd();
        let Lag::Data(partial) = &one.lag else {
            return if sync { sys::file::fsync(file, false) } else { Ok(()) };
        };
        if sync {
            sys::file::fsync(file, true)?;
        }
        let Some(partial) = partial else { return self.clear_unsynced(upper, &node, file) };
        let records = upper.records().ok_or(Errno::EIO)?;
        if one.complete {
            lacks_nothing(file)?;
            partial.drop_record(records);
            return Ok(());
        }
        let Some(snapshot) = &one.snapshot else { return Ok(()) };
        if !partial.durable() {
            {
                // Whoever cuts the file meanwhile writes a mark as well: one after the other.
                let held = partial.held();
                partial.set_durable(true);
                let mark = partial.mark(records, &held).to_bytes();
                as_writable(file, || upper.set_mark(file, b"", Mark::Partial, &mark))
                    .inspect_err(|_| partial.set_durable(false))?;
            }
            // From now on a lost record is an error; its name has to be as lasting as that.
            let lasting = records.sync_names().and_then(|()| sys::file::fsync(file, false));
            lasting.inspect_err(|_| partial.set_durable(false))?;
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
        as_writable(fd, || upper.set_mark(fd, b"", Mark::Origin, &origin.to_bytes()))
    }

    /// Before a file gets another name, under which its lower would not be found: what it lacks is
    /// found by a redirect from now on, or it lacks nothing any more.
    pub(super) fn pin_source(&self, upper: &Upper, node: &Arc<Node>) -> Result<()> {
        if node.kind != Kind::File {
            return Ok(());
        }
        let lacking = || node.state.read().source().is_some();
        if lacking() && self.settings.redirects != Redirects::Made {
            self.bring(upper, node, Amount::Whole)?;
        }
        // Not while another thread completes it, which looks whether there is a redirect.
        let copying = node.copying.lock();
        if !lacking() {
            drop(copying);
            return self.settle_now(upper, node.id).map(drop);
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
            (None, crate::inode::Place::Stash) => {
                // The stash is a name of its own; others may be known to nobody yet.
                let stash = sys::dir::statat(upper.work(), &stash_name(node.id));
                stash.map_or(1, |a| a.nlink.saturating_sub(1))
            }
            _ => 1,
        };
        if let (true, 0, Some(records)) = (state.links.is_empty(), names, upper.records()) {
            partial.drop_record(records);
        }
    }

    /// Whether the data of a file of the upper waits for the disk, which an earlier mount left to be
    /// done. What an earlier run of the machine has left is restored.
    pub(super) fn left_unsynced(
        &self,
        upper: &Upper,
        (dir, name): (BorrowedFd<'_>, &[u8]),
        marks: &ObjectMarks,
        find: impl FnOnce(&Metacopy) -> Result<LowerRef>,
    ) -> Result<bool> {
        let Some(epoch) = marks.unsynced else { return Ok(false) };
        // Where somebody else has used the upper since, what the file holds is what they have seen.
        if upper.epoch() == Some(epoch) || !upper.witnessed(epoch) {
            return Ok(true);
        }
        self.restore(upper, dir, name, marks, find).map(|()| false)
    }

    /// A file that was copied up in an earlier run of the machine and never synced: what the upper has
    /// may be anything. It gets the data of the lower again; its attributes were always safe. Where
    /// the lower is gone, what the upper has is the best there is.
    fn restore(
        &self,
        upper: &Upper,
        dir: BorrowedFd<'_>,
        name: &[u8],
        marks: &ObjectMarks,
        find: impl FnOnce(&Metacopy) -> Result<LowerRef>,
    ) -> Result<()> {
        let file = sys::dir::openat(dir, name, libc::O_RDWR | libc::O_NONBLOCK, 0)?;
        let file = file.as_fd();
        unnoticed(file, |_| match find(&Metacopy { redirect: marks.redirect.clone() }) {
            Ok(at) => {
                let layer = self.layer(at.layer)?;
                let from = layer.open(&at)?;
                sys::file::ftruncate(file, 0)?;
                copy_data(&from, file, layer.attr(&at)?.size)
            }
            Err(Errno::EIO) => Ok(()),
            Err(e) => Err(e),
        })?;
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
        let at_root = |e| (b"/".to_vec(), e);
        // Files of the index may have names only in directories that are still the lowers'.
        let everywhere = self.index_lacks_data(upper).map_err(at_root)?;
        let mut completed = 0;
        let mut todo = vec![(NodeId::ROOT, Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            let done = self.complete_dir(upper, dir, (&path, everywhere), &mut todo);
            if dir != NodeId::ROOT {
                self.forget(dir, 1);
            }
            completed += done?;
        }
        self.settle_all().map_err(at_root)?;
        upper.sweep_records().and_then(|()| upper.forget_partial()).map_err(at_root)?;
        Ok(completed)
    }

    /// Whether the index has a file without some of its data.
    fn index_lacks_data(&self, upper: &Upper) -> Result<bool> {
        let keys: Vec<_> = self.indexed.lock().values().copied().collect();
        for key in keys {
            let marks = format::object_marks(upper.index(), &Upper::index_name(key))?;
            if marks.metacopy || marks.partial.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn complete_dir(
        &self,
        upper: &Upper,
        dir: NodeId,
        (path, everywhere): (&[u8], bool),
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
            if node.dir.is_some() && (everywhere || node.in_upper()) {
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

/// Changes marks of the file `fd`, also when its owner may not write to it: xattrs of users follow the
/// mode (xattr(7)).
pub(super) fn as_writable(fd: BorrowedFd<'_>, change: impl Fn() -> Result<()>) -> Result<()> {
    const OWNER_WRITES: u32 = 0o200;
    match change() {
        Err(Errno::EACCES) => {}
        other => return other,
    }
    let mode = u32::from(sys::dir::fstat(fd)?.perm);
    sys::dir::chmodat(fd, b"", mode | OWNER_WRITES)?;
    let done = change();
    sys::dir::chmodat(fd, b"", mode)?;
    done
}
