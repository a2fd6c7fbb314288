//! The union itself: typed operations over the layers, without a mount.
//!
//! [`Overlay`] knows nothing of FUSE. Each operation is a file under `overlay/`. The order of locks
//! (see `docs/concurrency.md`): nodes' `copying`, child before parent → `tree` (shared and
//! recursive for whoever walks along upper names; exclusive for directory renames) → directories'
//! `merged`, by node number → nodes' `state` → the table's and caches' own, which never leave their
//! module. No data is copied and nothing is synced under anything wider than one file's `copying`.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::attr::{Attr, Kind};
use crate::fdcache::FdCache;
use crate::format::{self, Mark};
use crate::ident::{FileKey, FsTable, LayerId, NodeId, ShortInos};
use crate::idmap::{IdMap, Mapped};
use crate::inode::{DirPart, Link, Names, Node, Place, State, Table};
use crate::layer::gather::Gatherer;
use crate::layer::{Layer, LowerRef};
use crate::ownership::Ownership;
use crate::sys::{self, Errno, Result};
use crate::upper::Upper;

mod attr;
mod backing;
mod below;
mod copyup;
mod create;
mod data;
mod duplicate;
mod link;
mod lookup;
mod metacopy;
mod partial;
mod readdir;
mod rename;
mod scan;
mod settle;
mod unlink;
mod xattr;

pub use attr::{SetAttr, StatFs, Unprivileged};
pub use backing::Backing;
pub use create::{Caller, NewNode};
pub use readdir::DirEntry;
pub use xattr::SetXattr;

/// Choices that shape a union; everything else is found out from the layers.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Directories show a link count of 1 (`static_nlink`).
    pub static_nlink: bool,
    /// How owner ids are shown and stored.
    pub ids: IdMap,
    /// ACLs are neither shown, nor stored, nor inherited (`noacl`).
    pub no_acl: bool,
    /// Ids that this user namespace does not map are shown as root: the kernel refuses any access
    /// that needs privilege to files whose owner it cannot name (`unmapped_to_root`).
    pub mapped: Option<Mapped>,
    /// Where owners, modes and nodes are kept that the host refuses.
    pub ownership: Ownership,
    /// What becomes of directories that are renamed, and of those that were (`redirect_dir`).
    pub redirects: Redirects,
    /// The names of one lower file are files of their own (`index=off`).
    pub no_index: bool,
    /// The UUID of the layers' filesystem does not count (`uuid=off`).
    pub no_uuid: bool,
    /// Shown inode numbers fit in 32 bits (`ino32_t`).
    pub short_ino: bool,
    /// The kernel leaves the times of files to us (`writeback=0`).
    pub no_writeback: bool,
    /// fsync requests are answered without doing anything (`fsync=0`).
    pub no_fsync: bool,
    /// A change of attributes, a rename or a link copies no data (`metacopy=on`).
    pub metacopy: bool,
    /// Nor does a change of data copy more than the blocks it touches, in files larger than this
    /// (bytes; `copyup=block`).
    pub copy_up_blocks: Option<u64>,
}

/// Redirects: what makes a renamed directory keep its content in the layers below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirects {
    /// Made and followed.
    #[default]
    Made,
    /// Followed where they are found; renaming such a directory is refused.
    Followed,
    /// Not followed either: a layer from elsewhere could show what its maker could not read.
    Refused,
}

/// A union of layers.
#[derive(Debug)]
pub struct Overlay {
    settings: Settings,
    /// Inode numbers of 32 bits, where asked for.
    short: Option<ShortInos>,
    lowers: Arc<[Box<dyn Layer>]>,
    gatherer: Gatherer,
    upper: Option<Upper>,
    fs: RwLock<FsTable>,
    nodes: Table,
    fds: Arc<FdCache>,
    /// The files of the hard-link index by their inode number in the upper: an upper name leads to
    /// the file's identity also where that could not be recorded with it.
    indexed: Mutex<HashMap<u64, FileKey>>,
    /// What was copied up without waiting for the disk.
    unsettled: settle::Unsettled,
    /// Shared by whoever walks along names of the upper, exclusive while a directory is renamed.
    tree: RwLock<()>,
    root: Arc<Node>,
    /// How many names files of lowers have in other layers (see `below`).
    linked: HashMap<FileKey, u32>,
}

