//! The host's file behind a file of the union, for a server that lets the kernel read and write it
//! without asking (FUSE passthrough).

use super::Overlay;
use super::copyup::Amount;
use crate::fdcache::DataFd;
use crate::ident::NodeId;
use crate::inode::Place;
use crate::sys::{self, Errno, Result};

/// A file of the host, and which one it is.
#[derive(Clone, Debug)]
pub struct Backing {
    /// Open on it; for reading only if it lies in a lower.
    pub data: DataFd,
    /// Its device and inode number.
    pub key: (u64, u64),
    /// All of the data is in it; otherwise only [`Overlay::read`] puts it together.
    pub whole: bool,
    /// It has set-user-ID or set-group-ID, which a write may have to take away.
    pub privileged: bool,
}

/// Set-user-ID and set-group-ID.
const PRIVILEGES: u16 = 0o6000;

impl Overlay {
    /// The host's file that has the data of a regular file now. For writing it is copied up first,
    /// whole: what this returns for writing is never a lower's.
    ///
    /// # Errors
    /// `EROFS` for writing without an upper; errors of copying up and of opening.
    pub fn backing(&self, id: NodeId, write: bool) -> Result<Backing> {
        let node = self.node(id)?;
        if write {
            self.ensure_upper(&node, Amount::Whole)?;
        }
        let data = self.open_data(&node, write)?;
        let whole = self.parts(&node).is_none() && data.part.file().is_some();
        if write && (!data.writable || matches!(self.place(&node), Place::Lower(_))) {
            return Err(Errno::EIO);
        }
        let attr = sys::dir::fstat(data.fd())?;
        let privileged = attr.perm & PRIVILEGES != 0;
        Ok(Backing { data, key: (attr.dev, attr.ino), whole, privileged })
    }
}
