//! The copy of a lower object, made in the work directory before anybody sees it.
//!
//! How much of a file's data it gets is the [`Plan`]: all of it, a part, or none. A copy that lacks
//! data carries a mark that says so from the start.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Overlay, copyup::Amount};
use crate::acl;
use crate::attr::{Attr, Kind};
use crate::format::{self, Mark};
use crate::inode::Source;
use crate::layer::LowerRef;
use crate::partial::{Partial, RecordId};
use crate::sys::dir::SetTime;
use crate::sys::file::Part;
use crate::sys::{self, Errno, Result};
use crate::upper::{self, Upper};

/// Bytes per read and write where the kernel cannot copy by itself.
const COPY_BUFFER: usize = 1 << 20;
/// Bytes asked of one `copy_file_range`: long enough to be cheap, short enough to be interruptible.
const COPY_STEP: u64 = 64 << 20;
/// Files larger than this, 16 TiB, are copied up whole: their bitmaps would take more than 512 MiB.
const MOST_IN_BLOCKS: u64 = 1 << 44;
/// What a copy gets of a regular file's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The first so many bytes, which is where it ends.
    Data(u64),
    /// None: only attributes (overlayfs `metacopy`).
    Attributes,
    /// None yet: blocks come as they are written; the lower's data counts up to here, where it ends.
    Blocks(u64),
}

/// Where the data of a new copy is.
enum Content {
    /// On the disk, in the copy.
    Safe,
    /// In the copy, but not synced.
    Unsynced,
    /// In the lower.
    Lacking,
}

/// A finished copy in the work directory.
#[derive(Debug)]
pub(super) struct Copied {
    /// Its name there.
    pub tmp: Vec<u8>,
    /// The open file, for a regular file.
    pub file: Option<OwnedFd>,
    /// Where the data is that it lacks.
    pub source: Option<Source>,
    /// It has data that is not known to be on the disk.
    pub unsynced: bool,
}

impl Overlay {
    /// How much a copy-up that needs `amount` brings of a file of `size` bytes.
    pub(super) fn plan(&self, upper: &Upper, amount: Amount, size: u64) -> Plan {
        let small = self.settings.copy_up_blocks.filter(|_| upper.records().is_some());
        let bare = upper.features().namespace != format::Namespace::None
            && (small.is_some() || self.settings.metacopy);
        let by_block = |kept| small.is_some_and(|small| kept > small) && size <= MOST_IN_BLOCKS;
        match amount {
            Amount::Attributes if bare && size > 0 => Plan::Attributes,
            Amount::Prefix(n) if by_block(n.min(size)) => Plan::Blocks(n.min(size)),
            Amount::Prefix(n) => Plan::Data(n.min(size)),
            Amount::Change if by_block(size) => Plan::Blocks(size),
            Amount::Attributes | Amount::Change | Amount::Whole => Plan::Data(size),
        }
    }

    /// Copies a lower object to the work directory, as far as `plan` says; its data may be that of
    /// another file. On failure nothing is left there.
    pub(super) fn duplicate(
        &self,
        upper: &Upper,
        lower: &LowerRef,
        data: Option<&Source>,
        amount: Amount,
    ) -> Result<Copied> {
        let tmp = upper.temp_name();
        let mut copied = Copied { tmp, file: None, source: None, unsynced: false };
        match self.copy_object(upper, lower, data, amount, &mut copied) {
            Ok(()) => Ok(copied),
            Err(e) => {
                self.discard(upper, &copied);
                Err(e)
            }
        }
    }

    /// Removes a copy that could not be put in place.
    pub(super) fn discard(&self, upper: &Upper, copied: &Copied) {
        let source = copied.source.as_ref();
        if let (Some(p), Some(r)) = (source.and_then(|s| s.partial.as_ref()), upper.records()) {
            p.drop_record(r);
        }
        if sys::dir::unlinkat(upper.work(), &copied.tmp) == Err(Errno::EISDIR) {
            let _swept_at_the_next_mount = sys::dir::rmdirat(upper.work(), &copied.tmp);
        }
    }

