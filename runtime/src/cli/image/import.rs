//! `cowl import`

use std::path::PathBuf;

use crate::archive::change::Change;
use crate::archive::import::{Import, import};
use crate::cli::{Context, Failure, print};
use crate::reference::Reference;

/// Make an image of one layer from the archive of a root filesystem
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Apply a Dockerfile instruction to the image (repeatable)
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Message for the image's history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// The archive (tar; plain, gzip or zstd), or - for standard input
    #[arg(value_name = "TARBALL|-")]
    archive: PathBuf,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When the archive cannot be imported.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let name = args.name.as_deref().map(str::parse::<Reference>).transpose()?;
    if let Some(name) = &name
        && name.digest().is_some()
    {
        return Err(Failure::new(
            1,
            format!("cannot name an image '{}': its digest is not known yet", name.familiar()),
        ));
    }
    let changes: Vec<Change> =
        args.change.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let input = super::input(&args.archive);
    super::check_stdin(input, "redirect an archive to it")?;
    let message = if args.message.is_empty() {
        format!("Imported from {}", args.archive.display())
    } else {
        args.message.clone()
    };
    let request = Import { input, name, changes: &changes, message: &message };
    let outcome = import(&context.store()?, &request)?;
    super::remark(&outcome.renamed);
    for image in &outcome.images {
        print(format!("{}\n", image.id).as_bytes())?;
    }
    Ok(0)
}
