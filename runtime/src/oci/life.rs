//! `kill`, `delete`, `ps`.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::state::{Bundle, Status, half_made, load, remove_dir};
use super::{Error, hooks, step};
use crate::sys;

/// How long a killed container may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a signal to PID 1, or to every process of the container.
pub fn kill(bundle: &Bundle, signal: i32, all: bool) -> Result<(), Error> {
    let not_running = || Error::NotRunning(bundle.id.clone());
    if bundle.status() == Status::Stopped {
        return Err(not_running());
    }
    if all {
        for pid in pids(bundle)? {
            // Whoever has ended meanwhile needs no signal.
            if let Ok(process) = sys::process::open(nix::unistd::Pid::from_raw(pid)) {
                sys::process::kill(process.as_fd(), signal).ok();
            }
        }
        return Ok(());
    }
    let init = bundle.init.open().ok_or_else(not_running)?;
    sys::process::kill(init.as_fd(), signal).map_err(step("send the signal"))
}

/// Removes a container. One that runs is killed first when `force` is given.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<(), Error> {
    let bundle = match load(root, id) {
        Ok(bundle) => bundle,
        Err(Error::Unknown(_)) if force => {
            return half_made(root, id)?.map_or(Ok(()), |dir| remove_dir(&dir));
        }
        Err(error) => return Err(error),
    };
    let status = bundle.status();
    if status == Status::Running && !force {
        return Err(Error::Status { verb: "delete", status, id: id.to_owned() });
    }
    if let Some(init) = bundle.init.open() {
        // One that has ended needs no signal.
        sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
        let start = Instant::now();
        while bundle.status() != Status::Stopped && start.elapsed() < PATIENCE {
            let mut fds = [PollFd::new(init.as_fd(), PollFlags::POLLIN)];
            // Interrupted or not, the status is looked at again.
            poll(&mut fds, PollTimeout::from(100u8)).ok();
        }
        let status = bundle.status();
        if status != Status::Stopped {
            return Err(Error::Status { verb: "delete", status, id: id.to_owned() });
        }
    }
    let config = bundle.config();
    remove_dir(&bundle.dir)?;
    let hooks = config.map(|config| config.hooks.poststop).unwrap_or_default();
    hooks::outside("poststop", &hooks, &bundle.state())
}

/// The processes of a container: those in the namespace of process numbers of its PID 1, or those
/// below PID 1 when it has none of its own.
pub fn pids(bundle: &Bundle) -> Result<Vec<i32>, Error> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(bundle.init.pid);
    let here = fs::read_link("/proc/self/ns/pid").ok();
    let entries = fs::read_dir("/proc").map_err(super::io_error("list", Path::new("/proc")))?;
    let all = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found: Vec<i32> = if own == here {
        all.filter(|pid| descends(*pid, bundle.init.pid)).collect()
    } else {
        all.filter(|pid| own.is_some() && namespace(*pid) == own).collect()
    };
    found.sort_unstable();
    Ok(found)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn descends(pid: i32, from: i32) -> bool {
    std::iter::successors(Some(pid), |pid| parent(*pid)).any(|pid| pid == from)
}
