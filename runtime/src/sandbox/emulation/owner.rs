//! chown(2) and its like: to ids that the kernel knows, it carries them out; others are kept by
//! cowlfs, where the file lies on it.

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::sys::stat::{lstat, stat};

use super::caller::Caller;
use super::ids::{Ids, KEEP};
use crate::sys;
use crate::sys::listener::Answer;

/// The xattr by which cowlfs is told (`chown_xattr`).
const CHOWN: &CStr = c"user.cowl.chown";

/// Which file a call is about.
enum File {
    /// A path, from a directory on; followed where it is a link.
    Path { directory: i32, path: CString, follow: bool },
    /// A descriptor.
    Descriptor(i32),
}

/// Whether this is such a call.
pub fn is_change(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(number, libc::SYS_chown | libc::SYS_lchown) {
        return true;
    }
    matches!(number, libc::SYS_fchown | libc::SYS_fchownat)
}

/// Carries it out.
pub fn change(caller: &Caller<'_>, ids: &mut Ids) -> nix::Result<Answer> {
    let at = if caller.call.number == libc::SYS_fchownat { 2 } else { 1 };
    let (uid, gid) = (caller.number(at), caller.number(at + 1));
    if Ids::known(uid) && Ids::known(gid) {
        return Ok(Answer::Continue);
    }
    if !ids.is_root(caller) {
        return Ok(Answer::Error(Errno::EPERM));
    }
    let (path, follow) = match file(caller)? {
        File::Path { directory, path, follow } => {
            caller.stand_in(directory)?;
            (path, follow)
        }
        File::Descriptor(fd) => (caller.descriptor(fd)?, true),
    };
    let found = if follow { stat(path.as_c_str()) } else { lstat(path.as_c_str()) }?;
    // The root of the container's processes is cowlfs; what is mounted there keeps no owners.
    if found.st_dev == lstat(c"/")?.st_dev {
        let id = |id: u32| if id == KEEP { String::new() } else { id.to_string() };
        let value = format!("{}:{}", id(uid), id(gid));
        match sys::attribute::set_at_path(&path, CHOWN, value.as_bytes(), follow) {
            // Symbolic links and special files carry no xattrs of users, and where cowlfs was not
            // told to keep owners (this machine's own files) it cannot.
            Ok(()) | Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Answer::Value(0))
}

fn file(caller: &Caller<'_>) -> nix::Result<File> {
    let [first, second, _, _, flags, _] = caller.call.arguments;
    let path = |address, directory, follow| {
        let path = caller.string(address)?;
        if path.is_empty() {
            Err(Errno::ENOENT)
        } else {
            Ok(File::Path { directory, path, follow })
        }
    };
    let file = match caller.call.number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown => path(first, libc::AT_FDCWD, true),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => path(first, libc::AT_FDCWD, false),
        libc::SYS_fchown => Ok(File::Descriptor(first as i32)),
        _ => {
            let flags = flags as i32;
            let text = caller.string(second)?;
            let (directory, follow) = (first as i32, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
            match (text.is_empty(), flags & libc::AT_EMPTY_PATH != 0) {
                (false, _) => Ok(File::Path { directory, path: text, follow }),
                (true, false) => Err(Errno::ENOENT),
                (true, true) if directory == libc::AT_FDCWD => {
                    Ok(File::Path { directory, path: c".".to_owned(), follow: true })
                }
                (true, true) => Ok(File::Descriptor(directory)),
            }
        }
    }?;
    let own = match &file {
        File::Path { path, follow: true, .. } => own_descriptor(path.to_bytes()),
        _ => None,
    };
    Ok(own.map_or(file, File::Descriptor))
}

/// The descriptor behind a path that means another file to every process: looked up from here, it
/// would be one of ours.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    let number = match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        path => path.strip_prefix(b"/proc/self/fd/").or_else(|| path.strip_prefix(b"/dev/fd/"))?,
    };
    std::str::from_utf8(number).ok()?.parse().ok().filter(|fd| *fd >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_descriptors() {
        assert_eq!(own_descriptor(b"/dev/stdout"), Some(1));
        assert_eq!(own_descriptor(b"/proc/self/fd/12"), Some(12));
        assert_eq!(own_descriptor(b"/dev/fd/3"), Some(3));
        for other in ["/dev/fd/", "/dev/fd/3/x", "/proc/self/fd/-1", "/etc/passwd", ""] {
            assert_eq!(own_descriptor(other.as_bytes()), None, "{other}");
        }
    }
}
