//! Doing an operation on one side of a comparison, with the answer as text.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::op::{ACLS, MAPS, Op, SLOTS, Step};
use crate::mount::sys::{self, Errno, Mapping, R, libc};
use crate::tree::EXPLICIT_BEFORE;

/// One side of a comparison: a tree, and what one process has open in it.
pub struct Side {
    root: PathBuf,
    slots: [Option<OwnedFd>; SLOTS],
    maps: [Option<Map>; MAPS],
    /// Not kernel overlayfs, whose `fstat` of an unlinked file does not always show a link count of
    /// 0, and which misses ACLs that were never there.
    honest: bool,
}

/// A shared mapping with the handle it was made of, by which its file's size is known.
struct Map {
    fd: OwnedFd,
    memory: Mapping,
}

/// How much of a file a mapping shows.
const MAP_LEN: usize = 1 << 20;

impl Side {
    /// A tree without open handles.
    pub fn new(root: &Path, honest: bool) -> Side {
        Side {
            root: root.to_path_buf(),
            slots: [const { None }; SLOTS],
            maps: [const { None }; MAPS],
            honest,
        }
    }

    /// Closes every handle and mapping, for a remount.
    pub fn close_all(&mut self) {
        self.slots = [const { None }; SLOTS];
        self.maps = [const { None }; MAPS];
    }

    fn p(&self, path: &str) -> PathBuf {
        if path == "." { self.root.clone() } else { self.root.join(path) }
    }

    /// Does the operation of a step as its user; the answer as text.
    pub fn step(&mut self, step: &Step) -> String {
        match step.uid {
            0 => self.apply(&step.op),
            uid => sys::as_user(uid, uid, || self.apply(&step.op)),
        }
    }

    /// Does the operation; the answer as text.
    pub fn apply(&mut self, op: &Op) -> String {
        match self.try_apply(op) {
            Ok(s) => s,
            Err(e) => format!("{e:?}"),
        }
    }

    fn try_apply(&mut self, op: &Op) -> R<String> {
        match op {
            Op::Open { slot, path, flags, mode } => {
                self.slots[*slot] = None;
                self.slots[*slot] = Some(sys::open(self.p(path), *flags, *mode)?);
                Ok("ok".into())
            }
            Op::Tmpfile { slot, path, mode } => {
                self.slots[*slot] = None;
                let flags = libc::O_TMPFILE | libc::O_RDWR;
                self.slots[*slot] = Some(sys::open(self.p(path), flags, *mode)?);
                Ok("ok".into())
            }
            Op::Close { slot } => {
                self.slots[*slot] = None;
                Ok("ok".into())
            }
            Op::FdCopy { from, off, slot, to, len } => {
                let (Some(a), Some(b)) = (&self.slots[*from], &self.slots[*slot]) else {
                    return Ok("not open".into());
                };
                copy(a, *off, b, *to, *len)
            }
            Op::LinkFd { slot, path } => {
                let Some(fd) = &self.slots[*slot] else { return Ok("not open".into()) };
                done(sys::link_fd(fd, self.p(path)))
            }
            Op::MapOpen { map, slot } => {
                self.maps[*map] = None;
                let Some(fd) = &self.slots[*slot] else { return Ok("not open".into()) };
                let memory = Mapping::new(fd, 0, MAP_LEN, true, true)?;
                let fd = fd.try_clone().map_err(|_| Errno::EMFILE)?;
                self.maps[*map] = Some(Map { fd, memory });
                Ok("ok".into())
            }
            Op::MapPut { map, off, len, byte } => match &mut self.maps[*map] {
                Some(map) => map.put(*off, *len, *byte),
                None => Ok("not mapped".into()),
            },
            Op::MapGet { map, off, len } => match &self.maps[*map] {
                Some(map) => map.get(*off, *len),
                None => Ok("not mapped".into()),
            },
            _ => match op.slot() {
                Some(slot) => match &self.slots[slot] {
                    Some(fd) => self.on_handle(fd, op),
                    None => Ok("not open".into()),
                },
                None => self.on_path(op),
            },
        }
    }

