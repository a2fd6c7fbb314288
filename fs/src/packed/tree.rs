//! The layer that a writer builds, in memory: entries in the order of an archive make a tree.

use std::collections::BTreeMap;

use super::index::is_name;
use super::{Content, PackError};
use crate::attr::{Kind, Time};

/// Longest path of a link's target (Linux `PATH_MAX`, with its NUL).
const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Mode of a directory for which there is no entry.
const IMPLIED: u32 = 0o755;

/// Attributes of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with set-user-ID, set-group-ID and sticky (12 bits; others are dropped).
    pub perm: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Extended attributes, ACLs among them; of two with one name the last counts.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry that is neither directory nor regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special<'a> {
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A character device, major and minor.
    Char(u32, u32),
    /// A block device, major and minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What a hard link was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// One more name of a file of this layer.
    Here,
    /// A name for a file of the layers below.
    Below,
}

/// What a layer holds at a path, as far as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A directory.
    Dir {
        /// There was no entry for it.
        implied: bool,
        /// It hides that of the layers below.
        opaque: bool,
    },
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A whiteout.
    Whiteout,
    /// A hard link to this path of the layers below.
    Below(&'a [u8]),
    /// Anything else.
    Other(Kind),
}

/// An inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub meta: Meta,
    pub nlink: u32,
    pub body: Body,
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum Body {
    Dir(Dir),
    File(Content),
    Symlink(Vec<u8>),
    Device(Kind, u32, u32),
    Other(Kind),
    Below(Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct Dir {
    pub names: BTreeMap<Box<[u8]>, Slot>,
    pub implied: bool,
    pub opaque: bool,
}

/// What is under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The inode's place in [`Tree::inodes`]; `None`: a whiteout alone.
    pub inode: Option<usize>,
    /// The layer has a whiteout for the name.
    pub whiteout: bool,
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The first is the root.
    pub inodes: Vec<Inode>,
}

/// The names of a path.
pub(super) fn names_of(path: &[u8]) -> Result<Vec<&[u8]>, PackError> {
    let refused = |why| PackError::Refused { path: path.into(), why };
    let names: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".").collect();
    for name in &names {
        if *name == b".." {
            return Err(refused("its path has '..' in it"));
        }
        if !is_name(name) {
            return Err(refused("a name in its path is longer than 255 bytes or has a NUL in it"));
        }
    }
    Ok(names)
}

fn directory(implied: bool, meta: Meta) -> Inode {
    Inode { meta, nlink: 2, body: Body::Dir(Dir { implied, ..Dir::default() }) }
}

impl Tree {
    pub fn new() -> Tree {
        let root = directory(true, Meta { perm: IMPLIED, ..Meta::default() });
        Tree { inodes: vec![root] }
    }

