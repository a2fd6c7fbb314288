//! What the filesystem under the upper can do, tried out in the work directory.

use std::os::fd::{AsFd, BorrowedFd};

use super::{FORM, UpperFeatures, WhiteoutForm};
use crate::format::{Mark, Namespace};
use crate::sys::{self, Errno, Result};

/// Tries out, in the work directory, what the filesystem can do. On a full disk, where nothing can be
/// made, the usual is assumed: it must stay possible to mount, to read and to delete.
pub(super) fn probe(work: BorrowedFd<'_>, user_marks: bool) -> Result<UpperFeatures> {
    let (a, b) = (&b"#probe-a"[..], &b"#probe-b"[..]);
    let namespace = [Namespace::Trusted, Namespace::User]
        .into_iter()
        .filter(|ns| !(user_marks && *ns == Namespace::Trusted))
        .find(|ns| {
            ns.name(Mark::Opaque).is_some_and(|n| {
                sys::xattr::set(work, b"", &n, b"y", 0).map_or_else(full, |()| true)
            })
        })
        .unwrap_or(Namespace::None);
    // An ACL that says what the directory's mode says (acl(5)).
    let acl = crate::acl::minimal(0o700);
    let acls = sys::xattr::set(work, b"", crate::acl::ACCESS, &acl, 0).map_or_else(full, |()| true);
    let mut features = UpperFeatures {
        namespace,
        whiteouts: WhiteoutForm::Device,
        rename_whiteout: true,
        acls,
        drops_privileges: true,
    };
    match sys::dir::mknodat(work, a, libc::S_IFCHR, 0) {
        Ok(()) => {
            features.rename_whiteout =
                match sys::dir::renameat2(work, a, work, b, libc::RENAME_WHITEOUT) {
                    Ok(()) => sys::dir::unlinkat(work, b).is_ok(),
                    Err(e) => full(e),
                };
            // A directory takes the place of such a whiteout by changing places with it.
            if !probe_exchange(work, a, b)? {
                features.whiteouts = WhiteoutForm::Aufs;
                features.rename_whiteout = false;
            }
        }
        Err(e) if full(e) => return Ok(features),
        Err(Errno::EPERM | Errno::EACCES | Errno::EINVAL | Errno::EOPNOTSUPP) => {
            features.whiteouts = WhiteoutForm::Aufs;
            features.rename_whiteout = false;
        }
        Err(e) => return Err(e),
    }
    features.drops_privileges = match probe_privileges(work, a) {
        Err(e) if full(e) => true,
        other => other?,
    };
    Ok(features)
}

/// Once deletions of an upper are `.wh.` files, they stay so: where devices are used, such files are
/// users' own.
pub(super) fn keep_form(index: BorrowedFd<'_>, features: &mut UpperFeatures) -> Result<()> {
    if features.whiteouts == WhiteoutForm::Aufs {
        return match sys::dir::symlinkat(b"aufs", index, FORM) {
            Err(Errno::EEXIST) => Ok(()),
            other => other,
        };
    }
    match sys::dir::statat(index, FORM) {
        Ok(_) => {
            features.whiteouts = WhiteoutForm::Aufs;
            features.rename_whiteout = false;
            Ok(())
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether the whiteout `a` can change places with a directory `b`; removes both.
fn probe_exchange(work: BorrowedFd<'_>, a: &[u8], b: &[u8]) -> Result<bool> {
    match sys::dir::mkdirat(work, b, 0o700) {
        Ok(()) => {}
        Err(e) if full(e) => return sys::dir::unlinkat(work, a).map(|()| true),
        Err(e) => return Err(e),
    }
    let works = sys::dir::renameat2(work, a, work, b, libc::RENAME_EXCHANGE).is_ok();
    let (file, dir) = if works { (b, a) } else { (a, b) };
    sys::dir::unlinkat(work, file)?;
    sys::dir::rmdirat(work, dir)?;
    Ok(works)
}

/// Whether an error says that the disk, or a quota, is full.
pub(super) fn full(e: Errno) -> bool {
    matches!(e, Errno::ENOSPC | Errno::EDQUOT)
}

/// Whether a write of ours makes the host drop set-user-ID.
fn probe_privileges(work: BorrowedFd<'_>, name: &[u8]) -> Result<bool> {
    const MODE: u32 = 0o4700;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let file = sys::dir::openat(work, name, flags, 0o700)?;
    let tried = sys::dir::chmodat(work, name, MODE)
        .and_then(|()| sys::file::pwrite_all(file.as_fd(), b"1", 0))
        .and_then(|()| sys::dir::fstat(file.as_fd()));
    sys::dir::unlinkat(work, name)?;
    Ok(tried.is_ok_and(|attr| u32::from(attr.perm) != MODE))
}
