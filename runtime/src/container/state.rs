//! What became of a container: where it is in its life, and which processes carry it.
//!
//! ```text
//! created ──start──► running ◄──► paused
//!    ▲                │   ▲
//!    │                ▼   └── after a pause ── restarting   (its restart policy)
//!  create           exited ◄────── stop ────────┘
//! ```
//!
//! Each step is one replacement of `state.json`. The states with processes in them are true only
//! while the container's lock is held.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::record::{Bytes, now};
use crate::sys;

/// A process, told apart from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, as the host (or the user namespace's pid namespace) counts.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub started: u64,
}

/// The start time of a process: field 22 of its stat line.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command name (field 2) may hold spaces and brackets: count from its last bracket.
    let after = stat.iter().rposition(|byte| *byte == b')')?.checked_add(2)?;
    let text = std::str::from_utf8(stat.get(after..)?).ok()?;
    text.split(' ').nth(19)?.parse().ok()
}

impl Process {
    /// Notes a live process.
    pub fn note(pid: Pid) -> Self {
        let pid = pid.as_raw();
        Self { pid, started: start_time(pid).unwrap_or(0) }
    }

    /// A descriptor of this very process, while it lives.
    pub fn open(self) -> Option<OwnedFd> {
        let fd = sys::process::open(Pid::from_raw(self.pid)).ok()?;
        // Compared after opening: the descriptor cannot change to another process any more.
        (start_time(self.pid) == Some(self.started)).then_some(fd)
    }
}

/// The processes of a container that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// PID 1.
    pub init: Process,
    /// The monitor.
    pub monitor: Process,
    /// cowlfs.
    pub filesystem: Process,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Status {
    /// Made; not started yet, being started, or could not be started.
    Created {
        /// What its start failed with.
        exit_code: Option<u8>,
    },
    /// PID 1 runs (as long as the lock is held).
    Running(Live),
    /// PID 1 and all its processes are frozen (as long as the lock is held).
    Paused(Live),
    /// PID 1 has ended, and the monitor will start it again (as long as the lock is held).
    Restarting {
        /// The monitor.
        monitor: Process,
        /// cowlfs.
        filesystem: Process,
        /// What PID 1 ended with.
        exit_code: u8,
        /// When, in milliseconds since 1970.
        at: u64,
    },
    /// PID 1 has ended.
    Exited {
        /// Its exit code.
        exit_code: u8,
        /// When, in milliseconds since 1970.
        at: u64,
    },
}

impl Status {
    /// The processes, when PID 1 is there.
    pub fn live(&self) -> Option<&Live> {
        match self {
            Self::Running(live) | Self::Paused(live) => Some(live),
            _ => None,
        }
    }

    /// Docker's word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Restarting { .. } => "restarting",
            Self::Exited { .. } => "exited",
        }
    }
}

/// What became of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it is in its life.
    #[serde(flatten)]
    pub status: Status,
    /// Why it ended, where that was not PID 1's own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Mountpoints that the engine had to make inside the root filesystem; no change of the
    /// container's while they are empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mountpoints: Vec<Bytes>,
    /// When PID 1 was last started, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// When PID 1 last ended, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
    /// How often its restart policy started it again since the user did.
    #[serde(default)]
    pub restarts: u32,
    /// Whether its end was asked for: then it is not started again.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// Whether the kernel killed a process of it for want of memory.
    #[serde(default)]
    pub out_of_memory: bool,
    /// Whether the command that made it is about to start it: one that never came to that goes
    /// as if it had ended.
    #[serde(default)]
    pub to_be_started: bool,
    /// The boot of the machine in which its processes were started: process numbers of another
    /// boot say nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot: String,
}

impl State {
    /// A new container's.
    pub fn created() -> Self {
        Self {
            status: Status::Created { exit_code: None },
            error: None,
            mountpoints: Vec::new(),
            started: None,
            finished: None,
            restarts: 0,
            stopped_by_user: false,
            out_of_memory: false,
            to_be_started: false,
            boot: String::new(),
        }
    }

    /// PID 1 runs.
    pub fn begin(&mut self, live: Live) {
        self.started = Some(live.since);
        self.status = Status::Running(live);
        self.error = None;
        self.to_be_started = false;
        self.out_of_memory = false;
        self.boot = boot();
    }

    /// PID 1 has ended.
    pub fn finish(&mut self, exit_code: u8, error: Option<String>) {
        let at = now();
        self.status = Status::Exited { exit_code, at };
        self.finished = Some(at);
        self.error = error;
        self.to_be_started = false;
    }

    /// The exit code, when PID 1 has run and ended.
    pub fn exit_code(&self) -> Option<u8> {
        match self.status {
            Status::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }

    /// The mountpoints that had to be made.
    pub fn made(&self) -> Vec<PathBuf> {
        self.mountpoints.iter().map(|path| OsString::from(path).into()).collect()
    }

    /// Whether the processes that are noted here can still be there: none outlives a reboot.
    pub fn of_this_boot(&self) -> bool {
        self.boot.is_empty() || self.boot == boot()
    }
}

/// The kernel's name for the time since it was booted; empty where it does not tell.
fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_not_a_later_one_with_its_number() {
        let me = Process::note(Pid::this());
        assert!(me.started > 0);
        assert!(me.open().is_some());
        assert!(Process { started: me.started + 1, ..me }.open().is_none());
    }

    #[test]
    fn state_reads_as_written() {
        let mut state = State::created();
        let me = Process::note(Pid::this());
        state.begin(Live { init: me, monitor: me, filesystem: me, since: 7 });
        let json = serde_json::to_string(&state).unwrap();
        assert!(json.contains("\"status\":\"running\""), "{json}");
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        assert!(state.of_this_boot());
        state.boot = "another".to_owned();
        assert!(!state.of_this_boot());
        state.finish(3, None);
        let json = serde_json::to_string(&state).unwrap();
        assert!(json.contains("\"status\":\"exited\""), "{json}");
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
    }

    #[test]
    fn a_state_of_the_first_version_reads() {
        let text = r#"{"status":"exited","exit_code":3,"at":5}"#;
        assert_eq!(serde_json::from_str::<State>(text).unwrap().exit_code(), Some(3));
    }
}
