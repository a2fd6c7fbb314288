//! Keeps the number of known files near a limit (`cache=`).
//!
//! A file is known as long as the kernel remembers it, and with memory to spare the kernel remembers
//! everything. Over the limit it is asked to let go of what nobody uses, those first that have been
//! known for longest; what it gives up comes back as FORGET. What is in use stays, so the limit
//! bounds what is merely remembered.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::reply::Body;
use super::session::{NOTIFICATION, Session, send};
use crate::ident::NodeId;
use crate::overlay::Known;
use crate::sys::{self, Errno, Result};

/// How often the number is looked at: a walk meets some 100,000 files in that time.
const PERIOD: Duration = Duration::from_millis(500);
/// `FUSE_NOTIFY_PRUNE` (protocol 7.45): drop what nobody uses of these nodes.
const PRUNE: i32 = 9;
/// `FUSE_NOTIFY_INVAL_ENTRY`: drop a name.
const INVAL_ENTRY: i32 = 3;
/// Nodes named in one message: a page.
const BATCH: usize = 500;

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// `EAGAIN` when no thread can be started.
pub(super) fn start(session: &Arc<Session>, limit: usize) -> Result<(Sender<()>, JoinHandle<()>)> {
    let (sender, end) = channel();
    let session = Arc::clone(session);
    let thread = std::thread::Builder::new()
        .name("cowlfs-prune".into())
        .spawn(move || {
            let mut last = NodeId::ROOT;
            let mut trim = false;
            while end.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let known = session.overlay().node_count();
                if known > limit {
                    // Down to three quarters, so that there is peace for a while.
                    let victims = session.overlay().known(last, known - limit + limit / 4);
                    last = victims.last().map_or(NodeId::ROOT, |v| v.id);
                    // The mount may be gone: the serving threads see that for themselves.
                    let _asked_again = ask(&session, &victims);
                    trim = true;
                } else if std::mem::take(&mut trim) {
                    sys::process::give_back_memory();
                }
            }
        })
        .map_err(|_| Errno::EAGAIN)?;
    Ok((sender, thread))
}

fn ask(session: &Session, victims: &[Known]) -> Result<()> {
    // Files before the directories that they keep in use.
    for dirs in [false, true] {
        let some: Vec<&Known> = victims.iter().filter(|v| v.dir == dirs).collect();
        for batch in some.chunks(BATCH) {
            match prune(session, batch) {
                // Linux before 6.18 does not know this message.
                Err(Errno::EINVAL) if !dirs => {
                    batch.iter().try_for_each(|v| drop_name(session, v))?
                }
                Err(Errno::ENOENT | Errno::EINVAL) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn prune(session: &Session, batch: &[&Known]) -> Result<()> {
    let mut body = Body::default();
    body.u32(batch.len() as u32).u32(0).u64(0);
    for victim in batch {
        body.u64(victim.id.0);
    }
    send(&session.device, NOTIFICATION, PRUNE, body.bytes())
}

fn drop_name(session: &Session, victim: &Known) -> Result<()> {
    let Some((parent, name)) = &victim.name else { return Ok(()) };
    let mut body = Body::default();
    body.u64(parent.0).u32(name.len() as u32).u32(0).raw(name).zeros(1);
    match send(&session.device, NOTIFICATION, INVAL_ENTRY, body.bytes()) {
        // Forgotten meanwhile, or in use as a mount point.
        Err(Errno::ENOENT | Errno::EBUSY | Errno::ENOTEMPTY) => Ok(()),
        other => other,
    }
}
