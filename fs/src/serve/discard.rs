//! Has the kernel drop pages that could not be stored (`failed`).
//!
//! Dropping waits for whoever uses the pages: for a read under way, and for new data in them that is
//! written back first. Those are requests to us, which the serving threads must be free to take, so
//! it is done by a thread of its own.
//!
//! That wait cannot be interrupted. Were the program killed in it, nobody would answer what it waits
//! for, and the connection would stay open, because the waiting thread itself holds the device. So
//! it is kept as rare and short as can be: pages are dropped only after a write failed, only those
//! pages, and only when the failure has been answered, so that they do not wait for that answer.
//! Nothing else waits for pages: what would have to, seeking for holes among pages not written
//! back yet, is left to the kernel (`dispatch`).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::NOTIFY_INVAL_INODE;
use super::reply::Body;
use super::session::{NOTIFICATION, Session, send};
use crate::ident::NodeId;
use crate::sys::{Errno, Result};

/// Bytes of a file, from an offset on, that could not be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// The file.
    pub node: NodeId,
    /// From where.
    pub offset: u64,
    /// How many.
    pub len: u32,
}

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// `EAGAIN` when no thread can be started.
pub(super) fn start(session: &Arc<Session>) -> Result<(Sender<Lost>, JoinHandle<()>)> {
    let (sender, lost) = channel();
    let session = Arc::clone(session);
    let thread = std::thread::Builder::new()
        .name("cowlfs-discard".into())
        .spawn(move || drop_all(&session.device, &lost))
        .map_err(|_| Errno::EAGAIN)?;
    Ok((sender, thread))
}

fn drop_all(device: &OwnedFd, lost: &Receiver<Lost>) {
    while let Ok(Lost { node, offset, len }) = lost.recv() {
        let mut body = Body::default();
        body.u64(node.0).u64(offset).u64(u64::from(len));
        // The kernel may have forgotten the file, or the mount may be gone: the serving threads see
        // that for themselves.
        let _nothing_to_drop = send(device, NOTIFICATION, NOTIFY_INVAL_INODE, body.bytes());
    }
}
