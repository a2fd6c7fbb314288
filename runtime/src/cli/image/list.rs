//! `cowl images`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::prune::label;
use crate::cli::table::Format;
use crate::cli::{Context, Failure, age, print, size};
use crate::filter::{Filters, glob};
use crate::image::{Image, moment};
use crate::reference::Reference;
use crate::store::Store;

/// What stands where there is nothing to say.
const NONE: &str = "<none>";
/// What Docker shows where nothing was computed.
const UNKNOWN: &str = "N/A";
/// Filters that it knows.
const FILTERS: [&str; 7] = ["before", "dangling", "label", "label!", "reference", "since", "until"];
/// The fields of a line and their titles.
const TITLES: [(&str, &str); 11] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];

/// List images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show all images (there are no intermediate ones: the same list)
    #[arg(short, long)]
    all: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only images for which this holds: before=IMAGE, since=IMAGE, until=TIME, dangling=BOOL,
    /// label=KEY[=VALUE], label!=KEY[=VALUE], reference=PATTERN
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Show a line as this template, or 'json', or 'table TEMPLATE'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only images of this name, or of names that match this pattern
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Nanoseconds since 1970.
pub fn now() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(now.as_nanos()).unwrap_or(i128::MAX)
}

/// Runs the command.
///
/// # Errors
/// When the store cannot be read, or an option is malformed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let mut given = args.filter.clone();
    if let Some(name) = &args.name {
        given.push(format!("reference={name}"));
    }
    let filters = Filters::parse(&given, &FILTERS)?;
    let table = match (args.quiet, args.digests) {
        (true, _) => "{{.ID}}",
        (_, true) => {
            "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
        }
        _ => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    let format = match (args.quiet, args.format.as_deref()) {
        // Only ids, and no title.
        (true, None | Some("table")) => Format::parse(Some(table), table)?,
        (_, format) => Format::parse(format, table)?,
    };
    let by_digest = args.digests || format.shows("Digest");

    let store = context.store()?;
    let mut images = chosen(&store, &filters)?;
    images.sort_by_cached_key(|image| {
        (std::cmp::Reverse(created(image)), image.references().next().map(Reference::to_string))
    });
    let mut rows = Vec::new();
    for image in &images {
        for (name, digest) in lines(image, &filters, by_digest) {
            rows.push(row(image, name, digest.as_deref(), args.no_trunc));
        }
    }
    print(format.render(&TITLES, &rows)?.as_bytes())?;
    Ok(0)
}

/// The images that the filters leave.
fn chosen(store: &Store, filters: &Filters) -> Result<Vec<Image>, Failure> {
    let dangling = filters.truth("dangling")?;
    let until = filters.point("until", now())?;
    let moment_of = |key: &str| -> Result<Vec<Option<i128>>, Failure> {
        let mut found = Vec::new();
        for name in filters.values(key) {
            found.push(created(&store.resolve(name)?));
        }
        Ok(found)
    };
    let (before, since) = (moment_of("before")?, moment_of("since")?);
    let mut images = store.images()?;
    images.retain(|image| {
        let created = created(image);
        dangling.is_none_or(|wanted| wanted == image.names().is_empty())
            && filters.labels(|key| label(image, key))
            && until.is_none_or(|until| created.is_some_and(|created| created < until))
            && before.iter().all(|before| created < *before)
            && since.iter().all(|since| created > *since)
    });
    Ok(images)
}

/// When an image was made; the zero of Go's clock means that nobody knows.
fn created(image: &Image) -> Option<i128> {
    moment::nanoseconds(&image.created).filter(|_| !image.created.starts_with("0001-"))
}

/// The lines of an image: its name (or repository) and digest.
fn lines<'a>(
    image: &'a Image,
    filters: &Filters,
    by_digest: bool,
) -> Vec<(Option<&'a Reference>, Option<String>)> {
    let shown = |name: &Reference| filters.passes("reference", |pattern| is_match(pattern, name));
    let digests_of = |repository: &str| -> Vec<String> {
        let digests = image.digests().iter().filter(|name| name.repository() == repository);
        digests.filter_map(|name| name.digest()).map(|digest| digest.to_string()).collect()
    };
    let mut lines = Vec::new();
    for name in image.names().iter().filter(|name| shown(name)) {
        let mut digests = digests_of(&name.repository());
        if digests.is_empty() {
            // It came in an archive, with a manifest.
            digests.extend(image.record().manifest.map(|digest| digest.to_string()));
        }
        if !by_digest || digests.is_empty() {
            lines.push((Some(name), None));
        } else {
            lines.extend(digests.into_iter().map(|digest| (Some(name), Some(digest))));
        }
    }
    // Repositories that know it by a digest only.
    let mut repositories: Vec<String> = image.names().iter().map(Reference::repository).collect();
    for name in image.digests().iter().filter(|name| shown(name)) {
        if by_digest && !image.names().iter().any(|tag| tag.repository() == name.repository()) {
            lines.push((Some(name), name.digest().map(|digest| digest.to_string())));
        } else if !by_digest && !repositories.contains(&name.repository()) {
            repositories.push(name.repository());
            lines.push((Some(name), None));
        }
    }
    if image.references().next().is_none() && !filters.has("reference") {
        lines.push((None, None));
    }
    lines
}

/// Whether a pattern, or a name, means this name.
fn is_match(pattern: &str, name: &Reference) -> bool {
    if glob::matches(pattern, &name.familiar())
        || glob::matches(pattern, &name.familiar_repository())
    {
        return true;
    }
    match pattern.parse::<Reference>() {
        Ok(wanted) if Reference::is_explicit(pattern) => wanted == *name,
        Ok(wanted) => wanted.repository() == name.repository(),
        Err(_) => false,
    }
}

fn row(image: &Image, name: Option<&Reference>, digest: Option<&str>, whole: bool) -> Value {
    let (since, at) = match created(image) {
        Some(created) => {
            let span = u64::try_from((now() - created) / 1_000_000_000).unwrap_or(0);
            let seconds = i64::try_from(created.div_euclid(1_000_000_000)).unwrap_or(0);
            (format!("{} ago", age::span(Duration::from_secs(span))), moment::in_words(seconds))
        }
        None => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
    };
    let bytes = size::short(image.size());
    json!({
        "ID": if whole { image.id.to_string() } else { image.id.short() },
        "Repository": name.map_or(NONE.to_owned(), Reference::familiar_repository),
        "Tag": name.and_then(Reference::tag).unwrap_or(NONE),
        "Digest": digest.unwrap_or(NONE),
        "CreatedSince": since,
        "CreatedAt": at,
        "Size": bytes,
        "VirtualSize": bytes,
        "SharedSize": UNKNOWN,
        "UniqueSize": UNKNOWN,
        "Containers": UNKNOWN,
    })
}
