//! The conversation with the kernel: the first handshake, then threads that take requests off the
//! device and answer them until the filesystem is unmounted.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use parking_lot::Mutex;

use super::count::Counts;
use super::discard::{self, Lost};
use super::explain;
use super::failed::Failed;
use super::opens::{Handle, Opened, Opens};
use super::policy::{self, Agreed, MAX_IO, Policy, VERSION};
use super::pool::{Next, Pool, Turn};
use super::reply;
use super::wire::{self, op};
use super::{NOTIFY_INVAL_INODE, prune, settle, slow, watch};
use crate::ident::NodeId;
use crate::overlay::Overlay;
use crate::sys::{self, Errno, Result};

/// Room for a request beside its data: header, write header, names.
const REQUEST_HEAD: usize = 4096;

/// What stands for the number of a request in a message that answers none.
pub(super) const NOTIFICATION: u64 = 0;

/// A mounted filesystem being served.
#[derive(Debug)]
pub struct Session {
    pub(super) overlay: Overlay,
    pub(super) device: OwnedFd,
    pub(super) policy: Policy,
    pub(super) agreed: Agreed,
    /// Where pages that could not be stored are handed to, to be dropped; `None` while not serving,
    /// and where the kernel holds no dirty pages.
    discards: Mutex<Option<Sender<Lost>>>,
    pub(super) failed: Failed,
    pub(super) pool: Pool,
    counts: Counts,
    pub(super) opens: Opens,
}

impl Session {
    /// Answers the kernel's first request on `device`, which is mounted already.
    ///
    /// # Errors
    /// `EPROTO` for a kernel older than protocol 7.23 (Linux 3.15); errors of the device.
    pub fn start(overlay: Overlay, device: OwnedFd, mut policy: Policy) -> Result<Session> {
        let hello = hello(&device)?;
        if policy.passthrough && !policy::offers_passthrough(hello.offered) {
            policy.set_passthrough(false);
        }
        let agreed = policy::negotiate(&policy, hello.offered, hello.max_readahead);
        send(&device, hello.unique, 0, agreed.reply().bytes())?;
        Ok(Session {
            overlay,
            device,
            policy,
            agreed,
            discards: Mutex::new(None),
            failed: Failed::default(),
            pool: Pool::default(),
            counts: Counts::default(),
            opens: Opens::default(),
        })
    }

    /// What was found out and chosen, a line each.
    pub fn explain(&self) -> Vec<String> {
        explain::all(&self.policy, &self.agreed, &self.overlay)
    }

    /// Tries out whether the kernel takes files of the host from us.
    ///
    /// # Errors
    /// See [`sys::fuse::backing_open`]; `EOPNOTSUPP` when that was not agreed.
    pub fn try_passthrough(&self) -> Result<()> {
        if !self.agreed.passthrough {
            return Err(Errno::EOPNOTSUPP);
        }
        let file = sys::file::memory()?;
        let id = sys::fuse::backing_open(self.device.as_fd(), file.as_fd())?;
        sys::fuse::backing_close(self.device.as_fd(), id)
    }

    /// What was agreed with the kernel.
    pub fn agreed(&self) -> Agreed {
        self.agreed
    }

    /// What was asked so far, in words.
    pub fn requests(&self) -> String {
        self.counts.to_string()
    }

    /// The union that is served.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// How much more the upper can take, bytes.
    pub fn room(&self) -> u64 {
        let stat = self.overlay.upper().and_then(|_| self.overlay.statfs().ok());
        stat.map_or(0, |s| {
            let [_, _, available] = s.blocks;
            available.saturating_mul(u64::from(s.frsize))
        })
    }

