//! POSIX access control lists as xattrs: only as much as a union filesystem needs.
//!
//! The kernel checks and edits ACLs itself (`FUSE_POSIX_ACL`); ours is to hand them over unchanged
//! and to let new objects inherit their directory's default list (acl(5), "OBJECT CREATION AND
//! DEFAULT ACLs"). Layout: `struct posix_acl_xattr_header`, then entries of tag, permissions, id
//! (include/uapi/linux/posix_acl_xattr.h), all little-endian.

/// xattr of the access ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// xattr of the default ACL of a directory.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;
const HEADER: usize = 4;
const ENTRY: usize = 8;

/// The ACL that says just what `mode` says.
pub fn minimal(mode: u32) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for (tag, shift) in [(USER_OBJ, 6), (GROUP_OBJ, 3), (OTHER, 0)] {
        out.extend(tag.to_le_bytes());
        out.extend((((mode >> shift) & 7) as u16).to_le_bytes());
        out.extend(NO_ID.to_le_bytes());
    }
    out
}

/// What a new object gets from its directory's default ACL.
#[derive(Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Its access ACL; `None` when the mode says it all.
    pub access: Option<Vec<u8>>,
    /// Its permission bits (the nine lowest), replacing those asked for; the umask plays no part.
    pub mode: u32,
}

/// Applies `default` to an object created with `mode`; `None` when `default` is malformed.
///
/// acl(5): the entries of owner, mask (or group, without a mask) and other are cut down to the
/// permissions asked for; the rest is taken over.
pub fn inherit(default: &[u8], mode: u32) -> Option<Inherited> {
    let (head, body) = default.split_at_checked(HEADER)?;
    if head != VERSION.to_le_bytes() || body.len() % ENTRY != 0 {
        return None;
    }
    let has_mask = body.chunks_exact(ENTRY).any(|e| e.starts_with(&MASK.to_le_bytes()));
    let mut out = head.to_vec();
    let (mut perm, mut extended) = (0u32, false);
    for entry in body.chunks_exact(ENTRY) {
        let &[t0, t1, p0, p1, ref id @ ..] = entry else { return None };
        let tag = u16::from_le_bytes([t0, t1]);
        let mut bits = u16::from_le_bytes([p0, p1]) & 7;
        let shift = match tag {
            USER_OBJ => Some(6),
            MASK => Some(3),
            GROUP_OBJ if !has_mask => Some(3),
            OTHER => Some(0),
            _ => None,
        };
        if let Some(shift) = shift {
            bits &= ((mode >> shift) & 7) as u16;
            perm |= u32::from(bits) << shift;
        }
        extended |= !matches!(tag, USER_OBJ | GROUP_OBJ | OTHER);
        out.extend(tag.to_le_bytes());
        out.extend(bits.to_le_bytes());
        out.extend(id);
    }
    Some(Inherited { access: extended.then_some(out), mode: perm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimal_default_only_cuts_the_mode() {
        let got = inherit(&minimal(0o750), 0o666).unwrap();
        assert_eq!(got, Inherited { access: None, mode: 0o640 });
    }

    #[test]
    fn mask_takes_the_group_bits() {
        let mut acl = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in
            [(1u16, 7u16, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (0x10, 7, NO_ID), (0x20, 5, NO_ID)]
        {
            acl.extend(tag.to_le_bytes());
            acl.extend(perm.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        let got = inherit(&acl, 0o644).unwrap();
        assert_eq!(got.mode, 0o644);
        let access = got.access.unwrap();
        // The group entry keeps r-x, the mask is cut down to r--.
        assert_eq!(&access[4 + 2 * 8..4 + 2 * 8 + 4], &[4, 0, 5, 0]);
        assert_eq!(&access[4 + 3 * 8..4 + 3 * 8 + 4], &[0x10, 0, 4, 0]);
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(inherit(b"", 0o644), None);
        assert_eq!(inherit(b"\x02\0\0\0abc", 0o644), None);
    }
}
