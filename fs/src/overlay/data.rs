//! Data of regular files, and targets of symbolic links.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Overlay;
use super::attr::Unprivileged;
use super::copyup::Amount;
use crate::attr::Kind;
use crate::fdcache::DataFd;
use crate::ident::NodeId;
use crate::inode::{Node, Place};
use crate::sys::file::Fsxattr;
use crate::sys::{self, Errno, Result};

impl DataFd {
    /// The descriptor. It is all of the file in the upper; a lower's may be a part of it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.part.fd()
    }
}

impl Overlay {
    /// The open data of a file: the lower's for reading, the upper's once it is there.
    ///
    /// What is opened is entered in the cache while the node's place is locked, so that a copy-up
    /// in between cannot leave the lower's descriptor behind.
    pub(super) fn open_data(&self, node: &Arc<Node>, write: bool) -> Result<DataFd> {
        if let Some(data) = self.fds.data(node.id)
            && (data.writable || !write)
        {
            return Ok(data);
        }
        if node.kind != Kind::File {
            return Err(if node.kind == Kind::Dir { Errno::EISDIR } else { Errno::EINVAL });
        }
        if !write {
            let state = node.state.read();
            let lower = match (state.place(), state.source()) {
                // A file with some of its data in the upper is read there and in the lower.
                (_, Some(source)) if source.partial.is_none() => Some(source.at.clone()),
                (Place::Lower(at), None) => Some(at),
                _ => None,
            };
            if let Some(at) = &lower {
                let data = DataFd { part: self.layer(at.layer)?.open(at)?, writable: false };
                self.fds.put_data(node.id, &data);
                return Ok(data);
            }
        }
        let held = node.state.read().held.clone();
        if let Some(held) = held {
            return Ok(DataFd::whole(held, true));
        }
        self.with_upper(node, |dir, name| {
            if name.is_empty() {
                return Err(Errno::EAGAIN); // lost its name just now: taken up below
            }
            // For reading only until something is written: an open descriptor that could write keeps
            // the host from remounting the upper's filesystem read-only.
            let access = if write { libc::O_RDWR } else { libc::O_RDONLY };
            let fd = sys::dir::openat(dir, name, access | libc::O_NONBLOCK, 0)?;
            let data = DataFd::whole(Arc::new(fd), write);
            self.fds.put_data(node.id, &data);
            Ok(data)
        })
        .or_else(|e| match (e, node.state.read().held.clone()) {
            (Errno::EAGAIN, Some(held)) => Ok(DataFd::whole(held, true)),
            (e, _) => Err(e),
        })
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    pub fn read(&self, id: NodeId, buf: &mut [u8], offset: u64) -> Result<usize> {
        let node = self.node(id)?;
        if let Some((source, partial)) = self.parts(&node) {
            return self.read_parts(&node, (&source, &partial), buf, offset);
        }
        self.open_data(&node, false)?.part.pread_full(buf, offset)
    }

    /// Writes all of `buf` at `offset`, copying the file up first.
    pub fn write(
        &self,
        id: NodeId,
        buf: &[u8],
        offset: u64,
        unprivileged: Option<&Unprivileged>,
    ) -> Result<()> {
        let node = self.node(id)?;
        let len = buf.len() as u64;
        let write = |fd: BorrowedFd<'_>| sys::file::pwrite_all(fd, buf, offset);
        self.change_data(&node, offset, len, |data| {
            match unprivileged {
                Some(_) => write(data.fd())?,
                None => self.keep_privileges(data, write)?,
            }
            Ok(len)
        })?;
        unprivileged.map_or(Ok(()), |caller| self.drop_privileges(&node, caller))
    }

    /// Changes the data of a file on behalf of someone who may keep its set-user-ID and
    /// set-group-ID: where the host takes them from us, they are put back.
    pub(super) fn keep_privileges(
        &self,
        data: &DataFd,
        change: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<()> {
        const PRIVILEGES: u16 = 0o6000;
        if !self.upper.as_ref().is_some_and(|u| u.features().drops_privileges) {
            return change(data.fd());
        }
        let before = sys::dir::fstat(data.fd())?.perm;
        change(data.fd())?;
        if before & PRIVILEGES != 0 {
            sys::dir::chmodat(data.fd(), b"", u32::from(before))?;
        }
        Ok(())
    }

    /// fallocate(2) with any mode the upper's filesystem knows.
    pub fn fallocate(&self, id: NodeId, mode: i32, offset: u64, length: u64) -> Result<()> {
        const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const CLEARS: [i32; 2] = [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE];
        let node = self.node(id)?;
        let allocate =
            |data: &DataFd| sys::file::fallocate(data.fd(), mode, offset, length).map(|()| length);
        if CLEARS.contains(&(mode & !KEEP_SIZE)) {
            return self.change_data(&node, offset, length, allocate).map(drop);
        }
        // Reserving space changes no data; everything else moves blocks about.
        let reserves = mode & !KEEP_SIZE == 0;
        self.ensure_upper(&node, if reserves { Amount::Change } else { Amount::Whole })?;
        allocate(&self.open_data(&node, true)?).map(drop)
    }

    /// `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
    pub fn seek(&self, id: NodeId, offset: u64, whence: i32) -> Result<u64> {
        let node = self.node(id)?;
        if let Some((source, partial)) = self.parts(&node) {
            return self.seek_parts(&node, (&source, &partial), offset, whence);
        }
        self.open_data(&node, false)?.part.seek(offset, whence)
    }

    /// copy_file_range(2) inside the mount; the host shares blocks where it can.
    pub fn copy_range(
        &self,
        from: NodeId,
        from_offset: u64,
        to: NodeId,
        to_offset: u64,
        len: u64,
    ) -> Result<usize> {
        let (to, from) = (self.node(to)?, self.node(from)?);
        if to.id == from.id {
            self.ensure_upper(&to, Amount::Whole)?;
        }
        // One part at a time: the caller asks again for what is missing.
        let (data, len) = self.part_at(&from, from_offset, len)?;
        let n = self.change_data(&to, to_offset, len, |out| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            data.part.copy_range(from_offset, out.fd(), to_offset, len).map(|n| n as u64)
        })?;
        Ok(n as usize)
    }

    /// fsync(2) of a file or directory. A lower object is on the disk already.
    pub fn fsync(&self, id: NodeId, data_only: bool) -> Result<()> {
        let node = self.node(id)?;
        let Some(upper) = &self.upper else { return Ok(()) };
        if upper.volatile() || self.settings.no_fsync || !node.in_upper() {
            return Ok(());
        }
        if node.dir.is_some() {
            let _tree = self.tree.read_recursive();
            let fd = self.upper_dir_fd(&node)?;
            return sys::file::fsync(fd.as_fd(), data_only);
        }
        if node.kind != Kind::File {
            return Ok(());
        }
        // What copy-up left for later is done now; that changes marks, which are attributes.
        let data_only = !self.settle_now(upper, node.id)? && data_only;
        let bare = node.state.read().source().is_some_and(|s| s.partial.is_none());
        if bare {
            // Only its attributes are in the upper.
            let file = self.open_upper(&node, libc::O_RDONLY)?;
            return sys::file::fsync(file.as_fd(), false);
        }
        sys::file::fsync(self.open_data(&node, false)?.fd(), data_only)
    }

    /// Everything written so far reaches the disk.
    pub fn sync_all(&self) -> Result<()> {
        match &self.upper {
            Some(upper) if !upper.volatile() => {
                self.settle_all()?;
                sys::file::syncfs(upper.root())
            }
            _ => Ok(()),
        }
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, id: NodeId) -> Result<Vec<u8>> {
        let node = self.node(id)?;
        if node.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        match self.place(&node) {
            Place::Lower(at) => self.layer(at.layer)?.readlink(&at),
            _ => self.with_upper(&node, sys::dir::readlinkat),
        }
    }
}

impl Overlay {
    /// The `chattr(1)` flags of a file or directory (`FS_IOC_GETFLAGS`).
    pub fn flags(&self, id: NodeId) -> Result<u32> {
        self.ask_flags(id, sys::file::get_flags)
    }

