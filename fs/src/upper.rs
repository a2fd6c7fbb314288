//! The write layer: the upper directory and the work directory beside it.
//!
//! Nothing becomes visible half-made. Whatever takes more than one system call is made under a
//! temporary name in the work directory and published by one rename or link. The work directory is
//! swept at mount, so what a killed filesystem left there is gone. The layout is overlayfs's:
//! `WORKDIR/work` for temporaries; `WORKDIR/cowl-index` has the files with several lower names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::attr::{Attr, Kind, Time};
use crate::format::{self, Mark, Namespace};
use crate::ident::{FileKey, Tag};
use crate::partial::{self, Records};
use crate::sys::dir::SetTime;
use crate::sys::{self, Errno, NAME_MAX, Result};

mod foreign;

pub use foreign::has_kernel_index;

mod incompat;
mod plan;
mod probe;
mod witness;

pub use plan::{Change, Plan};

/// How deletions are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhiteoutForm {
    /// A character device 0:0, overlayfs's own.
    Device,
    /// An empty file `.wh.NAME`, where devices cannot be made, or nothing can change places with them.
    Aufs,
}

/// What the filesystem under the upper can do, tried out at mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperFeatures {
    /// Where marks are written.
    pub namespace: Namespace,
    /// How deletions are recorded.
    pub whiteouts: WhiteoutForm,
    /// `RENAME_WHITEOUT` works.
    pub rename_whiteout: bool,
    /// POSIX ACLs can be stored.
    pub acls: bool,
    /// The host takes set-user-ID and set-group-ID away when we write, although the kernel did not
    /// ask for it (in a user namespace we lack the host's `CAP_FSETID`).
    pub drops_privileges: bool,
}

/// The write layer of a mount.
#[derive(Debug)]
pub struct Upper {
    root: OwnedFd,
    /// Holds the lock of the work directory.
    _workdir: OwnedFd,
    work: OwnedFd,
    index: OwnedFd,
    dev: u64,
    /// Whom the host makes things for when we make them.
    ids: (u32, u32),
    features: UpperFeatures,
    /// Do not wait for data to reach the disk.
    volatile: bool,
    next: AtomicU64,
    /// The records of partial files; `None` where there can be none.
    records: Option<Records>,
    /// Whether the upper is marked as having partial files.
    partial: Mutex<bool>,
    /// The filesystem cannot share blocks between files.
    no_clone: AtomicBool,
    /// Epochs of which marks can be believed.
    witnesses: Vec<u64>,
    /// This mount has left the witness of its epoch.
    own_witness: bool,
    /// Name in `work` of a whiteout device to make hard links of.
    shared_whiteout: Mutex<Option<Vec<u8>>>,
}

/// Directory of temporaries, as overlayfs names it.
const WORK: &[u8] = b"work";
/// Directory of the hard-link index (not overlayfs's `index`, whose names are file handles).
const INDEX: &[u8] = b"cowl-index";
/// Directory of the records of partial files.
const RECORDS: &[u8] = b"cowl-blocks";

/// In the index: says that deletions of the upper are `.wh.` files.
const FORM: &[u8] = b"whiteouts";

fn ensure_dir(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    match sys::dir::mkdirat(parent, name, 0o700) {
        Ok(()) | Err(Errno::EEXIST) => sys::dir::open_dir(parent, name),
        Err(e) => Err(e),
    }
}

/// Removes everything below the directory `fd`. Recursion depth is that of the tree.
fn sweep(fd: BorrowedFd<'_>) -> Result<()> {
    sweep_but(fd, |_| false)
}

/// The same, but leaves the entries that are to be kept.
fn sweep_but(fd: BorrowedFd<'_>, keep: impl Fn(&[u8]) -> bool) -> Result<()> {
    let mut names = Vec::new();
    sys::dir::list(fd, |e| {
        if !keep(e.name) {
            names.push((e.name.to_vec(), e.dtype));
        }
        Ok(())
    })?;
    for (name, dtype) in names {
        let is_dir = match Kind::from_dtype(dtype) {
            Some(kind) => kind == Kind::Dir,
            None => sys::dir::statat(fd, &name)?.kind == Kind::Dir,
        };
        if is_dir {
            let child = match sys::dir::openat(fd, &name, libc::O_RDONLY | libc::O_DIRECTORY, 0) {
                Err(Errno::EACCES) => {
                    sys::dir::chmodat(fd, &name, 0o700)?;
                    sys::dir::open_dir(fd, &name)?
                }
                other => other?,
            };
            sweep(child.as_fd())?;
            sys::dir::rmdirat(fd, &name)?;
        } else {
            sys::dir::unlinkat(fd, &name)?;
        }
    }
    Ok(())
}

