//! Brings what was copied up without waiting for the disk there, every few seconds.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::session::Session;
use crate::sys::{Errno, Result};

/// As long as ext4 and XFS let their journals wait.
const PERIOD: Duration = Duration::from_secs(5);

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// `EAGAIN` when no thread can be started.
pub(super) fn start(session: &Arc<Session>) -> Result<(Sender<()>, JoinHandle<()>)> {
    let (sender, end) = channel();
    let session = Arc::clone(session);
    let thread = std::thread::Builder::new()
        .name("cowlfs-settle".into())
        .spawn(move || {
            while end.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                // What failed is tried again; fsync and unmount are where it is told.
                let _tried_again = session.overlay.settle();
            }
        })
        .map_err(|_| Errno::EAGAIN)?;
    Ok((sender, thread))
}
