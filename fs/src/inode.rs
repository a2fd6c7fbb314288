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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::attr::Kind;
use crate::fdcache::DirKey;
use crate::ident::{FileKey, Ino, NodeId};
use crate::layer::LowerRef;
use crate::merge::Merged;
use crate::partial::Partial;

pub mod state;

use state::StateCell;

/// Where the object of a node is now.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// In a lower layer, untouched.
    Lower(LowerRef),
    /// In the upper under the node's name.
    #[default]
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

/// The lower file with the data that an object does not have itself.
#[derive(Clone, Debug)]
pub struct Source {
    /// The lower file.
    pub at: LowerRef,
    /// Space that it takes, in units of 512 bytes: shown where the object itself takes less.
    pub allocated: u64,
    /// Which part the object has; `None`: attributes only (overlayfs `metacopy`).
    pub partial: Option<Arc<Partial>>,
}

/// What changes in the life of a node; behind the node's lock, and in a short form most of the time
/// (see [`state`]).
#[derive(Debug, Default)]
pub struct State {
    /// The names that were looked up; empty once the file has no name left.
    pub links: Vec<Link>,
    /// Where the object is.
    pub place: Place,
    /// Where data is that the object itself does not have.
    pub data: Option<Source>,
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
    /// The lowers that merge, once the first scan has found out; never changed from then on.
    pub settled: OnceLock<Arc<[LowerRef]>>,
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
    /// That mark could not be stored: entries must not depend on it.
    pub unmarkable: bool,
    /// The default ACL that new objects inherit: not asked yet, none, or the xattr value.
    pub default_acl: Option<Option<Arc<[u8]>>>,
    /// Removed: nothing can be made in it any more.
    pub removed: bool,
}

/// A file of the union.
///
/// There may be millions: a node of one name takes 72 bytes and the two counts of its [`Arc`].
#[derive(Debug)]
pub struct Node {
    /// FUSE's number for it.
    pub id: NodeId,
    /// Names and place.
    pub state: StateCell,
    /// Present for directories.
    pub dir: Option<Box<DirPart>>,
    /// Pins, and [`KEYED`].
    pins: AtomicU32,
    /// The identity of the object that first carried the file (the lower one, once copied up).
    pub key: FileKey,
    /// Type; never changes.
    pub kind: Kind,
    /// Held while the file's data is copied up; taken before any directory's lock.
    pub copying: Mutex<()>,
}

/// Bit beside the pins: the node is entered under its key, for it has, or had, several names.
const KEYED: u32 = 1 << 31;
/// Most pins that are counted. A node that ever has more stays for ever.
const MOST_PINS: u32 = KEYED - 1;

impl Node {
    /// A node that is not in a table yet. `keyed`: it has several names.
    pub fn new(
        id: NodeId,
        key: FileKey,
        kind: Kind,
        state: State,
        dir: Option<Box<DirPart>>,
        keyed: bool,
    ) -> Node {
        Node {
            id,
            key,
            kind,
            state: StateCell::new(state),
            copying: Mutex::new(()),
            dir,
            pins: AtomicU32::new(if keyed { KEYED } else { 0 }),
        }
    }

    /// `st_ino`.
    pub fn ino(&self) -> Ino {
        self.key.shown()
    }

    /// Whether it has, or had, several names.
    pub fn keyed(&self) -> bool {
        self.pins.load(Ordering::Relaxed) & KEYED != 0
    }

    /// Replaces the number of pins by what `f` says, and returns that. Called under the lock of the
    /// table's shard, so that nobody pins what is just leaving.
    fn count(&self, f: impl Fn(u32) -> u32) -> u32 {
        let mut word = self.pins.load(Ordering::Relaxed);
        loop {
            let pins = f(word & MOST_PINS).min(MOST_PINS);
            let new = (word & KEYED) | pins;
            match self.pins.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return pins,
                Err(now) => word = now,
            }
        }
    }

    fn pin(&self, n: u64) {
        let n = u32::try_from(n).unwrap_or(MOST_PINS);
        self.count(|pins| pins.saturating_add(n));
    }

    /// Takes pins away; true when none is left.
    fn unpin(&self, n: u64) -> bool {
        let n = u32::try_from(n).unwrap_or(MOST_PINS);
        self.count(|pins| if pins == MOST_PINS { pins } else { pins.saturating_sub(n) }) == 0
    }
}