impl Upper {
    /// Takes over `root` and `workdir` (already locked by the caller), sweeps the work directory
    /// and tries out what the filesystem can do. With `user_marks` marks are written in the `user.`
    /// namespace even where `trusted.` could be used.
    ///
    /// # Errors
    /// Any errno of making, sweeping or probing the work directory.
    pub fn open(
        root: OwnedFd,
        workdir: OwnedFd,
        volatile: bool,
        user_marks: bool,
    ) -> Result<Upper> {
        let partial = Upper::has_partial(workdir.as_fd())?;
        let work = ensure_dir(workdir.as_fd(), WORK)?;
        sweep_but(work.as_fd(), |name| {
            (partial && name == incompat::INCOMPAT) || witness::epoch_of(name).is_some()
        })?;
        let mut witnesses = witness::all(work.as_fd())?;
        // A default ACL here would leak into everything that is made here.
        match sys::xattr::remove(work.as_fd(), b"", crate::acl::DEFAULT) {
            Ok(()) => {}
            Err(e) if format::absent(e) => {}
            // btrfs refuses even this over a quota; usually there is nothing to take away.
            Err(e) if probe::full(e) => {
                match sys::xattr::get(work.as_fd(), b"", crate::acl::DEFAULT) {
                    Err(e) if format::absent(e) => {}
                    found => return Err(found.err().unwrap_or(e)),
                }
            }
            Err(e) => return Err(e),
        }
        let index = ensure_dir(workdir.as_fd(), INDEX)?;
        let dev = sys::dir::fstat(root.as_fd())?.dev;
        let mut features = probe::probe(work.as_fd(), user_marks)?;
        probe::keep_form(index.as_fd(), &mut features)?;
        // Without xattrs no file can be marked, without an epoch nothing can be told after a crash.
        let records = match partial::epoch(root.as_fd())? {
            Some(epoch) if features.namespace != Namespace::None => {
                Some(Records::new(ensure_dir(workdir.as_fd(), RECORDS)?, epoch))
            }
            _ => None,
        };
        let own = records.as_ref().map(Records::short_epoch).filter(|_| !volatile);
        let mut own_witness = false;
        if let Some(epoch) = own.filter(|epoch| !witnesses.contains(epoch)) {
            own_witness = witness::leave(work.as_fd(), epoch)?;
            witnesses.extend(own_witness.then_some(epoch));
        }
        let upper = Upper {
            root,
            _workdir: workdir,
            work,
            index,
            dev,
            ids: sys::process::ids(),
            features,
            volatile,
            next: AtomicU64::new(0),
            records,
            partial: Mutex::new(partial),
            no_clone: AtomicBool::new(false),
            witnesses,
            own_witness,
            shared_whiteout: Mutex::new(None),
        };
        if volatile {
            upper.note_volatile()?;
        }
        Ok(upper)
    }

    /// Lets others take the upper over, who then wait for the work directory.
    pub fn unlock(&self) {
        sys::process::unlock(self.root.as_fd());
    }

