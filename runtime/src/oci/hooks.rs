//! Programs that a bundle wants to be run at moments of a container's life. Each gets the
//! container's state on its standard input.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;

use super::config::Hook;
use super::state::State;
use super::{Error, step};
use crate::sys;
use crate::sys::process::Side;

/// The longest text of a hook that is passed on.
const SAID_MAX: u64 = 4096;

/// Runs hooks on this machine's side, one after the other; stops at the first that fails.
pub fn outside(kind: &'static str, hooks: &[Hook], state: &State) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| run(kind, hook, state))
}

/// Runs hooks in the namespaces of a container's PID 1.
pub fn inside(kind: &'static str, hooks: &[Hook], state: &State) -> Result<(), Error> {
    let Some(first) = hooks.first() else { return Ok(()) };
    let init = sys::process::open(Pid::from_raw(state.pid)).map_err(step("find PID 1"))?;
    match sys::process::fork().map_err(step("fork"))? {
        Side::Child => {
            let entered = join(&init, state.pid);
            let done = entered.is_ok() && outside(kind, hooks, state).is_ok();
            sys::process::exit(u8::from(!done));
        }
        Side::Parent(child) => match child.wait().map_err(step("wait for a hook"))? {
            0 => Ok(()),
            _ => Err(Error::Hook {
                kind,
                path: first.path.clone(),
                said: "it, or one after it, failed in the container".to_owned(),
            }),
        },
    }
}

/// Joins all namespaces of a process; that of process numbers counts for children.
pub fn join(process: &std::os::fd::OwnedFd, pid: i32) -> nix::Result<()> {
    let same_user = std::fs::read_link("/proc/self/ns/user").ok()
        == std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let mut all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID;
    all.set(CloneFlags::CLONE_NEWUSER, !same_user);
    // A kernel without cgroups has no namespace for them.
    setns(process, all | CloneFlags::CLONE_NEWCGROUP).or_else(|_| setns(process, all))
}

fn run(kind: &'static str, hook: &Hook, state: &State) -> Result<(), Error> {
    let failed = |said: String| Error::Hook { kind, path: hook.path.clone(), said };
    let text = serde_json::to_vec(state).map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(rest);
    }
    command.env_clear();
    command.envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&text).ok(); // a hook need not read it
    }
    let deadline = hook.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let status = loop {
        match (child.try_wait().map_err(|error| failed(error.to_string()))?, deadline) {
            (Some(status), _) => break status,
            (None, Some(deadline)) if Instant::now() > deadline => {
                // It may end at this very moment.
                child.kill().ok();
                child.wait().ok();
                return Err(failed("it took longer than its timeout".to_owned()));
            }
            (None, _) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(errors) = child.stderr.take() {
        errors.take(SAID_MAX).read_to_string(&mut said).ok(); // no text, no words
    }
    Err(failed(format!("{status}: {}", said.trim())))
}
