//! Owners, modes and device nodes that the host refuses to store.
//!
//! In a user namespace with one id, on NFS, or for device nodes without privilege, the host says no.
//! With `xattr_permissions=2` what it refuses is kept in the xattr `user.containers.override_stat`,
//! in the form of containers/storage: `UID:GID:MODE[:TYPE]`, the mode octal, the type one of `file`,
//! `dir`, `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR`, `char-MAJOR-MINOR`. fuse-overlayfs's
//! `user.fuseoverlayfs.override_stat` is read as well. Everything else is stored natively. The xattr
//! itself is never shown. Symbolic links cannot carry it: their owner stays what the host made it.
//!
//! With `xattr_permissions=1` the xattr is `security.fuseoverlayfs.override_stat`, which only root may
//! set, and which links and devices can carry. A layer whose root directory has one of these xattrs
//! is read so without being told (as fuse-overlayfs does), so image stores can be shared.

use std::os::fd::BorrowedFd;

use crate::attr::{Attr, Kind};
use crate::format::{self, Mark, Namespace, absent};
use crate::sys::{self, Errno, Result};

/// Where records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the `user.` namespace: any owner of a file may, but only files and directories can.
    User,
    /// In the `security.` namespace: root only, anything can.
    Security,
}

impl Store {
    /// The xattrs that are read, the first found counts; the first is the one written.
    fn names(self) -> &'static [&'static [u8]] {
        match self {
            Store::User => &[b"user.containers.override_stat", b"user.fuseoverlayfs.override_stat"],
            Store::Security => &[b"security.fuseoverlayfs.override_stat"],
        }
    }

    fn carries(self, kind: Kind) -> bool {
        self == Store::Security || matches!(kind, Kind::File | Kind::Dir)
    }
}

/// Whether an xattr holds such a record.
pub fn is_record(name: &[u8]) -> bool {
    [Store::User, Store::Security].iter().any(|store| store.names().contains(&name))
}

/// Attributes that override the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    uid: u32,
    gid: u32,
    perm: u16,
    kind: Option<(Kind, u64)>,
}

impl Record {
    fn parse(text: &[u8]) -> Option<Record> {
        let mut parts = std::str::from_utf8(text).ok()?.split(':');
        let uid = parts.next()?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        let perm = (u32::from_str_radix(parts.next()?, 8).ok()? & 0o7777) as u16;
        let kind = match parts.next() {
            None | Some("") => None,
            Some(word) => Some(parse_kind(word)?),
        };
        Some(Record { uid, gid, perm, kind })
    }

    fn of(attr: &Attr) -> Record {
        Record { uid: attr.uid, gid: attr.gid, perm: attr.perm, kind: Some((attr.kind, attr.rdev)) }
    }

    fn text(&self) -> String {
        let kind = match self.kind {
            None => String::new(),
            Some((Kind::File, _)) => ":file".into(),
            Some((Kind::Dir, _)) => ":dir".into(),
            Some((Kind::Symlink, _)) => ":symlink".into(),
            Some((Kind::Fifo, _)) => ":pipe".into(),
            Some((Kind::Socket, _)) => ":socket".into(),
            Some((Kind::Block, dev)) => device("block", dev),
            Some((Kind::Char, dev)) => device("char", dev),
        };
        format!("{}:{}:{:04o}{kind}", self.uid, self.gid, self.perm)
    }
}

fn device(word: &str, dev: u64) -> String {
    format!(":{word}-{}-{}", libc::major(dev), libc::minor(dev))
}

fn parse_kind(word: &str) -> Option<(Kind, u64)> {
    let plain = match word {
        "file" => Some(Kind::File),
        "dir" => Some(Kind::Dir),
        "symlink" => Some(Kind::Symlink),
        "pipe" => Some(Kind::Fifo),
        "socket" => Some(Kind::Socket),
        _ => None,
    };
    if let Some(kind) = plain {
        return Some((kind, 0));
    }
    let mut parts = word.split('-');
    let kind = match parts.next()? {
        "block" => Kind::Block,
        "char" => Kind::Char,
        _ => return None,
    };
    let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((kind, libc::makedev(major, minor)))
}

/// Errors that mean "the host does not store this for us".
fn refused(e: Errno) -> bool {
    matches!(e, Errno::EPERM | Errno::EINVAL)
}

/// How owners and modes are read and stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// As the host has them; what it refuses fails.
    #[default]
    Native,
    /// Natively where the host lets us, in the xattr where not.
    Kept(Store),
}

impl Ownership {
    /// How the layer with this root directory is to be read: as asked for, or as it says itself.
    ///
    /// # Errors
    /// Errors of reading xattrs.
    pub fn of_layer(self, root: BorrowedFd<'_>) -> Result<Ownership> {
        if self != Ownership::Native {
            return Ok(self);
        }
        let names = match sys::xattr::list(root, b"") {
            Err(e) if absent(e) || e == Errno::EBADF => return Ok(self),
            other => other?,
        };
        let has =
            |store: &Store| names.split(|&b| b == 0).any(|name| store.names().contains(&name));
        let store = [Store::Security, Store::User].into_iter().find(has);
        Ok(store.map_or(self, Ownership::Kept))
    }

