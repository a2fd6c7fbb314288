//! `cowl ps`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::table::Format;
use super::{Context, Failure, age, print, size};
use crate::container::config::MountKind;
use crate::container::record::Bytes;
use crate::container::{Container, Status};
use crate::filter::Filters;
use crate::image::moment;

/// How much of a command, and of a name of a mount, is shown.
const COMMAND_WIDTH: usize = 20;
const MOUNT_WIDTH: usize = 15;

/// Filters that it knows.
const FILTERS: [&str; 11] = [
    "ancestor", "before", "exited", "id", "label", "label!", "name", "network", "since", "status",
    "volume",
];

/// The fields of a line and their titles.
const TITLES: [(&str, &str); 14] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
];

/// `cowl ps`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show how much each container has written
    #[arg(short, long)]
    size: bool,
    /// Show the container that was made last, whatever its state
    #[arg(short, long)]
    latest: bool,
    /// Show that many of the containers that were made last, whatever their state
    #[arg(short = 'n', long, value_name = "NUMBER")]
    last: Option<usize>,
    /// Only containers for which this holds: NAME=VALUE with ancestor, before, exited, id, label,
    /// label!, name, network, since, status, volume
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Show a line as this template, or 'json', or 'table TEMPLATE'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The command in double quotes, with an ellipsis where it was cut.
fn command(container: &Container, whole: bool) -> String {
    let words: Vec<String> = container
        .config
        .process
        .command()
        .map(|word| OsString::from(word).display().to_string())
        .collect();
    let text = words.join(" ");
    let shown = if whole { text } else { shortened(&text, COMMAND_WIDTH) };
    format!("{shown:?}")
}

/// Docker's status column.
pub fn status(container: &Container) -> String {
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

/// How many bytes of the disk the files below a directory take. What cannot be read counts
/// nothing.
pub fn disk_use(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            sum += disk_use(&entry.path());
        } else {
            sum += metadata.len().min(metadata.blocks() * 512);
        }
    }
    sum
}

/// The bytes of a container's write layer, and of all that it shows.
pub fn sizes(context: &Context, container: &Container) -> Result<(u64, u64), Failure> {
    let own = disk_use(&container.dir.join("upper"));
    let image = match &container.config.image_id {
        None => 0,
        Some(id) => context.store()?.resolve(id).map_or(0, |image| image.size()),
    };
    Ok((own, own.saturating_add(image)))
}

/// The names of volumes, and the sources of bind mounts.
fn mounts(container: &Container) -> Vec<String> {
    let text = |bytes: &Bytes| OsString::from(bytes).display().to_string();
    let named = container.config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Bind { source } => Some(text(source)),
        MountKind::Volume { name, .. } => Some(name.clone()),
        MountKind::Tmpfs { .. } => None,
    });
    named.collect()
}

fn row(
    context: &Context,
    container: &Container,
    format: &Format,
    args: &Args,
) -> Result<Value, Failure> {
    let config = &container.config;
    let id = if args.no_trunc { config.id.as_str() } else { config.id.short() };
    let labels: Vec<String> =
        config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mounts = mounts(container);
    let volumes =
        config.mounts.iter().filter(|m| matches!(m.kind, MountKind::Volume { .. })).count();
    let width = if args.no_trunc { usize::MAX } else { MOUNT_WIDTH };
    let shown_mounts: Vec<String> = mounts.iter().map(|name| shortened(name, width)).collect();
    let seconds = i64::try_from(config.created / 1000).unwrap_or(i64::MAX);
    let size = if format.shows("Size") {
        let (own, all) = sizes(context, container)?;
        format!("{} (virtual {})", size::short(own), size::short(all))
    } else {
        "0B".to_owned()
    };
    Ok(json!({
        "ID": id,
        "Image": config.image,
        "Command": command(container, args.no_trunc),
        "CreatedAt": created_at(seconds),
        "RunningFor": format!("{} ago", age::since(config.created)),
        "Ports": super::published(container),
        "State": container.state.status.word(),
        "Status": status(container),
        "Size": size,
        "Names": config.name,
        "Labels": labels.join(","),
        "LocalVolumes": volumes.to_string(),
        "Mounts": shown_mounts.join(","),
        "Networks": super::networks(container).join(","),
    }))
}

