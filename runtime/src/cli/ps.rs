//! `cowl ps`.

use super::{Context, Failure, age, print, table};
use crate::container::{Container, Status};

/// How much of a command is shown.
const COMMAND_WIDTH: usize = 20;

/// `cowl ps`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
}

/// The command in double quotes, with an ellipsis where it was cut.
fn command(container: &Container, whole: bool) -> String {
    let words: Vec<String> = container
        .config
        .process
        .command()
        .map(|word| std::ffi::OsString::from(word).display().to_string())
        .collect();
    let text = words.join(" ");
    if whole || text.chars().count() <= COMMAND_WIDTH {
        return format!("{text:?}");
    }
    let cut: String = text.chars().take(COMMAND_WIDTH - 1).collect();
    format!("{:?}", format!("{cut}…"))
}

/// Docker's status column.
fn status(container: &Container) -> String {
    match container.state.status {
        Status::Created { .. } => "Created".to_owned(),
        Status::Running(live) => format!("Up {}", age::since(live.since)),
        Status::Paused(live) => format!("Up {} (Paused)", age::since(live.since)),
        Status::Restarting { exit_code, at, .. } => {
            format!("Restarting ({exit_code}) {} ago", age::since(at))
        }
        Status::Exited { exit_code, at } => format!("Exited ({exit_code}) {} ago", age::since(at)),
    }
}

/// Lists containers.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    let header = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    if !args.quiet {
        rows.push(header.map(str::to_owned).to_vec());
    }
    for container in context.containers()?.list()? {
        if !args.all
            && matches!(container.state.status, Status::Created { .. } | Status::Exited { .. })
        {
            continue;
        }
        let id = &container.config.id;
        let id = if args.no_trunc { id.as_str() } else { id.short() }.to_owned();
        if args.quiet {
            rows.push(vec![id]);
            continue;
        }
        rows.push(vec![
            id,
            container.config.image.clone(),
            command(&container, args.no_trunc),
            format!("{} ago", age::since(container.config.created)),
            status(&container),
            String::new(),
            container.config.name.clone(),
        ]);
    }
    print(table::layout(&rows).as_bytes())?;
    Ok(0)
}
