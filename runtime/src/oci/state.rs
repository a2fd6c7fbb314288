//! What is written down about a container, and what it is now.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::{Error, VERSION, io_error};
use crate::container::state::Process;

/// Where a container is in its life, in the specification's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// PID 1 waits for `start`.
    Created,
    /// PID 1 is the command.
    Running,
    /// PID 1 has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

/// The record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    /// Its id.
    pub id: String,
    /// Where the bundle is.
    pub bundle: PathBuf,
    /// Where its root filesystem is.
    pub rootfs: PathBuf,
    /// PID 1.
    pub init: Process,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
    /// Who made it.
    pub owner: String,
    /// The configuration's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Its state directory; not written.
    #[serde(skip)]
    pub dir: PathBuf,
}

/// What `state` prints, and hooks read.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// PID 1; 0 when it has ended.
    pub pid: i32,
    /// Where it is in its life.
    pub status: Status,
    /// Where the bundle is.
    pub bundle: PathBuf,
    /// Where its root filesystem is.
    pub rootfs: PathBuf,
    /// When it was made.
    pub created: String,
    /// The configuration's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who made it.
    pub owner: String,
}

/// The names of files in a state directory.
const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
/// The socket at which PID 1 waits.
pub const GATE: &str = "start";

/// Whether a process has ended and only waits to be noticed.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.iter().rposition(|byte| *byte == b')').map(|at| at.saturating_add(2));
    let state = after.and_then(|at| stat.get(at));
    matches!(state, None | Some(b'Z' | b'X'))
}

impl Bundle {
    /// Where it is in its life.
    pub fn status(&self) -> Status {
        if self.init.open().is_none() || is_zombie(self.init.pid) {
            Status::Stopped
        } else if self.dir.join(GATE).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// What `state` prints.
    pub fn state(&self) -> State {
        let status = self.status();
        State {
            oci_version: VERSION.to_owned(),
            id: self.id.clone(),
            pid: if status == Status::Stopped { 0 } else { self.init.pid },
            status,
            bundle: self.bundle.clone(),
            rootfs: self.rootfs.clone(),
            created: self.created.clone(),
            annotations: self.annotations.clone(),
            owner: self.owner.clone(),
        }
    }

    /// Writes it down.
    pub fn save(&self) -> Result<(), Error> {
        let path = self.dir.join(RECORD);
        let text = serde_json::to_vec(self)
            .map_err(|source| Error::Json { path: path.clone(), source })?;
        let beside = self.dir.join(format!(".{RECORD}"));
        fs::write(&beside, text).map_err(io_error("write", &beside))?;
        fs::rename(&beside, &path).map_err(io_error("write", &path))
    }

    /// The configuration that it was made from.
    pub fn config(&self) -> Result<Config, Error> {
        let path = self.dir.join(CONFIG);
        read(&path)?.ok_or_else(|| Error::Unknown(self.id.clone()))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::Json { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Reads a bundle's configuration.
pub fn read_config(bundle: &Path) -> Result<Config, Error> {
    let path = bundle.join(CONFIG);
    let missing = || io_error("read", &path)(io::ErrorKind::NotFound.into());
    read(&path)?.ok_or_else(missing)
}

/// An id is also the name of a directory.
fn checked(id: &str) -> Result<&str, Error> {
    let good = !id.is_empty()
        && id != "."
        && id != ".."
        && id.len() <= 255
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
    if good { Ok(id) } else { Err(Error::BadId(id.to_owned())) }
}

/// Makes the state directory of a new container, with its configuration.
pub fn make_dir(root: &Path, id: &str, config: &Config) -> Result<PathBuf, Error> {
    let dir = root.join(checked(id)?);
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o711).recursive(true).create(root).map_err(io_error("create", root))?;
    match fs::DirBuilder::new().mode(0o711).create(&dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists(id.to_owned()));
        }
        other => other.map_err(io_error("create", &dir))?,
    }
    let path = dir.join(CONFIG);
    let text =
        serde_json::to_vec(config).map_err(|source| Error::Json { path: path.clone(), source })?;
    fs::write(&path, text).map_err(io_error("write", &path))?;
    Ok(dir)
}

/// Removes a state directory.
pub fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// The container with this id.
pub fn load(root: &Path, id: &str) -> Result<Bundle, Error> {
    let dir = root.join(checked(id)?);
    let found: Option<Bundle> = read(&dir.join(RECORD))?;
    let bundle = found.ok_or_else(|| Error::Unknown(id.to_owned()))?;
    Ok(Bundle { dir, ..bundle })
}

/// The directory of a container that was killed while it was being made; `delete --force`.
pub fn half_made(root: &Path, id: &str) -> Result<Option<PathBuf>, Error> {
    let dir = root.join(checked(id)?);
    Ok((dir.exists() && !dir.join(RECORD).exists()).then_some(dir))
}

/// All containers.
pub fn list(root: &Path) -> Result<Vec<Bundle>, Error> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", root)(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", root))?;
        // One that is being made has no record yet.
        if let Some(id) = entry.file_name().to_str()
            && let Ok(bundle) = load(root, id)
        {
            all.push(bundle);
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        for good in ["a", "web-1.2_x+y"] {
            assert!(checked(good).is_ok());
        }
        for bad in ["", ".", "..", "a/b", "a b", &"x".repeat(256)] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_container_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        assert!(list(root.path()).unwrap().is_empty());
        let dir = make_dir(root.path(), "c1", &Config::default()).unwrap();
        assert!(matches!(make_dir(root.path(), "c1", &Config::default()), Err(Error::Exists(_))));
        assert!(matches!(load(root.path(), "c1"), Err(Error::Unknown(_))));
        assert_eq!(half_made(root.path(), "c1").unwrap(), Some(dir.clone()));
        let bundle = Bundle {
            id: "c1".into(),
            bundle: "/b".into(),
            rootfs: "/b/r".into(),
            init: Process::note(nix::unistd::Pid::this()),
            created: "2026-01-01T00:00:00Z".into(),
            owner: "root".into(),
            annotations: BTreeMap::new(),
            dir,
        };
        bundle.save().unwrap();
        let found = load(root.path(), "c1").unwrap();
        assert_eq!(found.status(), Status::Running);
        fs::write(found.dir.join(GATE), "").unwrap();
        assert_eq!(found.status(), Status::Created);
        let gone = Bundle { init: Process { pid: found.init.pid, started: 1 }, ..found };
        assert_eq!((gone.status(), gone.state().pid), (Status::Stopped, 0));
        assert_eq!(list(root.path()).unwrap().len(), 1);
    }
}
