//! `cowl export`

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use super::image::save::to_file;
use super::{Context, Failure};
use crate::access::Access;
use crate::archive::walk::Walker;

/// Write a container's filesystem as a tar archive
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    container: String,
}

impl Args {
    /// The container that it is about.
    pub fn container(&self) -> Option<&str> {
        Some(&self.container)
    }
}

/// Runs the command.
///
/// # Errors
/// When there is no such container, or its filesystem cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::new(
            1,
            "cowardly refusing to save to a terminal: use the -o flag or redirect",
        ));
    }
    let container = context.containers()?.find(&args.container)?;
    let files = Access::files(&container, &context.root)?;
    let result = to_file(args.output.as_deref(), |output| {
        let mut walker = Walker::new(output);
        walker.content(files.root(), b"")?;
        walker.finish().map(drop).map_err(Failure::from)
    });
    files.close()?;
    result?;
    Ok(0)
}
