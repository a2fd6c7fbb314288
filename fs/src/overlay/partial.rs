//! Reading and changing a file that has only some of its blocks in the upper.
//!
//! Whoever changes data in blocks that are not held yet is alone with the file: the bytes of those
//! blocks that are not changed come from the lower, then the blocks count as held. Blocks that are
//! held are read and written side by side. The order (data, then record, then memory) means that a
//! filesystem killed in between shows the lower's data: the change was not acknowledged.
//!
//! Under the lock of a file's blocks there are system calls on descriptors only, nothing that walks
//! the tree (see `docs/concurrency.md`).

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::Overlay;
use super::copyup::Amount;
use super::settle::as_writable;
use crate::blocks::BLOCK;
use crate::fdcache::DataFd;
use crate::format::Mark;
use crate::inode::{Node, Source};
use crate::partial::{Held, Partial};
use crate::sys::file::Part;
use crate::sys::{self, Errno, Result};

impl Overlay {
    /// The lower file and the blocks of a file that has some of its data in the upper.
    pub(super) fn parts(&self, node: &Node) -> Option<(Source, Arc<Partial>)> {
        let state = node.state.read();
        let source = state.source()?;
        Some((source.clone(), source.partial.clone()?))
    }

    /// The open lower file that has the rest of the data.
    fn open_source(&self, node: &Node, source: &Source) -> Result<Part> {
        if let Some(part) = self.fds.source(node.id) {
            return Ok(part);
        }
        let part = self.layer(source.at.layer)?.open(&source.at)?;
        self.fds.put_source(node.id, &part);
        Ok(part)
    }

    /// Reads from both.
    pub(super) fn read_parts(
        &self,
        node: &Arc<Node>,
        (source, partial): (&Source, &Partial),
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        let own = self.open_data(node, false)?;
        let lower = self.open_source(node, source)?;
        let limit = offset + buf.len() as u64;
        let held = partial.held();
        let mut at = offset;
        while at < limit {
            let (mine, stop) = held.blocks.run(at, limit);
            let part = (at - offset) as usize..(stop - offset) as usize;
            let (want, part) = (part.len(), buf.get_mut(part).ok_or(Errno::EIO)?);
            let n = if mine { &own.part } else { &lower }.pread_full(part, at)?;
            at += n as u64;
            if n < want {
                // The upper ends here; a lower that does has been changed, and has no such data.
                return if mine { Ok((at - offset) as usize) } else { Err(Errno::EIO) };
            }
        }
        Ok(buf.len())
    }

    /// Changes `len` bytes of data at `at` by `change`, which says how many it did change.
    pub(super) fn change_data(
        &self,
        node: &Arc<Node>,
        at: u64,
        len: u64,
        change: impl FnOnce(&DataFd) -> Result<u64>,
    ) -> Result<u64> {
        self.ensure_upper(node, Amount::Change)?;
        let file = self.open_data(node, true)?;
        let Some((source, partial)) = self.parts(node) else { return change(&file) };
        {
            let held = partial.held();
            if held.blocks.holds_all(&(at..at.saturating_add(len))) {
                return change(&file);
            }
        }
        let lower = self.open_source(node, &source)?;
        let records = self.need_upper()?.records().ok_or(Errno::EIO)?;
        let mut held = partial.held_mut();
        let n = change(&file)?;
        if n > 0 {
            // Writing the edges is no change of the user's that takes set-user-ID away.
            let fill = |fd: BorrowedFd<'_>| fill_edges(&held, &lower, fd, at, at + n);
            self.keep_privileges(&file, fill)?;
            partial.hold(records, &mut held, &(at..at + n))?;
            self.after_change(node, &partial, &held);
        }
        Ok(n)
    }

    /// Notes what is to be done about a file whose blocks have changed; a complete one is like any
    /// other file from now on.
    fn after_change(&self, node: &Arc<Node>, partial: &Arc<Partial>, held: &Held) {
        if held.blocks.complete() {
            let mut state = node.state.write();
            state.data = None;
            self.fds.drop_data(node.id);
        }
        self.settle_later(node, Some(partial));
    }

    /// Ends a file at `size` bytes by `cut`; what the lower has beyond never comes back.
    pub(super) fn cut(
        &self,
        node: &Arc<Node>,
        file: &DataFd,
        size: u64,
        cut: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Some((_, partial)) = self.parts(node) else { return cut() };
        let upper = self.need_upper()?;
        let records = upper.records().ok_or(Errno::EIO)?;
        let mut held = partial.held_mut();
        cut()?;
        if size < held.blocks.end() {
            held.blocks.cut(size);
            // A crash before this is seen by the size, which is smaller than the mark says.
            let mark = partial.mark(records, &held).to_bytes();
            as_writable(file.fd(), || upper.set_mark(file.fd(), b"", Mark::Partial, &mark))?;
            self.after_change(node, &partial, &held);
        }
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE` (lseek(2)) over both.
    pub(super) fn seek_parts(
        &self,
        node: &Arc<Node>,
        (source, partial): (&Source, &Partial),
        offset: u64,
        whence: i32,
    ) -> Result<u64> {
        let own = self.open_data(node, false)?;
        let lower = self.open_source(node, source)?;
        let size = sys::dir::fstat(own.fd())?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let held = partial.held();
        let mut at = offset;
        while at < size {
            let (mine, stop) = held.blocks.run(at, size);
            match if mine { &own.part } else { &lower }.seek(at, whence) {
                Ok(found) if found < stop => return Ok(found),
                Ok(_) | Err(Errno::ENXIO) => at = stop,
                Err(e) => return Err(e),
            }
        }
        if whence == libc::SEEK_HOLE { Ok(size) } else { Err(Errno::ENXIO) }
    }

    /// The open file that has the byte at `offset`, and how much of `len` it has from there on.
    pub(super) fn part_at(&self, node: &Arc<Node>, offset: u64, len: u64) -> Result<(DataFd, u64)> {
        let own = self.open_data(node, false)?;
        let Some((source, partial)) = self.parts(node) else { return Ok((own, len)) };
        let lower = self.open_source(node, &source)?;
        let (mine, stop) = partial.held().blocks.run(offset, offset.saturating_add(len));
        let file = if mine { own } else { DataFd { part: lower, writable: false } };
        Ok((file, stop - offset))
    }
}

/// Completes the first and the last block of a change from `start` to `end` (bytes) with what the lower
/// has around it, where the upper does not hold them yet.
fn fill_edges(
    held: &Held,
    lower: &Part,
    upper: BorrowedFd<'_>,
    start: u64,
    end: u64,
) -> Result<()> {
    let floor = |at: u64| at / BLOCK * BLOCK;
    let limit = held.blocks.end();
    for (from, to) in [(floor(start), start), (end, floor(end).saturating_add(BLOCK))] {
        let to = to.min(limit);
        // A change that ends at a block's border has nothing to do with the next block.
        if from >= to || (from == end && end.is_multiple_of(BLOCK)) || held.blocks.holds(from) {
            continue;
        }
        let mut buf = [0; BLOCK as usize];
        let part = buf.get_mut(..(to - from) as usize).ok_or(Errno::EIO)?;
        if lower.pread_full(part, from)? < part.len() {
            return Err(Errno::EIO); // the layer was changed
        }
        sys::file::pwrite_all(upper, part, from)?;
    }
    Ok(())
}