    fn copy_object(
        &self,
        upper: &Upper,
        lower: &LowerRef,
        data: Option<&Source>,
        amount: Amount,
        copied: &mut Copied,
    ) -> Result<()> {
        const PRIVATE: u32 = 0o600;
        let layer = self.layer(lower.layer)?;
        let attr = layer.attr(lower)?;
        let work = upper.work();
        let tmp = &copied.tmp;
        let mut lacking = None;
        match attr.kind {
            Kind::Dir => sys::dir::mkdirat(work, tmp, 0o700)?,
            Kind::Symlink => sys::dir::symlinkat(&layer.readlink(lower)?, work, tmp)?,
            Kind::File => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let to = sys::dir::openat(work, tmp, flags, PRIVATE)?;
                let source = data.map_or(lower, |s| &s.at);
                let plan = self.plan(upper, amount, attr.size);
                match self.copy_content(upper, source, to.as_fd(), plan, &attr)? {
                    Content::Safe => {}
                    Content::Unsynced => copied.unsynced = !upper.volatile(),
                    Content::Lacking => {
                        let allocated = data.map_or(attr.blocks, |s| s.allocated);
                        let source = Source { at: source.clone(), allocated, partial: None };
                        lacking = Some((plan, source));
                    }
                }
                copied.file = Some(to);
            }
            kind => {
                self.settings.ownership.mknod(work, tmp, kind.mode() | PRIVATE, attr.rdev)?;
            }
        }
        self.copy_meta(upper, lower, &copied.tmp, &attr)?;
        if matches!(amount, Amount::Prefix(n) if n < attr.size) {
            // Cut off already: no crash may show it with the time of the whole.
            sys::dir::utimesat(work, &copied.tmp, SetTime::Omit, SetTime::Now)?;
        }
        if let (Some((plan, mut source)), Some(file)) = (lacking, &copied.file) {
            if let Plan::Blocks(end) = plan {
                source.partial = Some(Arc::new(self.make_partial(upper, file.as_fd(), end)?));
            } else {
                upper.set_mark(file.as_fd(), b"", Mark::Metacopy, b"")?;
            }
            copied.source = Some(source);
        }
        Ok(())
    }

    /// Brings the data that `plan` asks for into the new file `to`, and gives it its length.
    fn copy_content(
        &self,
        upper: &Upper,
        source: &LowerRef,
        to: BorrowedFd<'_>,
        plan: Plan,
        attr: &Attr,
    ) -> Result<Content> {
        let size = match plan {
            Plan::Data(n) | Plan::Blocks(n) => n,
            Plan::Attributes => attr.size,
        };
        if size == 0 {
            return Ok(Content::Safe);
        }
        let whole = matches!(plan, Plan::Data(_));
        let layer = self.layer(source.layer)?;
        let dev = layer.data_dev(source, attr);
        if upper.may_clone(dev) || whole {
            let from = layer.open(source)?;
            // Shared blocks are on the disk already, and this is as cheap as leaving them out.
            if from.file().is_some_and(|file| upper.clone_file(dev, file.as_fd(), to)) {
                sys::file::ftruncate(to, size)?;
                return Ok(Content::Safe);
            }
            if whole {
                copy_data(&from, to, size)?;
                return Ok(Content::Unsynced);
            }
        }
        sys::file::ftruncate(to, size)?;
        Ok(Content::Lacking)
    }

    /// Makes the record of a file of the upper that has none of the first `end` bytes of its lower's
    /// data, and marks the file `fd` with it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where there can be no partial files; errors of writing mark and record.
    pub(super) fn make_partial(
        &self,
        upper: &Upper,
        fd: BorrowedFd<'_>,
        end: u64,
    ) -> Result<Partial> {
        let records = upper.records().ok_or(Errno::EOPNOTSUPP)?;
        upper.note_partial()?;
        let partial = records.create(record_id(&sys::dir::fstat(fd)?), end)?;
        let mark = partial.mark(records, &partial.held()).to_bytes();
        if let Err(e) = upper.set_mark(fd, b"", Mark::Partial, &mark) {
            partial.drop_record(records);
            return Err(e);
        }
        Ok(partial)
    }

    fn copy_meta(&self, upper: &Upper, lower: &LowerRef, tmp: &[u8], attr: &Attr) -> Result<()> {
        let layer = self.layer(lower.layer)?;
        let work = upper.work();
        // Only what differs: an ordinary user may not even set what is there already.
        let own = self.settings.ownership;
        let made = own.stat(work, tmp)?;
        let uid = (made.uid != attr.uid).then_some(attr.uid);
        let gid = (made.gid != attr.gid).then_some(attr.gid);
        if uid.is_some() || gid.is_some() {
            own.chown(work, tmp, uid, gid)?;
        }
        let names = match layer.xattr_names(lower) {
            Err(Errno::EOPNOTSUPP | Errno::EACCES) => Vec::new(),
            other => other?,
        };
        for name in names.split(|&b| b == 0).filter(|n| !n.is_empty()) {
            if format::is_private(name) {
                continue;
            }
            let value = match layer.xattr(lower, name) {
                Err(Errno::ENODATA) => continue,
                other => other?,
            };
            match sys::xattr::set(work, tmp, name, &value, 0) {
                // As overlayfs: what the upper cannot store is lost, unless it guards access.
                Err(Errno::EOPNOTSUPP) if !guards_access(name) => {}
                other => other?,
            }
        }
        if attr.kind != Kind::Symlink {
            own.chmod(work, tmp, u32::from(attr.perm))?;
        }
        let (atime, mtime) = upper::times_of(attr);
        sys::dir::utimesat(work, tmp, atime, mtime)
    }
}

