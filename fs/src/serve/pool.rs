//! The threads that serve: as many as there is slow work, so that a quick request never waits behind
//! a long copy or an fsync.
//!
//! A thread that takes a request and finds that it was the last one waiting starts another before it
//! begins. The kernel hands requests to the waiting threads in turn, so more of them than are needed
//! cost caches and memory: when none was missing for a long while, one ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::session::Session;
use crate::sys::{Errno, Result};

/// Most threads: more slow requests than this at once wait for each other.
const MOST: usize = 32;
/// Threads that always wait: one to take a request, one to take the next meanwhile.
const WAITING: usize = 2;
/// After so many requests that found another thread waiting, a thread too many ends.
const CALM: u32 = 8192;

/// The serving threads of a session.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Threads that wait for a request.
    idle: AtomicUsize,
    started: AtomicUsize,
    /// Requests since one found nobody waiting.
    calm: AtomicU32,
    /// The first error of a thread that ended while others served.
    failed: Mutex<Option<Errno>>,
    handles: Mutex<Vec<JoinHandle<Result<()>>>>,
}

impl Pool {
    /// A thread is about to wait for a request.
    pub fn waits(&self) {
        self.idle.fetch_add(1, Ordering::AcqRel);
    }

    /// A thread has got one. True when none is left to take the next.
    pub fn works(&self) -> bool {
        let last = self.idle.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.calm.store(0, Ordering::Relaxed);
        } else {
            self.calm.fetch_add(1, Ordering::Relaxed);
        }
        last && self.started.load(Ordering::Relaxed) < MOST
    }

    /// Whether the calling thread, which has no work, is one too many and shall end.
    pub fn may_leave(&self) -> bool {
        let leave = self.idle.load(Ordering::Acquire) >= WAITING
            && self.calm.load(Ordering::Relaxed) >= CALM
            && self.calm.swap(0, Ordering::Relaxed) >= CALM;
        if leave {
            self.started.fetch_sub(1, Ordering::Relaxed);
        }
        leave
    }

    /// Starts one more thread. Where that fails, those there are go on alone.
    pub fn grow(&self, session: &Arc<Session>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        self.reap(|handle| handle.is_finished());
        let session = Arc::clone(session);
        let spawned = std::thread::Builder::new()
            .name(format!("cowlfs-{number}"))
            .spawn(move || session.serve(false));
        if let Ok(handle) = spawned {
            self.handles.lock().push(handle);
        }
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// The first error that one of them ended with.
    pub fn join(&self) -> Result<()> {
        while self.reap(|_| true) {}
        self.failed.lock().take().map_or(Ok(()), Err)
    }

    /// Joins the threads that `which` chooses; false when there was none.
    fn reap(&self, which: impl Fn(&JoinHandle<Result<()>>) -> bool) -> bool {
        let chosen: Vec<_> = self.handles.lock().extract_if(.., |h| which(h)).collect();
        let any = !chosen.is_empty();
        for handle in chosen {
            if let Err(e) = handle.join().unwrap_or(Err(Errno::EIO)) {
                self.failed.lock().get_or_insert(e);
            }
        }
        any
    }
}
