//! `cowl network ls`

use serde_json::{Value, json};

use super::networks;
use crate::cli::table::Format;
use crate::cli::{Context, Failure, print};
use crate::filter::Filters;
use crate::network::Network;
use crate::network::record::BRIDGE;

/// Filters that it knows.
const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
/// The fields of a line and their titles.
const TITLES: [(&str, &str); 9] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
    ("IPv4", "IPV4"),
];

/// List networks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only networks for which this holds: name=TEXT, id=DIGITS, driver=NAME,
    /// label=KEY[=VALUE], dangling=BOOL, type=custom|builtin, scope=local
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Show a line as this template, or 'json', or 'table TEMPLATE'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// What stands in a line.
struct Line {
    id: String,
    name: String,
    driver: &'static str,
    internal: bool,
    created: u64,
    network: Option<Network>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let table = if args.quiet { "{{.ID}}" } else { "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}" };
    let format = match (args.quiet, args.format.as_deref()) {
        (true, None | Some("table")) => Format::parse(Some(table), table)?,
        (_, format) => Format::parse(format, table)?,
    };
    let networks = networks(context)?;
    let dangling = filters.truth("dangling")?;
    let mut lines: Vec<Line> = networks
        .list()?
        .into_iter()
        .map(|network| Line {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: "bridge",
            internal: network.internal,
            created: network.created,
            network: Some(network),
        })
        .collect();
    for (name, driver) in super::show::WITHOUT_RECORD {
        let id = super::show::fixed_id(name);
        let (name, internal, created) = (name.to_owned(), false, 0);
        lines.push(Line { id, name, driver, internal, created, network: None });
    }
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rows = Vec::new();
    for line in &lines {
        let custom = line.network.is_some() && line.name != BRIDGE;
        let used = match &line.network {
            Some(network) => networks.endpoints(&network.id)?.iter().any(|one| one.live()),
            None => true,
        };
        let label = |key: &str| {
            line.network.as_ref().and_then(|network| network.labels.get(key)).map(String::as_str)
        };
        let kind = if custom { "custom" } else { "builtin" };
        if filters.matches("name", &line.name)
            && filters.is_prefix("id", &line.id)
            && filters.is("driver", line.driver)
            && filters.is("scope", "local")
            && filters.is("type", kind)
            && filters.labels(label)
            && dangling.is_none_or(|wanted| wanted == (custom && !used))
        {
            rows.push(row(line, args.no_trunc));
        }
    }
    print(format.render(&TITLES, &rows)?.as_bytes())?;
    Ok(0)
}

fn row(line: &Line, whole: bool) -> Value {
    let id = if whole { line.id.as_str() } else { line.id.get(..12).unwrap_or(&line.id) };
    let labels: Vec<String> = line
        .network
        .iter()
        .flat_map(|network| &network.labels)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "CreatedAt": super::show::moment(line.created),
        "Driver": line.driver,
        "ID": id,
        "IPv4": "true",
        "IPv6": "false",
        "Internal": line.internal.to_string(),
        "Labels": labels.join(","),
        "Name": line.name,
        "Scope": "local",
    })
}