/// A node the caller holds a pin on, with its attributes.
#[derive(Debug)]
pub struct Looked {
    /// The node; its pin is given back with [`Overlay::forget`].
    pub node: Arc<Node>,
    /// Its attributes, as users see them.
    pub attr: Attr,
}

/// A node that the kernel may be asked to forget.
#[derive(Debug)]
pub struct Known {
    /// Its number.
    pub id: NodeId,
    /// Whether it is a directory.
    pub dir: bool,
    /// Its directory and name, if it has just one.
    pub name: Option<(NodeId, Box<[u8]>)>,
}

impl Overlay {
    /// A union of `lowers` (topmost first) under `upper`.
    ///
    /// # Errors
    /// Any errno of reading the roots.
    pub fn new(
        lowers: Vec<Box<dyn Layer>>,
        upper: Option<Upper>,
        fds: Arc<FdCache>,
        settings: Settings,
    ) -> Result<Overlay> {
        let mut fs = FsTable::default();
        if let Some(upper) = &upper {
            fs.add(upper.dev());
        }
        for layer in &lowers {
            let root = layer.root();
            let uuid = layer.lasting_id(settings.no_uuid)?;
            let attr = layer.attr(&root)?;
            fs.add_root(attr.dev, attr.ino, layer.birth_time(&root)?, uuid);
        }
        fs.seal();
        let roots: Vec<LowerRef> = lowers.iter().map(|l| l.root()).collect();
        let nodes = Table::new();
        let (attr, place) = match (&upper, shown_root(&lowers)?) {
            (Some(upper), _) => (sys::dir::fstat(upper.root())?, Place::Upper),
            (None, Some(layer)) => (layer.attr(&layer.root())?, Place::Lower(layer.root())),
            _ => return Err(Errno::EINVAL),
        };
        let key = FileKey { fs: fs.add(attr.dev), ino: attr.ino };
        let writable = usize::from(upper.is_some());
        let dir = DirPart {
            key: fds.new_key(),
            // Merged from several and not counted yet: 1, as overlayfs and btrfs show it.
            links: Arc::new(AtomicU32::new(u32::from(roots.len() + writable > 1))),
            parent_lowers: Arc::default(),
            settled: OnceLock::new(),
            merged: Mutex::new(Names::new(roots)),
        };
        let state = State { place, ..State::default() };
        let dir = Some(Box::new(dir));
        let root = nodes.insert(Node::new(nodes.new_id(), key, Kind::Dir, state, dir, false));
        let indexed = match &upper {
            Some(upper) => {
                for (number, tag) in upper.check_tags(&fs.stable_tags())? {
                    fs.adopt(number, tag);
                }
                upper.settle_plans()?;
                upper.indexed()?.into_iter().collect()
            }
            None => HashMap::new(),
        };
        let fs = RwLock::new(fs);
        let indexed = Mutex::new(indexed);
        let lowers: Arc<[Box<dyn Layer>]> = lowers.into();
        let mut overlay = Overlay {
            gatherer: Gatherer::new(Arc::clone(&lowers)),
            indexed,
            short: settings.short_ino.then(ShortInos::default),
            settings,
            lowers,
            upper,
            fs,
            nodes,
            fds,
            unsettled: settle::Unsettled::default(),
            tree: RwLock::new(()),
            root,
            linked: HashMap::new(),
        };
        overlay.linked = overlay.bind_links()?;
        Ok(overlay)
    }

    /// Whether anything can be changed.
    pub fn writable(&self) -> bool {
        self.upper.is_some()
    }

    /// The write layer.
    pub fn upper(&self) -> Option<&Upper> {
        self.upper.as_ref()
    }

    fn need_upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    fn layer(&self, id: LayerId) -> Result<&dyn Layer> {
        self.lowers.get(id.index()).map(|l| &**l).ok_or(Errno::EIO)
    }

