//! From a name to a node.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Looked, Overlay, add_link};
use crate::attr::{Attr, Kind};
use crate::format;
use crate::ident::{FileKey, NodeId};
use crate::inode::{DirPart, Link, Names, Node, Place, Source, State};
use crate::layer::{LowerRef, Metacopy};
use crate::merge::{Entry, Flags};
use crate::sys::{self, Errno, NAME_MAX, Result};
use crate::upper::Upper;

/// What a name leads to.
struct Spot {
    attr: Attr,
    place: Place,
    key: FileKey,
    /// Where data is that it does not have itself.
    data: Option<Source>,
    /// Its data is not known to be on the disk.
    unsynced: bool,
}

impl Overlay {
    /// Finds `name` in the directory `parent`. The caller gives the pin on the node back with
    /// [`Overlay::forget`].
    ///
    /// # Errors
    /// `ENOENT` when users see no such name; `ENAMETOOLONG`; `ENOTDIR`; errors of the layers.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Result<Looked> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let parent = self.node(parent)?;
        let _tree = self.tree.read_recursive();
        let mut names = self.names(&parent)?;
        let entry = names.merged.as_ref().and_then(|m| m.visible(name)).ok_or(Errno::ENOENT)?;
        self.instantiate(&parent, &mut names, name, &entry)
    }

    /// Adds the attributes to a node that was pinned; gives the pin back on failure.
    pub(super) fn looked(&self, node: Arc<Node>) -> Result<Looked> {
        match self.attr_of(&node) {
            Ok(attr) => Ok(Looked { node, attr }),
            Err(e) => {
                self.forget(node.id, 1);
                Err(e)
            }
        }
    }

    /// The node of a visible entry, pinned, with its attributes. The directory's names are locked.
    pub(super) fn instantiate(
        &self,
        parent: &Arc<Node>,
        names: &mut Names,
        name: &[u8],
        entry: &Entry,
    ) -> Result<Looked> {
        match self.enter(parent, names, name, entry)? {
            (node, Some(attr)) => Ok(Looked { node, attr }),
            (node, None) => self.looked(node),
        }
    }

    /// The node of a visible name, pinned; no system call if the kernel knows the node.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Arc<Node>> {
        let _tree = self.tree.read_recursive();
        let mut names = self.names(parent)?;
        let entry = names.merged.as_ref().and_then(|m| m.visible(name)).ok_or(Errno::ENOENT)?;
        self.enter(parent, &mut names, name, &entry).map(|(node, _)| node)
    }

    /// The node of a visible entry, pinned; its attributes as well if they had to be read.
    pub(super) fn enter(
        &self,
        parent: &Arc<Node>,
        names: &mut Names,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(Arc<Node>, Option<Attr>)> {
        if entry.node != 0
            && let Some(node) = self.nodes.get_pinned(NodeId(entry.node))
        {
            return Ok((node, None));
        }
        let Spot { attr, place, key, mut data, mut unsynced } = if entry.flags.has(Flags::UPPER) {
            self.find_upper(parent, names, name)?
        } else {
            self.find_lower(names, name, entry)?
        };
        let mut several = attr.kind != Kind::Dir && attr.nlink > 1;
        let mut key = key;
        if several && self.settings.no_index && matches!(place, Place::Lower(_)) {
            key = key.of_one_name(parent.key, name);
            several = false;
        }
        // Also with one link left: the node may be alive through a name that is gone, held open.
        if attr.kind != Kind::Dir
            && let Some(node) = self.nodes.by_key_pinned(key)
        {
            self.know_link(&node, parent, name);
            self.remember(names, entry, &node);
            return Ok((node, None));
        }
        let (place, nlink) = if several {
            self.indexed(place, key, &mut data, &mut unsynced)?
        } else {
            (place, None)
        };
        let dir = if attr.kind == Kind::Dir {
            let mut lowers = Vec::new();
            if let Some(m) = &names.merged {
                for at in m.lower_stack(entry) {
                    let dir = names.lowers.get(usize::from(at)).ok_or(Errno::EIO)?;
                    lowers.push(self.layer(dir.layer)?.child(dir, name, Kind::Dir)?);
                }
            }
            // Merged from several and not counted yet: 1, as overlayfs and btrfs show it.
            let sources = lowers.len() + usize::from(matches!(place, Place::Upper));
            Some(Box::new(DirPart {
                key: self.fds.new_key(),
                links: Arc::new(AtomicU32::new(u32::from(sources > 1))),
                parent_lowers: Arc::clone(&names.lowers),
                settled: OnceLock::new(),
                merged: Mutex::new(Names::new(lowers)),
            }))
        } else {
            None
        };
        let links = vec![Link { parent: Arc::clone(parent), name: name.into() }];
        let state = State { links, place, data, nlink, ..State::default() };
        let id = self.nodes.new_id();
        let node = self.nodes.insert(Node::new(id, key, attr.kind, state, dir, several));
        self.remember(names, entry, &node);
        let parts = node.state.read().source().and_then(|s| s.partial.clone());
        if unsynced || parts.is_some() {
            // Left by a mount that was killed before it had come to that, or complete since.
            self.settle_later(&node, parts.as_ref());
        }
        if parts.is_some_and(|p| p.complete()) {
            node.state.write().data = None;
        }
        let attr = (!several).then(|| self.present(&node, attr));
        Ok((node, attr))
    }

    fn remember(&self, names: &mut Names, entry: &Entry, node: &Node) {
        if let Some(m) = &mut names.merged {
            m.set_node(entry.slot, node.id, node.ino().0);
        }
    }

    /// Notes one more name of a node, unless it is known.
    fn know_link(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &[u8]) {
        let mut state = node.state.write();
        if !state.links.iter().any(|l| l.parent.id == parent.id && *l.name == *name) {
            add_link(&mut state, parent, name);
            self.nodes.pin(parent.id, 1);
            // A name again: what was held for want of one is reached by it.
            self.release(node, &mut state);
        }
    }

    fn find_upper(&self, parent: &Arc<Node>, names: &Names, name: &[u8]) -> Result<Spot> {
        let fd = self.upper_dir_fd(parent)?;
        let attr = self.settings.ownership.stat(fd.as_fd(), name)?;
        let mut key = self.key_of(&attr);
        let mut data = None;
        let indexed =
            if attr.nlink > 1 { self.indexed.lock().get(&attr.ino).copied() } else { None };
        // Kernel overlayfs can have linked a copied-up file into a directory that it did not mark.
        let mut unsynced = false;
        let mut attr = attr;
        if names.impure || (attr.nlink > 1 && attr.kind != Kind::Dir) {
            let marks = format::object_marks(fd.as_fd(), name)?;
            key = marks.origin.and_then(|o| self.fs.read().verify(o)).unwrap_or(key);
            if attr.kind == Kind::File {
                let upper = self.need_upper()?;
                let find = |source: &Metacopy| self.data_below(&names.lowers, 0, name, source);
                let at = (fd.as_fd(), name);
                data = self.source_of(upper, at, &marks, attr.size, find)?;
                unsynced = self.left_unsynced(upper, at, &marks, find)?;
                if marks.unsynced.is_some() && !unsynced {
                    attr = self.settings.ownership.stat(fd.as_fd(), name)?;
                }
            }
        }
        Ok(Spot { attr, place: Place::Upper, key: indexed.unwrap_or(key), data, unsynced })
    }

    fn find_lower(&self, names: &Names, name: &[u8], entry: &Entry) -> Result<Spot> {
        let at = usize::from(entry.lower.ok_or(Errno::EIO)?);
        let dir = names.lowers.get(at).ok_or(Errno::EIO)?;
        let mut lower = self.layer(dir.layer)?.child(dir, name, entry.kind)?;
        if entry.kind == Kind::Dir {
            lower = self.not_implied(names, name, entry, lower)?;
        }
        let layer = self.layer(lower.layer)?;
        let attr = self.lower_attr(&lower)?;
        let impure = names.impure_lowers.get(at).copied().unwrap_or(false);
        let mut data = None;
        if impure
            && attr.kind == Kind::File
            && let Some(source) = layer.metacopy(&lower)?
        {
            let below = names.lowers.get(at + 1..).unwrap_or_default();
            let at = self.data_below(below, dir.layer.0 + 1, name, &source)?;
            let allocated = self.layer(at.layer)?.attr(&at)?.blocks;
            data = Some(Source { at, allocated, partial: None });
        }
        let key = self.key_of(&attr);
        Ok(Spot { attr, place: Place::Lower(lower), key, data, unsynced: false })
    }

    /// For a directory that is merged from several: the topmost of them that has attributes of its own.
    fn not_implied(
        &self,
        names: &Names,
        name: &[u8],
        entry: &Entry,
        topmost: LowerRef,
    ) -> Result<LowerRef> {
        if !self.layer(topmost.layer)?.implied(&topmost)? {
            return Ok(topmost);
        }
        let stack = names.merged.as_ref().map(|m| m.lower_stack(entry)).unwrap_or_default();
        for at in stack {
            let dir = names.lowers.get(usize::from(at)).ok_or(Errno::EIO)?;
            let layer = self.layer(dir.layer)?;
            let found = layer.child(dir, name, Kind::Dir)?;
            if !layer.implied(&found)? {
                return Ok(found);
            }
        }
        Ok(topmost)
    }

    /// For a file with several names: where it really is, and its link count if that is kept.
    fn indexed(
        &self,
        place: Place,
        key: FileKey,
        data: &mut Option<Source>,
        unsynced: &mut bool,
    ) -> Result<(Place, Option<u32>)> {
        let Some(upper) = &self.upper else { return Ok((place, None)) };
        let name = Upper::index_name(key);
        match sys::dir::statat(upper.index(), &name) {
            Ok(attr) => {
                // Found by a name that is still the lower's: what the index lacks is there.
                if let (Place::Lower(at), Kind::File) = (&place, attr.kind) {
                    let lower = data.take().map_or_else(|| at.clone(), |s| s.at);
                    let marks = format::object_marks(upper.index(), &name)?;
                    let (here, find) =
                        ((upper.index(), &name[..]), |_: &Metacopy| Ok(lower.clone()));
                    *data = self.source_of(upper, here, &marks, attr.size, find)?;
                    *unsynced = self.left_unsynced(upper, here, &marks, find)?;
                }
                Ok((Place::Index, upper.read_count(key)?))
            }
            Err(Errno::ENOENT) => Ok((place, upper.read_count(key)?)),
            Err(e) => Err(e),
        }
    }
}
