//! Flags about how much of the machine the container may use.

use clap::Args;

use super::engine;
use crate::cli::Failure;
use crate::container::config::Limits;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// How likely it is killed when memory ends, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
}

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Limits, Failure> {
        if let Some(score) = self.oom_score_adj
            && !(-1000..=1000).contains(&score)
        {
            return Err(engine(format!(
                "invalid value {score}, range for oom score adj is [-1000, 1000]"
            )));
        }
        Ok(Limits { oom_score_adj: self.oom_score_adj, ..Limits::default() })
    }
}