    /// The node of a number the kernel sent.
    ///
    /// # Errors
    /// `ESTALE` for a number that is not (or no longer) known.
    pub fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        if id == NodeId::ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.nodes.get(id).ok_or(Errno::ESTALE)
    }

    /// Gives back `n` pins of a node.
    pub fn forget(&self, id: NodeId, n: u64) {
        for node in self.nodes.unpin(id, n) {
            self.fds.drop_data(node.id);
            match &node.dir {
                Some(dir) => self.fds.drop_dir(dir.key),
                None => self.release(&node, &mut node.state.write()),
            }
        }
    }

    /// Holds an upper object without a name by a descriptor, or no longer.
    fn set_held(&self, state: &mut State, held: Option<Arc<OwnedFd>>) {
        self.fds.count_held(state.held.is_some(), held.is_some());
        state.held = held;
    }

    /// Gives up what keeps a file without a name: nobody has it open any more, or it has a name.
    fn release(&self, node: &Node, state: &mut State) {
        self.set_held(state, None);
        if let (Place::Stash, Some(upper)) = (&state.place, &self.upper) {
            let _swept_at_the_next_mount = sys::dir::unlinkat(upper.work(), &stash_name(node.id));
            state.place = Place::Upper;
        }
    }

    /// An inode number as programs are shown it.
    fn shown_ino(&self, ino: u64) -> u64 {
        self.short.as_ref().map_or(ino, |short| short.of(ino))
    }

    /// Nodes with numbers above `after`, lowest first: up to `n`, and from the lowest again when none is
    /// left.
    pub fn known(&self, after: NodeId, n: usize) -> Vec<Known> {
        let mut found = self.nodes.above(after, n);
        if found.is_empty() {
            found = self.nodes.above(NodeId::ROOT, n);
        }
        let known = |node: Arc<Node>| {
            let name = node.state.read().plain().map(|(dir, name)| (dir.id, name.into()));
            Known { id: node.id, dir: node.dir.is_some(), name }
        };
        found.into_iter().map(known).collect()
    }

    /// Number of nodes known (for the log and tests).
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The identity of a host object with these attributes.
    fn key_of(&self, attr: &Attr) -> FileKey {
        FileKey { fs: self.fs_number(attr.dev), ino: attr.ino }
    }

    /// The number of a filesystem; one met for the first time (mounted inside a layer) is added.
    fn fs_number(&self, dev: u64) -> u16 {
        let known = self.fs.read().number(dev);
        known.unwrap_or_else(|| self.fs.write().add(dev))
    }

    /// Records with a copied-up object which one it was, if that means the same at the next mount.
    fn mark_origin(&self, upper: &Upper, dir: BorrowedFd<'_>, name: &[u8], key: FileKey) {
        let record = self.fs.read().record(key);
        if let Some(origin) = record {
            upper.set_soft_mark(dir, name, Mark::Origin, &origin.to_bytes());
        }
    }

    /// The descriptor of a directory's upper directory.
    ///
    /// The caller holds `tree` (shared or exclusive), or the directory cannot move for other
    /// reasons; otherwise a rename of an ancestor could lead the walk astray.
    fn upper_dir_fd(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        let upper = self.need_upper()?;
        let mut missing: Vec<Arc<Node>> = Vec::new();
        let mut at = Arc::clone(node);
        let mut base = loop {
            let dir = at.dir()?;
            if let Some(fd) = self.fds.get(dir.key) {
                break fd;
            }
            if at.id == NodeId::ROOT {
                let fd = Arc::new(upper.root().try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
                self.fds.put(dir.key, &fd);
                break fd;
            }
            let (held, link) = {
                let state = at.state.read();
                let held = if state.plain().is_some() { None } else { state.held.clone() };
                (held, state.first())
            };
            if let Some(held) = held {
                break held;
            }
            let link = link.ok_or(Errno::ENOENT)?;
            missing.push(at);
            at = link.parent;
        };
        for node in missing.iter().rev() {
            let name = node.state.read().first().map(|l| l.name);
            let fd = sys::dir::open_dir(base.as_fd(), &name.ok_or(Errno::ENOENT)?)?;
            base = Arc::new(fd);
            self.fds.put(node.dir()?.key, &base);
        }
        Ok(base)
    }

    /// Runs `f` on the descriptor and name that reach the upper object of `node`; the name is empty
    /// when the descriptor is the object itself. The node's place cannot change meanwhile.
    fn with_upper<T>(
        &self,
        node: &Arc<Node>,
        f: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T>,
    ) -> Result<T> {
        if node.id == NodeId::ROOT {
            return f(self.need_upper()?.root(), b"");
        }
        let _tree = self.tree.read_recursive();
        if node.dir.is_some() {
            let fd = self.upper_dir_fd(node)?;
            return f(fd.as_fd(), b"");
        }
        let state = node.state.read();
        if let Some((parent, name)) = state.plain() {
            return f(self.upper_dir_fd(parent)?.as_fd(), name);
        }
        if let Some(held) = &state.held {
            return f(held.as_fd(), b"");
        }
        if matches!(state.place, Place::Stash) {
            return f(self.need_upper()?.work(), &stash_name(node.id));
        }
        if matches!(state.place, Place::Index) {
            return f(self.need_upper()?.index(), &Upper::index_name(node.key));
        }
        let link = state.links.first().ok_or(Errno::ENOENT)?;
        let fd = self.upper_dir_fd(&link.parent)?;
        f(fd.as_fd(), &link.name)
    }

    /// Opens the upper object of a file that is not a directory, whether it has a name or not.
    fn open_upper(&self, node: &Arc<Node>, flags: i32) -> Result<OwnedFd> {
        self.with_upper(node, |dir, name| {
            if name.is_empty() {
                return dir.try_clone_to_owned().map_err(|_| Errno::EMFILE);
            }
            sys::dir::openat(dir, name, flags | libc::O_NONBLOCK, 0)
        })
    }

    /// Where the object of `node` is.
    fn place(&self, node: &Node) -> Place {
        node.state.read().place()
    }
}

