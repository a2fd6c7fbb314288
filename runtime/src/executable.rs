//! The file that this very program is executed from, kept out of containers' reach.
//!
//! Until it executes the image's command, PID 1 is a process of this program, and an image may
//! name `/proc/self/exe` as its command or as a script's interpreter: the kernel then executes
//! our file inside, and hands a way to write to it to whoever is root there (CVE-2019-5736). So
//! `run` executes itself once more, from a mount of that one file that is read-only and that
//! belongs to no mount namespace once its descriptor is closed: nobody can make it writable, or
//! bind it somewhere else, with whatever capabilities.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{fstat, stat};
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};
use nix::unistd::fexecve;

use crate::sys::mount;

/// How the kernel names the file that a process is executed from.
const SELF: &str = "/proc/self/exe";

/// The environment variable by which the store's place, decided before the user namespace made
/// us root, reaches the second execution. Not for users, and not passed to containers.
pub const ROOT_VARIABLE: &str = "_COWL_DECIDED_ROOT";

/// Why the program's file cannot be kept from being written.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the program's own file out of the container's reach: {what}: {desc}", desc = .errno.desc())]
pub struct Error {
    what: String,
    errno: Errno,
}

fn failed(what: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    move |errno| Error { what: what.into(), errno }
}

fn read_only(found: &Statvfs) -> bool {
    found.flags().contains(FsFlags::ST_RDONLY)
}

/// Where this program lies, for finding what is installed beside it: the most certain first.
pub fn places() -> Vec<PathBuf> {
    // The second execution gets the first one's place as its name.
    let named = std::env::args_os().next().map(PathBuf::from).filter(|name| name.is_absolute());
    named.into_iter().chain(std::env::current_exe().ok()).collect()
}

/// Executes this program once more, with these arguments, from a file that cannot be written.
/// Returns at once when it already is. Called while there is one thread.
pub fn protect(root: &Path, words: impl Iterator<Item = OsString>) -> Result<(), Error> {
    if read_only(&statvfs(SELF).map_err(failed(SELF))?) {
        return Ok(());
    }
    let place = nix::fcntl::readlink(SELF).map_err(failed(SELF)).map(PathBuf::from)?;
    let shown = || place.display().to_string();
    let mount = match mount::open_tree(AT_FDCWD, place.as_os_str(), false) {
        // The mounts are not this user namespace's, which therefore gets its own.
        Err(Errno::EPERM) => {
            unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace"))?;
            mount::open_tree(AT_FDCWD, place.as_os_str(), false)
        }
        other => other,
    }
    .map_err(failed(shown()))?;
    let (opened, running) =
        (fstat(&mount).map_err(failed(shown()))?, stat(SELF).map_err(failed(SELF))?);
    if (opened.st_dev, opened.st_ino) != (running.st_dev, running.st_ino) {
        return Err(failed(format!("{} is not what is running", shown()))(Errno::ESTALE));
    }
    let change = mount::Change { set: mount::RDONLY, ..mount::Change::private() };
    mount::change(mount.as_fd(), false, change).map_err(failed(shown()))?;
    // Also the promise that the second execution ends at the check above.
    if !read_only(&fstatvfs(&mount).map_err(failed(shown()))?) {
        return Err(failed(shown())(Errno::EROFS));
    }
    match execute(&mount, &place, root, words)? {}
}

fn execute(
    program: &OwnedFd,
    place: &Path,
    root: &Path,
    words: impl Iterator<Item = OsString>,
) -> Result<Infallible, Error> {
    let c_string = |text: OsString| {
        CString::new(text.into_vec()).map_err(|_| failed("execute")(Errno::EINVAL))
    };
    let arguments = std::iter::once(place.as_os_str().to_owned())
        .chain(words)
        .map(c_string)
        .collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os()
        .filter(|(name, _)| name != ROOT_VARIABLE)
        .chain([(ROOT_VARIABLE.into(), root.as_os_str().to_owned())])
        .map(|(name, value)| c_string(joined(&name, &value)))
        .collect::<Result<Vec<_>, _>>()?;
    fexecve(program, &arguments, &environment).map_err(failed("execute"))
}

fn joined(name: &OsStr, value: &OsStr) -> OsString {
    OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat())
}
