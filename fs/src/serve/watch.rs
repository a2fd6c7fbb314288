//! The watchdog: sees that the leading thread is busy with one request for long, and has another
//! thread lead; sees that requests pile up, and opens one more lead (`pool`).
//!
//! It costs the leader no system call and no look at a clock: the leader counts its requests, and
//! the watchdog looks at the count now and then. When no requests come any more it sleeps until the
//! next one rings.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::pool::Pool;
use super::session::Session;
use crate::sys::{self, Errno, Result};

/// How often the count is looked at while requests flow: an answer is seen to take long after once to
/// twice that time. With each look that finds nothing under way the next is later by as much.
const TICK: Duration = Duration::from_millis(1);
/// After so many of those it sleeps (21 ms).
const CALM: u32 = 6;
/// Requests pile up when a request waits although all who read have work, this many times more often
/// than not.
const PILED: u32 = 3;
/// A lead is closed when no request has waited for so many looks.
const EASE: u32 = 100;

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
    let (mut last, mut calm, mut load) = (pool.beats(), 0_u32, Load::default());
    while !pool.bell.over.load(Ordering::SeqCst) {
        std::thread::sleep(TICK * (calm + 1));
        let now = pool.beats();
        let mut all_busy = true;
        for (lead, (now, last)) in now.iter().zip(&last).enumerate() {
            let Some(beat) = *now else { continue };
            all_busy &= Pool::answering(beat);
            if Pool::answering(beat) && *now == *last {
                pool.depose(session, lead, beat);
            }
        }
        calm = if now == last && !now.iter().flatten().any(|b| Pool::answering(*b)) {
            calm + 1
        } else {
            0
        };
        last = now;
        match load.look(all_busy && sys::fuse::waits(session.device.as_fd())) {
            Some(true) => pool.open(session),
            Some(false) => drop(pool.close()),
            None => {}
        }
        if calm >= CALM {
            while pool.close() {}
            pool.bell.sleep_unless(|| pool.beats() != last);
            (last, calm, load) = (pool.beats(), 0, Load::default());
        }
    }
}

/// How much there is to do, from many looks.
#[derive(Debug, Default)]
struct Load {
    piled: u32,
    ease: u32,
}

impl Load {
    /// Takes one more look into account, at which a request waited or not. Whether there shall be one
    /// lead more (true) or less (false).
    fn look(&mut self, waits: bool) -> Option<bool> {
        if !waits {
            self.piled = self.piled.saturating_sub(1);
            self.ease += 1;
            return (self.ease >= EASE).then(|| {
                self.ease = 0;
                false
            });
        }
        self.ease = 0;
        self.piled += 1;
        (self.piled >= PILED).then(|| {
            self.piled = 0;
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_come_with_a_pile_and_go_with_ease() {
        let mut load = Load::default();
        let looks = |load: &mut Load, waits: &[bool]| -> Vec<bool> {
            waits.iter().filter_map(|w| load.look(*w)).collect()
        };
        assert_eq!(looks(&mut load, &[true, false].repeat(500)), []);
        assert_eq!(looks(&mut load, &[true; 2 * PILED as usize]), [true, true]);
        assert_eq!(looks(&mut load, &[false; EASE as usize - 1]), []);
        assert_eq!(looks(&mut load, &[false; EASE as usize + 1]), [false, false]);
        // What waits now and then keeps what there is.
        let now_and_then = [&[true][..], &[false; EASE as usize - 1]].concat();
        assert_eq!(looks(&mut load, &now_and_then.repeat(10)), []);
    }
}
