//! Written data that the disk refused.
//!
//! Under the writeback cache write(2) ends in the kernel's memory, and the disk says no later, to a
//! request that nobody waits for. The kernel keeps that error for fsync(2) and close(2), but it counts
//! the pages as clean, goes on to show them, and goes on to take more: a program that fills a disk
//! and never syncs would never end. So, after a refused write of cached pages:
//!
//! - the kernel is told to drop those pages (`discard`): what is read from then on is what is stored;
//! - the next write(2) to the file fails with the same error. The kernel refreshes mode and size of a
//!   file whose attributes it had to drop before it takes the next write, and says so by naming the
//!   open file (`fuse_cache_write_iter` in fs/fuse/file.c); that question is answered with the error.
//!   An error is told once: the disk may have room again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::ident::NodeId;
use crate::sys::Errno;

/// The files whose next write is to fail.
#[derive(Debug, Default)]
pub(super) struct Failed {
    nodes: Mutex<HashMap<NodeId, Errno>>,
    /// How many there are, for the usual case of none.
    count: AtomicUsize,
}

impl Failed {
    /// A write of cached pages has failed.
    pub fn note(&self, node: NodeId, error: Errno) {
        self.change(|nodes| {
            nodes.insert(node, error);
        });
    }

    /// Whether an error waits to be told; attributes must not be kept then.
    pub fn waits(&self, node: NodeId) -> bool {
        self.count.load(Ordering::Acquire) != 0 && self.nodes.lock().contains_key(&node)
    }

    /// The error to tell, which is told by that.
    pub fn take(&self, node: NodeId) -> Option<Errno> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut error = None;
        self.change(|nodes| error = nodes.remove(&node));
        error
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<NodeId, Errno>)) {
        let mut nodes = self.nodes.lock();
        change(&mut nodes);
        self.count.store(nodes.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_to_its_file_only() {
        let failed = Failed::default();
        let (a, b) = (NodeId(2), NodeId(3));
        assert!(!failed.waits(a));
        failed.note(a, Errno::ENOSPC);
        failed.note(a, Errno::EDQUOT);
        assert!(failed.waits(a) && !failed.waits(b));
        assert_eq!(failed.take(b), None);
        assert_eq!(failed.take(a), Some(Errno::EDQUOT));
        assert_eq!(failed.take(a), None);
        assert!(!failed.waits(a));
    }
}
