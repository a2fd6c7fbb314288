//! `cowl system prune`

use super::{Context, Failure};
use crate::cli::image::prune::{listed, prune};
use crate::cli::{confirm, print, size};
use crate::filter::Filters;
use crate::store::disk_use;

/// Remove containers that do not run, and images that nothing uses
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// When something cannot be removed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let images = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let warning = format!("WARNING! This will remove:\n  - all stopped containers\n  - {images}\n");
    if !args.force && !confirm(&warning)? {
        print(b"Total reclaimed space: 0B\n")?;
        return Ok(0);
    }
    let mut text = String::new();
    let mut reclaimed = 0;
    let containers = context.containers()?;
    let mut gone = Vec::new();
    for container in containers.list()? {
        if container.alive()? {
            continue;
        }
        let bytes = disk_use(&container.dir)?;
        let id = container.config.id.as_str();
        match containers.remove(id, false) {
            Ok(()) => {
                gone.push(id.to_owned());
                reclaimed += bytes;
            }
            // Started, or removed, meanwhile.
            Err(crate::container::Error::Running(_) | crate::container::Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !gone.is_empty() {
        text.push_str(&format!("Deleted Containers:\n{}\n\n", gone.join("\n")));
    }
    let store = context.store()?;
    let (removed, bytes) = prune(&store, args.all, &Filters::parse(&[], &[])?)?;
    reclaimed += bytes;
    text.push_str(&listed(&removed));
    text.push_str(&format!("Total reclaimed space: {}\n", size::long(reclaimed)));
    print(text.as_bytes())?;
    Ok(0)
}