    fn on_handle(&self, fd: &OwnedFd, op: &Op) -> R<String> {
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
            Op::FdChown { uid, gid, .. } => done(sys::fchown(fd, *uid, *gid)),
            Op::FdTimes { sec, .. } => done(sys::futimens(fd, (*sec, 5), (*sec, 987_654_321))),
            Op::FdSync { .. } => done(sys::fsync(fd)),
            // FUSE takes set-user-ID away before it asks the filesystem (fuse_file_fallocate), a local
            // one only when it knows the mode (tmpfs) or always (ext4).
            Op::FdFallocate { .. } if sys::fstat(fd)?.st_mode & 0o6000 != 0 => {
                Ok("set-user-ID".into())
            }
            Op::FdFallocate { mode, off, len, .. } => {
                sys::fallocate(fd, *mode, *off, *len)?;
                touch(fd)
            }
            Op::FdMap { off, len, byte, sync, .. } => map_store(fd, *off, *len, *byte, *sync),
            Op::FdSeek { off, hole, .. } => seek(fd, *off, *hole),
            Op::FdSetXattr { name, len, byte, .. } => {
                done(sys::fsetxattr(fd, name, &vec![*byte; *len], 0))
            }
            Op::FdLock { kind, .. } => done(sys::flock(fd, *kind)),
            _ => Ok(String::new()),
        }
    }

    fn on_path(&self, op: &Op) -> R<String> {
        match op {
            // What goes through a FIFO is the kernel's: FUSE is not told, so its times stay.
            Op::Write { path, .. } | Op::Append { path, .. } if self.is_fifo(path) => {
                Ok("a FIFO".into())
            }
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
                sys::read(&fd, 4 << 20).map(|b| text(&b))
            }
            Op::Stat { path } => sys::lstat(self.p(path)).map(|st| self.stat(&st)),
            Op::Access { path, mode } => done(sys::access(self.p(path), *mode)),
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
            Op::Mkfifo { path, mode } => done(sys::mknod(self.p(path), libc::S_IFIFO | mode, 0)),
            Op::Chmod { path, mode } => done(sys::chmod(self.p(path), *mode)),
            Op::Chown { path, uid, gid } => done(sys::lchown(self.p(path), *uid, *gid)),
            Op::Times { path, sec } => {
                done(sys::utimens(self.p(path), (*sec, 5), (*sec, 123_456_789)))
            }
            Op::SetXattr { path, name, len, byte, flags } => {
                done(sys::setxattr(self.p(path), name, &vec![*byte; *len], *flags))
            }
            Op::SetAcl { path, default, which } => {
                let name = ["system.posix_acl_access", "system.posix_acl_default"];
                done(sys::setxattr(self.p(path), name[usize::from(*default)], &acl(*which), 0))
            }
            Op::GetXattr { path, name } => sys::getxattr(self.p(path), name).map(|v| text(&v)),
            Op::ListXattr { path } => sys::listxattr(self.p(path)).map(|v| format!("{v:?}")),
            Op::RemoveXattr { path, name } => match sys::removexattr(self.p(path), name) {
                // Kernel overlayfs, of a lower file; a local disk finds nothing wrong with it.
                Err(Errno::ENODATA) if !self.honest && name.starts_with("system.") => {
                    Ok("ok".into())
                }
                other => done(other),
            },
            // Both sides belong to the same process.
            Op::Umask { mask } => {
                sys::umask(*mask);
                Ok("ok".into())
            }
            _ => Ok("ok".into()),
        }
    }

    fn is_fifo(&self, path: &str) -> bool {
        use std::os::unix::fs::FileTypeExt;
        std::fs::metadata(self.p(path)).is_ok_and(|m| m.file_type().is_fifo())
    }

    fn stat(&self, st: &sys::Stat) -> String {
        let dir = is_dir(st);
        let time = if st.st_mtime < EXPLICIT_BEFORE {
            format!("{}.{:09}", st.st_mtime, st.st_mtime_nsec)
        } else {
            "now".into()
        };
        let nlink = if dir || !self.honest { 0 } else { st.st_nlink };
        let size = if dir { 0 } else { st.st_size };
        format!(
            "{:o} {}:{} nlink {nlink} size {size} mtime {time}",
            st.st_mode, st.st_uid, st.st_gid
        )
    }
}

