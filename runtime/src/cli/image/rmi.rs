//! `cowl rmi`

use crate::cli::{Context, Failure, print};
use crate::store::{Removal, Removed};

/// Remove images, or names of images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all names of an image given by its id; of one in use, only its names
    #[arg(short, long)]
    force: bool,
    /// Keep untagged parents (images here have no parents: there is nothing to keep)
    #[arg(long)]
    no_prune: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs the command. Every image is tried; the sentences about those that stay come last.
///
/// # Errors
/// When any image could not be removed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let store = context.store()?;
    let users = |id: &crate::digest::Digest| super::users(&store, id);
    let mut failures = Vec::new();
    for image in &args.images {
        let removal = Removal { target: image, force: args.force, users: &users };
        match store.remove(&removal) {
            Ok(removed) => {
                for removed in removed {
                    let line = match removed {
                        Removed::Untagged(name) => format!("Untagged: {name}\n"),
                        Removed::Deleted(digest) => format!("Deleted: {digest}\n"),
                    };
                    print(line.as_bytes())?;
                }
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::new(1, failures.join("\ncowl: "))) }
}