/// A time as Go prints it.
fn created_at(seconds: i64) -> String {
    let text = moment::format(seconds, 0);
    let date = text.get(..10).unwrap_or_default();
    let time = text.get(11..19).unwrap_or_default();
    format!("{date} {time} +0000 UTC")
}

/// Whether a container passes the filters; `all` for those that are compared with.
fn passes(filters: &Filters, container: &Container, all: &[Container]) -> Result<bool, Failure> {
    let config = &container.config;
    let find = |wanted: &str| {
        let found = all.iter().find(|other| {
            other.config.name == wanted.trim_start_matches('/')
                || other.config.id.as_str().starts_with(wanted)
        });
        found.ok_or_else(|| Failure::from(crate::container::Error::Unknown(wanted.to_owned())))
    };
    for (key, after) in [("since", true), ("before", false)] {
        for wanted in filters.values(key) {
            let other = find(wanted)?.config.created;
            let holds = if after { config.created > other } else { config.created < other };
            if !holds {
                return Ok(false);
            }
        }
    }
    for word in filters.values("status") {
        let known = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
        if !known.contains(&word.as_str()) {
            return Err(filters.wrong("status", word).into());
        }
    }
    for code in filters.values("exited") {
        if code.parse::<u8>().is_err() {
            return Err(filters.wrong("exited", code).into());
        }
    }
    let code = container.state.exit_code().map(|code| code.to_string());
    let ancestor = filters.passes("ancestor", |wanted| {
        let id = config.image_id.as_deref().unwrap_or_default();
        let tagged = |name: &str| {
            if name.contains(':') { name.to_owned() } else { format!("{name}:latest") }
        };
        let digits = id.strip_prefix("sha256:").unwrap_or(id);
        tagged(&config.image) == tagged(wanted)
            || id == wanted
            || (wanted.len() >= 4 && digits.starts_with(wanted.trim_start_matches("sha256:")))
    });
    let targets: Vec<String> = config
        .mounts
        .iter()
        .map(|mount| OsString::from(&mount.target).display().to_string())
        .chain(mounts(container))
        .collect();
    Ok(ancestor
        && filters.is_prefix("id", config.id.as_str())
        && filters.matches("name", &config.name)
        && filters.is("status", container.state.status.word())
        && filters.passes("exited", |wanted| code.as_deref() == Some(wanted))
        && filters.passes("volume", |wanted| targets.iter().any(|target| target == wanted))
        && filters
            .passes("network", |wanted| super::networks(container).iter().any(|n| n == wanted))
        && filters.labels(|key| config.labels.get(key).map(String::as_str)))
}

/// Lists containers.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let mut table =
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
            .to_owned();
    if args.size {
        table.push_str("\t{{.Size}}");
    }
    let format = match (args.quiet, args.format.as_deref()) {
        // Only ids, and no title.
        (true, None | Some("table")) => Format::parse(Some("{{.ID}}"), &table)?,
        (_, format) => Format::parse(format, &table)?,
    };
    let all = context.containers()?.list()?;
    let last = if args.latest { Some(1) } else { args.last };
    // A filter that asks for others than running ones shows them.
    let every = args.all || last.is_some() || filters.has("status") || filters.has("exited");
    let mut rows = Vec::new();
    for container in &all {
        let lives =
            !matches!(container.state.status, Status::Created { .. } | Status::Exited { .. });
        if (every || lives) && passes(&filters, container, &all)? {
            rows.push(row(context, container, &format, args)?);
        }
        if last.is_some_and(|last| rows.len() >= last) {
            break;
        }
    }
    print(format.render(&TITLES, &rows)?.as_bytes())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_times_are_gos() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "ab…");
        assert_eq!(created_at(0), "1970-01-01 00:00:00 +0000 UTC");
    }
}
