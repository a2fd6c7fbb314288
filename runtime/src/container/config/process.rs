//! What PID 1 is.

use serde::{Deserialize, Serialize};

use crate::container::record::Bytes;

/// The first process of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// What is executed, before the arguments.
    pub entrypoint: Vec<Bytes>,
    /// The command, or the entry point's arguments.
    pub arguments: Vec<Bytes>,
    /// Environment, as `NAME=value`, merged from image, user and defaults.
    pub environment: Vec<Bytes>,
    /// `user[:group]`; empty for root.
    pub user: String,
    /// Supplementary groups, names or numbers (`--group-add`).
    pub groups: Vec<String>,
    /// Where it starts; absolute.
    pub working_dir: Bytes,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its stdin is open.
    pub stdin: bool,
    /// Whether a small init of ours is PID 1 and the command its child (`--init`).
    pub init: bool,
}

impl Process {
    /// The whole command line; never empty for a container that was made by `create`.
    pub fn command(&self) -> impl Iterator<Item = &Bytes> {
        self.entrypoint.iter().chain(&self.arguments)
    }
}
