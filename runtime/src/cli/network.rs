//! `cowl network …`: Docker's commands on networks.

mod connect;
mod create;
mod list;
mod prune;
mod remove;
mod show;

pub use show::find;

use super::{Context, Failure};
use crate::network::Networks;

/// `cowl network COMMAND`
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Attach a container to a network
    Connect(connect::ConnectArgs),
    /// Make a network
    Create(create::Args),
    /// Take a container out of a network
    Disconnect(connect::DisconnectArgs),
    /// Show everything about networks
    Inspect(show::Args),
    /// List networks
    #[command(alias = "list")]
    Ls(list::Args),
    /// Remove networks that nobody is attached to
    Prune(prune::Args),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(remove::Args),
}

/// Runs one of them.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    match args.command {
        Command::Connect(args) => connect::connect(&args, context),
        Command::Create(args) => create::run(args, context),
        Command::Disconnect(args) => connect::disconnect(&args, context),
        Command::Inspect(args) => show::run(&args, context),
        Command::Ls(args) => list::run(&args, context),
        Command::Prune(args) => prune::run(&args, context),
        Command::Rm(args) => remove::run(&args, context),
    }
}

/// The networks of the store, with the default one.
fn networks(context: &Context) -> Result<Networks, Failure> {
    context.store()?; // a store that is not ours must not be written into
    let networks = Networks::of(&context.root);
    if !crate::userns::inside() {
        crate::network::catalog::ensure_default(&networks)?;
    }
    Ok(networks)
}

/// `KEY=VALUE`, or `KEY` for an empty value.
fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}
