//! What is written about a container: readable JSON, replaced atomically.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ContainerId, Error, io_error};
use crate::sys;

/// A byte string in JSON: a plain string when it is text, an array of bytes when it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl From<OsString> for Bytes {
    fn from(value: OsString) -> Self {
        match value.into_string() {
            Ok(text) => Self::Text(text),
            Err(raw) => Self::Raw(raw.into_vec()),
        }
    }
}

impl From<&Bytes> for OsString {
    fn from(value: &Bytes) -> Self {
        match value {
            Bytes::Text(text) => text.into(),
            Bytes::Raw(raw) => Self::from_vec(raw.clone()),
        }
    }
}

impl From<PathBuf> for Bytes {
    fn from(value: PathBuf) -> Self {
        value.into_os_string().into()
    }
}

/// What a container shall run. Written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// The image as the user named it.
    pub image: String,
    /// The image's digest; none for this machine's own root filesystem.
    pub image_id: Option<String>,
    /// The layers, topmost first.
    pub layers: Vec<Bytes>,
    /// The command line of PID 1.
    pub command: Vec<Bytes>,
    /// When it was created, in milliseconds since 1970.
    pub created: u64,
    /// Whether it goes when it has ended.
    pub remove: bool,
}

#[cfg(test)]
impl Config {
    pub(super) fn for_tests(id: ContainerId, name: String) -> Self {
        let created = now();
        let (image, image_id) = ("i".to_owned(), None);
        let (layers, command) = (Vec::new(), Vec::new());
        Self { id, name, image, image_id, layers, command, created, remove: false }
    }
}

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

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Status {
    /// Made; being started, or could not be started.
    Created {
        /// What its start failed with.
        exit_code: Option<u8>,
    },
    /// PID 1 runs (as long as the lock is held).
    Running {
        /// PID 1.
        init: Process,
        /// The monitor.
        monitor: Process,
        /// cowlfs.
        filesystem: Process,
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// PID 1 has ended.
    Exited {
        /// Its exit code.
        exit_code: u8,
        /// When, in milliseconds since 1970.
        at: u64,
    },
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
}

impl State {
    /// A new container's.
    pub fn created() -> Self {
        let status = Status::Created { exit_code: None };
        Self { status, error: None, mountpoints: Vec::new() }
    }

    /// PID 1 has ended.
    pub fn finish(&mut self, exit_code: u8, error: Option<String>) {
        self.status = Status::Exited { exit_code, at: now() };
        self.error = error;
    }

    /// The exit code, when PID 1 has run and ended.
    pub fn exit_code(&self) -> Option<u8> {
        match self.status {
            Status::Exited { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a record; none when the file does not exist.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes a record beside its place and renames it into it. Not synced: after a crash of the
/// machine nothing of the container lives, and one whose record does not read goes with `rm -f`.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    text.push(b'\n');
    File::create(&beside)
        .and_then(|mut file| file.write_all(&text))
        .map_err(io_error("write", &beside))?;
    fs::rename(&beside, path).map_err(io_error("replace", path))
}

/// Whether two byte strings are the same path.
pub fn same_path(recorded: &Bytes, path: &Path) -> bool {
    OsString::from(recorded).as_bytes() == path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_what_is_not_text() {
        for raw in [&b"/plain"[..], b"/\xff\xfe", b""] {
            let bytes = Bytes::from(OsString::from_vec(raw.to_vec()));
            let json = serde_json::to_string(&bytes).unwrap();
            let back: Bytes = serde_json::from_str(&json).unwrap();
            assert_eq!(OsString::from(&back).as_bytes(), raw, "{json}");
        }
    }

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
        state.finish(3, None);
        let json = serde_json::to_string(&state).unwrap();
        assert!(json.contains("\"status\":\"exited\""), "{json}");
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
    }
}
