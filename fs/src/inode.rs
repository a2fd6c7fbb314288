//! The inode table: one [`Node`] for one file, as long as anyone knows it.
//!
//! A node is pinned by the kernel's lookups (given back by FORGET) and by each node below it, since
//! the place of a file in the upper is its chain of names. When the last pin goes, the node goes.
//! Node numbers are never used again, so a stale number in a merged directory finds nothing.
//!
//! Files with several names in one layer are found by their [`FileKey`], so all names lead to one
//! node whichever was looked up first.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::attr::Kind;
use crate::fdcache::DirKey;
use crate::ident::{FileKey, Ino, NodeId};
use crate::layer::LowerRef;
use crate::merge::Merged;

/// Where the object of a node is now.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a lower layer, untouched.
    Lower(LowerRef),
    /// In the upper under the node's name.
    Upper,
    /// In the hard-link index of the upper (several lower names, copied up once).
    Index,
    /// In the work directory under the node's number: it lost its last name while it was open, when
    /// too many others were held by a descriptor each.
    Stash,
}

/// One name of a node.
#[derive(Clone, Debug)]
pub struct Link {
    /// The directory.
    pub parent: Arc<Node>,
    /// The name in it.
    pub name: Box<[u8]>,
}

/// What changes in the life of a node; behind the node's lock.
#[derive(Debug)]
pub struct State {
    /// The names that were looked up; empty once the file has no name left.
    pub links: Vec<Link>,
    /// Where the object is.
    pub place: Place,
    /// The lower file that has the data, where the object itself has attributes only.
    pub data: Option<LowerRef>,
    /// An open descriptor of an upper object that has no (known) name any more.
    pub held: Option<Arc<OwnedFd>>,
    /// Link count in the union, where it is not that of the object.
    pub nlink: Option<u32>,
}

/// The directory part of a node.
#[derive(Debug)]
pub struct DirPart {
    /// Key of the upper directory's descriptor in the cache.
    pub key: DirKey,
    /// Link count to show; 0 while nobody has counted.
    pub links: Arc<AtomicU32>,
    /// The lowers of the directory it was found in, for redirects relative to that.
    pub parent_lowers: Arc<[LowerRef]>,
    /// What is merged in it; `None` until someone looks.
    pub merged: Mutex<Names>,
}

/// The merged names of a directory, and what they are merged from.
#[derive(Debug)]
pub struct Names {
    /// The lowers that (may) merge, topmost first; cut at the first opaque one by the scan.
    pub lowers: Arc<[LowerRef]>,
    /// Where the union of the lowers shows its content, if it (not an ancestor) was renamed: a path
    /// with a leading slash, or the name that it had in the same directory.
    pub redirect: Option<Vec<u8>>,
    /// The result of the scan.
    pub merged: Option<Merged>,
    /// The upper directory holds an opaque marker file, which users do not see.
    pub marker: bool,
    /// Which of the lowers are marked as holding copied-up entries.
    pub impure_lowers: Vec<bool>,
    /// The upper directory is marked as holding copied-up entries.
    pub impure: bool,
    /// The default ACL that new objects inherit: not asked yet, none, or the xattr value.
    pub default_acl: Option<Option<Arc<[u8]>>>,
    /// Removed: nothing can be made in it any more.
    pub removed: bool,
}

/// A file of the union.
#[derive(Debug)]
pub struct Node {
    /// FUSE's number for it.
    pub id: NodeId,
    /// The identity of the object that first carried the file (the lower one, once copied up).
    pub key: FileKey,
    /// Type; never changes.
    pub kind: Kind,
    /// Names and place.
    pub state: RwLock<State>,
    /// Held while the file's data is copied up; taken before any directory's lock.
    pub copying: Mutex<()>,
    /// Present for directories.
    pub dir: Option<Box<DirPart>>,
    /// Entered under its key: it has, or had, several names.
    pub keyed: AtomicBool,
}

impl Node {
    /// `st_ino`.
    pub fn ino(&self) -> Ino {
        self.key.shown()
    }
}

#[derive(Debug)]
struct Held {
    node: Arc<Node>,
    pins: u64,
}

/// Number of parts of the table that are locked on their own.
const SHARDS: usize = 16;

/// All nodes of a mount.
#[derive(Debug)]
pub struct Table {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Held>>; SHARDS],
    by_key: Mutex<HashMap<FileKey, NodeId>>,
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl Table {
    /// An empty table.
    pub fn new() -> Table {
        Table {
            next: AtomicU64::new(NodeId::ROOT.0),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            by_key: Mutex::new(HashMap::new()),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the array's length")]
    fn shard(&self, id: NodeId) -> &Mutex<HashMap<u64, Held>> {
        &self.shards[(id.0 % SHARDS as u64) as usize]
    }

    /// The next node number; the first is the root's.
    pub fn new_id(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Enters a new node with one pin, and pins the directories it has names in.
    pub fn insert(&self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        for link in &node.state.read().links {
            self.pin(link.parent.id, 1);
        }
        self.shard(node.id).lock().insert(node.id.0, Held { node: Arc::clone(&node), pins: 1 });
        if node.keyed.load(Ordering::Relaxed) {
            self.by_key.lock().insert(node.key, node.id);
        }
        node
    }

    /// Makes a node findable by its key: it now has several names.
    pub fn enter_key(&self, node: &Node) {
        if !node.keyed.swap(true, Ordering::Relaxed) {
            self.by_key.lock().insert(node.key, node.id);
        }
    }

    /// The node, without pinning it.
    pub fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        self.shard(id).lock().get(&id.0).map(|h| Arc::clone(&h.node))
    }

    /// The node with one more pin.
    pub fn get_pinned(&self, id: NodeId) -> Option<Arc<Node>> {
        let mut shard = self.shard(id).lock();
        let held = shard.get_mut(&id.0)?;
        held.pins += 1;
        Some(Arc::clone(&held.node))
    }

    /// The node of a file with several names, with one more pin.
    pub fn by_key_pinned(&self, key: FileKey) -> Option<Arc<Node>> {
        let id = self.by_key.lock().get(&key).copied()?;
        self.get_pinned(id)
    }

    /// Adds pins to a node that is in the table.
    pub fn pin(&self, id: NodeId, n: u64) {
        if let Some(held) = self.shard(id).lock().get_mut(&id.0) {
            held.pins += n;
        }
    }

    /// Gives pins back; nodes that lose their last one leave the table, and their directories lose
    /// a pin in turn. Returns the nodes that left.
    pub fn unpin(&self, id: NodeId, n: u64) -> Vec<Arc<Node>> {
        let mut gone = Vec::new();
        let mut todo = vec![(id, n)];
        while let Some((id, n)) = todo.pop() {
            let node = {
                let mut shard = self.shard(id).lock();
                let Some(held) = shard.get_mut(&id.0) else { continue };
                held.pins = held.pins.saturating_sub(n);
                if held.pins > 0 || id == NodeId::ROOT {
                    continue;
                }
                shard.remove(&id.0).map(|h| h.node)
            };
            let Some(node) = node else { continue };
            if node.keyed.load(Ordering::Relaxed) {
                let mut by_key = self.by_key.lock();
                if by_key.get(&node.key) == Some(&id) {
                    by_key.remove(&node.key);
                }
            }
            todo.extend(node.state.read().links.iter().map(|l| (l.parent.id, 1)));
            gone.push(node);
        }
        gone
    }

    /// Number of nodes (for tests and the log).
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
