//! Flags about labels, restarts, stopping and logging.

use std::collections::BTreeMap;

use clap::Args;

use crate::cli::Failure;
use crate::container::life::Life;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Set a label
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    label: Vec<String>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// For the configuration.
    pub life: Life,
    labels: Vec<(String, String)>,
}

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Read, Failure> {
        let labels = self
            .label
            .iter()
            .map(|text| match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (text.clone(), String::new()),
            })
            .collect();
        Ok(Read { life: Life::default(), labels })
    }
}

impl Read {
    /// The image's labels, and over them the user's.
    pub fn labels(&self, mut all: BTreeMap<String, String>) -> BTreeMap<String, String> {
        all.extend(self.labels.iter().cloned());
        all
    }
}