    /// Serves until the filesystem is unmounted.
    ///
    /// # Errors
    /// The errno of a thread that could not go on.
    pub fn run(self: &Arc<Session>) -> Result<()> {
        let mut discarding = None;
        if self.agreed.writeback {
            let (sender, thread) = discard::start(self)?;
            *self.discards.lock() = Some(sender);
            discarding = Some(thread);
        }
        let settling = match self.overlay.upper() {
            Some(upper) if !upper.volatile() => Some(settle::start(self)?),
            _ => None,
        };
        let pruning = self.policy.cache.map(|limit| prune::start(self, limit)).transpose()?;
        let watching = watch::start(self)?;
        for _ in 1..self.policy.threads.max(1) {
            self.pool.start(self, Next::Park);
        }
        let mut done = self.serve(Next::Lead(0));
        done = done.and(self.pool.join());
        self.pool.bell.end();
        if watching.join().is_err() {
            done = done.and(Err(Errno::EIO));
        }
        // Those that the watchdog may have started meanwhile.
        done = done.and(self.pool.join());
        drop(self.discards.lock().take());
        let waiting = settling.into_iter().chain(pruning).map(|(sender, thread)| {
            drop(sender);
            thread
        });
        for thread in discarding.into_iter().chain(waiting) {
            if thread.join().is_err() {
                done = done.and(Err(Errno::EIO));
            }
        }
        done
    }

    /// Takes requests and answers them, whenever the calling thread is appointed to.
    pub(super) fn serve(self: &Arc<Session>, mut next: Next) -> Result<()> {
        let mut buf = vec![0u8; MAX_IO + REQUEST_HEAD];
        let mut scratch = Scratch { data: vec![0u8; MAX_IO], ..Scratch::default() };
        loop {
            next = match next {
                Next::Park => self.pool.park(),
                Next::End => return Ok(()),
                Next::Lead(lead) => match sys::fuse::receive(self.device.as_fd(), &mut buf) {
                    Ok(n) => {
                        let turn = self.pool.begins(lead);
                        let request = buf.get(..n).ok_or(Errno::EIO);
                        match request.and_then(|r| self.handle(turn, r, &mut scratch)) {
                            Ok(()) => self.pool.finished(turn),
                            Err(e) => {
                                self.pool.pass_on(self, turn);
                                return Err(e);
                            }
                        }
                    }
                    // ENOENT: the request was interrupted before we could read it.
                    Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => next,
                    Err(e) => {
                        self.pool.end();
                        match e {
                            // Unmounted, or aborted through the control filesystem.
                            Errno::ENODEV | Errno::ECONNABORTED => return Ok(()),
                            e => return Err(e),
                        }
                    }
                },
            };
        }
    }

    fn handle(
        self: &Arc<Session>,
        turn: Turn,
        request: &[u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (head, body) = wire::parse(request)?;
        let head = &head;
        self.counts.add(head.opcode);
        match head.opcode {
            op::FORGET | op::BATCH_FORGET => {
                // A malformed one is the kernel's own loss; there is no reply to refuse it with.
                let _malformed = self.forget(head, body);
                return Ok(());
            }
            // Our operations are short; the kernel is told once that they cannot be interrupted.
            op::INTERRUPT => return send(&self.device, head.unique, -(Errno::ENOSYS as i32), &[]),
            _ => {}
        }
        if slow::may_take_long(head.opcode, body) {
            self.pool.pass_on(self, turn);
        }
        scratch.body.clear();
        scratch.pinned.clear();
        scratch.opened = None;
        scratch.lost = None;
        let sent = match self.answer(head, body, scratch) {
            Ok(Answer::Body) => send(&self.device, head.unique, 0, scratch.body.bytes()),
            Ok(Answer::Data(n)) => {
                let data = scratch.data.get(..n).ok_or(Errno::EIO)?;
                send(&self.device, head.unique, 0, data)
            }
            Err(e) => send(&self.device, head.unique, -(e as i32), &[]),
        };
        if let (Some(lost), Some(discards)) = (scratch.lost.take(), &*self.discards.lock()) {
            // Without the thread the mount is ending, and the kernel's cache with it.
            let _ending = discards.send(lost);
        }
        match sent {
            // The caller was killed while it waited: the kernel does not know the nodes that were
            // pinned for the reply.
            Err(Errno::ENOENT) => {
                for handle in scratch.pinned.drain(..) {
                    self.overlay.forget(self.opens.forget(handle, 1), 1);
                }
                match scratch.opened.take() {
                    Some(open) => self.release(open.handle, open.for_writing),
                    None => Ok(()),
                }
            }
            other => other,
        }
    }
}

/// The kernel's first request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello {
    /// Its number.
    pub unique: u64,
    /// Protocol version.
    pub version: (u32, u32),
    /// Read-ahead, bytes.
    pub max_readahead: u32,
    /// Flags offered.
    pub offered: u64,
}

