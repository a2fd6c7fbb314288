//! Files that have only some of their data in the upper: the mark they carry, and the record of which
//! blocks they hold.
//!
//! The file itself is sparse and carries a mark (an xattr) that names its record, a file in
//! `WORKDIR/cowl-blocks`. The record has the bitmap twice. The *live* one is written right after the
//! data and is true as long as the page cache lives: a killed program loses nothing. The *durable*
//! one is written once the data is known to be on the disk; after the machine itself has gone down
//! (another [`Epoch`]) only that one counts, and all other blocks show the lower's data again, as if
//! what was written and never synced had not happened. `docs/on-disk.md` has the format.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::blocks::Blocks;
use crate::sys::{self, Errno, Result};

/// How long the page cache of the upper's filesystem certainly lives: what was written and not synced
/// is still there in the same epoch. Another boot is another epoch, and so is another mount of the
/// filesystem: a disk may have failed and come back.
pub type Epoch = [u8; 16];
/// Names a record.
pub type RecordId = [u8; 16];

/// The epoch of the filesystem that `upper` lies on; `None` where the boot cannot be told.
///
/// # Errors
/// Errors of statx(2).
pub fn epoch(upper: BorrowedFd<'_>) -> Result<Option<Epoch>> {
    /// Offset and prime of the 128-bit FNV-1a hash: it has to spread, not to keep a secret.
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let Some(boot) = sys::process::boot_id() else { return Ok(None) };
    // Kernels older than 6.8 do not tell; then only the boot counts.
    let mount = sys::dir::mount_id(upper)?.unwrap_or_default();
    let bytes = boot.to_le_bytes().into_iter().chain(mount.to_le_bytes());
    let hash = bytes.fold(OFFSET, |h, b| (h ^ u128::from(b)).wrapping_mul(PRIME));
    Ok(Some(hash.to_be_bytes()))
}

/// Version of mark and record.
const VERSION: u8 = 1;
/// Bit of a mark's flags: a durable bitmap was written, so a missing record is an error.
const DURABLE: u8 = 1;
const MAGIC: &[u8; 8] = b"cowlblk\x01";
/// Where the live bitmap begins in a record, bytes; also the granularity of the regions.
const REGION: u64 = 4096;
/// Bytes of a record's header that are used.
const HEADER: usize = 48;

/// The mark on a file (xattr `overlay.cowl.partial`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialMark {
    /// A durable bitmap was written.
    pub durable: bool,
    /// The epoch in which the file was made.
    pub epoch: Epoch,
    /// Its record.
    pub id: RecordId,
    /// Bytes from the start that the lower may still show.
    pub end: u64,
}

impl PartialMark {
    /// Forty-two bytes: version, flags, epoch, record id, end (little-endian).
    pub fn to_bytes(self) -> Vec<u8> {
        let head = [VERSION, if self.durable { DURABLE } else { 0 }];
        [&head[..], &self.epoch, &self.id, &self.end.to_le_bytes()].concat()
    }

    /// Reads what [`PartialMark::to_bytes`] wrote.
    ///
    /// # Errors
    /// `EIO` for anything else: what cannot be understood must not be shown as data.
    pub fn from_bytes(bytes: &[u8]) -> Result<PartialMark> {
        let parsed = || {
            let (&[version, flags], rest) = bytes.split_first_chunk()?;
            let (&epoch, rest) = rest.split_first_chunk()?;
            let (&id, rest) = rest.split_first_chunk()?;
            let end = u64::from_le_bytes(rest.try_into().ok()?);
            let known = version == VERSION && flags & !DURABLE == 0;
            known.then_some(PartialMark { durable: flags & DURABLE != 0, epoch, id, end })
        };
        parsed().ok_or(Errno::EIO)
    }
}

