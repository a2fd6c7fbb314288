//! What an image's layers show together, without a mount: names, attributes, contents.
//!
//! The rules are those of the union filesystem: an upper name hides the lower ones, a whiteout and
//! an opaque directory hide what is below, a directory that a layer only implies looks like the one
//! below it. Symbolic links are not followed here; callers that need it walk by themselves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowl_fs::attr::{Attr, Kind};
use cowl_fs::packed::{Entry, EntryKind, Packed};

/// Layers, topmost first.
#[derive(Clone, Default)]
pub struct View {
    layers: Vec<Arc<Packed>>,
}

/// A file as the layers show it.
#[derive(Clone, Debug)]
pub struct Node {
    /// The layer that has it, counted from the top.
    layer: usize,
    entry: Entry,
    /// The layer and number that describe it, when its own layer only implies it; `None`: nobody.
    described: Option<(usize, u32)>,
    /// What it is.
    pub kind: Kind,
}

impl View {
    /// The layers whose index files these are, topmost first.
    ///
    /// # Errors
    /// When one cannot be opened or is damaged.
    pub fn open(indexes: &[PathBuf]) -> io::Result<View> {
        let open = |path: &PathBuf| Ok(Arc::new(open(path)?));
        Ok(View { layers: indexes.iter().map(open).collect::<io::Result<_>>()? })
    }

    /// The same with another layer on top.
    pub fn push(&mut self, top: Arc<Packed>) {
        self.layers.insert(0, top);
    }

    /// What the layers show at `path` (`a/b`; empty for the root). Links are not followed.
    ///
    /// # Errors
    /// When a layer is damaged.
    pub fn find(&self, path: &[u8]) -> io::Result<Option<Node>> {
        self.find_below(0, path, 0)
    }

    fn find_below(&self, first: usize, path: &[u8], depth: usize) -> io::Result<Option<Node>> {
        for (number, layer) in self.layers.iter().enumerate().skip(first) {
            let mut opaque = false;
            let mut ends =
                path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            // From the root down, so that whatever hides the rest is met first.
            let mut at = (!path.is_empty()).then_some(0);
            let found = loop {
                let Some(end) = at else {
                    break layer.lookup(path).map_err(io::Error::from)?;
                };
                let Some(entry) =
                    layer.lookup(path.get(..end).unwrap_or(&[])).map_err(io::Error::from)?
                else {
                    break None;
                };
                if entry.kind != EntryKind::Node(Kind::Dir) {
                    return Ok(None);
                }
                opaque |= layer.opaque(entry.ino)?;
                at = ends.next();
            };
            let Some(entry) = found else {
                if opaque {
                    return Ok(None);
                }
                continue;
            };
            return match entry.kind {
                EntryKind::Whiteout => Ok(None),
                // A chain of links through layers is as long as there are layers, at most.
                EntryKind::Below if depth > self.layers.len() => Ok(None),
                EntryKind::Below => {
                    let target = layer.target(entry.ino).map_err(io::Error::from)?;
                    self.find_below(number + 1, target, depth + 1)
                }
                EntryKind::Node(kind) => {
                    let mut described = Some((number, entry.ino));
                    if kind == Kind::Dir && layer.implied(entry.ino)? {
                        let lower = if opaque || layer.opaque(entry.ino)? {
                            None
                        } else {
                            self.find_below(number + 1, path, depth)?
                        };
                        described = lower
                            .filter(|lower| lower.kind == Kind::Dir)
                            .and_then(|lower| lower.described);
                    }
                    Ok(Some(Node { layer: number, entry, described, kind }))
                }
            };
        }
        Ok(None)
    }

    /// The names that the layers show in a directory, in the order of their bytes.
    ///
    /// # Errors
    /// When a layer is damaged.
    pub fn names(&self, directory: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        // Whether it is shown, by the topmost layer that knows it.
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for layer in &self.layers {
            let mut opaque = false;
            let mut here = layer.lookup(b"").map_err(io::Error::from)?;
            let parts = directory.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
            let mut path: Vec<u8> = Vec::new();
            for part in parts {
                if let Some(entry) = &here {
                    opaque |= layer.opaque(entry.ino)?;
                }
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
                here = layer.lookup(&path).map_err(io::Error::from)?;
                if here.as_ref().is_none_or(|entry| entry.kind != EntryKind::Node(Kind::Dir)) {
                    break;
                }
            }
            match here {
                Some(entry) if entry.kind == EntryKind::Node(Kind::Dir) => {
                    opaque |= layer.opaque(entry.ino)?;
                    layer
                        .list(entry.ino, &mut |name, entry| {
                            names.entry(name.to_vec()).or_insert(entry.kind != EntryKind::Whiteout);
                            Ok(())
                        })
                        .map_err(io::Error::from)?;
                }
                // A whiteout, or a file: nothing of the lower layers shows through.
                Some(_) => break,
                None => {}
            }
            if opaque {
                break;
            }
        }
        Ok(names.into_iter().filter_map(|(name, shown)| shown.then_some(name)).collect())
    }

    /// The attributes of a file; `None` for a directory that no layer describes.
    ///
    /// # Errors
    /// When a layer is damaged.
    pub fn attr(&self, node: &Node) -> io::Result<Option<Attr>> {
        let Some((layer, ino)) = node.described else { return Ok(None) };
        self.layer(layer)?.attr(ino, 0).map(Some).map_err(io::Error::from)
    }

    /// The extended attributes of a file.
    ///
    /// # Errors
    /// When a layer is damaged.
    pub fn xattrs(&self, node: &Node) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some((layer, ino)) = node.described else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        self.layer(layer)?.xattrs(ino, &mut |name, value| {
            found.push((name.to_vec(), value.to_vec()));
            true
        })?;
        Ok(found)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// When a layer is damaged.
    pub fn target(&self, node: &Node) -> io::Result<Vec<u8>> {
        self.layer(node.layer)?.target(node.entry.ino).map(<[u8]>::to_vec).map_err(io::Error::from)
    }

    fn layer(&self, number: usize) -> io::Result<&Packed> {
        self.layers
            .get(number)
            .map(Arc::as_ref)
            .ok_or_else(|| io::Error::other("this is a file of another view"))
    }
}

/// Opens a packed layer; the error names the file.
///
/// # Errors
/// When it cannot be opened or is damaged.
pub fn open(index: &Path) -> io::Result<Packed> {
    Packed::open(index).map_err(|error| io::Error::other(format!("{}: {error}", index.display())))
}