    /// The upper's root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory of temporaries.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// The directory of the hard-link index.
    pub fn index(&self) -> BorrowedFd<'_> {
        self.index.as_fd()
    }

    /// Device number of the upper's filesystem.
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// User and group that own what we make on the host.
    pub fn ids(&self) -> (u32, u32) {
        self.ids
    }

    /// What was found out at mount.
    pub fn features(&self) -> UpperFeatures {
        self.features
    }

    /// Whether waiting for the disk was given up (`-o volatile`).
    pub fn volatile(&self) -> bool {
        self.volatile
    }

    /// The records of partial files; `None` where there can be none.
    pub fn records(&self) -> Option<&Records> {
        self.records.as_ref()
    }

    /// Removes records that no file needs: every file has all its data.
    ///
    /// # Errors
    /// Errors of listing and removing.
    pub fn sweep_records(&self) -> Result<()> {
        self.records.as_ref().map_or(Ok(()), |r| sweep(r.dir()))
    }

    /// The first half of the [`Epoch`](partial::Epoch), where copies may wait for the disk.
    pub fn epoch(&self) -> Option<u64> {
        let epoch = self.records.as_ref().map(Records::short_epoch)?;
        self.witnessed(epoch).then_some(epoch)
    }

    /// Whether nobody else has used the upper since that epoch, so its marks can be believed.
    pub fn witnessed(&self, epoch: u64) -> bool {
        self.witnesses.contains(&epoch)
    }

    /// Everything that this mount has copied up is on the disk.
    pub fn all_settled(&self) {
        if let (Some(epoch), true) = (self.epoch(), self.own_witness) {
            witness::take_away(self.work(), epoch);
        }
    }

    /// Whether a file on the device `dev` may share its blocks with one of the upper.
    pub fn may_clone(&self, dev: u64) -> bool {
        dev == self.dev && !self.no_clone.load(Ordering::Relaxed)
    }

    /// Shares all blocks of `from`, a file on the device `dev`, with `to`. False where that cannot be.
    pub fn clone_file(&self, dev: u64, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
        if !self.may_clone(dev) {
            return false;
        }
        let cloned = sys::file::clone(from, to);
        if let Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS) = cloned {
            self.no_clone.store(true, Ordering::Relaxed);
        }
        cloned.is_ok()
    }

    /// A name not used before in the work directory of this mount.
    pub fn temp_name(&self) -> Vec<u8> {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Whether the upper directory `dir` may hold an object of this name. Where deletions are `.wh.` files, names
    /// with that prefix are taken, and the longest names could not be deleted.
    ///
    /// # Errors
    /// `ENAMETOOLONG` over 255 bytes, `EINVAL` for a name that would be read as a mark.
    pub fn check_name(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if name == format::AUFS_OPAQUE
            && (self.features.namespace == Namespace::None || format::dir_marks(dir, b"")?.opaque)
        {
            return Err(Errno::EINVAL);
        }
        if self.features.whiteouts == WhiteoutForm::Aufs {
            if name.starts_with(format::AUFS_WHITEOUT) {
                return Err(Errno::EINVAL);
            }
            if name.len() + format::AUFS_WHITEOUT.len() > NAME_MAX {
                return Err(Errno::ENAMETOOLONG);
            }
        }
        Ok(())
    }

    /// Makes a whiteout under a temporary name in the work directory.
    fn temp_whiteout(&self) -> Result<Vec<u8>> {
        let tmp = self.temp_name();
        sys::dir::mknodat(self.work(), &tmp, libc::S_IFCHR, 0)?;
        Ok(tmp)
    }

    /// Puts a whiteout where the upper holds nothing.
    pub fn add_whiteout(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if self.features.whiteouts == WhiteoutForm::Aufs {
            return self.add_aufs(dir, name);
        }
        // Hard links of one device node cost no inode each; its link count is limited (ext4: 65,000).
        let mut shared = self.shared_whiteout.lock();
        for _ in 0..2 {
            let tmp = match &*shared {
                Some(tmp) => tmp.clone(),
                None => {
                    let tmp = self.temp_whiteout()?;
                    *shared = Some(tmp.clone());
                    tmp
                }
            };
            match sys::dir::linkat(self.work(), &tmp, dir, name) {
                Err(Errno::EMLINK | Errno::ENOENT) => *shared = None,
                Err(Errno::EPERM | Errno::EOPNOTSUPP) => break, // a filesystem without hard links
                other => return other,
            }
        }
        drop(shared);
        sys::dir::mknodat(dir, name, libc::S_IFCHR, 0)
    }

    fn add_aufs(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let mark = [format::AUFS_WHITEOUT, name].concat();
        let flags = libc::O_CREAT | libc::O_WRONLY;
        sys::dir::openat(dir, &mark, flags, 0o644).map(drop)
    }

    /// Replaces a non-directory by a whiteout: no moment shows what lies below.
    pub fn replace_by_whiteout(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        if self.features.whiteouts == WhiteoutForm::Aufs {
            self.add_aufs(dir, name)?;
            return sys::dir::unlinkat(dir, name);
        }
        let tmp = self.temp_name();
        self.add_whiteout(self.work(), &tmp)?;
        let done = sys::dir::renameat2(self.work(), &tmp, dir, name, 0);
        if done.is_err() {
            let _gone = sys::dir::unlinkat(self.work(), &tmp);
        }
        done
    }

    /// Removes a directory that users see as empty, with the whiteouts it holds; leaves a whiteout
    /// when asked. Atomic: the directory is moved away first.
    pub fn remove_dir(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        whiteout: bool,
        bare: bool,
    ) -> Result<()> {
        // Without xattrs there may be an opaque marker file that users do not see.
        if bare && !whiteout && self.features.namespace != Namespace::None {
            return sys::dir::rmdirat(dir, name);
        }
        let tmp = self.temp_name();
        if whiteout && self.features.whiteouts == WhiteoutForm::Device {
            self.add_whiteout(self.work(), &tmp)?;
            let flags = libc::RENAME_EXCHANGE;
            if let Err(e) = sys::dir::renameat2(self.work(), &tmp, dir, name, flags) {
                let _gone = sys::dir::unlinkat(self.work(), &tmp);
                return Err(e);
            }
        } else {
            if whiteout {
                self.add_aufs(dir, name)?;
            }
            sys::dir::renameat2(dir, name, self.work(), &tmp, libc::RENAME_NOREPLACE)?;
        }
        let old = sys::dir::open_dir(self.work(), &tmp)?;
        sweep(old.as_fd())?;
        sys::dir::rmdirat(self.work(), &tmp)
    }

    /// Empties a directory of its whiteouts so that another can be renamed over it. It is made
    /// opaque first: a crash in between leaves an empty directory, not the lower's content.
    pub fn strip_dir(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        self.set_opaque(dir, name)?;
        let fd = sys::dir::open_dir(dir, name)?;
        sweep(fd.as_fd())
    }

    /// Publishes the temporary `tmp` under `name`. `over_whiteout` says that a whiteout is there.
    pub fn publish(
        &self,
        tmp: &[u8],
        kind: Kind,
        dir: BorrowedFd<'_>,
        name: &[u8],
        over_whiteout: bool,
    ) -> Result<()> {
        if !over_whiteout {
            return match sys::dir::renameat2(self.work(), tmp, dir, name, libc::RENAME_NOREPLACE) {
                // A filesystem without RENAME_NOREPLACE; we hold the directory's lock.
                Err(Errno::EINVAL) => sys::dir::renameat2(self.work(), tmp, dir, name, 0),
                other => other,
            };
        }
        match self.features.whiteouts {
            WhiteoutForm::Aufs => {
                self.make_way(dir, name, kind)?;
                sys::dir::renameat2(self.work(), tmp, dir, name, 0)?;
                self.remove_aufs(dir, name)
            }
            WhiteoutForm::Device if kind == Kind::Dir => {
                sys::dir::renameat2(self.work(), tmp, dir, name, libc::RENAME_EXCHANGE)?;
                sys::dir::unlinkat(self.work(), tmp)
            }
            WhiteoutForm::Device => sys::dir::renameat2(self.work(), tmp, dir, name, 0),
        }
    }

    /// Where deletions are `.wh.` files: replaces a device that says the same, written by another
    /// mount, which a directory could not be renamed over.
    pub fn make_way(&self, dir: BorrowedFd<'_>, name: &[u8], kind: Kind) -> Result<()> {
        if kind != Kind::Dir {
            return Ok(());
        }
        match sys::dir::statat(dir, name) {
            Ok(attr) if attr.kind != Kind::Dir => {
                self.add_aufs(dir, name)?;
                sys::dir::unlinkat(dir, name)
            }
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes the `.wh.` file of `name`, if there is one.
    pub fn remove_aufs(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match sys::dir::unlinkat(dir, &[format::AUFS_WHITEOUT, name].concat()) {
            Err(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Writes a mark; where the upper has no xattrs only what can be expressed by a file is kept.
    pub fn set_mark(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        mark: Mark,
        value: &[u8],
    ) -> Result<()> {
        match self.features.namespace.name(mark) {
            Some(attr) => sys::xattr::set(dir, name, &attr, value, 0),
            None => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Writes a mark that only keeps inode numbers stable over a remount: where it cannot be stored
    /// (symbolic links and devices in the `user.` namespace, no xattrs, no space) that is given up.
    pub fn set_soft_mark(&self, dir: BorrowedFd<'_>, name: &[u8], mark: Mark, value: &[u8]) {
        let _kept = self.set_mark(dir, name, mark, value);
    }

    /// Marks a directory opaque.
    pub fn set_opaque(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match self.set_mark(dir, name, Mark::Opaque, b"y") {
            Err(Errno::EOPNOTSUPP) => {
                let fd = sys::dir::open_dir(dir, name)?;
                let flags = libc::O_CREAT | libc::O_WRONLY;
                sys::dir::openat(fd.as_fd(), format::AUFS_OPAQUE, flags, 0o644).map(drop)
            }
            other => other,
        }
    }

    /// The link count in the union that was recorded for a file with several names in a lower.
    ///
    /// # Errors
    /// Errors of reading the record; a malformed one counts as absent.
    pub fn read_count(&self, key: FileKey) -> Result<Option<u32>> {
        match sys::dir::readlinkat(self.index(), &count_name(key)) {
            Ok(text) => Ok(std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok())),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Records the link count in the union of a file with several names in a lower. The record is a
    /// symbolic link whose target is the decimal count: written in one step, and unlike an xattr
    /// possible for links and devices in a user namespace as well.
    pub fn write_count(&self, key: FileKey, count: u32) -> Result<()> {
        self.put_symlink(&count_name(key), count.to_string().as_bytes())
    }

    /// Forgets that record: the file is in the upper now.
    pub fn forget_count(&self, key: FileKey) {
        let _may_be_absent = sys::dir::unlinkat(self.index(), &count_name(key));
    }

    /// All files of the index: the inode number of each in the upper, and its identity.
    ///
    /// # Errors
    /// Errors of listing the index.
    pub fn indexed(&self) -> Result<Vec<(u64, FileKey)>> {
        let mut out = Vec::new();
        for key in self.index_keys()? {
            match sys::dir::statat(self.index(), &Self::index_name(key)) {
                Ok(attr) => out.push((attr.ino, key)),
                Err(Errno::ENOENT) => {} // only its count is kept
                Err(e) => return Err(e),
            }
        }
        Ok(out)
    }

    fn index_keys(&self) -> Result<Vec<FileKey>> {
        let mut keys = Vec::new();
        sys::dir::list(self.index(), |e| {
            keys.extend(FileKey::parse(e.name.strip_suffix(COUNT).unwrap_or(e.name)));
            Ok(())
        })?;
        Ok(keys)
    }

    /// Empties the index of everything that was recorded over other layers than those of this mount
    /// (number and tag of each filesystem, see `FsTable`): inode numbers mean nothing there. The
    /// files keep the names that they have in the upper. Returns the tags to go on with, where there
    /// was one of the same layers.
    ///
    /// # Errors
    /// Errors of reading and changing the index.
    pub fn check_tags(&self, tags: &[(u16, Tag)]) -> Result<Vec<(u16, Tag)>> {
        let mut same = Vec::new();
        for (number, now) in tags {
            let found = match sys::dir::readlinkat(self.index(), &tag_name(*number)) {
                Ok(text) => Tag::parse(&text),
                Err(Errno::ENOENT) => None,
                Err(e) => return Err(e),
            };
            if let Some(joined) = found.and_then(|found| found.joined(*now)) {
                same.push((*number, joined));
                if found != Some(joined) {
                    self.put_symlink(&tag_name(*number), joined.to_string().as_bytes())?;
                }
            }
        }
        let is_same = |fs: u16| same.iter().any(|(number, _)| *number == fs);
        for key in self.index_keys()? {
            if !is_same(key.fs) {
                self.forget_plan(key);
                self.forget_count(key);
                let _may_be_absent = sys::dir::unlinkat(self.index(), &Self::index_name(key));
            }
        }
        for (number, tag) in tags.iter().filter(|(number, _)| !is_same(*number)) {
            self.put_symlink(&tag_name(*number), tag.to_string().as_bytes())?;
        }
        Ok(same)
    }

    /// Writes a symbolic link of the index, replacing an older one in one step.
    fn put_symlink(&self, name: &[u8], target: &[u8]) -> Result<()> {
        let tmp = self.temp_name();
        sys::dir::symlinkat(target, self.work(), &tmp)?;
        sys::dir::renameat2(self.work(), &tmp, self.index(), name, 0)
    }

    /// Name of a file of the hard-link index.
    pub fn index_name(key: FileKey) -> Vec<u8> {
        key.to_string().into_bytes()
    }

    /// Puts back the times that making something in a directory has changed: copy-up is no change
    /// that users made.
    pub fn restore_times(&self, dir: BorrowedFd<'_>, before: &Attr) {
        let (a, m) = (SetTime::At(before.atime), SetTime::At(before.mtime));
        let _best_effort = sys::dir::futimes(dir, a, m);
    }
}

/// Ends the name of a record of a link count.
const COUNT: &[u8] = b".count";

fn tag_name(number: u16) -> Vec<u8> {
    format!("{number:x}.tag").into_bytes()
}

fn count_name(key: FileKey) -> Vec<u8> {
    [key.to_string().as_bytes(), COUNT].concat()
}

/// The two times of `attr`, to be set on a copy.
pub fn times_of(attr: &Attr) -> (SetTime, SetTime) {
    let at = |t: Time| SetTime::At(t);
    (at(attr.atime), at(attr.mtime))
}
