//! Hard links.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::copyup::Amount;
use super::{Looked, Overlay, add_link};
use crate::ident::NodeId;
use crate::inode::{Node, Place};
use crate::sys::{self, Errno, Result};
use crate::upper::Change;

impl Overlay {
    /// Gives a file one more name; the caller gives the pin on the node back.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `EPERM` for a directory, `ENOENT` for a file without a name left.
    pub fn link(&self, id: NodeId, parent: NodeId, name: &[u8]) -> Result<Looked> {
        let upper = self.need_upper()?;
        let node = self.node(id)?;
        if node.dir.is_some() {
            return Err(Errno::EPERM);
        }
        let parent = self.node(parent)?;
        self.ensure_upper(&node, Amount::Attributes)?;
        self.pin_source(upper, &node)?;
        self.ensure_upper_dir(&parent)?;
        let _tree = self.tree.read_recursive();
        let mut names = self.names(&parent)?;
        let (fd, over_whiteout) = self.vacant(upper, &parent, &names, name)?;
        if node.key != self.upper_key(&node)? {
            self.impure_for(upper, &node, &mut names, fd.as_fd())?;
        }
        let tmp = upper.temp_name();
        let counted = self.count_in_index(&node);
        let noted = counted.is_some_and(|n| {
            self.note_change(upper, &node, (n, n + 1), Change::Gains, &parent, name)
        });
        if let (Some(count), false) = (counted, noted) {
            // Counted before it is there: a count that is too low would lose the file too early.
            self.record_links(upper, &node, count + 1)?;
        }
        let (to, newname) =
            if over_whiteout { (upper.work(), &tmp[..]) } else { (fd.as_fd(), name) };
        let mut made = self.with_upper(&node, |from, old| {
            if old.is_empty() {
                sys::dir::link_fd(from, to, newname)
            } else {
                sys::dir::linkat(from, old, to, newname)
            }
        });
        if over_whiteout && made.is_ok() {
            made = upper.publish(&tmp, node.kind, fd.as_fd(), name, true);
            if made.is_err() {
                let _may_be_absent = sys::dir::unlinkat(upper.work(), &tmp);
            }
        }
        if let Err(e) = made {
            match counted {
                Some(_) if noted => upper.forget_plan(node.key),
                Some(count) => {
                    let _too_high_at_worst = self.record_links(upper, &node, count);
                }
                None => {}
            }
            return Err(e);
        }
        // Without the record (a full disk) the note stays for the next mount.
        if let (Some(count), true) = (counted, noted)
            && self.record_links(upper, &node, count + 1).is_ok()
        {
            upper.forget_plan(node.key);
        }
        let mut state = node.state.write();
        add_link(&mut state, &parent, name);
        self.release(&node, &mut state);
        self.nodes.pin(parent.id, 1);
        state.nlink = counted.map(|n| n + 1).or(state.nlink);
        drop(state);
        self.nodes.enter_key(&node);
        if let Some(m) = &mut names.merged {
            m.set_upper(name, node.kind, node.ino().0, node.id, true);
        }
        drop(names);
        self.looked(self.nodes.get_pinned(node.id).ok_or(Errno::ESTALE)?)
    }

    /// The number of names of a file of the index.
    fn count_in_index(&self, node: &Arc<Node>) -> Option<u32> {
        let state = node.state.read();
        matches!(state.place, Place::Index).then(|| state.nlink.unwrap_or(1))
    }

    /// The key of the upper object itself; it differs from the node's after a copy-up.
    fn upper_key(&self, node: &Arc<Node>) -> Result<crate::ident::FileKey> {
        self.with_upper(node, |fd, name| Ok(self.key_of(&sys::dir::statat(fd, name)?)))
    }
}
