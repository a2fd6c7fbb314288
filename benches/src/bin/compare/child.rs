//! What this program does when it has started itself: hidden first arguments, each one process.
//!
//! - `__serve [UID] -- PROGRAM ARGUMENT…` becomes a mount program, as the caller or as root of a
//!   user namespace of user UID.
//! - `__hold UID -- PROGRAM ARGUMENT…` runs a program that mounts in such a namespace, and keeps it.
//! - `__step ORDER` runs one step of a workload, in the caller's namespaces or in those of a server.
//! - `__unmount PID UID DIRECTORY` unmounts in those of a server.
//!
//! Every one of them dies with the process that started it, so that nothing outlives the run,
//! whatever ends it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fexecve, getgid, getuid, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

use crate::fault::{Doing, Fault, Result};
use crate::process::monotonic;
use crate::workload::{self, Place};

/// Which step to run, and where.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Name of the workload.
    pub workload: String,
    /// Name of the step.
    pub step: String,
    /// Process and user whose namespaces to enter first.
    pub join: Option<(u32, u32)>,
    /// Where to work.
    pub place: Place,
}

/// Runs a hidden mode, if the arguments name one.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let rest = arguments.get(2..).unwrap_or_default();
    let done = match arguments.get(1).map(String::as_str) {
        Some("__serve") => serve(rest),
        Some("__hold") => hold(rest),
        Some("__step") => step(rest),
        Some("__unmount") => unmount(rest),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    })
}

/// This program, to be started again.
///
/// # Errors
/// When its path cannot be found.
pub fn again(mode: &str) -> Result<Command> {
    let exe = std::env::current_exe().doing(|| "find this program")?;
    let mut command = Command::new(exe);
    command.arg(mode);
    Ok(command)
}

fn serve(arguments: &[String]) -> Result<()> {
    let (uid, program, command) = split(arguments)?;
    // Opened before the user changes, who may not reach it (a build below a private home).
    let file = open_program(program)?;
    if let Some(uid) = uid {
        become_user(uid)?;
        new_namespace()?;
    }
    die_with_parent()?;
    println!("{}", monotonic()?);
    let text = |s: &String| CString::new(s.as_str()).doing(|| "an argument");
    let arguments = command.iter().map(text).collect::<Result<Vec<_>>>()?;
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            CString::new(entry).ok()
        })
        .collect();
    match fexecve(file, &arguments, &environment) {
        Ok(never) => match never {},
        Err(errno) => Err(Fault(format!("execute {program}: {}", errno.desc()))),
    }
}

fn hold(arguments: &[String]) -> Result<()> {
    let (uid, program, command) = split(arguments)?;
    become_user(uid.ok_or_else(|| Fault("no user".into()))?)?;
    new_namespace()?;
    die_with_parent()?;
    println!("{}", monotonic()?);
    let status = Command::new(program)
        .args(command.get(1..).unwrap_or_default())
        .status()
        .doing(|| format!("start {program}"))?;
    if !status.success() {
        return Err(Fault(format!("{program} ended with {status}")));
    }
    loop {
        std::thread::park();
    }
}

/// `[UID] -- PROGRAM ARGUMENT…`
fn split(arguments: &[String]) -> Result<(Option<u32>, &String, &[String])> {
    let usage = || Fault("__serve [UID] -- PROGRAM ARGUMENT…".into());
    let at = arguments.iter().position(|a| a == "--").ok_or_else(usage)?;
    let uid = match arguments.first() {
        Some(uid) if at == 1 => Some(uid.parse().map_err(|_| usage())?),
        _ => None,
    };
    let command = arguments.get(at + 1..).ok_or_else(usage)?;
    Ok((uid, command.first().ok_or_else(usage)?, command))
}

fn step(arguments: &[String]) -> Result<()> {
    let order: Order = match arguments {
        [order] => serde_json::from_str(order).doing(|| "read the order")?,
        _ => return Err(Fault("__step ORDER".into())),
    };
    if let Some((pid, uid)) = order.join {
        join(pid, uid)?;
    }
    die_with_parent()?;
    let work = workload::find(&order.workload)
        .ok_or_else(|| Fault(format!("no workload '{}'", order.workload)))?;
    for (measure, value) in work.step(&order.step, &order.place)? {
        println!("{measure} {value:e}");
    }
    Ok(())
}

fn unmount(arguments: &[String]) -> Result<()> {
    let [pid, uid, directory] = arguments else {
        return Err(Fault("__unmount PID UID DIRECTORY".into()));
    };
    let number = |s: &String| s.parse::<u32>().doing(|| format!("'{s}'"));
    join(number(pid)?, number(uid)?)?;
    let directory = PathBuf::from(directory);
    umount2(&directory, MntFlags::empty())
        .or_else(|_| umount2(&directory, MntFlags::MNT_DETACH))
        .doing(|| format!("unmount {}", directory.display()))
}

fn open_program(program: &str) -> Result<OwnedFd> {
    // Stays open over the execution: a script's interpreter reads it from there.
    nix::fcntl::open(program, OFlag::O_PATH, Mode::empty()).doing(|| format!("open {program}"))
}

/// Gives up root, for good.
fn become_user(uid: u32) -> Result<()> {
    setgroups(&[])
        .and_then(|()| setgid(Gid::from_raw(uid)))
        .and_then(|()| setuid(Uid::from_raw(uid)))
        .doing(|| format!("become user {uid}"))
}

/// A user namespace in which the caller is root, and nobody else exists, with a mount namespace.
///
/// # Errors
/// Where the machine does not allow it.
pub fn new_namespace() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    // Whoever changed its user may not write its own maps until it says so.
    prctl::set_dumpable(true).doing(|| "become dumpable")?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .doing(|| "make a user namespace")?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        std::fs::write(format!("/proc/self/{file}"), text)
            .doing(|| format!("write /proc/self/{file}"))?;
    }
    Ok(())
}

/// Enters the namespaces of a server that [`serve`] started.
fn join(pid: u32, uid: u32) -> Result<()> {
    let open = |kind| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).doing(|| format!("open {path}"))
    };
    let (user, mounts) = (open("user")?, open("mnt")?);
    become_user(uid)?;
    setns(user, CloneFlags::CLONE_NEWUSER).doing(|| "enter the user namespace")?;
    setns(mounts, CloneFlags::CLONE_NEWNS).doing(|| "enter the mount namespace")
}

fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).doing(|| "set the parent-death signal")
}
