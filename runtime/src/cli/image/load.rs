//! `cowl load`

use std::path::PathBuf;

use crate::archive::load;
use crate::archive::source::Input;
use crate::cli::{Context, Failure, print};

/// Load images from an archive: `docker save`'s, or an OCI image layout
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read from this file or directory instead of standard input
    #[arg(short, long, value_name = "FILE|DIR")]
    input: Option<PathBuf>,
    /// Print nothing but errors and ids
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// When the archive cannot be loaded.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let input = args.input.as_deref().map_or(Input::Stdin, super::input);
    super::check_stdin(input, "name the archive with -i FILE, or redirect it")?;
    let outcome = load::load(&context.store()?, input)?;
    if !args.quiet {
        super::remark(&outcome.renamed);
    }
    let mut text = String::new();
    for image in &outcome.images {
        if image.names.is_empty() {
            text.push_str(&format!("Loaded image ID: {}\n", image.id));
        }
        for name in &image.names {
            text.push_str(&format!("Loaded image: {}\n", name.familiar()));
        }
    }
    print(text.as_bytes())?;
    Ok(0)
}
