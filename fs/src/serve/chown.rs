//! A change of owner asked for by an xattr (`chown_xattr`).
//!
//! In a user namespace the kernel refuses chown(2) to an id that the namespace does not map, before
//! it asks the filesystem. A supervisor that takes the call in the caller's stead (a seccomp listener,
//! seccomp_unotify(2)) asks by this xattr instead, and the owner is kept where `xattr_permissions`
//! says. It is only for setting: nobody sees it.

use crate::overlay::SetAttr;

/// The xattr whose value is `UID:GID`; either may be empty, which leaves it as it is.
pub const NAME: &[u8] = b"user.cowl.chown";

/// What a value asks for; none when it is malformed.
pub(super) fn parse(value: &[u8]) -> Option<SetAttr> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let id = |text: &str| match text {
        "" => Some(None),
        // The largest one means "leave it" in chown(2), and can be nobody's.
        text => text.parse().ok().filter(|id| *id != u32::MAX).map(Some),
    };
    Some(SetAttr { uid: id(uid)?, gid: id(gid)?, ..SetAttr::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let ids = |text: &str| parse(text.as_bytes()).map(|change| (change.uid, change.gid));
        assert_eq!(ids("1:2"), Some((Some(1), Some(2))));
        assert_eq!(ids(":2"), Some((None, Some(2))));
        assert_eq!(ids("7:"), Some((Some(7), None)));
        for bad in ["", "1", "a:b", "-1:0", "4294967295:0", "1:2:3", " 1:2"] {
            assert_eq!(ids(bad), None, "{bad}");
        }
    }
}
