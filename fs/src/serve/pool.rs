//! The threads that serve: one reads and answers, and others take over when an answer takes long.
//!
//! One thread, the *leader*, waits for requests and answers them itself. Were several to wait, the
//! kernel would hand requests to them in turn, and each would wake another processor, which costs
//! many times what most requests take. The lead passes on
//!
//! - before a request that may take long (`slow`): whoever waits behind it is served by another;
//! - when an answer does take long: a watchdog sees that (`watch`), for the leader cannot know.
//!
//! When requests pile up all the same, because many ask at once, the watchdog opens a second lead, and
//! so on, and closes them again when they are no longer needed.
//!
//! The thread that was left behind finishes its answer and then parks, until it is appointed in turn.
//! Whoever gives up a lead appoints the thread that parked last (its memory is in the caches), or
//! starts one more. When that cannot be, the lead stays vacant, and who finishes first takes it. So
//! there is a leader, or everybody has work; and nobody waits for another thread here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::session::Session;
use super::watch::Bell;
use crate::sys::{Errno, Result};

/// Most threads: more slow requests than this at once wait for each other.
const MOST: usize = 32;
/// Most leads: so many threads at once wait for requests.
pub(super) const LEADS: usize = 16;
/// Parked threads that stay, so that the lead can pass on at once.
const SPARE: usize = 1;
/// How long another parks before it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a thread has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read a request, in this lead.
    Lead(usize),
    /// Wait to be appointed.
    Park,
    /// End.
    End,
}

/// One request being answered: in which lead, and its number there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    lead: usize,
    beat: u64,
}

/// A lead, apart from the others in memory: its thread changes it all the time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Lead {
    /// Even while its thread waits for a request (or the lead passes on), odd while that answers one;
    /// always grows. Who makes an odd number even decides what becomes of the lead.
    beat: AtomicU64,
    /// [`OPEN`] and so on. The first lead is always open, whatever this says.
    state: AtomicU8,
}

/// Nobody has the lead.
const CLOSED: u8 = 0;
/// A thread has it, is being appointed, or will be as soon as one is free.
const OPEN: u8 = 1;
/// The thread that has it shall give it up after its next answer.
const CLOSING: u8 = 2;

/// The serving threads of a session.
#[derive(Debug, Default)]
pub(super) struct Pool {
    leads: [Lead; LEADS],
    /// Where the watchdog sleeps.
    pub bell: Bell,
    seats: Mutex<Seats>,
    handles: Mutex<Vec<JoinHandle<Result<()>>>>,
    /// The first error of a thread that ended while others served.
    failed: Mutex<Option<Errno>>,
}

#[derive(Debug, Default)]
struct Seats {
    /// Leads that nobody has, for nobody was there to appoint.
    vacant: Vec<usize>,
    /// The session is over.
    over: bool,
    /// Threads there are beside the first.
    threads: usize,
    /// Names of threads are numbers.
    named: usize,
    /// Those that wait to be appointed.
    parked: Vec<Thread>,
    /// Those that were, but have not seen it yet.
    appointed: Vec<(ThreadId, usize)>,
}

impl Seats {
    /// Gives a lead to a parked thread; false when there is none.
    fn appoint(&mut self, lead: usize) -> bool {
        let Some(thread) = self.parked.pop() else { return false };
        self.appointed.push((thread.id(), lead));
        thread.unpark();
        true
    }

    /// The vacant lead that matters most.
    fn take_vacant(&mut self) -> Option<usize> {
        let (at, _) = self.vacant.iter().enumerate().min_by_key(|(_, lead)| **lead)?;
        Some(self.vacant.swap_remove(at))
    }

    /// The lead that a thread was appointed to.
    fn take_appointed(&mut self, thread: ThreadId) -> Option<usize> {
        let at = self.appointed.iter().position(|(id, _)| *id == thread)?;
        Some(self.appointed.swap_remove(at).1)
    }
}

impl Pool {
    fn lead(&self, number: usize) -> Option<&Lead> {
        self.leads.get(number)
    }

