//! `cowl container prune`.

use crate::cli::{Context, Failure, confirm, note, now, print, ps, size};
use crate::container::Status;
use crate::filter::Filters;

/// `cowl container prune`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only containers for which this holds: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

const FILTERS: [&str; 3] = ["label", "label!", "until"];

/// Removes every container that does not run.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let until = filters.point("until", now())?;
    if !args.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let containers = context.containers()?;
    let mut gone = Vec::new();
    let mut reclaimed = 0u64;
    for container in containers.list()? {
        let config = &container.config;
        let ended =
            matches!(container.state.status, Status::Created { .. } | Status::Exited { .. });
        let old = until.is_none_or(|until| i128::from(config.created) * 1_000_000 < until);
        let labelled = filters.labels(|key| config.labels.get(key).map(String::as_str));
        if !ended || !old || !labelled || container.alive()? {
            continue;
        }
        let bytes = ps::disk_use(&container.dir.join("upper"));
        match containers.remove(config.id.as_str(), false) {
            Ok(()) => {
                note::container(context, "destroy", &container, &[]);
                reclaimed = reclaimed.saturating_add(bytes);
                gone.push(config.id.as_str().to_owned());
            }
            // Started, or removed by another command meanwhile.
            Err(crate::container::Error::Running(_) | crate::container::Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut text = String::new();
    if !gone.is_empty() {
        text = format!("Deleted Containers:\n{}\n\n", gone.join("\n"));
    }
    text.push_str(&format!("Total reclaimed space: {}\n", size::long(reclaimed)));
    print(text.as_bytes())?;
    Ok(0)
}
