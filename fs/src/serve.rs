//! The FUSE server: the only room that knows the protocol.
//!
//! The wire format is our own code (`wire`, `reply`), not a library's, for what the available one
//! cannot say: a node number apart from `st_ino` (identity must not depend on an inode number that
//! users see), `O_TMPFILE`, birth times by statx, and the kernel's word that a truncation must drop
//! set-user-ID. What is negotiated and how long things may be cached stands in `policy`.

mod chown;
mod count;
mod discard;
mod dispatch;
pub mod explain;
mod failed;
mod opens;
mod policy;
mod pool;
pub mod probe;
mod prune;
mod reply;
mod session;
mod settle;
mod slow;
mod watch;
mod wire;

/// `FUSE_NOTIFY_INVAL_INODE`.
const NOTIFY_INVAL_INODE: i32 = 2;

pub mod mount;

pub use policy::{Policy, negotiate};
pub use session::Session;
