//! Commands on images, by their short names (`rmi`) and as `image …`.

pub mod history;
pub mod import;
pub mod inspect;
pub mod list;
pub mod load;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rmi;
pub mod save;
pub mod tag;

use std::io::{self, Write};
use std::path::Path;

use super::{Context, Failure};
use crate::archive::source::Input;
use crate::container::using_image;
use crate::digest::Digest;
use crate::store::{Renamed, Store, StoreError};

/// `cowl image COMMAND`
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the history of an image
    History(history::Args),
    /// Make an image of one layer from the archive of a root filesystem
    Import(import::Args),
    /// Show everything about images
    Inspect(inspect::Args),
    /// Load images from an archive: `docker save`'s, or an OCI image layout
    Load(load::Args),
    /// List images
    #[command(alias = "list")]
    Ls(list::Args),
    /// Remove images that nothing uses
    Prune(prune::Args),
    /// Download an image from a registry
    Pull(pull::Args),
    /// Upload an image to a registry
    Push(push::Args),
    /// Remove images, or names of images
    #[command(alias = "remove")]
    Rm(rmi::Args),
    /// Save images to an archive that `cowl load`, Docker and Podman load
    Save(save::Args),
    /// Give an image another name
    Tag(tag::Args),
}

/// Runs one of them.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    match &args.command {
        Command::History(args) => history::run(args, context),
        Command::Import(args) => import::run(args, context),
        Command::Inspect(args) => inspect::run(args, context),
        Command::Load(args) => load::run(args, context),
        Command::Ls(args) => list::run(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Pull(args) => pull::run(args, context),
        Command::Push(args) => push::run(args, context),
        Command::Rm(args) => rmi::run(args, context),
        Command::Save(args) => save::run(args, context),
        Command::Tag(args) => tag::run(args, context),
    }
}

/// The containers that use an image.
pub(super) fn users(store: &Store, id: &Digest) -> Result<Vec<String>, StoreError> {
    using_image(store.root(), &id.to_string()).map_err(|error| {
        StoreError::Conflict(format!("cannot tell which containers use the image: {error}"))
    })
}

/// What Docker's `-` stands for.
fn input(path: &Path) -> Input<'_> {
    if path == Path::new("-") { Input::Stdin } else { Input::Path(path) }
}

/// A terminal on stdin means that somebody forgot to name the archive.
fn check_stdin(input: Input<'_>, hint: &str) -> Result<(), Failure> {
    use std::io::IsTerminal;
    if matches!(input, Input::Stdin) && io::stdin().is_terminal() {
        return Err(Failure::new(1, format!("standard input is a terminal: {hint}")));
    }
    Ok(())
}

/// Tells on stderr which names moved.
pub(super) fn remark(renamed: &[Renamed]) {
    let mut stderr = io::stderr().lock();
    for renamed in renamed {
        writeln!(
            stderr,
            "The image {} already exists, renaming the old one with ID {} to empty string",
            renamed.name.familiar(),
            renamed.old
        )
        .ok();
    }
}
