//! The operations: how each is made up, done, and written down.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::Rng;
use crate::mount::sys::{self, Mapping, R, libc};
use crate::tree::EXPLICIT_BEFORE;

/// Open handles kept over operations.
pub const SLOTS: usize = 4;

/// One operation on a tree; paths are relative to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the system calls
pub enum Op {
    Open { slot: usize, path: String, flags: i32, mode: u32 },
    Close { slot: usize },
    FdRead { slot: usize, off: i64, len: usize },
    FdWrite { slot: usize, off: i64, len: usize, byte: u8 },
    FdAppend { slot: usize, len: usize, byte: u8 },
    FdTruncate { slot: usize, len: i64 },
    FdStat { slot: usize },
    FdChmod { slot: usize, mode: u32 },
    FdTimes { slot: usize, sec: i64 },
    FdSync { slot: usize },
    FdFallocate { slot: usize, mode: i32, off: i64, len: i64 },
    FdMap { slot: usize, off: i64, len: usize, byte: u8, sync: bool },
    Write { path: String, len: usize, byte: u8 },
    Pwrite { path: String, off: i64, len: usize, byte: u8 },
    Append { path: String, len: usize, byte: u8 },
    Truncate { path: String, len: i64 },
    Read { path: String },
    Stat { path: String },
    List { path: String },
    Readlink { path: String },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Rename { from: String, to: String, flags: u32 },
    Link { from: String, to: String },
    Symlink { target: String, path: String },
    Mksock { path: String, mode: u32 },
    Chmod { path: String, mode: u32 },
    Chown { path: String, uid: u32, gid: u32 },
    Times { path: String, sec: i64 },
    SetXattr { path: String, name: &'static str, len: usize, byte: u8, flags: i32 },
    GetXattr { path: String, name: &'static str },
    ListXattr { path: String },
    RemoveXattr { path: String, name: &'static str },
    Remount,
    Compare,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A path of one to three components, from few names, so that operations meet.
pub fn path(rng: &mut Rng) -> String {
    let depth = 1 + [0, 0, 1, 1, 1, 2][rng.below(6)];
    let parts: Vec<_> = (0..depth).map(|_| *rng.pick(&NAMES)).collect();
    let mut p = parts.join("/");
    if rng.one_in(12) {
        // The hard links that the layers have.
        p = p.rsplit_once('/').map_or(String::new(), |(d, _)| format!("{d}/"));
        let _ = write!(p, "h{}", rng.below(3));
    }
    p
}

fn mode(rng: &mut Rng) -> u32 {
    *rng.pick(&[0o644, 0o600, 0o755, 0o444, 0o777, 0o4755, 0o2755, 0o1777, 0o000])
}

fn offset(rng: &mut Rng) -> i64 {
    *rng.pick(&[0, 1, 100, 4095, 4096, 5000, 8192, 20_000, 70_000])
}

fn length(rng: &mut Rng) -> usize {
    *rng.pick(&[0, 1, 7, 100, 4096, 4097, 9000, 40_000])
}

fn byte(rng: &mut Rng) -> u8 {
    b'A' + rng.below(50) as u8
}

fn seconds(rng: &mut Rng) -> i64 {
    *rng.pick(&[-2_000_000, -1, 0, 1, 12_345_678, 1_000_000_000]) + rng.below(1000) as i64
}

/// A random operation; `privileged` allows what only real root may do.
pub fn random(rng: &mut Rng, privileged: bool) -> Op {
    let slot = rng.below(SLOTS);
    let names: &[&'static str] =
        if privileged { &["user.a", "user.b", "trusted.a"] } else { &["user.a", "user.b"] };
    match rng.below(100) {
        0..=7 => {
            let access = *rng.pick(&[libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR, libc::O_WRONLY]);
            let more = *rng.pick(&[
                0,
                0,
                0,
                libc::O_CREAT,
                libc::O_CREAT | libc::O_EXCL,
                libc::O_TRUNC,
                libc::O_CREAT | libc::O_TRUNC,
                libc::O_APPEND,
                libc::O_DIRECTORY,
                libc::O_NOFOLLOW,
            ]);
            // No open may wait for anything.
            let flags = access | more | libc::O_NONBLOCK;
            Op::Open { slot, path: path(rng), flags, mode: mode(rng) }
        }
        8..=9 => Op::Close { slot },
        10..=13 => Op::FdRead { slot, off: offset(rng), len: length(rng) },
        14..=18 => Op::FdWrite { slot, off: offset(rng), len: length(rng), byte: byte(rng) },
        19..=20 => Op::FdAppend { slot, len: length(rng), byte: byte(rng) },
        21..=22 => Op::FdTruncate { slot, len: offset(rng) },
        23..=25 => Op::FdStat { slot },
        26 => Op::FdChmod { slot, mode: mode(rng) },
        27 => Op::FdTimes { slot, sec: seconds(rng) },
        28 => Op::FdSync { slot },
        29..=30 => {
            let keep = libc::FALLOC_FL_KEEP_SIZE;
            let m = *rng.pick(&[0, keep, keep | libc::FALLOC_FL_PUNCH_HOLE]);
            Op::FdFallocate { slot, mode: m, off: offset(rng), len: length(rng) as i64 }
        }
        31..=33 => {
            let len = 1 + rng.below(6000);
            let sync = rng.one_in(2);
            Op::FdMap { slot, off: offset(rng), len, byte: byte(rng), sync }
        }
        34..=38 => Op::Write { path: path(rng), len: length(rng), byte: byte(rng) },
        39..=41 => {
            Op::Pwrite { path: path(rng), off: offset(rng), len: length(rng), byte: byte(rng) }
        }
        42..=43 => Op::Append { path: path(rng), len: length(rng), byte: byte(rng) },
        44..=46 => Op::Truncate { path: path(rng), len: offset(rng) },
        47..=48 => Op::Read { path: path(rng) },
        49..=50 => Op::Stat { path: path(rng) },
        51..=53 => {
            let p = if rng.one_in(4) { ".".into() } else { path(rng) };
            Op::List { path: p }
        }
        54 => Op::Readlink { path: path(rng) },
        55..=59 => Op::Mkdir { path: path(rng), mode: mode(rng) },
        60..=62 => Op::Rmdir { path: path(rng) },
        63..=67 => Op::Unlink { path: path(rng) },
        68..=77 => {
            let flags = *rng.pick(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
            Op::Rename { from: path(rng), to: path(rng), flags }
        }
        78..=80 => Op::Link { from: path(rng), to: path(rng) },
        81..=82 => Op::Symlink { target: path(rng), path: path(rng) },
        83 => Op::Mksock { path: path(rng), mode: mode(rng) },
        84..=86 => Op::Chmod { path: path(rng), mode: mode(rng) },
        87..=88 => {
            Op::Chown { path: path(rng), uid: rng.below(3) as u32, gid: rng.below(3) as u32 }
        }
        89..=91 => Op::Times { path: path(rng), sec: seconds(rng) },
        92..=94 => {
            let flags = *rng.pick(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]);
            let len = rng.below(300);
            Op::SetXattr {
                path: path(rng),
                name: names[rng.below(names.len())],
                len,
                byte: byte(rng),
                flags,
            }
        }
        95 => Op::GetXattr { path: path(rng), name: names[rng.below(names.len())] },
        96 => Op::ListXattr { path: path(rng) },
        97 => Op::RemoveXattr { path: path(rng), name: names[rng.below(names.len())] },
        98 => Op::Compare,
        _ => Op::Remount,
    }
}

/// One side of a comparison: a tree and the handles open in it.
pub struct Side {
    root: PathBuf,
    slots: [Option<OwnedFd>; SLOTS],
    /// Whether `fstat` of an unlinked file shows a link count of 0 (kernel overlayfs: not always).
    nlink_of_unlinked: bool,
}

impl Side {
    /// A tree without open handles.
    pub fn new(root: &Path, nlink_of_unlinked: bool) -> Side {
        Side { root: root.to_path_buf(), slots: [const { None }; SLOTS], nlink_of_unlinked }
    }

    /// Closes every handle, for a remount.
    pub fn close_all(&mut self) {
        self.slots = [const { None }; SLOTS];
    }

    fn p(&self, path: &str) -> PathBuf {
        if path == "." { self.root.clone() } else { self.root.join(path) }
    }

    /// Does the operation; the answer as text.
    pub fn apply(&mut self, op: &Op) -> String {
        match self.try_apply(op) {
            Ok(s) => s,
            Err(e) => format!("{e:?}"),
        }
    }

    fn try_apply(&mut self, op: &Op) -> R<String> {
        let done = |r: R<()>| r.map(|()| "ok".to_owned());
        match op {
            Op::Open { slot, path, flags, mode } => {
                self.slots[*slot] = None;
                self.slots[*slot] = Some(sys::open(self.p(path), *flags, *mode)?);
                Ok("ok".into())
            }
            Op::Close { slot } => {
                self.slots[*slot] = None;
                Ok("ok".into())
            }
            Op::FdRead { .. }
            | Op::FdWrite { .. }
            | Op::FdAppend { .. }
            | Op::FdTruncate { .. }
            | Op::FdStat { .. }
            | Op::FdChmod { .. }
            | Op::FdTimes { .. }
            | Op::FdSync { .. }
            | Op::FdFallocate { .. }
            | Op::FdMap { .. } => self.on_handle(op),
            Op::Write { path, len, byte } => {
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NONBLOCK;
                let fd = sys::open(self.p(path), flags, 0o640)?;
                sys::write(&fd, &vec![*byte; *len]).map(|n| n.to_string())
            }
            Op::Pwrite { path, off, len, byte } => {
                let fd = sys::open(self.p(path), libc::O_WRONLY | libc::O_NONBLOCK, 0)?;
                sys::pwrite(&fd, *off, &vec![*byte; *len]).map(|n| n.to_string())
            }
            Op::Append { path, len, byte } => {
                let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK;
                let fd = sys::open(self.p(path), flags, 0)?;
                sys::write(&fd, &vec![*byte; *len]).map(|n| n.to_string())
            }
            // FUSE with the writeback cache: the kernel keeps the modification time itself and does
            // not touch it when truncate(2) leaves the size as it is (fuse_do_setattr).
            Op::Truncate { path, len }
                if std::fs::metadata(self.p(path)).is_ok_and(|m| m.len() == *len as u64) =>
            {
                Ok("has that size".into())
            }
            Op::Truncate { path, len } => done(sys::truncate(self.p(path), *len)),
            Op::Read { path } => {
                let fd = sys::open(self.p(path), libc::O_RDONLY | libc::O_NONBLOCK, 0)?;
                sys::read(&fd, 1 << 18).map(|b| text(&b))
            }
            Op::Stat { path } => sys::lstat(self.p(path)).map(|st| self.stat(&st)),
            Op::List { path } => {
                let d = sys::open(self.p(path), libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
                let mut v: Vec<_> = sys::read_all_dirents(&d)?
                    .into_iter()
                    .map(|e| format!("{}:{}", e.name.to_string_lossy(), e.kind))
                    .collect();
                v.sort();
                Ok(v.join(" "))
            }
            Op::Readlink { path } => sys::readlinkat(libc::AT_FDCWD, self.p(path))
                .map(|t| t.to_string_lossy().into_owned()),
            Op::Mkdir { path, mode } => done(sys::mkdir(self.p(path), *mode)),
            Op::Rmdir { path } => done(sys::rmdir(self.p(path))),
            Op::Unlink { path } => done(sys::unlink(self.p(path))),
            Op::Rename { from, to, flags } => done(sys::rename(self.p(from), self.p(to), *flags)),
            Op::Link { from, to } => done(sys::link(self.p(from), self.p(to))),
            Op::Symlink { target, path } => done(sys::symlink(target, self.p(path))),
            Op::Mksock { path, mode } => done(sys::mknod(self.p(path), libc::S_IFSOCK | mode, 0)),
            Op::Chmod { path, mode } => done(sys::chmod(self.p(path), *mode)),
            Op::Chown { path, uid, gid } => done(sys::lchown(self.p(path), *uid, *gid)),
            Op::Times { path, sec } => {
                done(sys::utimens(self.p(path), (*sec, 5), (*sec, 123_456_789)))
            }
            Op::SetXattr { path, name, len, byte, flags } => {
                done(sys::setxattr(self.p(path), name, &vec![*byte; *len], *flags))
            }
            Op::GetXattr { path, name } => sys::getxattr(self.p(path), name).map(|v| text(&v)),
            Op::ListXattr { path } => sys::listxattr(self.p(path)).map(|v| format!("{v:?}")),
            Op::RemoveXattr { path, name } => done(sys::removexattr(self.p(path), name)),
            Op::Remount | Op::Compare => Ok("ok".into()),
        }
    }

    fn on_handle(&mut self, op: &Op) -> R<String> {
        let slot = op.slot().unwrap_or(0);
        let Some(fd) = &self.slots[slot] else { return Ok("not open".into()) };
        let done = |r: R<()>| r.map(|()| "ok".to_owned());
        match op {
            Op::FdRead { off, len, .. } => sys::pread(fd, *off, *len).map(|b| text(&b)),
            Op::FdWrite { off, len, byte, .. } => {
                sys::pwrite(fd, *off, &vec![*byte; *len]).map(|n| n.to_string())
            }
            // Where a directory ends, for lseek, is its filesystem's own business.
            Op::FdAppend { .. } if is_dir(&sys::fstat(fd)?) => Ok("a directory".into()),
            Op::FdAppend { len, byte, .. } => {
                sys::lseek(fd, 0, libc::SEEK_END)?;
                sys::write(fd, &vec![*byte; *len]).map(|n| n.to_string())
            }
            Op::FdTruncate { len, .. } => done(sys::ftruncate(fd, *len)),
            Op::FdStat { .. } => sys::fstat(fd).map(|st| self.stat(&st)),
            Op::FdChmod { mode, .. } => done(sys::fchmod(fd, *mode)),
            Op::FdTimes { sec, .. } => done(sys::futimens(fd, (*sec, 5), (*sec, 987_654_321))),
            Op::FdSync { .. } => done(sys::fsync(fd)),
            Op::FdFallocate { mode, off, len, .. } => done(sys::fallocate(fd, *mode, *off, *len)),
            Op::FdMap { off, len, byte, sync, .. } => map_store(fd, *off, *len, *byte, *sync),
            _ => Ok(String::new()),
        }
    }

    fn stat(&self, st: &sys::Stat) -> String {
        let dir = is_dir(st);
        let time = if st.st_mtime < EXPLICIT_BEFORE {
            format!("{}.{:09}", st.st_mtime, st.st_mtime_nsec)
        } else {
            "now".into()
        };
        let nlink = if dir || !self.nlink_of_unlinked { 0 } else { st.st_nlink };
        let size = if dir { 0 } else { st.st_size };
        format!(
            "{:o} {}:{} nlink {nlink} size {size} mtime {time}",
            st.st_mode, st.st_uid, st.st_gid
        )
    }
}

fn is_dir(st: &sys::Stat) -> bool {
    st.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Stores through a shared mapping, inside the file.
fn map_store(fd: &OwnedFd, off: i64, len: usize, byte: u8, sync: bool) -> R<String> {
    let size = sys::fstat(fd)?.st_size;
    if off >= size {
        return Ok("beyond the end".into());
    }
    let start = off / 4096 * 4096;
    let end = size.min(off + len as i64);
    let mut m = Mapping::new(fd, start, (end - start) as usize, true, true)?;
    m.put((off - start) as usize, &vec![byte; (end - off) as usize]);
    if sync {
        m.sync()?;
    }
    Ok("ok".into())
}

/// Content in few characters: runs of the same byte.
fn text(b: &[u8]) -> String {
    let mut out = String::new();
    for run in b.chunk_by(|a, b| a == b) {
        let _ = match run[0] {
            0 => write!(out, "0×{} ", run.len()),
            c => write!(out, "{}×{} ", char::from(c), run.len()),
        };
    }
    format!("{} bytes {}", b.len(), out.trim_end())
}

impl Op {
    /// The handle an operation uses.
    pub fn slot(&self) -> Option<usize> {
        match self {
            Op::Open { slot, .. }
            | Op::Close { slot }
            | Op::FdRead { slot, .. }
            | Op::FdWrite { slot, .. }
            | Op::FdAppend { slot, .. }
            | Op::FdTruncate { slot, .. }
            | Op::FdStat { slot }
            | Op::FdChmod { slot, .. }
            | Op::FdTimes { slot, .. }
            | Op::FdSync { slot }
            | Op::FdFallocate { slot, .. }
            | Op::FdMap { slot, .. } => Some(*slot),
            _ => None,
        }
    }

    /// As a line of a script.
    pub fn line(&self) -> String {
        match self {
            Op::Open { slot, path, flags, mode } => {
                format!("fd{slot}=$(open {path} {} mode={mode:o})", flag_names(*flags))
            }
            Op::Mkdir { path, mode } => format!("mkdir -m {mode:o} {path}"),
            Op::Rmdir { path } => format!("rmdir {path}"),
            Op::Unlink { path } => format!("unlink {path}"),
            Op::Rename { from, to, flags: 0 } => format!("rename {from} {to}"),
            Op::Rename { from, to, flags: libc::RENAME_NOREPLACE } => {
                format!("rename --noreplace {from} {to}")
            }
            Op::Rename { from, to, .. } => format!("rename --exchange {from} {to}"),
            Op::Link { from, to } => format!("ln -P {from} {to}"),
            Op::Symlink { target, path } => format!("ln -s {target} {path}"),
            Op::Chmod { path, mode } => format!("chmod {mode:o} {path}"),
            Op::Chown { path, uid, gid } => format!("chown -h {uid}:{gid} {path}"),
            Op::Truncate { path, len } => format!("truncate -s {len} {path}"),
            Op::List { path } => format!("ls -a {path}"),
            Op::Stat { path } => format!("stat {path}"),
            Op::Read { path } => format!("cat {path}"),
            Op::Mksock { path, mode } => format!("mksock -m {mode:o} {path}"),
            Op::Remount => "remount".into(),
            other => format!("{other:?}"),
        }
    }
}

fn flag_names(f: i32) -> String {
    let mut v = vec![match f & libc::O_ACCMODE {
        libc::O_RDONLY => "O_RDONLY",
        libc::O_WRONLY => "O_WRONLY",
        _ => "O_RDWR",
    }];
    for (bit, name) in [
        (libc::O_CREAT, "O_CREAT"),
        (libc::O_EXCL, "O_EXCL"),
        (libc::O_TRUNC, "O_TRUNC"),
        (libc::O_APPEND, "O_APPEND"),
        (libc::O_DIRECTORY, "O_DIRECTORY"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
    ] {
        if f & bit == bit {
            v.push(name);
        }
    }
    v.join("|")
}