/// What a partial file holds, and what of that is on the disk.
#[derive(Debug)]
pub struct Held {
    /// The blocks.
    pub blocks: Blocks,
    /// Words of the bitmap that changed since the durable one was last written.
    unsynced: Range<usize>,
    /// Number of snapshots taken.
    taken: u64,
}

/// A file that has part of its data in the upper.
#[derive(Debug)]
pub struct Partial {
    id: RecordId,
    held: RwLock<Held>,
    /// The mark says that there is a durable bitmap.
    durable: AtomicBool,
    /// Whether the record is still wanted: not for a complete file, nor for one without a name.
    kept: AtomicBool,
    /// Number of the newest snapshot that is in the durable bitmap.
    written: Mutex<u64>,
}

/// Words of a bitmap at one moment, to be written when the data they speak of is on the disk.
#[derive(Debug)]
pub struct Snapshot {
    number: u64,
    words: Range<usize>,
    values: Vec<u64>,
}

impl Partial {
    /// For looking at; data may change only in blocks that are held already.
    pub fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read()
    }

    /// For bringing blocks in and cutting.
    pub fn held_mut(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write()
    }

    /// The mark that the file is to carry.
    pub fn mark(&self, records: &Records, held: &Held) -> PartialMark {
        PartialMark {
            durable: self.durable(),
            epoch: records.epoch,
            id: self.id,
            end: held.blocks.end(),
        }
    }

    /// Whether all data is in the upper.
    pub fn complete(&self) -> bool {
        self.held().blocks.complete()
    }

    /// The upper has the blocks of `range` (bytes) now.
    ///
    /// # Errors
    /// Errors of writing the record; nothing has changed then.
    pub fn hold(&self, records: &Records, held: &mut Held, range: &Range<u64>) -> Result<()> {
        let before = held.blocks.clone_words(range);
        let words = held.blocks.hold(range);
        if words.is_empty() || !self.kept() {
            return Ok(());
        }
        let values = held.blocks.words().get(words.clone()).unwrap_or_default();
        match records.write(self.id, Region::Live, words.start, values) {
            Err(Errno::ENOENT) if !self.kept() => return Ok(()), // dropped just now
            Err(e) => {
                held.blocks.restore(before);
                return Err(e);
            }
            Ok(()) => {}
        }
        held.unsynced = join(&held.unsynced, &words);
        Ok(())
    }

    /// What has to be written once the file's data is on the disk; `None` when nothing has changed.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let mut held = self.held_mut();
        if held.unsynced.is_empty() || !self.kept() {
            return None;
        }
        let words = std::mem::take(&mut held.unsynced);
        held.taken += 1;
        let values = held.blocks.words().get(words.clone()).unwrap_or_default().to_vec();
        Some(Snapshot { number: held.taken, words, values })
    }

    /// The snapshot was not written: it is still to be done.
    pub fn give_back(&self, snapshot: &Snapshot) {
        let mut held = self.held_mut();
        held.unsynced = join(&held.unsynced, &snapshot.words);
    }

    /// Writes the durable bitmap. The file's data was synced after the snapshot was taken, and the
    /// mark says `durable`.
    ///
    /// # Errors
    /// Errors of writing and syncing the record.
    pub fn write_durable(&self, records: &Records, snapshot: &Snapshot) -> Result<()> {
        let mut written = self.written.lock();
        let overlaps_newer = *written > snapshot.number;
        if overlaps_newer {
            // Bits are only ever added: the newer words are right, and what they lack is unsynced
            // again, to be written with the next snapshot.
            self.give_back(snapshot);
            return Ok(());
        }
        if !self.kept() {
            return Ok(());
        }
        records.write(self.id, Region::Durable, snapshot.words.start, &snapshot.values)?;
        records.sync(self.id)?;
        *written = snapshot.number;
        Ok(())
    }

    /// Whether the mark says that there is a durable bitmap.
    pub fn durable(&self) -> bool {
        self.durable.load(Ordering::Relaxed)
    }

    /// Notes what the mark says from now on.
    pub fn set_durable(&self, durable: bool) {
        self.durable.store(durable, Ordering::Relaxed);
    }

    /// The file is complete, or gone: its record is of no use any more.
    pub fn drop_record(&self, records: &Records) {
        if self.kept.swap(false, Ordering::Relaxed) {
            records.remove(self.id);
        }
    }

    fn kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }
}