/// Waits for the kernel's first request on a device that is mounted.
///
/// # Errors
/// `EPROTO` for a kernel older than protocol 7.23 (Linux 3.15); errors of the device.
pub(super) fn hello(device: &OwnedFd) -> Result<Hello> {
    const OLDEST_MINOR: u32 = 23;
    let mut buf = vec![0u8; MAX_IO + REQUEST_HEAD];
    loop {
        let n = match sys::fuse::receive(device.as_fd(), &mut buf) {
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => continue,
            other => other?,
        };
        let (head, mut body) = wire::parse(buf.get(..n).ok_or(Errno::EIO)?)?;
        if head.opcode != op::INIT {
            send(device, head.unique, -(Errno::EIO as i32), &[])?;
            continue;
        }
        let (major, minor) = (body.u32()?, body.u32()?);
        if major > VERSION.0 {
            // The kernel falls back to our major version and asks again.
            let mut b = reply::Body::default();
            b.u32(VERSION.0).u32(VERSION.1).zeros(56);
            send(device, head.unique, 0, b.bytes())?;
            continue;
        }
        if major < VERSION.0 || minor < OLDEST_MINOR {
            send(device, head.unique, -(Errno::EPROTO as i32), &[])?;
            return Err(Errno::EPROTO);
        }
        let (max_readahead, low) = (body.u32()?, body.u32()?);
        let high = body.u32().unwrap_or(0);
        let offered = u64::from(low) | (u64::from(high) << 32);
        return Ok(Hello { unique: head.unique, version: (major, minor), max_readahead, offered });
    }
}

/// What one thread needs to build replies in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The body of a structured reply.
    pub body: reply::Body,
    /// Data read from files.
    pub data: Vec<u8>,
    /// Files that the reply hands to the kernel.
    pub pinned: Vec<Handle>,
    /// What the reply opens.
    pub opened: Option<Opened>,
    /// Cached pages that could not be stored: to be dropped once the kernel has been told.
    pub lost: Option<Lost>,
}

/// Where a reply is.
pub(super) enum Answer {
    /// In the scratch's body.
    Body,
    /// The first so many bytes of the scratch's data.
    Data(usize),
}

/// Makes the kernel read a directory anew: the listing that it keeps says what `..` was.
pub(super) fn forget_listing(device: &OwnedFd, node: NodeId) -> Result<()> {
    let mut body = reply::Body::default();
    body.u64(node.0).u64(0).u64(0); // all of its pages
    match send(device, NOTIFICATION, NOTIFY_INVAL_INODE, body.bytes()) {
        Err(Errno::ENOENT) => Ok(()), // it keeps nothing
        other => other,
    }
}

/// Sends a reply.
pub(super) fn send(device: &OwnedFd, unique: u64, error: i32, body: &[u8]) -> Result<()> {
    let len = (reply::HEADER + body.len()) as u32;
    let mut head = [0u8; reply::HEADER];
    let (a, rest) = head.split_at_mut(4);
    let (b, c) = rest.split_at_mut(4);
    a.copy_from_slice(&len.to_ne_bytes());
    b.copy_from_slice(&error.to_ne_bytes());
    c.copy_from_slice(&unique.to_ne_bytes());
    sys::fuse::send(device.as_fd(), &[IoSlice::new(&head), IoSlice::new(body)])
}
