//! `cowl volume create | inspect | ls | prune | rm`

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};

use super::table::Format;
use super::{Context, Failure, confirm, inspect, print, size};
use crate::container::Config;
use crate::filter::Filters;
use crate::image::moment;
use crate::volume::{self, Error, Volume, Volumes};

/// `cowl volume COMMAND`
#[derive(Debug, ClapArgs)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a volume
    Create {
        /// The kind of volume; `local` is what there is
        #[arg(short, long, default_value = "local")]
        driver: String,
        /// Set a label
        #[arg(long, value_name = "NAME[=VALUE]")]
        label: Vec<String>,
        /// An option of the driver; `local` has none here
        #[arg(short, long, value_name = "NAME=VALUE")]
        opt: Vec<String>,
        /// Its name; one of 64 digits when none is given
        name: Option<String>,
    },
    /// Show everything about volumes
    Inspect {
        /// Show this template of each volume instead of JSON
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// List volumes
    #[command(alias = "list")]
    Ls {
        /// Only volumes for which this holds: name=, label=, dangling=, driver=
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// Show this template of each volume
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
        /// Show names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove anonymous volumes that no container has
    Prune {
        /// Named ones too
        #[arg(short, long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
        /// Only volumes for which this holds: label=KEY[=VALUE], label!=KEY[=VALUE]
        #[arg(long, value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// Remove volumes
    #[command(alias = "remove")]
    Rm {
        /// What is not there is no error
        #[arg(short, long)]
        force: bool,
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
}

/// The configurations of all containers.
fn configurations(context: &Context) -> Result<Vec<Config>, Failure> {
    Ok(context.containers()?.list()?.into_iter().map(|container| container.config).collect())
}

/// Runs one of them.
pub fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    context.store()?; // a store that is not ours must not be written into
    let volumes = Volumes::open(&context.root)?;
    match args.command {
        Command::Create { driver, label, opt, name } => {
            if driver != "local" {
                return Err(Error::Driver(driver).into());
            }
            if let Some(option) = opt.into_iter().next() {
                let name = name.unwrap_or_default();
                return Err(Error::Option { name, option }.into());
            }
            let labels: BTreeMap<_, _> = label
                .iter()
                .map(|text| text.split_once('=').unwrap_or((text, "")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let made = volumes.create(name.as_deref(), labels)?;
            print(format!("{}\n", made.name).as_bytes())?;
            Ok(0)
        }
        Command::Inspect { format, volumes: names } => {
            inspect::show(format.as_deref(), &names, |name| {
                Ok(described(&volumes, &volumes.find(name)?))
            })
        }
        Command::Ls { filter, format, quiet } => {
            list(context, &volumes, &filter, format.as_deref(), quiet)
        }
        Command::Prune { all, force, filter } => prune(context, &volumes, all, force, &filter),
        Command::Rm { force, volumes: names } => remove(context, &volumes, force, &names),
    }
}

/// For `inspect`: a volume of this name, in Docker's shape.
pub fn find(context: &Context, name: &str, _size: bool) -> Result<Option<Value>, Failure> {
    let volumes = Volumes::open(&context.root)?;
    Ok(volumes.find(name).ok().map(|volume| described(&volumes, &volume)))
}

fn described(volumes: &Volumes, volume: &Volume) -> Value {
    let seconds = i64::try_from(volume.created / 1000).unwrap_or(i64::MAX);
    json!({
        "CreatedAt": moment::to_second(seconds),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volumes.data(&volume.name).display().to_string(),
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}

fn in_use<'a>(containers: &'a [Config], name: &'a str) -> bool {
    containers.iter().any(|config| volume::names(config).any(|(used, _)| used == name))
}

fn list(
    context: &Context,
    volumes: &Volumes,
    filter: &[String],
    format: Option<&str>,
    quiet: bool,
) -> Result<u8, Failure> {
    let filters = Filters::parse(filter, &["dangling", "driver", "label", "name"])?;
    let dangling = filters.truth("dangling")?;
    let containers = configurations(context)?;
    let chosen: Vec<Volume> = volumes
        .list()?
        .into_iter()
        .filter(|volume| {
            filters.matches("name", &volume.name)
                && filters.is("driver", "local")
                && filters.labels(|key| volume.labels.get(key).map(String::as_str))
                && dangling.is_none_or(|wanted| wanted != in_use(&containers, &volume.name))
        })
        .collect();
    if quiet && format.is_none() {
        let text: String = chosen.iter().map(|volume| format!("{}\n", volume.name)).collect();
        print(text.as_bytes())?;
        return Ok(0);
    }
    let rows: Vec<Value> = chosen
        .iter()
        .map(|volume| {
            let labels: Vec<String> =
                volume.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            json!({
                "Availability": "N/A",
                "Driver": "local",
                "Group": "N/A",
                "Labels": labels.join(","),
                "Links": "N/A",
                "Mountpoint": volumes.data(&volume.name).display().to_string(),
                "Name": volume.name,
                "Scope": "local",
                "Size": "N/A",
                "Status": "N/A",
            })
        })
        .collect();
    let titles = [
        ("Driver", "DRIVER"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Size", "SIZE"),
    ];
    let text = Format::parse(format, "{{.Driver}}\t{{.Name}}")?.render(&titles, &rows)?;
    print(text.as_bytes())?;
    Ok(0)
}

/// How many bytes of the disk a tree has.
fn occupied(dir: &Path) -> u64 {
    let mut sum = 0u64;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        sum = sum.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            sum = sum.saturating_add(occupied(&entry.path()));
        }
    }
    sum
}

fn prune(
    context: &Context,
    volumes: &Volumes,
    all: bool,
    force: bool,
    filter: &[String],
) -> Result<u8, Failure> {
    let filters = Filters::parse(filter, &["all", "label", "label!"])?;
    let all = all || filters.truth("all")? == Some(true);
    let which = if all { "local volumes" } else { "anonymous local volumes" };
    let warning =
        format!("WARNING! This will remove all {which} not used by at least one container.");
    if !force && !confirm(&warning)? {
        print(b"Total reclaimed space: 0B\n")?;
        return Ok(0);
    }
    let containers = configurations(context)?;
    let (mut removed, mut reclaimed) = (Vec::new(), 0u64);
    for volume in volumes.list()? {
        let chosen = (all || volume.anonymous)
            && filters.labels(|key| volume.labels.get(key).map(String::as_str));
        if !chosen {
            continue;
        }
        let bytes = occupied(&volumes.data(&volume.name));
        match volumes.remove(&volume.name, &containers) {
            Ok(()) => {
                reclaimed = reclaimed.saturating_add(bytes);
                removed.push(volume.name);
            }
            Err(Error::InUse { .. } | Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut text = String::new();
    if !removed.is_empty() {
        text.push_str(&format!("Deleted Volumes:\n{}\n\n", removed.join("\n")));
    }
    text.push_str(&format!("Total reclaimed space: {}\n", size::long(reclaimed)));
    print(text.as_bytes())?;
    Ok(0)
}

fn remove(
    context: &Context,
    volumes: &Volumes,
    force: bool,
    names: &[String],
) -> Result<u8, Failure> {
    let containers = configurations(context)?;
    let mut failures = Vec::new();
    for name in names {
        match volumes.remove(name, &containers) {
            Ok(()) => print(format!("{name}\n").as_bytes())?,
            Err(Error::Unknown(_)) if force => print(format!("{name}\n").as_bytes())?,
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::new(1, failures.join("\ncowl: "))) }
}