/// Whether losing this xattr would change who may do what.
fn guards_access(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT || name == b"security.capability"
}

/// A name for the record of the file with these attributes, never used before: its inode number, which
/// is its own while it lives, and the time.
fn record_id(attr: &Attr) -> RecordId {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |d| d.as_nanos() as u64);
    let mut id = [0; 16];
    let bytes = attr.ino.to_le_bytes().into_iter().chain(nanos.to_le_bytes());
    for (to, from) in id.iter_mut().zip(bytes) {
        *to = from;
    }
    id
}

/// Copies the first `len` bytes into an empty file, keeping holes.
pub(super) fn copy_data(from: &Part, to: BorrowedFd<'_>, len: u64) -> Result<()> {
    copy_run(from, to, 0, len)?;
    sys::file::ftruncate(to, len)
}

/// Copies the bytes from `at` up to `len` to the same place in `to`, where a hole is, keeping holes.
pub(super) fn copy_run(from: &Part, to: BorrowedFd<'_>, mut at: u64, len: u64) -> Result<()> {
    while at < len {
        let start = match from.seek(at, libc::SEEK_DATA) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break, // only a hole is left
            Err(_) => at,               // a filesystem that cannot tell
        };
        if start >= len {
            break;
        }
        let end = from.seek(start, libc::SEEK_HOLE).unwrap_or(len).min(len);
        let end = if end > start { end } else { len };
        copy_extent(from, to, start, end)?;
        at = end;
    }
    Ok(())
}

/// Copies the bytes from `start` to `end`, holes as zeros.
pub(super) fn copy_extent(from: &Part, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let mut at = start;
    while at < end {
        match from.copy_range(at, to, at, (end - at).min(COPY_STEP) as usize) {
            Ok(0) => break,
            Ok(n) => at += n as u64,
            Err(Errno::EINTR) => {}
            // Another filesystem, or one that cannot: by hand.
            Err(
                Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM,
            ) => {
                break;
            }
            Err(e) => return Err(e),
        }
    }
    let mut buf = vec![0u8; COPY_BUFFER.min((end - at) as usize)];
    while at < end {
        let want = buf.len().min((end - at) as usize);
        let part = buf.get_mut(..want).ok_or(Errno::EIO)?;
        let n = from.pread_full(part, at)?;
        if n == 0 {
            break; // the lower file became shorter: the rest is a hole
        }
        sys::file::pwrite_all(to, part.get(..n).ok_or(Errno::EIO)?, at)?;
        at += n as u64;
    }
    Ok(())
}
