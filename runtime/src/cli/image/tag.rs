//! `cowl tag`

use crate::cli::{Context, Failure};
use crate::reference::Reference;

/// Give an image another name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image, by name or id
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// The new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Runs the command.
///
/// # Errors
/// When there is no such image, or the new name is none.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let target: Reference = args.target.parse()?;
    if target.digest().is_some() {
        return Err(Failure::new(1, "refusing to create a tag with a digest reference"));
    }
    context.store()?.tag(&args.source, &target)?;
    Ok(0)
}