fn join(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
}

#[derive(Clone, Copy)]
enum Region {
    Live,
    Durable,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records {
    dir: OwnedFd,
    epoch: Epoch,
    /// Those written last, open: whoever writes to a file here and there writes its record each time.
    recent: Mutex<LruCache<RecordId, Arc<OwnedFd>>>,
}

/// So many records are kept open.
const RECENT: NonZeroUsize = NonZeroUsize::new(16).unwrap();

fn name_of(id: RecordId) -> Vec<u8> {
    id.iter().map(|b| format!("{b:02x}")).collect::<String>().into_bytes()
}

fn header(epoch: Epoch, id: RecordId, words: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    let bytes = MAGIC.iter().chain(&epoch).chain(&id).copied().chain(words.to_le_bytes());
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = from;
    }
    out
}

impl Records {
    /// The open directory `dir`, in the epoch `epoch`.
    pub fn new(dir: OwnedFd, epoch: Epoch) -> Records {
        Records { dir, epoch, recent: Mutex::new(LruCache::new(RECENT)) }
    }

    /// The first half of this epoch, as short marks have it.
    pub fn short_epoch(&self) -> u64 {
        self.epoch.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// This epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn open(&self, id: RecordId) -> Result<Arc<OwnedFd>> {
        if let Some(file) = self.recent.lock().get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = sys::dir::openat(self.dir.as_fd(), &name_of(id), libc::O_RDWR, 0)?;
        Ok(self.keep_open(id, file))
    }

    fn keep_open(&self, id: RecordId, file: OwnedFd) -> Arc<OwnedFd> {
        let file = Arc::new(file);
        let old = self.recent.lock().push(id, Arc::clone(&file));
        drop(old); // closed outside the lock
        file
    }

    /// Makes the record of a file that has none of the first `end` bytes of its lower's data yet.
    /// `id` must be new.
    ///
    /// # Errors
    /// Errors of making and writing the record.
    pub fn create(&self, id: RecordId, end: u64) -> Result<Partial> {
        let blocks = Blocks::none(end);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let file = sys::dir::openat(self.dir.as_fd(), &name_of(id), flags, 0o600)?;
        let head = header(self.epoch, id, blocks.words().len() as u64);
        if let Err(e) = sys::file::pwrite_all(file.as_fd(), &head, 0) {
            self.remove(id);
            return Err(e);
        }
        self.keep_open(id, file);
        Ok(Partial::of(id, blocks, false))
    }

