//! Flags about where the image comes from.

use clap::Args;

use super::engine;
use crate::cli::image::pull::{When, for_run};
use crate::cli::{Context, Failure};

/// What `--pull` is when it is not given.
const VARIABLE: &str = "COWL_PULL";

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// When to ask a registry for the image: always, missing or never [default: $COWL_PULL, else
    /// missing]
    #[arg(long, value_name = "WHEN", hide_possible_values = true)]
    pull: Option<When>,
    /// For which machine the image must be: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Say nothing while the image comes
    #[arg(short, long)]
    quiet: bool,
}

impl Options {
    /// Gets the image, if that has to be.
    pub fn get(&self, image: &str, context: &Context) -> Result<(), Failure> {
        let when = match (self.pull, std::env::var(VARIABLE).ok().as_deref()) {
            (Some(when), _) => when,
            (None, None | Some("" | "missing")) => When::Missing,
            (None, Some("always")) => When::Always,
            (None, Some("never")) => When::Never,
            (None, Some(other)) => {
                return Err(engine(format!(
                    "{VARIABLE} is '{other}': set it to always, missing or never"
                )));
            }
        };
        for_run(context, image, when, self.platform.as_deref(), self.quiet)
            .map_err(|failure| engine(failure.message))
    }
}