impl Node {
    /// The directory part.
    ///
    /// # Errors
    /// `ENOTDIR` for anything else.
    pub fn dir(&self) -> Result<&DirPart> {
        self.dir.as_deref().ok_or(Errno::ENOTDIR)
    }

    /// Whether the object is in the upper.
    pub fn in_upper(&self) -> bool {
        !self.state.read().in_lower()
    }
}

impl Names {
    /// Names not looked at yet, merged from `lowers` and the upper.
    pub fn new(lowers: Vec<LowerRef>) -> Names {
        Names {
            lowers: lowers.into(),
            redirect: None,
            merged: None,
            marker: false,
            impure_lowers: Vec::new(),
            impure: false,
            unmarkable: false,
            default_acl: None,
            removed: false,
        }
    }
}

/// The lower whose root directory is shown: the first that has an entry for it.
fn shown_root(lowers: &[Box<dyn Layer>]) -> Result<Option<&dyn Layer>> {
    for layer in lowers {
        if !layer.implied(&layer.root())? {
            return Ok(Some(&**layer));
        }
    }
    Ok(lowers.first().map(|layer| &**layer))
}

/// Locks the names of two directories in the order of their node numbers. For one and the same
/// directory the second guard is `None`.
fn lock_two<'a>(
    a: &'a Arc<Node>,
    b: &'a Arc<Node>,
) -> Result<(MutexGuard<'a, Names>, Option<MutexGuard<'a, Names>>)> {
    if a.id == b.id {
        return Ok((a.dir()?.merged.lock(), None));
    }
    if a.id < b.id {
        let first = a.dir()?.merged.lock();
        let second = b.dir()?.merged.lock();
        Ok((first, Some(second)))
    } else {
        let second = b.dir()?.merged.lock();
        let first = a.dir()?.merged.lock();
        Ok((first, Some(second)))
    }
}

/// Name of a stashed file in the work directory.
fn stash_name(id: NodeId) -> Vec<u8> {
    format!("open-{:x}", id.0).into_bytes()
}

/// Adds a name to a node, or moves an existing one.
fn add_link(state: &mut State, parent: &Arc<Node>, name: &[u8]) {
    state.links.push(Link { parent: Arc::clone(parent), name: name.into() });
}

/// Whether an error of reading a mark can be taken as "not there".
fn soft<T: Default>(r: Result<T>) -> Result<T> {
    match r {
        Err(e) if format::absent(e) => Ok(T::default()),
        other => other,
    }
}
