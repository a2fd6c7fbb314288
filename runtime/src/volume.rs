//! Volumes: directories that outlive containers.
//!
//! ```text
//! <root>/volumes/.lock                 held while volumes are made and removed
//! <root>/volumes/<name>/volume.json    written once
//! <root>/volumes/<name>/_data          what containers see
//! <root>/volumes/<name>/.filling       there while content of an image is copied in
//! <root>/volumes/<name>/.lock          held meanwhile
//! ```
//!
//! A volume is visible when its `volume.json` is. It is made under a name that no volume can have
//! and renamed into place, and removed the other way round, so a crash leaves nothing half-made.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::config::MountKind;
use crate::container::lock::Lock;
use crate::container::record::now;
use crate::container::{Config, ContainerId};

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("get {0}: no such volume")]
    Unknown(String),
    /// Not a name.
    #[error(
        "create {0}: \"{0}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )]
    BadName(String),
    /// Containers have it.
    #[error("remove {name}: volume is in use - [{users}]")]
    InUse {
        /// The volume.
        name: String,
        /// Their ids.
        users: String,
    },
    /// A kind of volume that there is not.
    #[error("create: error looking up volume plugin {0}: plugin \"{0}\" not found")]
    Driver(String),
    /// An option that local volumes do not have.
    #[error("create {name}: invalid option: {option:?}: volumes are plain directories here")]
    Option {
        /// The volume.
        name: String,
        /// The option.
        option: String,
    },
    /// The disk said no.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The containers that may use it.
    #[error(transparent)]
    Container(#[from] crate::container::Error),
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// What is written about a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether nobody named it.
    #[serde(default)]
    pub anonymous: bool,
}

/// All volumes of one store.
#[derive(Clone, Debug)]
pub struct Volumes {
    dir: PathBuf,
}

