//! Removing names: unlink and rmdir. No data is ever copied for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::copyup::hold;
use super::{Overlay, stash_name};
use crate::attr::Kind;
use crate::fdcache::DataFd;
use crate::ident::NodeId;
use crate::inode::{Names, Node, Place};
use crate::merge::{Entry, Flags};
use crate::sys::{self, Errno, Result};
use crate::upper::{Change, Plan, Upper};

impl Overlay {
    /// Removes the non-directory `name`.
    pub fn unlink(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, false)
    }

    /// Removes the directory `name`, which users must see as empty.
    pub fn rmdir(&self, parent: NodeId, name: &[u8]) -> Result<()> {
        self.remove(parent, name, true)
    }

    fn remove(&self, parent: NodeId, name: &[u8], dir: bool) -> Result<()> {
        let upper = self.need_upper()?;
        let parent = self.node(parent)?;
        if !parent.in_upper() {
            // Asked before anything is copied up for it.
            self.find(&parent, name).map(|found| self.forget(found.id, 1))?;
        }
        self.ensure_upper_dir(&parent)?;
        let _tree = self.tree.read_recursive();
        let mut names = self.names(&parent)?;
        let entry = names.merged.as_ref().and_then(|m| m.visible(name)).ok_or(Errno::ENOENT)?;
        match (dir, entry.kind == Kind::Dir) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ => {}
        }
        let (node, _) = self.enter(&parent, &mut names, name, &entry)?;
        let done = if dir {
            self.remove_dir(upper, &parent, &mut names, name, &entry, &node)
        } else {
            self.remove_file(upper, &parent, &mut names, name, &entry, &node)
        };
        drop(names);
        self.forget(node.id, 1);
        done
    }

    fn remove_file(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        names: &mut Names,
        name: &[u8],
        entry: &Entry,
        node: &Arc<Node>,
    ) -> Result<()> {
        let fd = self.upper_dir_fd(parent)?;
        let (in_upper, below) = (entry.flags.has(Flags::UPPER), entry.flags.has(Flags::LOWER));
        self.before_unlink(upper, parent, fd.as_fd(), name, node)?;
        let noted = self.note_loss(upper, parent, name, node, in_upper);
        let removed = match (in_upper, below) {
            (true, true) => upper.replace_by_whiteout(fd.as_fd(), name),
            (true, false) => sys::dir::unlinkat(fd.as_fd(), name),
            (false, _) => upper.add_whiteout(fd.as_fd(), name),
        };
        if let Err(e) = removed {
            if noted {
                upper.forget_plan(node.key);
            }
            return Err(e);
        }
        if let Some(m) = &mut names.merged {
            m.set_removed(name, below);
        }
        self.after_unlink(upper, parent, name, node, noted);
        Ok(())
    }

    /// Notes that a file whose link count has a record is about to lose a name; whether it was noted.
    pub(super) fn note_loss(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        name: &[u8],
        node: &Arc<Node>,
        in_upper: bool,
    ) -> bool {
        if !node.keyed() {
            return false;
        }
        let counted = match self.place(node) {
            Place::Lower(_) | Place::Index => self.count_of(node),
            Place::Upper | Place::Stash => return false,
        };
        let change = if in_upper { Change::LosesUpper } else { Change::LosesLower };
        counted.is_ok_and(|old| {
            self.note_change(upper, node, (old, old.saturating_sub(1)), change, parent, name)
        })
    }

    /// Notes a coming change of a link count that has a record; whether that could be done.
    pub(super) fn note_change(
        &self,
        upper: &Upper,
        node: &Node,
        counts: (u32, u32),
        change: Change,
        parent: &Arc<Node>,
        name: &[u8],
    ) -> bool {
        let mut names = vec![name.to_vec()];
        let mut at = Arc::clone(parent);
        while at.id != NodeId::ROOT {
            let Some(link) = at.state.read().links.first().cloned() else { return false };
            names.push(link.name.to_vec());
            at = link.parent;
        }
        names.reverse();
        upper.note_plan(&Plan { key: node.key, counts, change, path: names.join(&b'/') })
    }

    /// The number of names in the union of a file with several names in a lower.
    fn count_of(&self, node: &Node) -> Result<u32> {
        let state = node.state.read();
        match (&state.place, state.nlink) {
            (_, Some(n)) => Ok(n),
            (Place::Lower(at), None) => self.lower_attr(at).map(|a| a.nlink),
            (_, None) => Ok(1),
        }
    }

    /// Holds on to an upper object that is about to lose its last known name: whoever has it open
    /// goes on using it.
    pub(super) fn before_unlink(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        fd: BorrowedFd<'_>,
        name: &[u8],
        node: &Arc<Node>,
    ) -> Result<()> {
        let mut state = node.state.write();
        let others = state.links.iter().any(|l| l.parent.id != parent.id || *l.name != *name);
        if others || state.held.is_some() {
            return Ok(());
        }
        let held = match state.place {
            Place::Lower(_) | Place::Stash => return Ok(()),
            Place::Upper => match self.fds.data(node.id).filter(|d| d.writable) {
                Some(DataFd { part, .. }) if self.fds.may_hold() => {
                    Arc::clone(part.file().ok_or(Errno::EIO)?)
                }
                None if self.fds.may_hold() => Arc::new(self.hold(fd, name, node.kind)?),
                _ => {
                    sys::dir::linkat(fd, name, upper.work(), &stash_name(node.id))?;
                    state.place = Place::Stash;
                    return Ok(());
                }
            },
            Place::Index => {
                let index = Upper::index_name(node.key);
                Arc::new(self.hold(upper.index(), &index, node.kind)?)
            }
        };
        self.set_held(&mut state, Some(held));
        Ok(())
    }

    /// Opens what is about to lose its name; other descriptors make room for it.
    fn hold(&self, dir: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<OwnedFd> {
        hold(dir, name, kind).or_else(|e| match e {
            Errno::EMFILE | Errno::ENFILE => {
                self.fds.clear();
                hold(dir, name, kind)
            }
            e => Err(e),
        })
    }

    /// Takes the removed name off the node and keeps its link count; a note of that, if one was made,
    /// has done its work then.
    pub(super) fn after_unlink(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        name: &[u8],
        node: &Arc<Node>,
        noted: bool,
    ) {
        let mut state = node.state.write();
        let before = state.links.len();
        state.links.retain(|l| l.parent.id != parent.id || *l.name != *name);
        let lost = before - state.links.len();
        let keyed = node.keyed();
        if keyed {
            let recorded = match &state.place {
                Place::Lower(at) => {
                    let lower = || self.lower_attr(at).map(|a| a.nlink);
                    state.nlink.map_or_else(lower, Ok).and_then(|n| {
                        state.nlink = Some(n.saturating_sub(1));
                        upper.write_count(node.key, n.saturating_sub(1))
                    })
                }
                Place::Index => {
                    let count = state.nlink.unwrap_or(1).saturating_sub(1);
                    state.nlink = Some(count);
                    self.record_links(upper, node, count)
                }
                Place::Upper | Place::Stash => Ok(()),
            };
            // The name is gone, whatever becomes of the record (a full disk): the next mount puts it
            // right by the note. Without one, a count that is too high only keeps a file in the index
            // for longer.
            if noted && recorded.is_ok() {
                upper.forget_plan(node.key);
            }
        }
        drop(state);
        self.drop_record_of(upper, node);
        if lost > 0 {
            self.forget(parent.id, lost as u64);
        }
    }

    /// Records the link count of a file of the index; the last name takes the index entry with it.
    pub(super) fn record_links(&self, upper: &Upper, node: &Node, count: u32) -> Result<()> {
        if count > 0 {
            return upper.write_count(node.key, count);
        }
        upper.forget_count(node.key);
        self.indexed.lock().retain(|_, key| *key != node.key);
        match sys::dir::unlinkat(upper.index(), &Upper::index_name(node.key)) {
            Err(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn remove_dir(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        names: &mut Names,
        name: &[u8],
        entry: &Entry,
        node: &Arc<Node>,
    ) -> Result<()> {
        let mut inner = self.names(node)?;
        let whiteouts = match &inner.merged {
            Some(m) if !m.is_empty() => return Err(Errno::ENOTEMPTY),
            Some(m) => m.whiteouts(),
            None => Vec::new(),
        };
        let fd = self.upper_dir_fd(parent)?;
        let below = entry.flags.has(Flags::LOWER);
        if entry.flags.has(Flags::UPPER) {
            let held = self.upper_dir_fd(node)?;
            let bare = whiteouts.is_empty() && !inner.marker;
            upper.remove_dir(fd.as_fd(), name, below, bare)?;
            node.state.write().held = Some(held);
        } else {
            upper.add_whiteout(fd.as_fd(), name)?;
        }
        inner.removed = true;
        drop(inner);
        if let Some(m) = &mut names.merged {
            m.set_removed(name, below);
        }
        self.lose_dir_link(node);
        Ok(())
    }

    /// A removed directory has no place any more.
    pub(super) fn lose_dir_link(&self, node: &Arc<Node>) {
        let links = std::mem::take(&mut node.state.write().links);
        for link in links {
            self.forget(link.parent.id, 1);
        }
    }
}
