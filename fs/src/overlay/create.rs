//! Making new objects: files, directories, symbolic links, devices, FIFOs, sockets.
//!
//! In the common case (the owner is the filesystem's own, nothing lies under the name, no ACL is
//! inherited) the host makes the object in place with one system call. Otherwise it is made in the
//! work directory and published when owner, mode and ACLs are right.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Looked, Overlay, soft};
use crate::acl;
use crate::attr::{Attr, Kind};
use crate::fdcache::DataFd;
use crate::ident::NodeId;
use crate::inode::{DirPart, Link, Names, Node, State};
use crate::merge::Flags;
use crate::sys::{self, Errno, Result};
use crate::upper::Upper;

/// On whose behalf something is made.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// File mode creation mask.
    pub umask: u32,
}

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub enum NewNode<'a> {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A device, FIFO or socket.
    Special(Kind, u64),
}

impl NewNode<'_> {
    fn kind(&self) -> Kind {
        match self {
            NewNode::File => Kind::File,
            NewNode::Dir => Kind::Dir,
            NewNode::Symlink(_) => Kind::Symlink,
            NewNode::Special(kind, _) => *kind,
        }
    }
}

const SGID: u32 = 0o2000;

/// Owner, mode and ACLs that a new object is to have.
struct Wanted {
    uid: u32,
    gid: u32,
    perm: u32,
    access: Option<Vec<u8>>,
    default: Option<Arc<[u8]>>,
}

impl Overlay {
    /// Makes `name` in `parent`; the caller gives the pin on the new node back.
    ///
    /// # Errors
    /// `EEXIST` when users see the name; `ENOENT` when the directory was removed; `EROFS`; errors of
    /// the upper.
    pub fn create(
        &self,
        parent: NodeId,
        name: &[u8],
        new: NewNode<'_>,
        mode: u32,
        caller: &Caller,
    ) -> Result<Looked> {
        let upper = self.need_upper()?;
        let parent = self.node(parent)?;
        self.ensure_upper_dir(&parent)?;
        let _tree = self.tree.read_recursive();
        let mut names = self.names(&parent)?;
        let (fd, over_whiteout) = self.vacant(upper, &parent, &names, name)?;
        let wanted = self.wanted(upper, &mut names, fd.as_fd(), new.kind(), mode, caller)?;
        let (euid, egid) = upper.ids();
        // Two steps (see `ownership`), the first of which alone would be something else.
        let stand_in = matches!(new, NewNode::Special(Kind::Char, 0));
        let in_place = !over_whiteout
            && !stand_in
            && wanted.access.is_none()
            && wanted.default.is_none()
            && wanted.uid == euid
            && wanted.gid == egid;
        let (attr, data) = if in_place {
            let data = self.make(fd.as_fd(), name, new, wanted.perm)?;
            let attr = match &data {
                Some(file) => sys::dir::fstat(file.fd())?,
                None => self.settings.ownership.stat(fd.as_fd(), name)?,
            };
            // A filesystem that takes the group from the directory, or drops bits, is put right.
            self.put_right(fd.as_fd(), name, &wanted, attr)?;
            (self.again(fd.as_fd(), name, &wanted, attr)?, data)
        } else {
            let tmp = upper.temp_name();
            let made = self.make_aside(upper, &tmp, new, &wanted, over_whiteout).and_then(|data| {
                upper.publish(&tmp, new.kind(), fd.as_fd(), name, over_whiteout)?;
                Ok(data)
            });
            let data = match made {
                Ok(data) => data,
                Err(e) => {
                    let _may_be_absent = match new.kind() {
                        Kind::Dir => sys::dir::rmdirat(upper.work(), &tmp),
                        _ => sys::dir::unlinkat(upper.work(), &tmp),
                    };
                    return Err(e);
                }
            };
            (self.settings.ownership.stat(fd.as_fd(), name)?, data)
        };
        let node = self.enter_new(&parent, &mut names, name, &attr);
        if let Some(data) = data {
            self.fds.put_data(node.id, &data);
        }
        let attr = self.present(&node, attr);
        Ok(Looked { node, attr })
    }

