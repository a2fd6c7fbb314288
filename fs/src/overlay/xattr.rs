//! Extended attributes, POSIX ACLs among them.

use std::sync::Arc;

use super::Overlay;
use super::copyup::Amount;
use crate::acl;
use crate::format;
use crate::ident::NodeId;
use crate::inode::{Node, Place};
use crate::sys::{self, Errno, Result};

/// A setxattr request.
#[derive(Clone, Copy, Debug)]
pub struct SetXattr<'a> {
    /// Full name, with its namespace.
    pub name: &'a [u8],
    /// Value.
    pub value: &'a [u8],
    /// `XATTR_CREATE`, `XATTR_REPLACE` or 0.
    pub flags: i32,
    /// Setting an access ACL must drop the set-group-ID bit (the caller is not in the group).
    pub kill_sgid: bool,
}

impl Overlay {
    /// Whether an xattr is an ACL on a mount without them.
    fn is_refused_acl(&self, name: &[u8]) -> bool {
        self.settings.no_acl && (name == acl::ACCESS || name == acl::DEFAULT)
    }

    fn raw_xattr(&self, node: &Arc<Node>, name: &[u8]) -> Result<Vec<u8>> {
        let _tree = self.tree.read_recursive();
        match self.place(node) {
            Place::Lower(at) => match self.layer(at.layer)?.xattr(&at, name) {
                // A layer without ACLs (squashfs) under a mount that has them: there is none. Any
                // other answer would the kernel take for a refusal of access.
                Err(Errno::EOPNOTSUPP) if name == acl::ACCESS || name == acl::DEFAULT => {
                    Err(Errno::ENODATA)
                }
                other => other,
            },
            _ => self.with_upper(node, |fd, file| sys::xattr::get(fd, file, name)),
        }
    }

    /// The value of an xattr.
    ///
    /// # Errors
    /// `ENODATA` when absent, and for the format's own marks.
    pub fn getxattr(&self, id: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        if format::is_private(name) {
            return Err(Errno::ENODATA);
        }
        if self.is_refused_acl(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        self.raw_xattr(&self.node(id)?, name)
    }

    /// All names, each ended by a NUL, without the format's own marks; `trusted.` ones only for a
    /// privileged caller (xattr(7)).
    pub fn listxattr(&self, id: NodeId, privileged: bool) -> Result<Vec<u8>> {
        let node = self.node(id)?;
        let _tree = self.tree.read_recursive();
        let names = match self.place(&node) {
            Place::Lower(at) => self.layer(at.layer)?.xattr_names(&at),
            _ => self.with_upper(&node, sys::xattr::list),
        };
        let names = match names {
            Err(Errno::EOPNOTSUPP) => Vec::new(),
            other => other?,
        };
        let mut out = Vec::with_capacity(names.len());
        for name in names.split(|&b| b == 0).filter(|n| !n.is_empty()) {
            if !format::is_private(name)
                && !self.is_refused_acl(name)
                && (privileged || !name.starts_with(b"trusted."))
            {
                out.extend_from_slice(name);
                out.push(0);
            }
        }
        Ok(out)
    }

    /// Sets an xattr.
    ///
    /// # Errors
    /// `EPERM` for the format's own marks; otherwise what the upper's filesystem says.
    pub fn setxattr(&self, id: NodeId, set: &SetXattr<'_>) -> Result<()> {
        const SGID: u32 = 0o2000;
        if format::is_private(set.name) {
            return Err(Errno::EPERM);
        }
        if self.is_refused_acl(set.name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.node(id)?;
        self.check_flags(&node, set)?;
        self.ensure_upper(&node, Amount::Attributes)?;
        self.with_upper(&node, |fd, file| {
            sys::xattr::set(fd, file, set.name, set.value, set.flags)?;
            if set.kill_sgid && set.name == acl::ACCESS {
                let own = self.settings.ownership;
                let perm = u32::from(own.stat(fd, file)?.perm);
                if perm & SGID != 0 {
                    own.chmod(fd, file, perm & !SGID)?;
                }
            }
            Ok(())
        })?;
        self.acl_changed(&node, set.name)
    }

    /// `XATTR_CREATE` and `XATTR_REPLACE` fail before anything is copied up.
    fn check_flags(&self, node: &Arc<Node>, set: &SetXattr<'_>) -> Result<()> {
        if set.flags == 0 || node.in_upper() {
            return Ok(());
        }
        match self.raw_xattr(node, set.name) {
            Ok(_) if set.flags & libc::XATTR_CREATE != 0 => Err(Errno::EEXIST),
            Err(Errno::ENODATA) if set.flags & libc::XATTR_REPLACE != 0 => Err(Errno::ENODATA),
            _ => Ok(()),
        }
    }

    /// Removes an xattr.
    pub fn removexattr(&self, id: NodeId, name: &[u8]) -> Result<()> {
        if format::is_private(name) {
            return Err(Errno::ENODATA);
        }
        if self.is_refused_acl(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.node(id)?;
        if !node.in_upper() {
            match self.raw_xattr(&node, name) {
                // As on a local disk, there is nothing wrong with an ACL that is not there.
                Err(Errno::ENODATA) if name == acl::ACCESS || name == acl::DEFAULT => return Ok(()),
                other => other?,
            };
        }
        self.ensure_upper(&node, Amount::Attributes)?;
        self.with_upper(&node, |fd, file| sys::xattr::remove(fd, file, name))?;
        self.acl_changed(&node, name)
    }

    fn acl_changed(&self, node: &Arc<Node>, name: &[u8]) -> Result<()> {
        if name == acl::DEFAULT
            && let Some(dir) = &node.dir
        {
            dir.merged.lock().default_acl = None;
        }
        Ok(())
    }
}