fn done(r: R<()>) -> R<String> {
    r.map(|()| "ok".to_owned())
}

fn is_dir(st: &sys::Stat) -> bool {
    st.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Sets the times to now: filesystems differ in whether stores through a mapping, and preallocation,
/// do so (tmpfs does not).
fn touch(fd: &OwnedFd) -> R<String> {
    let now = (0, libc::UTIME_NOW);
    done(sys::futimens(fd, now, now))
}

/// The value of an ACL's xattr (include/uapi/linux/posix_acl_xattr.h).
fn acl(which: usize) -> Vec<u8> {
    let mut v = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in ACLS[which] {
        v.extend(tag.to_le_bytes());
        v.extend(perm.to_le_bytes());
        v.extend(id.to_le_bytes());
    }
    v
}

/// `copy_file_range` until done: it may stop early.
fn copy(from: &OwnedFd, off: i64, to: &OwnedFd, to_off: i64, len: usize) -> R<String> {
    let mut at = 0;
    while at < len {
        let n = sys::copy_file_range(from, off + at as i64, to, to_off + at as i64, len - at)?;
        if n == 0 {
            break;
        }
        at += n;
    }
    Ok(at.to_string())
}

/// Where data and holes begin differs between filesystems; that a hole reads as zeros does not.
fn seek(fd: &OwnedFd, off: i64, hole: bool) -> R<String> {
    let st = sys::fstat(fd)?;
    if st.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok("no regular file".into());
    }
    let zeros = |from: i64, to: i64| match sys::pread(fd, from, (to - from).max(0) as usize) {
        Ok(b) => b.iter().all(|b| *b == 0),
        Err(_) => true, // not open for reading
    };
    let (size, what) = (st.st_size, if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA });
    Ok(match sys::lseek(fd, off, what) {
        Err(Errno::ENXIO) if off >= size => "ENXIO".into(),
        Err(Errno::ENXIO) if !hole && zeros(off, size) => "ok".into(),
        Ok(at) if at < off || at > size || off >= size => format!("{at} of {size}"),
        Ok(at) if !hole && !zeros(off, at) => format!("data before {at}"),
        Ok(at) if hole && at < size && !zeros(at, at + 1) => format!("no hole at {at}"),
        Ok(_) => "ok".into(),
        Err(e) => format!("{e:?}"),
    })
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
    drop(m);
    touch(fd)
}

impl Map {
    /// The part of a range that lies inside the file and the mapping.
    fn inside(&self, off: i64, len: usize) -> R<Option<(usize, usize)>> {
        let end = (sys::fstat(&self.fd)?.st_size as usize).min(MAP_LEN).min(off as usize + len);
        Ok((end > off as usize).then(|| (off as usize, end - off as usize)))
    }

    fn put(&mut self, off: i64, len: usize, byte: u8) -> R<String> {
        let Some((off, len)) = self.inside(off, len)? else { return Ok("beyond the end".into()) };
        self.memory.put(off, &vec![byte; len]);
        touch(&self.fd)
    }

    fn get(&self, off: i64, len: usize) -> R<String> {
        let Some((off, len)) = self.inside(off, len)? else { return Ok("beyond the end".into()) };
        Ok(text(&self.memory.get(off, len)))
    }
}

/// Content in few characters: runs of the same byte.
fn text(b: &[u8]) -> String {
    const MOST: usize = 300;
    let mut out = String::new();
    for run in b.chunk_by(|a, b| a == b) {
        let _ = match run[0] {
            0 => write!(out, "0×{} ", run.len()),
            c => write!(out, "{}×{} ", char::from(c), run.len()),
        };
        if out.len() > MOST {
            let sum = b.iter().fold(0_u64, |h, b| h.wrapping_mul(31).wrapping_add((*b).into()));
            let _ = write!(out, "… sum {sum:x}");
            break;
        }
    }
    format!("{} bytes {}", b.len(), out.trim_end())
}