    /// Checks that a directory has room for a new name; returns its upper directory, and whether a
    /// whiteout lies there.
    pub(super) fn vacant(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        names: &Names,
        name: &[u8],
    ) -> Result<(Arc<OwnedFd>, bool)> {
        if names.removed {
            return Err(Errno::ENOENT);
        }
        let entry = names.merged.as_ref().and_then(|m| m.get(name));
        if entry.is_some_and(|e| e.visible()) {
            return Err(Errno::EEXIST);
        }
        let fd = self.upper_dir_fd(parent)?;
        upper.check_name(fd.as_fd(), name)?;
        Ok((fd, entry.is_some_and(|e| e.flags.has(Flags::WHITEOUT))))
    }

    /// Enters the node of an object that was just made in the upper.
    fn enter_new(
        &self,
        parent: &Arc<Node>,
        names: &mut Names,
        name: &[u8],
        attr: &Attr,
    ) -> Arc<Node> {
        let key = self.key_of(attr);
        let dir = (attr.kind == Kind::Dir).then(|| {
            Box::new(DirPart {
                key: self.fds.new_key(),
                links: Arc::default(),
                parent_lowers: Arc::clone(&names.lowers),
                settled: OnceLock::new(),
                merged: Mutex::new(Names::new(Vec::new())),
            })
        });
        let links = vec![Link { parent: Arc::clone(parent), name: name.into() }];
        let state = State { links, ..State::default() };
        let id = self.nodes.new_id();
        let node = self.nodes.insert(Node::new(id, key, attr.kind, state, dir, false));
        if let Some(m) = &mut names.merged {
            m.set_upper(name, attr.kind, key.shown().0, node.id, true);
        }
        node
    }

    /// What the new object is to look like: umask or default ACL, set-group-ID directory, mapping.
    fn wanted(
        &self,
        upper: &Upper,
        names: &mut Names,
        dir: BorrowedFd<'_>,
        kind: Kind,
        mode: u32,
        caller: &Caller,
    ) -> Result<Wanted> {
        let ids = &self.settings.ids;
        let uid = ids.store_uid(caller.uid).ok_or(Errno::EOVERFLOW)?;
        let mut gid = ids.store_gid(caller.gid).ok_or(Errno::EOVERFLOW)?;
        let mut perm = mode & 0o7777;
        let parent = self.settings.ownership.stat(dir, b"")?;
        if u32::from(parent.perm) & SGID != 0 {
            gid = parent.gid;
            if kind == Kind::Dir {
                perm |= SGID;
            }
        }
        let inherits = kind != Kind::Symlink && !self.settings.no_acl;
        let default = if inherits { default_acl(upper, names, dir)? } else { None };
        let mut access = None;
        match default.as_deref().map(|d| acl::inherit(d, mode).ok_or(Errno::EIO)).transpose()? {
            Some(inherited) => {
                perm = (perm & !0o777) | inherited.mode;
                access = inherited.access;
            }
            None => perm &= !(caller.umask & 0o777),
        }
        let default = default.filter(|_| kind == Kind::Dir);
        Ok(Wanted { uid, gid, perm, access, default })
    }

    fn make_aside(
        &self,
        upper: &Upper,
        tmp: &[u8],
        new: NewNode<'_>,
        wanted: &Wanted,
        over_whiteout: bool,
    ) -> Result<Option<DataFd>> {
        let work = upper.work();
        let data = self.make(work, tmp, new, wanted.perm)?;
        let attr = self.settings.ownership.stat(work, tmp)?;
        self.put_right(work, tmp, wanted, attr)?;
        if let Some(access) = &wanted.access {
            sys::xattr::set(work, tmp, acl::ACCESS, access, 0)?;
        }
        if let Some(default) = &wanted.default {
            sys::xattr::set(work, tmp, acl::DEFAULT, default, 0)?;
        }
        if over_whiteout && new.kind() == Kind::Dir {
            upper.set_opaque(work, tmp)?;
        }
        Ok(data)
    }

