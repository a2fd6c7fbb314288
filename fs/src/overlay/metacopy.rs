//! Files of the upper that lack data: attributes only, as kernel overlayfs leaves them with
//! `metacopy=on`, or part of it (`copyup=block`). The rest is that of a lower file, and is read from
//! there. Here they are found, begun and completed; `partial` has what happens in between.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Overlay;
use super::copyup::Amount;
use super::duplicate::{Plan, copy_extent, copy_run};
use super::settle::as_writable;
use crate::attr::{Attr, Kind};
use crate::blocks::Blocks;
use crate::format::{self, Mark, Namespace, ObjectMarks};
use crate::inode::{Node, Source};
use crate::layer::{Found, LowerRef, Metacopy};
use crate::partial::PartialMark;
use crate::sys::file::Part;
use crate::sys::{self, Errno, Result};
use crate::upper::{self, Upper};

/// A chain of attributes-only files longer than this is taken to be corrupt.
const LONGEST_CHAIN: usize = 64;

impl Overlay {
    /// The file with the data of an attributes-only file `name`: in the directories `stack` below it,
    /// or where it says, in the layers from `first` on.
    ///
    /// # Errors
    /// `EIO` when no layer has it: better no data than zeros.
    pub(super) fn data_below(
        &self,
        stack: &[LowerRef],
        first: u16,
        name: &[u8],
        source: &Metacopy,
    ) -> Result<LowerRef> {
        let mut first = first;
        let mut stack = stack.to_vec();
        let mut name = name.to_vec();
        let mut source = source.clone();
        for _ in 0..LONGEST_CHAIN {
            if let Some(target) = &source.redirect {
                self.may_follow()?;
                name = match target.iter().rposition(|&b| b == b'/') {
                    None => target.clone(),
                    Some(slash) => {
                        let (dir, base) = target.split_at_checked(slash).ok_or(Errno::EIO)?;
                        stack = self.resolve(dir, first, 0)?;
                        base.get(1..).ok_or(Errno::EIO)?.to_vec()
                    }
                };
            }
            let mut found = None;
            for (i, dir) in stack.iter().enumerate() {
                match self.layer(dir.layer)?.lookup(dir, &name)? {
                    Found::Nothing => {}
                    Found::Object(at, attr) if attr.kind == Kind::File => {
                        found = Some((i, at));
                        break;
                    }
                    Found::Whiteout | Found::Object(..) => return Err(Errno::EIO),
                }
            }
            let (i, at) = found.ok_or(Errno::EIO)?;
            match self.layer(at.layer)?.metacopy(&at)? {
                None => return Ok(at),
                Some(next) => source = next,
            }
            first = at.layer.0 + 1;
            stack.drain(..=i);
        }
        Err(Errno::ELOOP)
    }

