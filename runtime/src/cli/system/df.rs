//! `cowl system df`

use serde_json::{Value, json};

use super::{Context, Failure};
use crate::cli::table::Format;
use crate::cli::{age, image, print, size};
use crate::container::Container;
use crate::image::moment;
use crate::store::disk_use;

/// Nanoseconds in a millisecond.
const MILLISECOND: i128 = 1_000_000;

/// Show what takes how much of the disk
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Each image and container
    #[arg(short, long)]
    verbose: bool,
    /// A Go template, `table TEMPLATE`, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When the store cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let store = context.store()?;
    let usage = store.usage()?;
    let images = store.images()?;
    let all = context.containers()?.list()?;
    let mut containers: Vec<(&Container, u64, bool)> = Vec::new();
    for container in &all {
        containers.push((container, disk_use(&container.dir.join("upper"))?, container.alive()?));
    }
    let mut users = Vec::new();
    for found in &images {
        users.push(image::users(&store, &found.id)?.len());
    }
    if args.verbose {
        if args.format.is_some() {
            return Err(Failure::new(1, "the verbose and the format options conflict"));
        }
        let mut text = "Images space usage:\n\n".to_owned();
        let mut rows = Vec::new();
        for (found, users) in images.iter().zip(&users) {
            let (shared, unique) = usage.images.get(&found.id).copied().unwrap_or_default();
            let names: Vec<(String, String)> = found
                .names()
                .iter()
                .map(|name| {
                    let tag = name.tag().unwrap_or("<none>").to_owned();
                    (name.familiar_repository(), tag)
                })
                .collect();
            let unnamed = vec![("<none>".to_owned(), "<none>".to_owned())];
            let created = moment::nanoseconds(&found.created).map_or_else(
                || "N/A".to_owned(),
                |at| format!("{} ago", age::since(u64::try_from(at / MILLISECOND).unwrap_or(0))),
            );
            for (repository, tag) in if names.is_empty() { unnamed } else { names } {
                rows.push(json!({
                    "Repository": repository, "Tag": tag, "ID": found.id.short(),
                    "CreatedSince": created, "Size": size::short(found.size()),
                    "SharedSize": size::short(shared), "UniqueSize": size::short(unique),
                    "Containers": users.to_string(),
                }));
            }
        }
        let format = Format::parse(
            None,
            "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        )?;
        let titles = [
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
        ];
        text.push_str(&format.render(&titles, &rows)?);
        text.push_str("\nContainers space usage:\n\n");
        let rows: Vec<Value> = containers
            .iter()
            .map(|(container, bytes, _)| {
                json!({
                    "ID": container.config.id.as_str().get(..12).unwrap_or_default(),
                    "Image": container.config.image, "Size": size::short(*bytes),
                    "CreatedSince": format!("{} ago", age::since(container.config.created)),
                    "Status": container.state.status.word(), "Names": container.config.name,
                })
            })
            .collect();
        let format = Format::parse(
            None,
            "{{.ID}}\t{{.Image}}\t{{.Size}}\t{{.CreatedSince}}\t{{.Status}}\t{{.Names}}",
        )?;
        let titles = [
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ];
        text.push_str(&format.render(&titles, &rows)?);
        text.push_str(&format!(
            "\nStore: {} on disk for {} of files in {} layer(s)\n",
            size::short(usage.disk),
            size::short(usage.content),
            usage.layers
        ));
        print(text.as_bytes())?;
        return Ok(0);
    }
    let unused: u64 = images
        .iter()
        .zip(&users)
        .filter(|(_, users)| **users == 0)
        .filter_map(|(found, _)| usage.images.get(&found.id).map(|(_, unique)| unique))
        .sum();
    let stopped: u64 =
        containers.iter().filter(|(.., alive)| !alive).map(|(_, bytes, _)| bytes).sum();
    let row = |kind: &str, total: usize, active: usize, bytes: u64, free: u64| {
        let share = match (free * 100).checked_div(bytes) {
            Some(share) if share > 0 => format!(" ({}%)", share.min(100)),
            _ => String::new(),
        };
        json!({
            "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(),
            "Size": size::short(bytes), "Reclaimable": format!("{}{share}", size::short(free)),
        })
    };
    let rows = [
        row(
            "Images",
            images.len(),
            users.iter().filter(|users| **users > 0).count(),
            usage.disk,
            unused.min(usage.disk),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(|(.., alive)| *alive).count(),
            containers.iter().map(|(_, bytes, _)| bytes).sum(),
            stopped,
        ),
    ];
    let format = Format::parse(
        args.format.as_deref(),
        "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    )?;
    let titles = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    print(format.render(&titles, &rows)?.as_bytes())?;
    Ok(0)
}