    /// Makes the object; of a regular file the descriptor is kept, the first write is sure to come.
    fn make(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        new: NewNode<'_>,
        perm: u32,
    ) -> Result<Option<DataFd>> {
        match new {
            NewNode::File => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let fd = sys::dir::openat(dir, name, flags, perm)?;
                return Ok(Some(DataFd::whole(Arc::new(fd), true)));
            }
            NewNode::Dir => sys::dir::mkdirat(dir, name, perm)?,
            NewNode::Symlink(target) => sys::dir::symlinkat(target, dir, name)?,
            NewNode::Special(kind, rdev) => {
                self.settings.ownership.mknod(dir, name, kind.mode() | perm, rdev)?;
            }
        }
        Ok(None)
    }

    /// Sets owner and mode where the host made them differently.
    fn put_right(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        wanted: &Wanted,
        made: Attr,
    ) -> Result<()> {
        let uid = (made.uid != wanted.uid).then_some(wanted.uid);
        let gid = (made.gid != wanted.gid).then_some(wanted.gid);
        if uid.is_some() || gid.is_some() {
            self.settings.ownership.chown(dir, name, uid, gid)?;
        }
        let owned = uid.is_some() || gid.is_some();
        if made.kind != Kind::Symlink && (owned || u32::from(made.perm) != wanted.perm) {
            self.settings.ownership.chmod(dir, name, wanted.perm)?;
        }
        Ok(())
    }

    /// The attributes after [`Overlay::put_right`], asked again only when it did something.
    fn again(&self, dir: BorrowedFd<'_>, name: &[u8], wanted: &Wanted, made: Attr) -> Result<Attr> {
        let same = made.uid == wanted.uid
            && made.gid == wanted.gid
            && (made.kind == Kind::Symlink || u32::from(made.perm) == wanted.perm);
        if same { Ok(made) } else { self.settings.ownership.stat(dir, name) }
    }
}

/// The default ACL of a directory, asked of the host once.
fn default_acl(upper: &Upper, names: &mut Names, dir: BorrowedFd<'_>) -> Result<Option<Arc<[u8]>>> {
    if !upper.features().acls {
        return Ok(None);
    }
    if let Some(known) = &names.default_acl {
        return Ok(known.clone());
    }
    let found = soft(sys::xattr::get(dir, b"", acl::DEFAULT).map(Some))?;
    let found: Option<Arc<[u8]>> = found.map(Into::into);
    names.default_acl = Some(found.clone());
    Ok(found)
}

impl Overlay {
    /// A regular file without a name (`O_TMPFILE`); [`Overlay::link`] can give it one.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the upper's filesystem has no such files.
    pub fn tmpfile(&self, parent: NodeId, mode: u32, caller: &Caller) -> Result<Looked> {
        let upper = self.need_upper()?;
        let parent = self.node(parent)?;
        self.ensure_upper_dir(&parent)?;
        let _tree = self.tree.read_recursive();
        let mut names = self.names(&parent)?;
        let dir = self.upper_dir_fd(&parent)?;
        let wanted = self.wanted(upper, &mut names, dir.as_fd(), Kind::File, mode, caller)?;
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        let file = sys::dir::openat(upper.work(), b".", flags, wanted.perm)?;
        let fd = file.as_fd();
        self.put_right(fd, b"", &wanted, sys::dir::fstat(fd)?)?;
        if let Some(access) = &wanted.access {
            sys::xattr::set(fd, b"", acl::ACCESS, access, 0)?;
        }
        let attr = sys::dir::fstat(fd)?;
        let (id, key) = (self.nodes.new_id(), self.key_of(&attr));
        let node = self.nodes.insert(Node::new(id, key, Kind::File, State::default(), None, false));
        self.set_held(&mut node.state.write(), Some(Arc::new(file)));
        let attr = self.present(&node, attr);
        Ok(Looked { node, attr })
    }
}
