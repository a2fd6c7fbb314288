//! Files that have attributes only, as kernel overlayfs leaves them with `metacopy=on`: their data is
//! that of a lower file. They are read from there, and completed before anything of them is changed.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Overlay;
use super::copyup::{Amount, copy_data};
use crate::attr::Kind;
use crate::format::{Mark, Namespace};
use crate::inode::Node;
use crate::layer::{Found, LowerData, LowerRef, Metacopy};
use crate::sys::{self, Errno, Result};
use crate::upper;

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

    /// Gives an attributes-only file of the upper its data. Until the mark is gone, which is the last
    /// step, the lower's data counts, so this can be broken off at any point.
    pub(super) fn complete(&self, node: &Arc<Node>, amount: Amount) -> Result<()> {
        let _copying = node.copying.lock();
        let Some(source) = node.state.read().data.clone() else { return Ok(()) };
        let from = self.layer(source.layer)?.open(&source)?;
        let opened = self.with_upper(node, |dir, name| {
            if name.is_empty() {
                return dir.try_clone_to_owned().map_err(|_| Errno::EMFILE);
            }
            sys::dir::openat(dir, name, libc::O_RDWR | libc::O_NONBLOCK, 0)
        })?;
        self.fill(opened.as_fd(), &from, amount)?;
        let mut state = node.state.write();
        state.data = None;
        self.fds.drop_data(node.id);
        Ok(())
    }

    fn fill(&self, to: BorrowedFd<'_>, from: &LowerData, amount: Amount) -> Result<()> {
        let before = sys::dir::fstat(to)?;
        let len = match amount {
            Amount::Whole => before.size,
            Amount::Prefix(n) => n.min(before.size),
        };
        if len > 0 {
            copy_data(from.fd(), to, len)?;
        }
        if len < before.size {
            sys::file::ftruncate(to, len)?;
        }
        if u32::from(sys::dir::fstat(to)?.perm) != u32::from(before.perm) {
            sys::dir::chmodat(to, b"", u32::from(before.perm))?;
        }
        let (atime, mtime) = upper::times_of(&before);
        sys::dir::futimes(to, atime, mtime)?;
        if !self.need_upper()?.volatile() {
            sys::file::fsync(to, false)?;
        }
        for namespace in [Namespace::Trusted, Namespace::User] {
            let attr = namespace.name(Mark::Metacopy).unwrap_or_default();
            super::soft(sys::xattr::remove(to, b"", &attr))?;
        }
        Ok(())
    }
}
