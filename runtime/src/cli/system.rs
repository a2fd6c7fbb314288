//! `cowl system …`: the store as a whole.

mod df;
mod fsck;
mod prune;

use super::{Context, Failure};

/// `cowl system COMMAND`
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what takes how much of the disk
    Df(df::Args),
    /// Check everything in the image store against its digests
    #[command(alias = "check")]
    Fsck(fsck::Args),
    /// Show what this machine allows, and what the store holds
    Info,
    /// Remove containers that do not run, and images that nothing uses
    Prune(prune::Args),
}

/// Runs one of them.
///
/// # Errors
/// As for each.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    match &args.command {
        Command::Df(args) => df::run(args, context),
        Command::Fsck(args) => fsck::run(args, context),
        Command::Info => super::info::run(context),
        Command::Prune(args) => prune::run(args, context),
    }
}