    /// What the marks of the upper object `name` in `dir`, of `size` bytes, say about data it lacks; `find` finds the
    /// lower file.
    ///
    /// # Errors
    /// `EIO` when the data, or the record of what the upper has of it, cannot be found.
    pub(super) fn source_of(
        &self,
        upper: &Upper,
        (dir, name): (BorrowedFd<'_>, &[u8]),
        marks: &ObjectMarks,
        size: u64,
        find: impl FnOnce(&Metacopy) -> Result<LowerRef>,
    ) -> Result<Option<Source>> {
        if !marks.metacopy && marks.partial.is_none() {
            return Ok(None);
        }
        let at = find(&Metacopy { redirect: marks.redirect.clone() })?;
        let allocated = self.layer(at.layer)?.attr(&at)?.blocks;
        let partial = match &marks.partial {
            Some(mark) => {
                let records = upper.records().ok_or(Errno::EIO)?;
                let mark = PartialMark::from_bytes(mark)?;
                let loaded = records.load(&mark, size)?;
                if mark.end > size {
                    // Killed after it had cut the file: when it grows again, that must be seen.
                    let cut = PartialMark { end: size, ..mark }.to_bytes();
                    upper.set_mark(dir, name, Mark::Partial, &cut)?;
                }
                Some(Arc::new(loaded))
            }
            None => None,
        };
        Ok(Some(Source { at, allocated, partial }))
    }

    /// Readies a file of the upper that lacks data for what is going to be done with it.
    pub(super) fn bring(&self, upper: &Upper, node: &Arc<Node>, amount: Amount) -> Result<()> {
        if amount == Amount::Attributes {
            return Ok(());
        }
        let _copying = node.copying.lock();
        let Some(source) = node.state.read().source().cloned() else { return Ok(()) };
        // Every write to a partial file comes through here: its descriptor is kept. A file with
        // attributes only must not have one, for its data is read elsewhere.
        let file = match &source.partial {
            Some(_) => Arc::clone(self.open_data(node, true)?.part.file().ok_or(Errno::EIO)?),
            None => Arc::new(self.open_upper(node, libc::O_RDWR)?),
        };
        let size = sys::dir::fstat(file.as_fd())?.size;
        match self.plan(upper, amount, size) {
            Plan::Blocks(_) if source.partial.is_some() => Ok(()),
            Plan::Blocks(_) => self.begin(upper, node, file.as_fd(), source, size),
            Plan::Data(len) => self.complete(upper, node, file.as_fd(), &source, len),
            Plan::Attributes => Ok(()),
        }
    }

    /// An attributes-only file is going to get its data block by block.
    fn begin(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        file: BorrowedFd<'_>,
        source: Source,
        size: u64,
    ) -> Result<()> {
        let partial = Arc::new(self.make_partial(upper, file, size)?);
        // The new mark counts from now on, so the old one can go.
        unmark(file, Mark::Metacopy)?;
        let mut state = node.state.write();
        state.data = Some(Source { partial: Some(partial), ..source });
        self.fds.drop_data(node.id);
        Ok(())
    }

    /// Gives a file of the upper what it lacks of its first `len` bytes, and ends it there. Until the
    /// mark is gone, which is the last step, the lower's data counts, so this can be broken off at
    /// any point.
    fn complete(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        to: BorrowedFd<'_>,
        source: &Source,
        len: u64,
    ) -> Result<()> {
        let from = self.layer(source.at.layer)?.open(&source.at)?;
        // Nobody reads or writes the file meanwhile: they would take the same lock.
        let mut held = source.partial.as_ref().map(|p| p.held_mut());
        let mut len = len;
        unnoticed(to, |before| {
            len = len.min(before.size);
            match &held {
                Some(held) => fill(&held.blocks, &from, to, len)?,
                None => copy_run(&from, to, 0, len)?,
            }
            if len < before.size { sys::file::ftruncate(to, len) } else { Ok(()) }
        })?;
        let later = held.is_none() && len > 0 && self.mark_unsynced(upper, node, to)?;
        if !upper.volatile() && !later {
            sys::file::fsync(to, false)?;
        }
        lacks_nothing(to)?;
        if let (Some(partial), Some(records)) = (&source.partial, upper.records()) {
            partial.drop_record(records);
        }
        if let Some(held) = &mut held {
            held.blocks.cut(len);
            held.blocks.hold(&(0..u64::MAX));
        }
        let mut state = node.state.write();
        state.data = None;
        self.fds.drop_data(node.id);
        if later {
            // Whoever sees it complete sees it wait for the disk as well.
            self.settle_later(node, None);
        }
        Ok(())
    }

    /// Marks the file `fd` as having data that is not known to be on the disk, unless that cannot be
    /// undone after a crash.
    fn mark_unsynced(&self, upper: &Upper, node: &Node, fd: BorrowedFd<'_>) -> Result<bool> {
        let Some(value) = self.unsynced_origin(upper, node.key) else { return Ok(false) };
        // Under another name than the lower's, the lower would not be found again.
        let named = format::object_marks(fd, b"")?.redirect.is_none();
        Ok(named && upper.set_mark(fd, b"", Mark::Origin, &value).is_ok())
    }
}

/// Copies the blocks that are missing below `len`. What the upper has there is not data: it may be left
/// of a write that failed.
fn fill(blocks: &Blocks, from: &Part, to: BorrowedFd<'_>, len: u64) -> Result<()> {
    let mut at = 0;
    while at < len.min(blocks.end()) {
        let (held, stop) = blocks.run(at, len);
        if !held {
            let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            match sys::file::fallocate(to, hole, at, stop - at) {
                Ok(()) => copy_run(from, to, at, stop)?,
                Err(Errno::EOPNOTSUPP) => copy_extent(from, to, at, stop)?,
                Err(e) => return Err(e),
            }
        }
        at = stop;
    }
    Ok(())
}

/// Changes the content of the file `fd` by `change`, which is told its attributes, and leaves mode,
/// capabilities and times as they were: users have changed nothing.
pub(super) fn unnoticed(
    fd: BorrowedFd<'_>,
    change: impl FnOnce(&Attr) -> Result<()>,
) -> Result<()> {
    let before = sys::dir::fstat(fd)?;
    let capabilities = sys::xattr::get(fd, b"", CAPABILITIES).ok();
    change(&before)?;
    if sys::dir::fstat(fd)?.perm != before.perm {
        sys::dir::chmodat(fd, b"", u32::from(before.perm))?;
    }
    put_back(fd, capabilities)?;
    let (atime, mtime) = upper::times_of(&before);
    sys::dir::futimes(fd, atime, mtime)
}

/// Capabilities of a program, which the kernel takes away when anybody writes to it.
const CAPABILITIES: &[u8] = b"security.capability";

/// Gives a program that we wrote to its capabilities again.
fn put_back(fd: BorrowedFd<'_>, capabilities: Option<Vec<u8>>) -> Result<()> {
    match capabilities {
        Some(value) if sys::xattr::get(fd, b"", CAPABILITIES).ok().as_ref() != Some(&value) => {
            sys::xattr::set(fd, b"", CAPABILITIES, &value, 0)
        }
        _ => Ok(()),
    }
}

/// Takes the marks off the file `fd` that say that it lacks data, and where that is.
pub(super) fn lacks_nothing(fd: BorrowedFd<'_>) -> Result<()> {
    as_writable(fd, || {
        let marks = [Mark::Metacopy, Mark::Partial, Mark::Redirect];
        marks.into_iter().try_for_each(|mark| unmark(fd, mark))
    })
}

/// Takes a mark off the file `fd`, in whichever namespace.
fn unmark(fd: BorrowedFd<'_>, mark: Mark) -> Result<()> {
    for namespace in [Namespace::Trusted, Namespace::User] {
        let attr = namespace.name(mark).unwrap_or_default();
        super::soft(sys::xattr::remove(fd, b"", &attr))?;
    }
    Ok(())
}