    fn dir(&self, at: usize) -> Option<&Dir> {
        match &self.inodes.get(at)?.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn dir_mut(&mut self, at: usize) -> Option<&mut Dir> {
        match &mut self.inodes.get_mut(at)?.body {
            Body::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    fn slot(&self, names: &[&[u8]]) -> Option<Slot> {
        let mut at = Slot { inode: Some(0), whiteout: false };
        for name in names {
            at = *self.dir(at.inode?)?.names.get(*name)?;
        }
        Some(at)
    }

    /// What is at a path.
    pub fn at(&self, path: &[u8]) -> Option<Seen<'_>> {
        let slot = self.slot(&names_of(path).ok()?)?;
        let Some(inode) = slot.inode else { return Some(Seen::Whiteout) };
        Some(match &self.inodes.get(inode)?.body {
            Body::Dir(dir) => Seen::Dir { implied: dir.implied, opaque: dir.opaque },
            Body::Symlink(target) => Seen::Symlink(target),
            Body::Below(target) => Seen::Below(target),
            Body::File(_) => Seen::Other(Kind::File),
            Body::Device(kind, ..) | Body::Other(kind) => Seen::Other(*kind),
        })
    }

    /// The directory with these names; those that are missing are implied.
    fn reach(&mut self, path: &[u8], names: &[&[u8]]) -> Result<usize, PackError> {
        let mut at = 0;
        for (depth, name) in names.iter().enumerate() {
            let slot = self.dir(at).and_then(|d| d.names.get(*name)).copied();
            let next = match slot {
                Some(Slot { inode: Some(inode), .. }) => {
                    if self.dir(inode).is_none() {
                        let parent = names.get(..=depth).unwrap_or_default().join(&b'/');
                        return Err(PackError::NotADirectory { path: path.into(), parent });
                    }
                    inode
                }
                other => {
                    let whiteout = other.is_some();
                    let meta = Meta { perm: IMPLIED, ..Meta::default() };
                    let made = self.add(directory(true, meta));
                    self.enter(at, name, Slot { inode: Some(made), whiteout });
                    made
                }
            };
            at = next;
        }
        Ok(at)
    }

    fn add(&mut self, inode: Inode) -> usize {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    /// Puts a slot under a name; a directory that stands over a whiteout hides what is below.
    fn enter(&mut self, dir: usize, name: &[u8], slot: Slot) {
        if let (true, Some(inode)) = (slot.whiteout, slot.inode)
            && let Some(made) = self.dir_mut(inode)
        {
            made.opaque = true;
            // There is nothing below from which it could have attributes.
            made.implied = false;
        }
        if let Some(dir) = self.dir_mut(dir) {
            dir.names.insert(name.into(), slot);
        }
    }

    /// Takes a name away from an inode, and everything below it.
    fn leave(&mut self, inode: usize) {
        let mut left = vec![inode];
        while let Some(at) = left.pop() {
            let Some(inode) = self.inodes.get_mut(at) else { continue };
            inode.nlink = inode.nlink.saturating_sub(1);
            if let Body::Dir(dir) = &mut inode.body {
                left.extend(std::mem::take(&mut dir.names).into_values().filter_map(|s| s.inode));
            }
        }
    }

    /// Checks what can be checked before any content is read.
    pub fn may_put(&self, path: &[u8], meta: &Meta) -> Result<(), PackError> {
        let refused = |why| PackError::Refused { path: path.into(), why };
        if names_of(path)?.is_empty() {
            return Err(refused("it would replace the root directory"));
        }
        check_meta(meta).map_err(refused)
    }

    /// Puts a new inode at a path.
    pub fn put(&mut self, path: &[u8], meta: &Meta, body: Body) -> Result<(), PackError> {
        self.may_put(path, meta)?;
        if let Body::Symlink(target) | Body::Below(target) = &body
            && (target.is_empty() || target.len() >= PATH_MAX || target.contains(&0))
        {
            let why = "its target is empty, longer than 4095 bytes, or has a NUL in it";
            return Err(PackError::Refused { path: path.into(), why });
        }
        let made = self.add(Inode { meta: tidy(meta), nlink: 1, body });
        self.replace(path, made)
    }

    /// Lets a path lead to an inode, instead of what is there.
    fn replace(&mut self, path: &[u8], inode: usize) -> Result<(), PackError> {
        let names = names_of(path)?;
        let Some((name, parents)) = names.split_last() else { return Ok(()) };
        let parent = self.reach(path, parents)?;
        let old = self.dir(parent).and_then(|d| d.names.get(*name)).copied();
        // What took the place of something else has hidden the layers below, and still does.
        let was_other = old.and_then(|s| s.inode).is_some_and(|old| self.dir(old).is_none());
        let hides = was_other && self.dir(inode).is_some();
        let whiteout = hides || old.is_some_and(|s| s.whiteout);
        self.enter(parent, name, Slot { inode: Some(inode), whiteout });
        if let Some(old) = old.and_then(|s| s.inode) {
            self.leave(old);
        }
        Ok(())
    }

    /// A directory; one that is there keeps what is in it.
    pub fn put_dir(&mut self, path: &[u8], meta: &Meta) -> Result<(), PackError> {
        check_meta(meta).map_err(|why| PackError::Refused { path: path.into(), why })?;
        let names = names_of(path)?;
        let there = match self.slot(&names).and_then(|s| s.inode) {
            Some(inode) if self.dir(inode).is_some() => inode,
            _ => {
                let made = self.add(directory(false, Meta::default()));
                self.replace(path, made)?;
                made
            }
        };
        if let Some(inode) = self.inodes.get_mut(there) {
            inode.meta = tidy(meta);
            if let Body::Dir(dir) = &mut inode.body {
                dir.implied = false;
            }
        }
        Ok(())
    }

    /// A hard link.
    pub fn link(&mut self, path: &[u8], target: &[u8], meta: &Meta) -> Result<Link, PackError> {
        let refused = |why| PackError::Refused { path: path.into(), why };
        self.may_put(path, meta)?;
        let names = names_of(target)?;
        let Some(slot) = self.slot(&names) else {
            if names.is_empty() {
                return Err(refused("it is a hard link to the root directory"));
            }
            self.put(path, meta, Body::Below(names.join(&b'/')))?;
            return Ok(Link::Below);
        };
        let Some(inode) = slot.inode else {
            return Err(refused("it is a hard link to a file that the same layer removes"));
        };
        if self.dir(inode).is_some() {
            return Err(refused("it is a hard link to a directory"));
        }
        if names_of(path)? == names {
            return Ok(Link::Here);
        }
        self.replace(path, inode)?;
        let Some(inode) = self.inodes.get_mut(inode) else { return Ok(Link::Here) };
        inode.nlink = inode.nlink.saturating_add(1);
        Ok(match inode.body {
            Body::Below(_) => Link::Below,
            _ => Link::Here,
        })
    }

    /// Hides a name in the layers below.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), PackError> {
        let names = names_of(path)?;
        let Some((name, parents)) = names.split_last() else {
            let why = "it would remove the root directory";
            return Err(PackError::Refused { path: path.into(), why });
        };
        let parent = self.reach(path, parents)?;
        let old = self.dir(parent).and_then(|d| d.names.get(*name)).and_then(|s| s.inode);
        self.enter(parent, name, Slot { inode: old, whiteout: true });
        Ok(())
    }

    /// Hides a directory of the layers below.
    pub fn opaque(&mut self, path: &[u8]) -> Result<(), PackError> {
        let at = self.reach(path, &names_of(path)?)?;
        if let Some(dir) = self.dir_mut(at) {
            dir.opaque = true;
        }
        Ok(())
    }
}

fn check_meta(meta: &Meta) -> Result<(), &'static str> {
    if meta.mtime.nsec >= 1_000_000_000 {
        return Err("its time has more nanoseconds than a second");
    }
    for (name, value) in &meta.xattrs {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err("the name of an xattr is empty, longer than 255 bytes, or has a NUL in it");
        }
        // Linux XATTR_SIZE_MAX.
        if value.len() > 65536 {
            return Err("the value of an xattr is longer than 65,536 bytes");
        }
    }
    Ok(())
}

/// The attributes as they are kept: xattrs sorted, each once.
fn tidy(meta: &Meta) -> Meta {
    let mut meta = meta.clone();
    meta.perm &= 0o7777;
    let sorted: BTreeMap<Vec<u8>, Vec<u8>> = std::mem::take(&mut meta.xattrs).into_iter().collect();
    meta.xattrs = sorted.into_iter().collect();
    meta
}
