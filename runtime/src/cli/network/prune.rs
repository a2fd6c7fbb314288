//! `cowl network prune`

use super::networks;
use crate::cli::{Context, Failure, confirm, print};
use crate::filter::Filters;
use crate::network::catalog;

/// Filters that it knows.
const FILTERS: [&str; 3] = ["label", "label!", "until"];

/// Remove networks that nobody is attached to
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only networks for which this holds: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let now = i128::from(crate::container::record::now()).saturating_mul(1_000_000);
    let until = filters.point("until", now)?;
    let warning =
        "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let removed = catalog::prune(&networks(context)?, |network| {
        let created = i128::from(network.created).saturating_mul(1_000_000);
        filters.labels(|key| network.labels.get(key).map(String::as_str))
            && until.is_none_or(|until| created < until)
    })?;
    if !removed.is_empty() {
        print(format!("Deleted Networks:\n{}\n\n", removed.join("\n")).as_bytes())?;
    }
    Ok(0)
}
