//! An ordinary user becomes root of a user namespace, before anything else happens.
//!
//! This process itself moves in: no second process that would have to relay signals, exit codes
//! and the terminal. With ranges in /etc/subuid and /etc/subgid, newuidmap and newgidmap write the
//! maps (a helper, forked before, runs them from outside); otherwise this one id is all there is,
//! and the kernel then forbids setgroups. From then on everything runs the code that root runs.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, User, getegid, geteuid, getpid, pipe2};

use crate::container::state::Process;
use crate::sys;
use crate::sys::process::Side;

/// CAP_SYS_ADMIN, in linux/capability.h.
const SYS_ADMIN: u8 = 21;

/// How this process came to its privileges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Root of the machine, or of a user namespace that somebody else made.
    Root,
    /// Root of a namespace with the caller's id and ranges of subordinate ids.
    Subordinate {
        /// How many user ids there are.
        ids: u64,
    },
    /// Root of a namespace with the caller's id only.
    Single {
        /// Why there are no more.
        reason: String,
    },
}

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses.
    #[error(
        "this machine does not let an ordinary user make a user namespace ({desc}), which cowl \
         needs when it is not run by root: {hint}",
        desc = .0.desc(), hint = hint(*.0)
    )]
    Refused(Errno),
    /// The single-id map cannot be written.
    #[error("cannot map your user id into a user namespace: {0}")]
    Map(io::Error),
    /// Preparation.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    System(&'static str, Errno),
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC | Errno::EUSERS => {
            "ask the administrator to raise the sysctl user.max_user_namespaces"
        }
        _ => {
            "ask the administrator to allow it (sysctls kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns; it is never allowed inside a chroot)"
        }
    }
}

/// Whether this process needs a namespace to be able to mount.
fn privileged() -> bool {
    geteuid().is_root() && sys::capability::effective().is_ok_and(|set| set.contains(SYS_ADMIN))
}

/// Whether this process is in a user namespace: some ids of the machine are missing.
pub fn inside() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_everything(&map))
}

/// Whether this process is in a user namespace with one id only.
pub fn single_id() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_one(&map))
}

fn maps_one(map: &str) -> bool {
    map.lines().count() == 1 && map.split_whitespace().nth(2) == Some("1")
}

fn maps_everything(map: &str) -> bool {
    let mut fields = map.split_whitespace();
    let mut next = || fields.next().unwrap_or_default();
    (next(), next(), next()) == ("0", "0", "4294967295")
}

/// A range of subordinate ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u64,
    count: u64,
}

/// The ranges that a subuid or subgid file gives to a user, by name or number.
pub fn ranges(file: &str, name: &str, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    file.lines()
        .filter_map(|line| {
            let mut fields = line.split('#').next().unwrap_or_default().trim().split(':');
            let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            let range = Range { first: first.parse().ok()?, count: count.parse().ok()? };
            ((owner == name || owner == number) && range.count > 0).then_some(range)
        })
        .collect()
}

/// Arguments of newuidmap: the caller as 0, then the ranges one after the other.
fn map_arguments(process: i32, own: u32, ranges: &[Range]) -> Vec<String> {
    let mut words = vec![process.to_string(), "0".into(), own.to_string(), "1".into()];
    let mut next = 1u64;
    for range in ranges {
        words.extend([next.to_string(), range.first.to_string(), range.count.to_string()]);
        next = next.saturating_add(range.count);
    }
    words
}

fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// What newuidmap and newgidmap shall be called with.
#[derive(Debug)]
struct Tools {
    users: (PathBuf, Vec<String>),
    groups: (PathBuf, Vec<String>),
    ids: u64,
}

/// Finds tools and ranges, or says why there are none.
fn tools() -> Result<Tools, String> {
    let uid = geteuid();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let tool = |name: &str| {
        find_tool(name).ok_or_else(|| format!("{name} is not installed (Debian: package uidmap)"))
    };
    let listed = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = ranges(&text, &name, uid.as_raw());
        if found.is_empty() { Err(format!("{file} has no range for {name}")) } else { Ok(found) }
    };
    let process = getpid().as_raw();
    let users = listed("/etc/subuid")?;
    let ids = users.iter().fold(1u64, |sum, range| sum.saturating_add(range.count));
    Ok(Tools {
        users: (tool("newuidmap")?, map_arguments(process, uid.as_raw(), &users)),
        groups: (
            tool("newgidmap")?,
            map_arguments(process, getegid().as_raw(), &listed("/etc/subgid")?),
        ),
        ids,
    })
}

/// What the caller would get, without doing it: for `cowl info`.
pub fn prospects() -> Result<u64, String> {
    tools().map(|tools| tools.ids)
}

