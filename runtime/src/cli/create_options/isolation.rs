//! Flags about the walls between container and machine.

use clap::Args;

use super::engine;
use crate::cli::Failure;
use crate::container::config::Isolation;
use crate::spec::capability;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Give it a capability more than usual, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
}

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Isolation, Failure> {
        let names = |list: &[String]| {
            list.iter()
                .flat_map(|text| text.split(','))
                .map(capability::normal)
                .collect::<Result<Vec<_>, _>>()
                .map_err(engine)
        };
        Ok(Isolation {
            cap_add: names(&self.cap_add)?,
            cap_drop: names(&self.cap_drop)?,
            read_only: self.read_only,
            ..Isolation::default()
        })
    }
}