/// Number of parts of the table that are locked on their own.
const SHARDS: usize = 16;

/// A shard with room for fewer nodes than this never gives memory back.
const SHRINK_FROM: usize = 1024;

/// Nodes by number: as many as were handed out one after the other lie side by side.
type Shard = HashTable<Arc<Node>>;

/// Numbers are handed out one after the other, and those of a shard share their lowest bits: the
/// rest is spread over the word (Knuth's multiplicative hash), for the table looks at both ends.
fn hash(id: NodeId) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let spread = (id.0 / SHARDS as u64).wrapping_mul(GOLDEN);
    spread ^ (spread >> 32)
}

fn find(shard: &Shard, id: NodeId) -> Option<&Arc<Node>> {
    shard.find(hash(id), |node| node.id == id)
}

/// All nodes of a mount.
#[derive(Debug)]
pub struct Table {
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
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
            shards: std::array::from_fn(|_| Mutex::new(Shard::new())),
            by_key: Mutex::new(HashMap::new()),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the array's length")]
    fn shard(&self, id: NodeId) -> &Mutex<Shard> {
        &self.shards[(id.0 % SHARDS as u64) as usize]
    }

    /// The next node number; the first is the root's.
    pub fn new_id(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Enters a new node with one pin, and pins the directories it has names in.
    pub fn insert(&self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        node.pin(1);
        {
            let state = node.state.read();
            match state.plain() {
                Some((parent, _)) => self.pin(parent.id, 1),
                None => state.links.iter().for_each(|l| self.pin(l.parent.id, 1)),
            }
        }
        self.shard(node.id).lock().insert_unique(hash(node.id), Arc::clone(&node), |n| hash(n.id));
        if node.keyed() {
            self.by_key.lock().insert(node.key, node.id);
        }
        node
    }

    /// Makes a node findable by its key: it now has several names.
    pub fn enter_key(&self, node: &Node) {
        if node.pins.fetch_or(KEYED, Ordering::Relaxed) & KEYED == 0 {
            self.by_key.lock().insert(node.key, node.id);
        }
    }

    /// The node, without pinning it.
    pub fn get(&self, id: NodeId) -> Option<Arc<Node>> {
        find(&self.shard(id).lock(), id).cloned()
    }

    /// The node with one more pin.
    pub fn get_pinned(&self, id: NodeId) -> Option<Arc<Node>> {
        let shard = self.shard(id).lock();
        let node = find(&shard, id)?;
        node.pin(1);
        Some(Arc::clone(node))
    }

    /// The node of a file with several names, with one more pin.
    pub fn by_key_pinned(&self, key: FileKey) -> Option<Arc<Node>> {
        let id = self.by_key.lock().get(&key).copied()?;
        self.get_pinned(id)
    }

    /// Adds pins to a node that is in the table.
    pub fn pin(&self, id: NodeId, n: u64) {
        if let Some(node) = find(&self.shard(id).lock(), id) {
            node.pin(n);
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
                let Ok(entry) = shard.find_entry(hash(id), |node| node.id == id) else { continue };
                if !entry.get().unpin(n) || id == NodeId::ROOT {
                    continue;
                }
                let (node, _) = entry.remove();
                if shard.capacity() > SHRINK_FROM && shard.len() < shard.capacity() / 8 {
                    let room = shard.capacity() / 4;
                    shard.shrink_to(room, |n| hash(n.id));
                }
                node
            };
            if node.keyed() {
                let mut by_key = self.by_key.lock();
                if by_key.get(&node.key) == Some(&id) {
                    by_key.remove(&node.key);
                }
            }
            let state = node.state.read();
            match state.plain() {
                Some((parent, _)) => todo.push((parent.id, 1)),
                None => todo.extend(state.links.iter().map(|l| (l.parent.id, 1))),
            }
            drop(state);
            gone.push(node);
        }
        gone
    }

    /// Up to `n` nodes with the lowest numbers above `after`, in their order.
    pub fn above(&self, after: NodeId, n: usize) -> Vec<Arc<Node>> {
        let mut ids: Vec<NodeId> = Vec::new();
        for shard in &self.shards {
            ids.extend(shard.lock().iter().map(|node| node.id).filter(|id| *id > after));
        }
        ids.sort_unstable();
        ids.truncate(n);
        ids.into_iter().filter_map(|id| self.get(id)).collect()
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