    /// The thread of a lead has got a request.
    pub fn begins(&self, lead: usize) -> Turn {
        // Before the bell is looked at: the watchdog looks here after it has hung it up.
        let beat = self.lead(lead).map_or(0, |l| l.beat.fetch_add(1, Ordering::SeqCst) + 1);
        self.bell.ring();
        Turn { lead, beat }
    }

    /// The beats of all leads, `None` for closed ones: see [`Pool::answering`].
    pub fn beats(&self) -> [Option<u64>; LEADS] {
        let mut first = true;
        self.leads.each_ref().map(|lead| {
            let open = std::mem::take(&mut first) || lead.state.load(Ordering::SeqCst) != CLOSED;
            open.then(|| lead.beat.load(Ordering::SeqCst))
        })
    }

    /// Whether a beat is that of an answer.
    pub fn answering(beat: u64) -> bool {
        beat % 2 == 1
    }

    /// Takes the lead from whoever answers this request; false when that is over, or was done before.
    fn take(&self, turn: Turn) -> bool {
        let next = turn.beat + 1;
        self.lead(turn.lead).is_some_and(|l| {
            l.beat.compare_exchange(turn.beat, next, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        })
    }

    /// Changes the state of a lead, if it is `from`.
    fn turns(&self, lead: usize, from: u8, to: u8) -> bool {
        self.lead(lead).is_some_and(|l| {
            l.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        })
    }

    /// Unless the answer with this number is finished, or the lead was passed on already: another
    /// thread has it.
    pub fn depose(&self, session: &Arc<Session>, lead: usize, beat: u64) {
        self.pass_on(session, Turn { lead, beat });
    }

    /// The same for the thread itself, before an answer that may take long.
    pub fn pass_on(&self, session: &Arc<Session>, turn: Turn) {
        if self.take(turn) && !self.turns(turn.lead, CLOSING, CLOSED) {
            self.appoint(session, turn.lead);
        }
    }

    /// The answer is finished. What the thread has to do next.
    pub fn finished(&self, turn: Turn) -> Next {
        if self.take(turn) && !self.turns(turn.lead, CLOSING, CLOSED) {
            Next::Lead(turn.lead)
        } else {
            Next::Park
        }
    }

    /// Opens one more lead, where there may be one.
    pub fn open(&self, session: &Arc<Session>) {
        for lead in 1..LEADS {
            if self.turns(lead, CLOSING, OPEN) {
                return;
            }
            if self.turns(lead, CLOSED, OPEN) {
                self.appoint(session, lead);
                return;
            }
        }
    }

    /// Closes the lead that was opened last; false when there is only the first.
    pub fn close(&self) -> bool {
        (1..LEADS).rev().any(|lead| self.turns(lead, OPEN, CLOSING))
    }

    /// Waits until the calling thread is appointed, or is one too many.
    pub fn park(&self) -> Next {
        let me = std::thread::current().id();
        let stays = {
            let mut seats = self.seats.lock();
            if seats.over {
                return Next::End;
            }
            if let Some(lead) = seats.take_vacant() {
                return Next::Lead(lead);
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
            if let Some(lead) = seats.take_appointed(me) {
                return Next::Lead(lead);
            }
            // Those that stay are at the bottom, for it is always the last that is appointed.
            if !stays && Instant::now() >= end {
                seats.parked.retain(|t| t.id() != me);
                return Next::End;
            }
        }
    }

    /// Chooses a thread for a lead.
    fn appoint(&self, session: &Arc<Session>, lead: usize) {
        {
            let mut seats = self.seats.lock();
            if seats.appoint(lead) {
                return;
            }
            if seats.over || seats.threads >= MOST {
                seats.vacant.push(lead); // for the first that finishes its work
                return;
            }
        }
        if !self.start(session, Next::Lead(lead)) {
            let mut seats = self.seats.lock();
            if !seats.appoint(lead) {
                seats.vacant.push(lead);
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