    fn record(self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Record>> {
        let Ownership::Kept(store) = self else { return Ok(None) };
        for attr in store.names() {
            match sys::xattr::get(dir, name, attr) {
                Ok(text) => return Ok(Record::parse(&text)),
                Err(e) if absent(e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    fn write(self, dir: BorrowedFd<'_>, name: &[u8], record: &Record) -> Result<()> {
        let Ownership::Kept(store) = self else { return Err(Errno::EPERM) };
        let attr = store.names().first().ok_or(Errno::EPERM)?;
        sys::xattr::set(dir, name, attr, record.text().as_bytes(), 0)
    }

    fn carries(self, kind: Kind) -> bool {
        matches!(self, Ownership::Kept(store) if store.carries(kind))
    }

    /// The attributes to show for the host's.
    pub fn shown(self, dir: BorrowedFd<'_>, name: &[u8], mut attr: Attr) -> Result<Attr> {
        if attr.kind == Kind::Char
            && attr.rdev == format::STAND_IN
            && format::read(dir, name, Mark::StandIn)?.is_some()
        {
            attr.rdev = 0;
        }
        if !self.carries(attr.kind) {
            return Ok(attr);
        }
        if let Some(r) = self.record(dir, name)? {
            (attr.uid, attr.gid, attr.perm) = (r.uid, r.gid, r.perm);
            // A placeholder stands for something else only if it is an (empty) file.
            if let (Some((kind, rdev)), Kind::File) = (r.kind, attr.kind)
                && kind != Kind::Dir
            {
                (attr.kind, attr.rdev) = (kind, rdev);
            }
        }
        Ok(attr)
    }

    /// Attributes of `name` in `dir` (empty: of `dir` itself).
    pub fn stat(self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Attr> {
        self.shown(dir, name, sys::dir::statat(dir, name)?)
    }

    /// Changes the owner.
    pub fn chown(
        self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        if self == Ownership::Native {
            return sys::dir::chownat(dir, name, uid, gid);
        }
        const PRIVILEGES: u16 = 0o6000;
        let before = self.stat(dir, name)?;
        if self.record(dir, name)?.is_none() {
            match sys::dir::chownat(dir, name, uid, gid) {
                Err(e) if refused(e) && self.carries(before.kind) => {}
                other => return other,
            }
        }
        let mut r = Record::of(&before);
        r.uid = uid.unwrap_or(r.uid);
        r.gid = gid.unwrap_or(r.gid);
        if before.kind != Kind::Dir {
            r.perm &= !PRIVILEGES; // chown(2)
        }
        self.write(dir, name, &r)
    }

    /// Changes the mode; the owner of the mount keeps access to what it has to store.
    pub fn chmod(self, dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
        const OWN_ACCESS: u32 = 0o600;
        if self.record(dir, name)?.is_none() {
            return sys::dir::chmodat(dir, name, mode);
        }
        let mut r = Record::of(&self.stat(dir, name)?);
        r.perm = (mode & 0o7777) as u16;
        let search = if r.kind.is_some_and(|(kind, _)| kind == Kind::Dir) { 0o100 } else { 0 };
        sys::dir::chmodat(dir, name, mode & 0o777 | OWN_ACCESS | search)?;
        self.write(dir, name, &r)
    }

    /// Makes a special file, or a placeholder where the host refuses one.
    pub fn mknod(self, dir: BorrowedFd<'_>, name: &[u8], mode: u32, rdev: u64) -> Result<()> {
        let made = if Kind::from_mode(mode) == Kind::Char && rdev == 0 {
            stand_in(dir, name, mode)
        } else {
            sys::dir::mknodat(dir, name, mode, rdev)
        };
        match made {
            Err(e) if refused(e) && self != Ownership::Native => {}
            other => return other,
        }
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let file = sys::dir::openat(dir, name, flags, 0o600)?;
        drop(file);
        let made = sys::dir::statat(dir, name)?;
        let kind = Kind::from_mode(mode);
        let perm = (mode & 0o7777) as u16;
        let r = Record { uid: made.uid, gid: made.gid, perm, kind: Some((kind, rdev)) };
        self.write(dir, name, &r).inspect_err(|_| {
            let _may_be_absent = sys::dir::unlinkat(dir, name);
        })
    }
}

/// Makes a character device 0:0 that is not taken for a whiteout.
fn stand_in(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    let mark = Namespace::Trusted.name(Mark::StandIn).ok_or(Errno::EPERM)?;
    sys::dir::mknodat(dir, name, mode, format::STAND_IN)?;
    sys::xattr::set(dir, name, &mark, b"0", 0).inspect_err(|_| {
        let _may_be_absent = sys::dir::unlinkat(dir, name);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_containers_storage_writes_them() {
        for (text, want) in [
            ("0:0:0755:dir", Record { uid: 0, gid: 0, perm: 0o755, kind: Some((Kind::Dir, 0)) }),
            ("100:42:4711", Record { uid: 100, gid: 42, perm: 0o4711, kind: None }),
            (
                "0:6:0660:block-8-1",
                Record {
                    uid: 0,
                    gid: 6,
                    perm: 0o660,
                    kind: Some((Kind::Block, libc::makedev(8, 1))),
                },
            ),
        ] {
            assert_eq!(Record::parse(text.as_bytes()), Some(want));
            assert_eq!(want.text(), text);
        }
    }

    #[test]
    fn malformed_records_are_ignored() {
        for text in ["", "1", "1:2", "a:b:c", "1:2:9", "1:2:755:teapot", "1:2:755:char-1"] {
            assert_eq!(Record::parse(text.as_bytes()), None, "{text}");
        }
    }
}
