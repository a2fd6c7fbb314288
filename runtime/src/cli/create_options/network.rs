//! Flags about the network.

use clap::{Args, ValueEnum};

use crate::cli::Failure;
use crate::container::config::{self, Isolation, Sharing};
use crate::spec::Network;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// The network it sees: its own loopback only, or this machine's
    #[arg(long, alias = "net", value_enum, default_value_t = Name::None)]
    network: Name,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    None,
    Host,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// For the configuration.
    pub config: config::Network,
}

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Read, Failure> {
        let mode = match self.network {
            Name::None => Network::None,
            Name::Host => Network::Host,
        };
        Ok(Read { config: config::Network { mode } })
    }
}

impl Read {
    /// The host name of a container for which none was asked: its id, or the machine's where it
    /// shares the machine's network or host name.
    pub fn default_hostname(&self, isolation: &Isolation, id: &str) -> String {
        if self.config.mode != Network::Host && isolation.uts != Sharing::Host {
            return id.to_owned();
        }
        nix::unistd::gethostname()
            .map_or_else(|_| id.to_owned(), |name| name.to_string_lossy().into_owned())
    }
}