/// Moves this process into a user namespace when it needs one. Called while it has one thread.
pub fn enter() -> Result<Standing, Error> {
    if privileged() {
        return Ok(Standing::Root);
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    match tools() {
        Ok(tools) => match enter_with(&tools)? {
            Ok(()) => Ok(Standing::Subordinate { ids: tools.ids }),
            Err(reason) => single(uid, gid, reason),
        },
        Err(reason) => {
            unshare(CloneFlags::CLONE_NEWUSER).map_err(Error::Refused)?;
            single(uid, gid, reason)
        }
    }
}

/// Moves this process into the user namespace of another one of the same user, when it needs one:
/// that of a container that runs. Called while it has one thread.
///
/// # Errors
/// When the kernel refuses.
pub fn enter_of(other: Process) -> Result<Standing, Error> {
    if privileged() {
        return Ok(Standing::Root);
    }
    let path = format!("/proc/{}/ns/user", other.pid);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let namespace = nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())
        .map_err(|errno| Error::System("open the container's user namespace", errno))?;
    nix::sched::setns(&namespace, CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| Error::System("join the container's user namespace", errno))?;
    let map = fs::read_to_string("/proc/self/uid_map").map_err(Error::Map)?;
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|text| text.parse().ok());
    let ids = map.lines().filter_map(count).fold(0u64, u64::saturating_add);
    Ok(match ids {
        0 | 1 => Standing::Single { reason: "the container has one id only".to_owned() },
        ids => Standing::Subordinate { ids },
    })
}

/// Writes the maps of one id; this process is in the new namespace already.
fn single(uid: u32, gid: u32, reason: String) -> Result<Standing, Error> {
    let write = |file: &str, text: String| {
        let path = Path::new("/proc/self").join(file);
        match fs::write(path, text) {
            // Written by a newuidmap that succeeded before newgidmap failed.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && Uid::current().is_root() =>
            {
                Ok(())
            }
            other => other.map_err(Error::Map),
        }
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))?;
    Ok(Standing::Single { reason })
}

/// Makes the namespace while a helper outside of it waits to run the tools. The inner result is
/// the tools' complaint.
fn enter_with(tools: &Tools) -> Result<Result<(), String>, Error> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::System("make a pipe", errno));
    let (go, go_writer) = pipe()?;
    let (answer, answer_writer) = pipe()?;
    let helper = match sys::process::fork().map_err(|errno| Error::System("fork", errno))? {
        Side::Child => {
            drop(go_writer);
            drop(answer);
            sys::process::exit(help(tools, go, answer_writer));
        }
        Side::Parent(child) => child,
    };
    drop(go);
    drop(answer_writer);
    let made = unshare(CloneFlags::CLONE_NEWUSER);
    if made.is_ok() {
        // A helper that is gone cannot read it; its exit code says so.
        fs::File::from(go_writer).write_all(b"+").ok();
    } else {
        drop(go_writer);
    }
    let mut complaint = String::new();
    fs::File::from(answer).read_to_string(&mut complaint).ok();
    let code = helper.wait().map_err(|errno| Error::System("wait for the helper", errno))?;
    made.map_err(Error::Refused)?;
    Ok(if code == 0 { Ok(()) } else { Err(complaint.trim().to_owned()) })
}

/// The helper: outside of the namespace, as the caller.
fn help(tools: &Tools, go: OwnedFd, answer: OwnedFd) -> u8 {
    let mut byte = [0];
    if !matches!(fs::File::from(go).read(&mut byte), Ok(1)) {
        return 1;
    }
    let mut answer = fs::File::from(answer);
    for (program, arguments) in [&tools.users, &tools.groups] {
        let complaint = match Command::new(program).args(arguments).output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let name = program.display();
        answer.write_all(format!("{name} failed: {complaint}").as_bytes()).ok();
        return 1;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_by_name_and_number() {
        let file = "other:1:2\nme:100000:65536\n# me:1:1\n7:300000:10\nme:bad:1\nme:5:0\n";
        let found = ranges(file, "me", 7);
        let expected =
            [Range { first: 100_000, count: 65_536 }, Range { first: 300_000, count: 10 }];
        assert_eq!(found, expected);
        assert!(ranges(file, "nobody", 8).is_empty());
        assert_eq!(
            map_arguments(42, 7, &found).join(" "),
            "42 0 7 1 1 100000 65536 65537 300000 10"
        );
    }

    #[test]
    fn the_machines_own_map_is_recognized() {
        assert!(maps_everything("         0          0 4294967295\n"));
        assert!(!maps_everything("         0       1000          1\n"));
        assert!(!maps_everything("0 0 65536\n"));
        assert!(!maps_everything(""));
        assert!(maps_one("         0       1000          1\n"));
        assert!(!maps_one("         0       1000          1\n         1     100000      65536\n"));
        assert!(!maps_one("0 0 4294967295\n"));
    }
}
