//! `cowl system fsck`

use super::{Context, Failure};
use crate::cli::{image, print};

/// Check everything in the image store against its digests
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take out what is damaged, so that it can be loaded or pulled again
    #[arg(long)]
    repair: bool,
}

/// Runs the command. The exit code is 1 when something is wrong and was not repaired.
///
/// # Errors
/// When the store cannot be read at all.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let store = context.store()?;
    let checked = store.check(args.repair, &|id| image::users(&store, id))?;
    let mut text = String::new();
    for problem in &checked.problems {
        text.push_str(&format!("{problem}\n"));
    }
    for repair in &checked.repairs {
        text.push_str(&format!("repaired: {repair}\n"));
    }
    let result = match checked.problems.len() {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    text.push_str(&format!(
        "{} image(s), {} layer(s), {} object(s): {result}\n",
        checked.images, checked.layers, checked.objects
    ));
    print(text.as_bytes())?;
    if checked.problems.is_empty() || args.repair {
        // Opening the store removes what was taken out.
        context.store()?;
        return Ok(0);
    }
    Err(Failure::new(
        1,
        "the image store is damaged: `cowl system fsck --repair` takes out what is wrong",
    ))
}
