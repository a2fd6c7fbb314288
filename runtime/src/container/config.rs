//! What a container is to be: all that is needed to start it, today or after a reboot.
//!
//! Written as JSON when the container is made, and again when `update` or `rename` changes it.
//! The command line puts it together ([`crate::cli`]), and nothing but this file is read when the
//! container starts ([`crate::launch`]): what a container does never depends on which command
//! started it. Names and paths are bytes. Fields that a later version adds have a default, so an
//! older file still reads; a file of a newer format is refused.

mod isolation;
mod limits;
mod mounts;
mod process;

use std::collections::BTreeMap;

pub use isolation::{Device, DeviceRule, Isolation, Sharing};
pub use limits::{Limits, Ulimit};
pub use mounts::{Mount, MountKind, Propagation};
pub use process::Process;
use serde::{Deserialize, Serialize};

use super::ContainerId;
use super::life::Life;
use super::record::Bytes;
pub use crate::network::Settings as Network;

/// The format written by this version.
pub const VERSION: u32 = 1;

/// A container's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The format.
    #[serde(deserialize_with = "known_version")]
    pub version: u32,
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// The image as the user named it.
    pub image: String,
    /// The image's digest; none for this machine's own root filesystem.
    #[serde(default)]
    pub image_id: Option<String>,
    /// The layers, topmost first.
    #[serde(default)]
    pub layers: Vec<Bytes>,
    /// When it was created, in milliseconds since 1970.
    pub created: u64,
    /// Whether it goes when it has ended.
    #[serde(default)]
    pub remove: bool,
    /// Labels: the image's, then the user's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What PID 1 is.
    #[serde(default)]
    pub process: Process,
    /// The host name it sees; empty for the machine's.
    #[serde(default)]
    pub hostname: String,
    /// The NIS domain name it sees.
    #[serde(default)]
    pub domainname: String,
    /// What is mounted in it beside Docker's usual places.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Its network.
    #[serde(default)]
    pub network: Network,
    /// What keeps it apart from the machine.
    #[serde(default)]
    pub isolation: Isolation,
    /// How much it may use.
    #[serde(default)]
    pub limits: Limits,
    /// How it starts again, is stopped, and is logged.
    #[serde(default)]
    pub life: Life,
}

impl Config {
    /// A container that runs nothing yet and has every default.
    pub fn new(id: ContainerId, name: String, image: String) -> Self {
        Self {
            version: VERSION,
            id,
            name,
            image,
            image_id: None,
            layers: Vec::new(),
            created: super::record::now(),
            remove: false,
            labels: BTreeMap::new(),
            process: Process::default(),
            hostname: String::new(),
            domainname: String::new(),
            mounts: Vec::new(),
            network: Network::default(),
            isolation: Isolation::default(),
            limits: Limits::default(),
            life: Life::default(),
        }
    }
}

fn known_version<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let version = u32::deserialize(deserializer)?;
    if version > VERSION {
        return Err(serde::de::Error::custom(format!(
            "it has format {version}, and this version of cowl reads formats up to {VERSION}"
        )));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn it_reads_as_written_bytes_and_all() {
        let id = ContainerId::random().unwrap();
        let mut config = Config::new(id, "web".into(), "img".into());
        config.process.arguments = vec![OsString::from_vec(b"\xff\xfe".to_vec()).into()];
        config.life.restart = crate::container::life::Restart::OnFailure { max: 3 };
        config.isolation.pid = Sharing::Container("abc".into());
        config.limits.ulimits.insert("nofile".into(), Ulimit { soft: 5, hard: u64::MAX });
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    }

    #[test]
    fn missing_fields_have_defaults_and_newer_formats_are_refused() {
        let id = ContainerId::random().unwrap();
        let old =
            format!(r#"{{"version":1,"id":"{}","name":"a","image":"i","created":5}}"#, id.as_str());
        let config: Config = serde_json::from_str(&old).unwrap();
        assert_eq!(config.life.stop_timeout, None);
        let newer = old.replace("\"version\":1", "\"version\":99");
        let error = serde_json::from_str::<Config>(&newer).unwrap_err().to_string();
        assert!(error.contains("format 99"), "{error}");
    }
}
