//! What is mounted in a container because somebody asked for it.

use serde::{Deserialize, Serialize};

use crate::container::record::Bytes;

/// Where a mount's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A directory or file of this machine.
    Bind {
        /// Absolute.
        source: Bytes,
    },
    /// A volume of the store.
    Volume {
        /// Its name; 64 hex digits for an anonymous one.
        name: String,
        /// Whether nobody named it, so that it goes with the container (`rm -v`, `--rm`).
        anonymous: bool,
        /// Whether content of the image is not copied into it when it is new and empty.
        nocopy: bool,
        /// A directory inside of it (`volume-subpath`); empty for all of it.
        #[serde(default)]
        subpath: Option<Bytes>,
    },
    /// A filesystem in memory, new at each start.
    Tmpfs {
        /// Options for the kernel, as `size=64m` or `mode=1777`.
        options: Vec<String>,
    },
}

/// How mounts made later on one side reach the other (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Not at all.
    #[default]
    Rprivate,
    /// Not at all, and submounts keep their own way.
    Private,
    /// From the machine into the container.
    Rslave,
    /// As `Rslave`, for this mount only.
    Slave,
    /// Both ways.
    Rshared,
    /// As `Rshared`, for this mount only.
    Shared,
}

impl Propagation {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rprivate => "rprivate",
            Self::Private => "private",
            Self::Rslave => "rslave",
            Self::Slave => "slave",
            Self::Rshared => "rshared",
            Self::Shared => "shared",
        }
    }

    /// Reads Docker's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Rprivate, Self::Private, Self::Rslave, Self::Slave, Self::Rshared, Self::Shared]
            .into_iter()
            .find(|one| one.as_str() == word)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is shown.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Where in the container; absolute and clean.
    pub target: Bytes,
    /// Whether the container may not write.
    #[serde(default)]
    pub read_only: bool,
    /// How later mounts travel.
    #[serde(default)]
    pub propagation: Propagation,
    /// Whether what is mounted below the source stays out (`bind-recursive=disabled`).
    #[serde(default)]
    pub non_recursive: bool,
    /// The words after the second colon of `-v`, for `inspect`.
    #[serde(default)]
    pub mode: String,
}