    /// What the file with this mark and `size` holds.
    ///
    /// # Errors
    /// `EIO` when the record is lost or is not one: what the upper holds cannot be told then.
    pub fn load(&self, mark: &PartialMark, size: u64) -> Result<Partial> {
        let end = mark.end.min(size);
        let file = match self.open(mark.id) {
            // Its making never reached the disk before the machine went down.
            Err(Errno::ENOENT) if !mark.durable && mark.epoch != self.epoch => {
                return self.create(mark.id, end);
            }
            Err(Errno::ENOENT) => return Err(Errno::EIO),
            other => other?,
        };
        let mut head = [0; HEADER];
        let n = sys::file::pread_full(file.as_fd(), &mut head, 0)?;
        let total = crate::blocks::count(mark.end).div_ceil(u64::from(u64::BITS));
        let words = head.last_chunk().map_or(0, |w| u64::from_le_bytes(*w));
        let (magic, rest) = head.split_first_chunk::<8>().ok_or(Errno::EIO)?;
        let (epoch, rest) = rest.split_first_chunk::<16>().ok_or(Errno::EIO)?;
        // Killed, or without power, before the header was there: nothing is held.
        if n < HEADER || head.iter().all(|&b| b == 0) {
            if mark.durable {
                return Err(Errno::EIO);
            }
            self.remove(mark.id);
            return self.create(mark.id, end);
        }
        if magic != MAGIC || rest.first_chunk() != Some(&mark.id) || words < total {
            return Err(Errno::EIO);
        }
        let same_epoch = *epoch == self.epoch;
        let region = if same_epoch { Region::Live } else { Region::Durable };
        let mut raw = vec![0; (total * 8) as usize];
        sys::file::pread_full(file.as_fd(), &mut raw, offset(region, words, 0))?;
        if !same_epoch {
            // From now on this is what is live; the header comes last.
            sys::file::pwrite_all(file.as_fd(), &raw, offset(Region::Live, words, 0))?;
            sys::file::pwrite_all(file.as_fd(), &header(self.epoch, mark.id, words), 0)?;
        }
        let words = raw.chunks_exact(8).filter_map(|c| c.try_into().ok()).map(u64::from_le_bytes);
        let partial = Partial::of(mark.id, Blocks::from_words(words, end), mark.durable);
        if same_epoch {
            // Whether the durable bitmap has all of it is not known.
            let mut held = partial.held_mut();
            held.unsynced = 0..held.blocks.words().len();
        }
        Ok(partial)
    }

    fn write(&self, id: RecordId, region: Region, first: usize, values: &[u64]) -> Result<()> {
        let file = self.open(id)?;
        let mut words = 0;
        if matches!(region, Region::Durable) {
            let mut head = [0; HEADER];
            sys::file::pread_full(file.as_fd(), &mut head, 0)?;
            words = head.last_chunk().map_or(0, |w| u64::from_le_bytes(*w));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|w| w.to_le_bytes()).collect();
        sys::file::pwrite_all(file.as_fd(), &bytes, offset(region, words, first))
    }

    fn sync(&self, id: RecordId) -> Result<()> {
        sys::file::fsync(self.open(id)?.as_fd(), true)
    }

    /// Makes sure that the names of the records are on the disk.
    ///
    /// # Errors
    /// Errors of fsync(2).
    pub fn sync_names(&self) -> Result<()> {
        sys::file::fsync(self.dir.as_fd(), false)
    }

    fn remove(&self, id: RecordId) {
        let open = self.recent.lock().pop(&id);
        drop(open);
        let _may_be_absent = sys::dir::unlinkat(self.dir.as_fd(), &name_of(id));
    }

    /// Whether there is none; not sure means no.
    pub fn none_left(&self) -> bool {
        let mut none = true;
        let listed = sys::dir::list(self.dir.as_fd(), |_| {
            none = false;
            Ok(())
        });
        none && listed.is_ok()
    }