/// Whether a text can be the name of a volume: it becomes a file's name.
pub fn valid(name: &str) -> bool {
    name.len() >= 2
        && name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

impl Volumes {
    /// The volumes of the store at `root`. Makes the directory.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let dir = root.join("volumes");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&dir)
            .map_err(io_error("create", &dir))?;
        Ok(Self { dir })
    }

    /// What containers see of a volume.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    fn read(&self, name: &str) -> Option<Volume> {
        let text = fs::read(self.dir.join(name).join("volume.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Every volume, by name.
    pub fn list(&self) -> Result<Vec<Volume>, Error> {
        let entries = fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))?;
        let mut all: Vec<Volume> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| valid(name))
            .filter_map(|name| self.read(&name))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The volume of this name.
    pub fn find(&self, name: &str) -> Result<Volume, Error> {
        let found = if valid(name) { self.read(name) } else { None };
        found.ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// Makes a volume, or finds the one that has the name already. Without a name it gets one of
    /// 64 digits.
    pub fn create(
        &self,
        name: Option<&str>,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume, Error> {
        let anonymous = name.is_none();
        let name = match name {
            Some(name) if valid(name) => name.to_owned(),
            Some(name) => return Err(Error::BadName(name.to_owned())),
            None => ContainerId::random()
                .map_err(io_error("read random bytes from", Path::new("getrandom")))?
                .as_str()
                .to_owned(),
        };
        let _guard = Lock::store(&self.dir)?;
        if let Some(volume) = self.read(&name) {
            return Ok(volume);
        }
        let volume = Volume { name: name.clone(), created: now(), labels, anonymous };
        let made = self.dir.join(format!(".making-{name}"));
        remove_all(&made)?;
        for (dir, mode) in [(made.clone(), 0o711), (made.join("_data"), 0o755)] {
            fs::DirBuilder::new().mode(mode).create(&dir).map_err(io_error("create", &dir))?;
        }
        let file = made.join("volume.json");
        let text = serde_json::to_vec_pretty(&volume)
            .map_err(|error| io_error("write", &file)(error.into()))?;
        fs::write(&file, text).map_err(io_error("write", &file))?;
        let place = self.dir.join(&name);
        // A directory without its record is what a damaged disk left: data is not thrown away.
        fs::rename(&made, &place).map_err(io_error("create", &place))?;
        Ok(volume)
    }

    /// Removes a volume that none of `containers` has.
    pub fn remove(&self, name: &str, containers: &[Config]) -> Result<(), Error> {
        let _guard = Lock::store(&self.dir)?;
        self.find(name)?;
        let users: Vec<&str> = containers
            .iter()
            .filter(|config| names(config).any(|(used, _)| used == name))
            .map(|config| config.id.as_str())
            .collect();
        if !users.is_empty() {
            return Err(Error::InUse { name: name.to_owned(), users: users.join(", ") });
        }
        let doomed = self.dir.join(format!(".removing-{name}"));
        remove_all(&doomed)?;
        let place = self.dir.join(name);
        fs::rename(&place, &doomed).map_err(io_error("remove", &place))?;
        remove_all(&doomed)
    }

    /// Removes the anonymous volumes of a container that has gone, unless another of `containers`
    /// has them too.
    pub fn release(&self, gone: &Config, containers: &[Config]) -> Result<(), Error> {
        for (name, anonymous) in names(gone) {
            if !anonymous {
                continue;
            }
            match self.remove(name, containers) {
                Ok(()) | Err(Error::Unknown(_) | Error::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The names of a container's volumes, and whether they are anonymous.
pub fn names(config: &Config) -> impl Iterator<Item = (&str, bool)> {
    config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, anonymous, .. } => Some((name.as_str(), *anonymous)),
        _ => None,
    })
}

fn remove_all(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::{Mount, Propagation};

    fn config(volume: &str, anonymous: bool) -> Config {
        let mut config =
            Config::new(ContainerId::random().unwrap(), "c".to_owned(), "i".to_owned());
        config.mounts.push(Mount {
            kind: MountKind::Volume {
                name: volume.to_owned(),
                anonymous,
                nocopy: false,
                subpath: None,
            },
            target: PathBuf::from("/x").into(),
            read_only: false,
            propagation: Propagation::Rprivate,
            non_recursive: false,
            mode: String::new(),
        });
        config
    }

    #[test]
    fn volumes_are_made_found_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(root.path()).unwrap();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let made = volumes.create(Some("data"), labels).unwrap();
        fs::write(volumes.data("data").join("kept"), "x").unwrap();
        assert_eq!(volumes.create(Some("data"), BTreeMap::new()).unwrap(), made);
        assert!(volumes.data("data").join("kept").exists());
        let nameless = volumes.create(None, BTreeMap::new()).unwrap();
        assert!(nameless.anonymous && nameless.name.len() == 64);
        assert_eq!(volumes.list().unwrap().len(), 2);
        let user = config("data", false);
        let refused = volumes.remove("data", std::slice::from_ref(&user)).unwrap_err();
        assert!(refused.to_string().contains("volume is in use"), "{refused}");
        volumes.remove("data", &[]).unwrap();
        assert!(matches!(volumes.find("data"), Err(Error::Unknown(_))));
        assert!(matches!(volumes.remove("data", &[]), Err(Error::Unknown(_))));
    }

    #[test]
    fn only_anonymous_ones_go_with_their_container() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(root.path()).unwrap();
        volumes.create(Some("named"), BTreeMap::new()).unwrap();
        let nameless = volumes.create(None, BTreeMap::new()).unwrap().name;
        volumes.release(&config("named", false), &[]).unwrap();
        let other = config(&nameless, true);
        volumes.release(&config(&nameless, true), &[other]).unwrap();
        assert_eq!(volumes.list().unwrap().len(), 2);
        volumes.release(&config(&nameless, true), &[]).unwrap();
        assert_eq!(volumes.list().unwrap().len(), 1);
    }

    #[test]
    fn names_stay_in_the_directory() {
        for bad in ["", "a", ".x", "../x", "a/b", "-a", &"a".repeat(256)] {
            assert!(!valid(bad), "{bad}");
        }
        assert!(valid("a.b_c-1"));
    }
}
