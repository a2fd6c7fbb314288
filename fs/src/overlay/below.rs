//! Hard links to files of lower layers.
//!
//! An image may have a layer that gives a file of the layers below one more name. The name is in the
//! upper one of the two layers, the file in the lower one; in the union it is one file. Where such
//! links lead is found out when the union is opened, once, because layers do not change. Unions
//! without such links, which is nearly all of them, do nothing.

use std::collections::HashMap;

use super::Overlay;
use crate::attr::{Attr, Kind};
use crate::ident::FileKey;
use crate::layer::{Found, LowerRef};
use crate::sys::Result;

impl Overlay {
    /// Finds out where the links of all layers lead, and tells them. Returns how many more names files
    /// have by that.
    pub(super) fn bind_links(&self) -> Result<HashMap<FileKey, u32>> {
        let mut linked = HashMap::new();
        // From the lowest on: what a link leads to may itself be such a link.
        for (number, layer) in self.lowers.iter().enumerate().rev() {
            let links = layer.links_below()?;
            if links.is_empty() {
                continue;
            }
            let mut found = HashMap::new();
            for (link, path) in links {
                if let Some((at, attr)) = self.find_below(number as u16 + 1, &path)? {
                    *linked.entry(self.key_of(&attr)).or_insert(0) += layer.link_names(link)?;
                    found.insert(link, (at, attr));
                }
            }
            layer.bind(found);
        }
        Ok(linked)
    }

    /// The file, of whatever type, that the layers from `first` on show at a path.
    fn find_below(&self, first: u16, path: &[u8]) -> Result<Option<(LowerRef, Attr)>> {
        let slash = path.iter().rposition(|b| *b == b'/');
        let (dir, name) = match slash.and_then(|at| path.split_at_checked(at)) {
            Some((dir, name)) => (dir, name.get(1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        for dir in self.resolve(dir, first, 0)? {
            match self.layer(dir.layer)?.lookup(&dir, name)? {
                Found::Nothing => {}
                Found::Object(at, attr) if attr.kind != Kind::Dir => return Ok(Some((at, attr))),
                Found::Whiteout | Found::Object(..) => break,
            }
        }
        Ok(None)
    }

    /// Attributes of a lower object, with the names that other layers give it.
    pub(super) fn lower_attr(&self, at: &LowerRef) -> Result<Attr> {
        let mut attr = self.layer(at.layer)?.attr(at)?;
        if !self.linked.is_empty() && attr.kind != Kind::Dir {
            let more = self.linked.get(&self.key_of(&attr)).copied().unwrap_or(0);
            attr.nlink = attr.nlink.saturating_add(more);
        }
        Ok(attr)
    }
}