    /// Flags and project (`FS_IOC_FSGETXATTR`); the kernel asks for them before it sets flags.
    pub fn fsxattr(&self, id: NodeId) -> Result<Fsxattr> {
        self.ask_flags(id, sys::file::get_fsxattr)
    }

    fn ask_flags<T: Default>(
        &self,
        id: NodeId,
        ask: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        let node = self.node(id)?;
        if node.dir.is_some() {
            return match self.place(&node) {
                Place::Lower(_) => Ok(T::default()),
                _ => self.with_upper(&node, |fd, _| ask(fd)),
            };
        }
        let data = self.open_data(&node, false)?;
        // What shares a file with others has no flags of its own.
        data.part.file().map_or_else(|| Ok(T::default()), |file| ask(file.as_fd()))
    }

    /// Sets the `chattr(1)` flags (`FS_IOC_SETFLAGS`), copying the file up first.
    pub fn set_flags(&self, id: NodeId, flags: u32) -> Result<()> {
        self.change_flags(id, |fd| sys::file::set_flags(fd, flags))
    }

    /// Sets flags and project (`FS_IOC_FSSETXATTR`), copying the file up first.
    pub fn set_fsxattr(&self, id: NodeId, x: &Fsxattr) -> Result<()> {
        self.change_flags(id, |fd| sys::file::set_fsxattr(fd, x))
    }

    fn change_flags(
        &self,
        id: NodeId,
        change: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<()> {
        let node = self.node(id)?;
        self.ensure_upper(&node, Amount::Whole)?;
        if node.dir.is_some() {
            return self.with_upper(&node, |fd, _| change(fd));
        }
        // An immutable file takes no more marks.
        self.settle_now(self.need_upper()?, node.id)?;
        // For reading: an immutable file cannot be opened for more, and this is how it becomes another.
        change(self.open_data(&node, false)?.fd())
    }
}
