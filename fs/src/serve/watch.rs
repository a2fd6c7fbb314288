//! The watchdog: sees that the leading thread is busy with one request for long, and has another
//! thread lead (`pool`).
//!
//! It costs the leader no system call and no look at a clock: the leader counts its requests, and
//! the watchdog looks at the count now and then. When no requests come any more it sleeps until the
//! next one rings.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::pool::Pool;
use super::session::Session;
use crate::sys::{Errno, Result};

/// How often the count is looked at: an answer is seen to take long after once to twice that time.
const TICK: Duration = Duration::from_millis(1);
/// After so many looks with nothing under way it sleeps.
const CALM: u32 = 20;

/// Where the watchdog sleeps.
#[derive(Debug, Default)]
pub(super) struct Bell {
    asleep: AtomicBool,
    over: AtomicBool,
    watchdog: OnceLock<Thread>,
}

impl Bell {
    /// A request has come.
    pub fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(watchdog) = self.watchdog.get()
        {
            watchdog.unpark();
        }
    }

    /// No more requests will come.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.asleep.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Sleeps unless `busy`, which is asked once whoever is busy from then on will ring.
    fn sleep_unless(&self, busy: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::SeqCst);
        if !busy() {
            while self.asleep.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) {
                std::thread::park();
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// Starts the watchdog; [`Bell::end`] ends it.
///
/// # Errors
/// `EAGAIN` when no thread can be started.
pub(super) fn start(session: &Arc<Session>) -> Result<JoinHandle<()>> {
    let session = Arc::clone(session);
    std::thread::Builder::new()
        .name("cowlfs-watch".into())
        .spawn(move || watch(&session))
        .map_err(|_| Errno::EAGAIN)
}

fn watch(session: &Arc<Session>) {
    let pool = &session.pool;
    pool.bell.watchdog.get_or_init(std::thread::current);
    let (mut last, mut calm) = (pool.beat(), 0);
    while !pool.bell.over.load(Ordering::SeqCst) {
        std::thread::sleep(TICK);
        let now = pool.beat();
        if now != last {
            (last, calm) = (now, 0);
        } else if Pool::answering(now) {
            pool.depose(session, now);
            calm = 0;
        } else {
            calm += 1;
            if calm >= CALM {
                pool.bell.sleep_unless(|| pool.beat() != last);
                (last, calm) = (pool.beat(), 0);
            }
        }
    }
}
