//! Listing a directory.
//!
//! Positions are those of the merged names: they stay valid while entries come and go, so there is
//! nothing to open and nothing to close. Position 0 is the start, 1 follows `.`, 2 follows `..`.

use std::sync::Arc;

use super::{Looked, Overlay};
use crate::attr::Kind;
use crate::ident::NodeId;
use crate::inode::Node;
use crate::sys::Result;

/// One entry of a listing.
#[derive(Debug)]
pub struct DirEntry<'a> {
    /// Position to go on from after this entry.
    pub next: u64,
    /// Its name.
    pub name: &'a [u8],
    /// Shown inode number.
    pub ino: u64,
    /// Type.
    pub kind: Kind,
}

impl Overlay {
    fn dots(
        &self,
        node: &Arc<Node>,
        from: u64,
        sink: &mut impl FnMut(&DirEntry<'_>) -> bool,
    ) -> bool {
        let parent = node.state.read().first().map(|l| l.parent.ino());
        let up = parent.unwrap_or_else(|| node.ino());
        for (next, name, ino) in [(1, &b"."[..], node.ino()), (2, b"..", up)] {
            let ino = self.shown_ino(ino.0);
            if from < next && !sink(&DirEntry { next, name, ino, kind: Kind::Dir }) {
                return false;
            }
        }
        true
    }

    /// Gives the entries after position `from` to `sink` until it answers false (no room).
    pub fn readdir(
        &self,
        id: NodeId,
        from: u64,
        mut sink: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let node = self.node(id)?;
        let _tree = self.tree.read_recursive();
        let names = self.names(&node)?;
        if names.removed || !self.dots(&node, from, &mut sink) {
            return Ok(());
        }
        let Some(merged) = &names.merged else { return Ok(()) };
        let mut at = from;
        while let Some((next, name, entry)) = merged.next_after(at) {
            let ino = if entry.ino == 0 { u64::MAX } else { self.shown_ino(entry.ino) };
            if !sink(&DirEntry { next, name, ino, kind: entry.kind }) {
                break;
            }
            at = next;
        }
        Ok(())
    }

    /// Like [`Overlay::readdir`], but looks each entry up. `fits` is asked before the lookup; what
    /// `sink` gets is pinned, or `None` for the dots and for entries that cannot be looked up.
    pub fn readdirplus(
        &self,
        id: NodeId,
        from: u64,
        fits: impl Fn(&[u8]) -> bool,
        mut sink: impl FnMut(&DirEntry<'_>, Option<Looked>),
    ) -> Result<()> {
        let node = self.node(id)?;
        let _tree = self.tree.read_recursive();
        let mut names = self.names(&node)?;
        if names.removed {
            return Ok(());
        }
        // Both dots always fit: the smallest buffer the kernel asks with is a page.
        self.dots(&node, from, &mut |e| {
            sink(e, None);
            true
        });
        let mut at = from;
        while let Some((next, name, entry)) =
            names.merged.as_ref().and_then(|m| m.next_after(at).map(|(n, s, e)| (n, s.to_vec(), e)))
        {
            if !fits(&name) {
                break;
            }
            at = next;
            let looked = self.instantiate(&node, &mut names, &name, &entry).ok();
            let ino = looked.as_ref().map_or_else(|| self.shown_ino(entry.ino), |l| l.attr.ino);
            let kind = looked.as_ref().map_or(entry.kind, |l| l.node.kind);
            sink(&DirEntry { next, name: &name, ino, kind }, looked);
        }
        Ok(())
    }
}
