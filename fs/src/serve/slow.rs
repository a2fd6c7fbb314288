//! Which requests may take long by their kind: they wait for the disk, or move much data.
//!
//! Such a request is answered after the lead has passed on (`pool`). Whatever else takes long (a
//! lookup that the disk must answer, a copy-up) is seen by the watchdog: passing the lead on costs more
//! than answering nearly all requests does.

use super::wire::{Cursor, op};
use crate::sys::Result;

/// From this many bytes on, moving them takes longer than waking another thread.
const MUCH: u32 = 256 << 10;

/// Whether a request may take long.
pub(super) fn may_take_long(opcode: u32, body: Cursor<'_>) -> bool {
    match opcode {
        op::FSYNC
        | op::FSYNCDIR
        | op::SYNCFS
        | op::FALLOCATE
        | op::COPY_FILE_RANGE
        | op::COPY_FILE_RANGE_64 => true,
        op::READ | op::WRITE => size(body).is_ok_and(|size| size >= MUCH),
        _ => false,
    }
}

/// The size in `struct fuse_read_in` and `struct fuse_write_in`.
fn size(mut body: Cursor<'_>) -> Result<u32> {
    const BEFORE: usize = 16; // file handle, offset
    body.take(BEFORE)?;
    body.u32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_data_and_syncs_take_long() {
        let of = |size: u32| {
            let mut bytes = vec![0; 16];
            bytes.extend(size.to_ne_bytes());
            bytes
        };
        for opcode in [op::READ, op::WRITE] {
            assert!(!may_take_long(opcode, Cursor::new(&of(4096))));
            assert!(may_take_long(opcode, Cursor::new(&of(MUCH))));
            assert!(!may_take_long(opcode, Cursor::new(&[])));
        }
        assert!(may_take_long(op::FSYNC, Cursor::new(&[])));
        assert!(!may_take_long(op::LOOKUP, Cursor::new(&of(MUCH))));
    }
}
