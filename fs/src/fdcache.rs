//! Open descriptors, kept while there is room.
//!
//! A mount may know millions of files but may hold only some thousands of descriptors. Directories
//! (as bases for names) and file data are kept in two LRU caches; whoever needs one holds an `Arc`,
//! so closing happens when the last user is done.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use crate::ident::NodeId;
use crate::sys::file::Part;

/// Names a directory in the cache, whichever layer it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirKey(u64);

/// An open regular file.
#[derive(Clone, Debug)]
pub struct DataFd {
    /// The file, or the part of a lower's file that stands for it.
    pub part: Part,
    /// Whether it was opened for writing; only files of the upper ever are.
    pub writable: bool,
}

impl DataFd {
    /// All of an open file.
    pub fn whole(fd: Arc<OwnedFd>, writable: bool) -> DataFd {
        DataFd { part: Part::whole(fd), writable }
    }
}

/// The caches of one mount.
#[derive(Debug)]
pub struct FdCache {
    /// How many unlinked files may be held by a descriptor each.
    most_held: usize,
    held: AtomicUsize,
    next: AtomicU64,
    dirs: Mutex<LruCache<DirKey, Arc<OwnedFd>>>,
    data: Mutex<LruCache<NodeId, DataFd>>,
    /// Lower files that have the rest of a partial file's data.
    sources: Mutex<LruCache<NodeId, Part>>,
}

/// Share of the open-file limit given to directories and to data: a quarter each; the rest is for
/// unlinked files that are still open and for work in progress.
const SHARE: u64 = 4;
/// No cache is larger than this, whatever the limit: beyond it, memory in the kernel is wasted.
const MOST: u64 = 2048;
/// Nor smaller.
const LEAST: u64 = 16;

impl FdCache {
    /// Caches sized for a process that may have `limit` open files.
    pub fn new(limit: u64) -> FdCache {
        let n = usize::try_from((limit / SHARE).clamp(LEAST, MOST)).unwrap_or(LEAST as usize);
        let n = NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        let sources = NonZeroUsize::new(n.get() / 4).unwrap_or(NonZeroUsize::MIN);
        FdCache {
            most_held: n.get(),
            held: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            dirs: Mutex::new(LruCache::new(n)),
            data: Mutex::new(LruCache::new(n)),
            sources: Mutex::new(LruCache::new(sources)),
        }
    }

    /// Whether one more unlinked file may be held by a descriptor.
    pub fn may_hold(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.most_held
    }

    /// Counts the descriptors that hold unlinked files: one comes, one goes, or both.
    pub fn count_held(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => drop(self.held.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.held.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// A key for a directory not seen before.
    pub fn new_key(&self) -> DirKey {
        DirKey(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The directory's descriptor if it is open.
    pub fn get(&self, key: DirKey) -> Option<Arc<OwnedFd>> {
        self.dirs.lock().get(&key).cloned()
    }

    /// Keeps a directory's descriptor.
    pub fn put(&self, key: DirKey, fd: &Arc<OwnedFd>) {
        let old = self.dirs.lock().push(key, Arc::clone(fd));
        drop(old); // closed outside the lock
    }

    /// Closes a directory's descriptor.
    pub fn drop_dir(&self, key: DirKey) {
        let old = self.dirs.lock().pop(&key);
        drop(old);
    }

    /// The file's data descriptor if it is open.
    pub fn data(&self, node: NodeId) -> Option<DataFd> {
        self.data.lock().get(&node).cloned()
    }

    /// Keeps a file's data descriptor.
    pub fn put_data(&self, node: NodeId, fd: &DataFd) {
        let old = self.data.lock().push(node, fd.clone());
        drop(old);
    }

    /// Closes a file's data descriptors.
    pub fn drop_data(&self, node: NodeId) {
        let old = self.data.lock().pop(&node);
        drop(old);
        let old = self.sources.lock().pop(&node);
        drop(old);
    }

    /// The descriptor of the lower file with the rest of a partial file's data, if it is open.
    pub fn source(&self, node: NodeId) -> Option<Part> {
        self.sources.lock().get(&node).cloned()
    }

    /// Keeps it.
    pub fn put_source(&self, node: NodeId, part: &Part) {
        let old = self.sources.lock().push(node, part.clone());
        drop(old);
    }

    /// Closes everything that is merely cached (before unmounting, and on `EMFILE`).
    pub fn clear(&self) {
        let mut dirs = self.dirs.lock();
        let mut data = self.data.lock();
        dirs.clear();
        data.clear();
        self.sources.lock().clear();
    }
}
