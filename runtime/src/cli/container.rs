//! Commands on containers as `container …`; each has a short name too, but `prune` and the two
//! that mean something else for other objects.

pub mod inspect;
pub mod prune;

use super::{Context, Failure};
use super::{
    attach, create, diff, exec, kill, logs, pause, ps, rename, restart, rm, run, start, stats,
    stop, top, update, wait,
};

/// `cowl container COMMAND`
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Attach stdin, stdout and stderr to a container that runs
    Attach(attach::Args),
    /// Make a container without starting it
    Create(Box<create::Args>),
    /// List what a container changed in its filesystem
    Diff(diff::Args),
    /// Run a command in a container that runs
    Exec(exec::Args),
    /// Show everything about containers
    Inspect(inspect::Args),
    /// Send a signal to containers
    Kill(kill::Args),
    /// Show what a container has written
    Logs(logs::Args),
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(ps::Args),
    /// Freeze every process of containers
    Pause(pause::Args),
    /// Remove containers that do not run
    Prune(prune::Args),
    /// Give a container another name
    Rename(rename::Args),
    /// Stop containers and start them again
    Restart(restart::Args),
    /// Remove containers
    #[command(alias = "remove")]
    Rm(rm::Args),
    /// Run a command in a new container
    Run(Box<run::Args>),
    /// Start containers
    Start(start::Args),
    /// Stop containers: ask them to end, then kill them
    Stop(stop::Args),
    /// Show what containers use of the machine
    Stats(stats::Args),
    /// Show the processes of a container
    Top(top::Args),
    /// Change limits and restart policies of containers
    Update(update::Args),
    /// Let frozen containers go on
    Unpause(pause::Args),
    /// Wait until containers have ended, and print their exit codes
    Wait(wait::Args),
}

impl Args {
    /// The exit code of failures before the command, where it is Docker's 125.
    pub fn runs(&self) -> bool {
        matches!(self.command, Command::Run(_) | Command::Create(_))
    }

    /// Whether a container may be started.
    pub fn starts(&self) -> bool {
        matches!(self.command, Command::Run(_) | Command::Start(_) | Command::Restart(_))
    }
}

/// Runs one of them.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    match args.command {
        Command::Attach(args) => attach::run(&args, context),
        Command::Create(args) => create::run(*args, context),
        Command::Diff(args) => diff::run(&args, context),
        Command::Exec(args) => exec::run(args, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Kill(args) => kill::run(&args, context),
        Command::Logs(args) => logs::run(&args, context),
        Command::Ls(args) => ps::run(&args, context),
        Command::Pause(args) => pause::pause(&args, context),
        Command::Prune(args) => prune::run(&args, context),
        Command::Rename(args) => rename::run(&args, context),
        Command::Restart(args) => restart::run(&args, context),
        Command::Rm(args) => rm::run(&args, context),
        Command::Run(args) => run::run(*args, context),
        Command::Start(args) => start::run(&args, context),
        Command::Stop(args) => stop::run(&args, context),
        Command::Stats(args) => stats::run(&args, context),
        Command::Top(args) => top::run(&args, context),
        Command::Update(args) => update::run(&args, context),
        Command::Unpause(args) => pause::unpause(&args, context),
        Command::Wait(args) => wait::run(&args, context),
    }
}
