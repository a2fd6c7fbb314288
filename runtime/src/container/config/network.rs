//! A container's network.

use serde::{Deserialize, Serialize};

/// What the container sees of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Which one.
    pub mode: crate::spec::Network,
}
