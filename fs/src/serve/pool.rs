//! The threads that serve: one reads and answers, and others take over when an answer takes long.
//!
//! One thread, the *leader*, waits for requests and answers them itself. Were several to wait, the
//! kernel would hand requests to them in turn, and each would wake another processor, which costs
//! many times what most requests take. The lead passes on
//!
//! - before a request that may take long (`slow`): whoever waits behind it is served by another;
//! - when an answer does take long: a watchdog sees that (`watch`), for the leader cannot know.
//!
//! The thread that was left behind finishes its answer and then parks, until it is appointed in turn.
//! Whoever gives up the lead appoints the thread that parked last (its memory is in the caches), or
//! starts one more. When that cannot be, the lead stays vacant, and who finishes first takes it. So
//! there is a leader, or everybody has work; and nobody waits for another thread here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::session::Session;
use super::watch::Bell;
use crate::sys::{Errno, Result};

/// Most threads: more slow requests than this at once wait for each other.
const MOST: usize = 32;
/// Parked threads that stay, so that the lead can pass on at once.
const SPARE: usize = 1;
/// How long another parks before it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a thread has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read a request.
    Lead,
    /// Wait to be appointed.
    Park,
    /// End.
    End,
}

/// One request being answered by the leader, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn(u64);

/// The serving threads of a session.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Even while the leader waits for a request (or the lead passes on), odd while it answers one;
    /// always grows. Who makes an odd number even decides what becomes of the lead.
    beat: AtomicU64,
    /// Where the watchdog sleeps.
    pub bell: Bell,
    seats: Mutex<Seats>,
    handles: Mutex<Vec<JoinHandle<Result<()>>>>,
    /// The first error of a thread that ended while others served.
    failed: Mutex<Option<Errno>>,
}

#[derive(Debug, Default)]
struct Seats {
    /// Nobody leads, and nobody was there to appoint.
    vacant: bool,
    /// The session is over.
    over: bool,
    /// Threads there are beside the first.
    threads: usize,
    /// Names of threads are numbers.
    named: usize,
    /// Those that wait to be appointed. One that is taken out leads.
    parked: Vec<Thread>,
}

impl Pool {
    /// The leader has got a request.
    pub fn begins(&self) -> Turn {
        // Before the bell is looked at: the watchdog looks here after it has hung it up.
        let beat = self.beat.fetch_add(1, Ordering::SeqCst) + 1;
        self.bell.ring();
        Turn(beat)
    }

    /// The number of the request that is being answered, if one is, or of the wait for the next.
    pub fn beat(&self) -> u64 {
        self.beat.load(Ordering::SeqCst)
    }

    /// Whether a beat is that of an answer.
    pub fn answering(beat: u64) -> bool {
        beat % 2 == 1
    }

    /// Takes the lead from whoever answers this request; false when that is over, or was done before.
    fn take(&self, beat: u64) -> bool {
        self.beat.compare_exchange(beat, beat + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Unless the answer with this number is finished, or another leads already: another leads.
    pub fn depose(&self, session: &Arc<Session>, beat: u64) {
        if self.take(beat) {
            self.appoint(session);
        }
    }

    /// The same for the leader itself, before an answer that may take long.
    pub fn pass_on(&self, session: &Arc<Session>, turn: Turn) {
        self.depose(session, turn.0);
    }

    /// The answer is finished. What the thread has to do next.
    pub fn finished(&self, turn: Turn) -> Next {
        if self.take(turn.0) { Next::Lead } else { Next::Park }
    }

    /// Waits until the calling thread is appointed, or is one too many.
    pub fn park(&self) -> Next {
        let me = std::thread::current().id();
        let stays = {
            let mut seats = self.seats.lock();
            if seats.over {
                return Next::End;
            }
            if std::mem::take(&mut seats.vacant) {
                return Next::Lead;
            }
            seats.parked.push(std::thread::current());
            seats.parked.len() <= SPARE
        };
        let end = Instant::now() + PATIENCE;
        loop {
            if stays {
                std::thread::park();
            } else {
                std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
            }
            let mut seats = self.seats.lock();
            if seats.over {
                return Next::End;
            }
            let Some(place) = seats.parked.iter().position(|t| t.id() == me) else {
                return Next::Lead;
            };
            // Those that stay are at the bottom, for it is always the last that is appointed.
            if !stays && Instant::now() >= end {
                seats.parked.remove(place);
                return Next::End;
            }
        }
    }

    /// Chooses a new leader.
    fn appoint(&self, session: &Arc<Session>) {
        {
            let mut seats = self.seats.lock();
            if let Some(thread) = seats.parked.pop() {
                thread.unpark();
                return;
            }
            if seats.over || seats.threads >= MOST {
                seats.vacant = true; // for the first that finishes its work
                return;
            }
        }
        if !self.start(session, Next::Lead) {
            let mut seats = self.seats.lock();
            match seats.parked.pop() {
                Some(thread) => thread.unpark(),
                None => seats.vacant = true,
            }
        }
    }

    /// Starts one more thread, which leads or parks. False where that fails.
    pub fn start(&self, session: &Arc<Session>, next: Next) -> bool {
        let name = {
            let mut seats = self.seats.lock();
            seats.threads += 1;
            seats.named += 1;
            format!("cowlfs-{}", seats.named)
        };
        self.reap(|handle| handle.is_finished());
        let session = Arc::clone(session);
        let work = move || {
            let done = session.serve(next);
            session.pool.left();
            done
        };
        match std::thread::Builder::new().name(name).spawn(work) {
            Ok(handle) => {
                self.handles.lock().push(handle);
                true
            }
            Err(_) => {
                self.left();
                false
            }
        }
    }

    /// A thread ends.
    fn left(&self) {
        let mut seats = self.seats.lock();
        seats.threads = seats.threads.saturating_sub(1);
    }

    /// There will be no more requests: everybody ends.
    pub fn end(&self) {
        let mut seats = self.seats.lock();
        seats.over = true;
        for thread in seats.parked.drain(..) {
            thread.unpark();
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
