//! The threads that serve: as many as there is slow work, so that a quick request never waits behind
//! a long copy or an fsync.
//!
//! A thread that takes a request and finds that it was the last one waiting starts another before it
//! begins. Threads stay; there are few unless many slow requests came at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::session::Session;
use crate::sys::{Errno, Result};

/// Most threads: more slow requests than this at once wait for each other.
const MOST: usize = 32;

/// The serving threads of a session.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Threads that wait for a request.
    idle: AtomicUsize,
    started: AtomicUsize,
    handles: Mutex<Vec<JoinHandle<Result<()>>>>,
}

impl Pool {
    /// A thread is about to wait for a request.
    pub fn waits(&self) {
        self.idle.fetch_add(1, Ordering::AcqRel);
    }

    /// A thread has got one. True when none is left to take the next.
    pub fn works(&self) -> bool {
        self.idle.fetch_sub(1, Ordering::AcqRel) == 1 && self.started.load(Ordering::Relaxed) < MOST
    }

    /// Starts one more thread. Where that fails, those there are go on alone.
    pub fn grow(&self, session: &Arc<Session>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let session = Arc::clone(session);
        let spawned = std::thread::Builder::new()
            .name(format!("cowlfs-{number}"))
            .spawn(move || session.serve());
        if let Ok(handle) = spawned {
            self.handles.lock().push(handle);
        }
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// The first error that one of them ended with.
    pub fn join(&self) -> Result<()> {
        let mut done = Ok(());
        loop {
            let Some(handle) = self.handles.lock().pop() else { return done };
            match handle.join() {
                Ok(result) => done = done.and(result),
                Err(_panicked) => done = done.and(Err(Errno::EIO)),
            }
        }
    }
}
