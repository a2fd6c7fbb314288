//! `SEEK_DATA` and `SEEK_HOLE` under the writeback cache.
//!
//! The kernel asks us where a file has data, but may itself hold pages that it has not written to us
//! yet: to us they are holes, and a copying program would take them for zeros. So the kernel is first
//! told to drop what it caches of the file, which writes dirty pages back; only then the host is
//! asked. Those writes are requests of their own, which the serving threads must be free to take:
//! seeking has a thread of its own, and one seek is done at a time. The same thread has the kernel
//! drop pages that could not be stored (`failed`).

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::NOTIFY_INVAL_INODE;
use super::reply::{self, Body};
use super::session::{Session, send};
use crate::ident::NodeId;
use crate::sys::{self, Errno, Result};

/// The length by which `FUSE_NOTIFY_INVAL_INODE` means all that follows the offset.
const TO_THE_END: u64 = 0;

/// What has to wait for pages of the kernel.
#[derive(Debug)]
pub(super) enum Work {
    /// A seek to be answered.
    Seek(Seek),
    /// So many bytes of a file, from an offset on, could not be stored: the kernel must drop them.
    Drop(NodeId, u64, u32),
}

/// A seek to be answered.
#[derive(Debug)]
pub(super) struct Seek {
    /// Number of the request.
    pub unique: u64,
    /// The file.
    pub node: NodeId,
    /// From where.
    pub offset: u64,
    /// `SEEK_DATA` or `SEEK_HOLE`.
    pub whence: i32,
}

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// `EAGAIN` when no thread can be started.
pub(super) fn start(session: &Arc<Session>) -> Result<(Sender<Work>, JoinHandle<()>)> {
    let (sender, work) = channel();
    let session = Arc::clone(session);
    let thread = std::thread::Builder::new()
        .name("cowlfs-seek".into())
        .spawn(move || do_all(&session, &work))
        .map_err(|_| Errno::EAGAIN)?;
    Ok((sender, thread))
}

fn do_all(session: &Session, work: &Receiver<Work>) {
    while let Ok(work) = work.recv() {
        // Whoever asked may be gone, or the mount: the serving threads see that for themselves.
        let _nobody_waits = match work {
            Work::Seek(seek) => answer(session, &seek),
            Work::Drop(node, offset, len) => drop_pages(session, node, offset, u64::from(len)),
        };
    }
}

fn answer(session: &Session, seek: &Seek) -> Result<()> {
    let found = drop_pages(session, seek.node, 0, TO_THE_END)
        .and_then(|()| session.overlay.seek(seek.node, seek.offset, seek.whence));
    let mut body = Body::default();
    match found {
        Ok(at) => send(&session.device, seek.unique, 0, body.u64(at).bytes()),
        Err(e) => send(&session.device, seek.unique, -(e as i32), &[]),
    }
}

/// Makes the kernel write back, where that is still to be done, and drop what it caches of a part of
/// a file.
fn drop_pages(session: &Session, node: NodeId, offset: u64, len: u64) -> Result<()> {
    let mut body = Body::default();
    body.u64(node.0).u64(offset).u64(len);
    let mut head = Body::default();
    head.u32((reply::HEADER + body.len()) as u32).u32(NOTIFY_INVAL_INODE as u32).u64(0);
    let parts = [IoSlice::new(head.bytes()), IoSlice::new(body.bytes())];
    match sys::fuse::send(session.device.as_fd(), &parts) {
        Err(Errno::ENOENT) => Ok(()), // the kernel does not know the file any more
        other => other,
    }
}