    /// The directory, to be emptied when no file of the upper is partial any more.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Where word `first` of a region lies in a record of `words` words, bytes.
fn offset(region: Region, words: u64, first: usize) -> u64 {
    let start = match region {
        Region::Live => REGION,
        Region::Durable => REGION + (words * 8).next_multiple_of(REGION),
    };
    start + first as u64 * 8
}

impl Partial {
    fn of(id: RecordId, blocks: Blocks, durable: bool) -> Partial {
        Partial {
            id,
            held: RwLock::new(Held { blocks, unsynced: 0..0, taken: 0 }),
            durable: AtomicBool::new(durable),
            kept: AtomicBool::new(true),
            written: Mutex::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::BLOCK;

    const ID: RecordId = [7; 16];

    fn records(dir: &tempfile::TempDir, epoch: u8) -> Records {
        let fd = sys::dir::open_dir_path(dir.path()).unwrap();
        Records::new(fd, [epoch; 16])
    }

    fn mark(p: &Partial, r: &Records) -> PartialMark {
        p.mark(r, &p.held())
    }

    #[test]
    fn marks_round_trip_and_anything_else_is_refused() {
        let mark = PartialMark { durable: true, epoch: [1; 16], id: [2; 16], end: 77 };
        let bytes = mark.to_bytes();
        assert_eq!(PartialMark::from_bytes(&bytes), Ok(mark));
        assert_eq!(PartialMark::from_bytes(bytes.get(1..).unwrap()), Err(Errno::EIO));
        let newer = [&[2], bytes.get(1..).unwrap()].concat();
        assert_eq!(PartialMark::from_bytes(&newer), Err(Errno::EIO));
    }

    #[test]
    fn the_live_bitmap_counts_in_the_same_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let r = records(&dir, 1);
        let p = r.create(ID, 1000 * BLOCK).unwrap();
        p.hold(&r, &mut p.held_mut(), &(900 * BLOCK..901 * BLOCK)).unwrap();
        let again = r.load(&mark(&p, &r), 1000 * BLOCK).unwrap();
        assert!(again.held().blocks.holds(900 * BLOCK));
        assert!(!again.held().blocks.holds(899 * BLOCK));
    }

    #[test]
    fn only_the_durable_bitmap_counts_after_the_machine_went_down() {
        let dir = tempfile::tempdir().unwrap();
        let r = records(&dir, 1);
        let p = r.create(ID, 1000 * BLOCK).unwrap();
        p.hold(&r, &mut p.held_mut(), &(0..BLOCK)).unwrap();
        let snapshot = p.snapshot().unwrap();
        p.hold(&r, &mut p.held_mut(), &(BLOCK..2 * BLOCK)).unwrap();
        p.write_durable(&r, &snapshot).unwrap();
        assert!(!p.durable());
        p.set_durable(true);
        let after = records(&dir, 2);
        let loaded = after.load(&mark(&p, &r), 1000 * BLOCK).unwrap();
        assert!(loaded.held().blocks.holds(0));
        assert!(!loaded.held().blocks.holds(BLOCK));
        // And that is what lives on.
        let again = records(&dir, 2).load(&mark(&p, &r), 1000 * BLOCK).unwrap();
        assert!(!again.held().blocks.holds(BLOCK));
    }

    #[test]
    fn an_older_snapshot_does_not_take_back_what_a_newer_one_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let r = records(&dir, 1);
        let p = r.create(ID, 64 * BLOCK).unwrap();
        p.hold(&r, &mut p.held_mut(), &(0..BLOCK)).unwrap();
        let old = p.snapshot().unwrap();
        p.hold(&r, &mut p.held_mut(), &(BLOCK..2 * BLOCK)).unwrap();
        let new = p.snapshot().unwrap();
        p.write_durable(&r, &new).unwrap();
        p.write_durable(&r, &old).unwrap();
        let loaded = records(&dir, 2).load(&mark(&p, &r), 64 * BLOCK).unwrap();
        assert!(loaded.held().blocks.holds(BLOCK));
        assert!(p.snapshot().is_some(), "what the old one had is to be written again");
    }

    #[test]
    fn a_lost_record_is_an_error_and_one_never_written_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let r = records(&dir, 1);
        let p = r.create(ID, 9 * BLOCK).unwrap();
        let m = mark(&p, &r);
        r.remove(ID);
        assert_eq!(r.load(&m, 9 * BLOCK).unwrap_err(), Errno::EIO);
        let after = records(&dir, 2);
        let durable = PartialMark { durable: true, ..m };
        assert_eq!(after.load(&durable, 9 * BLOCK).unwrap_err(), Errno::EIO);
        assert!(!after.load(&m, 9 * BLOCK).unwrap().held().blocks.holds(0));
        std::fs::write(
            dir.path().join("07".repeat(16)),
            b"rubbish, and long enough to be a header, is it not",
        )
        .unwrap();
        assert_eq!(after.load(&m, 9 * BLOCK).unwrap_err(), Errno::EIO);
    }
}
