//! Who PID 1 is: `user[:group]`, looked up in the image's own passwd and group files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The ids and the home directory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, the group id among them.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: OsString,
}

/// Why nobody could be found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A user name that the passwd file does not have.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// A group name that the group file does not have.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    /// A number no id can be.
    #[error("the id {0} is out of range: ids go from 0 to 4294967294")]
    Range(String),
}

/// A line's fields.
fn entries(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.split(|byte| *byte == b':').collect())
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.trim().parse().ok()
}

/// An id written as a number; `None` when it is a name.
fn as_id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        _ => Err(UserError::Range(text.to_owned())),
    }
}

/// Resolves `user[:group]`. Names win over numbers; a number need not be in the files. Without a
/// group, the user's own and all that list the user by name.
pub fn resolve(request: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user, wanted_group) = match request.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (request, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let id = as_id(user)?;
    let find = |by_name: bool| {
        entries(passwd).find(|entry| {
            if by_name {
                entry.first() == Some(&user.as_bytes())
            } else {
                id.is_some() && entry.get(2).and_then(|field| number(field)) == id
            }
        })
    };
    let mut identity = Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() };
    let mut name: &[u8] = user.as_bytes();
    match find(true).or_else(|| find(false)) {
        Some(entry) => {
            let field = |n: usize| entry.get(n).copied().unwrap_or_default();
            identity.uid = number(field(2)).ok_or_else(|| UserError::User(user.to_owned()))?;
            identity.gid = number(field(3)).unwrap_or(0);
            name = field(0);
            if !field(5).is_empty() {
                identity.home = OsString::from_vec(field(5).to_vec());
            }
        }
        None => identity.uid = id.ok_or_else(|| UserError::User(user.to_owned()))?,
    }
    if let Some(wanted) = wanted_group {
        let named = entries(group)
            .find(|entry| entry.first() == Some(&wanted.as_bytes()))
            .and_then(|entry| entry.get(2).and_then(|field| number(field)));
        identity.gid = match named {
            Some(gid) => gid,
            None => as_id(wanted)?.ok_or_else(|| UserError::Group(wanted.to_owned()))?,
        };
        identity.groups = vec![identity.gid];
        return Ok(identity);
    }
    identity.groups = vec![identity.gid];
    for entry in entries(group) {
        let members = entry.get(3).copied().unwrap_or_default();
        let listed = members.split(|byte| *byte == b',').any(|member| member == name);
        if let Some(gid) = entry.get(2).and_then(|field| number(field))
            && listed
            && !identity.groups.contains(&gid)
        {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

/// Adds groups by name or number (`--group-add`).
pub fn add_groups(identity: &mut Identity, more: &[String], group: &[u8]) -> Result<(), UserError> {
    for wanted in more {
        let named = entries(group)
            .find(|entry| entry.first() == Some(&wanted.as_bytes()))
            .and_then(|entry| entry.get(2).and_then(|field| number(field)));
        let gid = match named {
            Some(gid) => gid,
            None => as_id(wanted)?.ok_or_else(|| UserError::Group(wanted.clone()))?,
        };
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(())
}

/// The home directory of a user id; `/` when the passwd file does not have it.
pub fn home(uid: u32, passwd: &[u8]) -> OsString {
    entries(passwd)
        .find(|entry| entry.get(2).and_then(|field| number(field)) == Some(uid))
        .and_then(|entry| entry.get(5).filter(|home| !home.is_empty()).map(|home| home.to_vec()))
        .map_or_else(|| "/".into(), OsString::from_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken\n\
        web:x:33:33:web:/srv:/bin/false\n1000:x:44:45::/odd:\nnohome:x:50:50\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:33:\naudio:x:29:web,root\nvideo:x:30:web\n77:x:78:\n";

    fn who(request: &str) -> (u32, u32, Vec<u32>, String) {
        let id = resolve(request, PASSWD, GROUP).unwrap();
        (id.uid, id.gid, id.groups, id.home.into_string().unwrap())
    }

    #[test]
    fn users_and_groups() {
        assert_eq!(who(""), (0, 0, vec![0, 29], "/root".into()));
        assert_eq!(who("web"), (33, 33, vec![33, 29, 30], "/srv".into()));
        assert_eq!(who("33"), (33, 33, vec![33, 29, 30], "/srv".into()));
        assert_eq!(who("web:video"), (33, 30, vec![30], "/srv".into()));
        assert_eq!(who("web:5"), (33, 5, vec![5], "/srv".into()));
        assert_eq!(who("4242"), (4242, 0, vec![0], "/".into()));
        assert_eq!(who("4242:4243"), (4242, 4243, vec![4243], "/".into()));
        assert_eq!(who(":web"), (0, 33, vec![33], "/root".into()));
        assert_eq!(who("nohome").3, "/");
    }

    #[test]
    fn names_win_over_numbers() {
        assert_eq!(who("1000"), (44, 45, vec![45], "/odd".into()));
        assert_eq!(who("0:77").1, 78);
    }

    #[test]
    fn groups_are_added_once() {
        let mut id = resolve("web", PASSWD, GROUP).unwrap();
        add_groups(&mut id, &["audio".into(), "77".into(), "4711".into()], GROUP).unwrap();
        assert_eq!(id.groups, [33, 29, 30, 78, 4711]);
        let missing = add_groups(&mut id, &["nosuch".into()], GROUP);
        assert_eq!(missing, Err(UserError::Group("nosuch".into())));
        assert_eq!(home(33, PASSWD), "/srv");
        assert_eq!(home(99, PASSWD), "/");
    }

    #[test]
    fn nobody() {
        assert_eq!(resolve("nosuch", PASSWD, GROUP), Err(UserError::User("nosuch".into())));
        assert_eq!(resolve("web:nosuch", PASSWD, GROUP), Err(UserError::Group("nosuch".into())));
        assert!(matches!(resolve("4294967295", b"", b""), Err(UserError::Range(_))));
        assert!(matches!(resolve("99999999999", b"", b""), Err(UserError::Range(_))));
        assert_eq!(resolve("7", b"", b"").unwrap().uid, 7);
    }
}
