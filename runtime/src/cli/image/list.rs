//! `cowl images`

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::{Context, Failure, age, print, table};
use crate::image::{Image, moment};
use crate::reference::Reference;

/// What stands where there is nothing to say.
const NONE: &str = "<none>";

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
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// One line.
struct Row<'a> {
    image: &'a Image,
    name: Option<&'a Reference>,
    created: Option<i64>,
}

/// Runs the command.
///
/// # Errors
/// When the store cannot be read, or the name is malformed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let wanted = args.name.as_deref().map(str::parse::<Reference>).transpose()?;
    let explicit = args.name.as_deref().is_some_and(Reference::is_explicit);
    let is_wanted = |name: Option<&Reference>| match (&wanted, name) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wanted), Some(name)) => {
            wanted.repository() == name.repository() && (!explicit || wanted.tag() == name.tag())
        }
    };
    let images = context.store()?.images()?;
    let mut rows = Vec::new();
    for image in &images {
        // The zero of Go's clock means that nobody knows.
        let created = moment::parse(&image.created).filter(|_| !image.created.starts_with("0001-"));
        if image.names().is_empty() && is_wanted(None) {
            rows.push(Row { image, name: None, created });
        }
        for name in image.names().iter().filter(|name| is_wanted(Some(name))) {
            rows.push(Row { image, name: Some(name), created });
        }
    }
    rows.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)));
    let id = |image: &Image| {
        if args.no_trunc { image.id.to_string() } else { image.id.short() }
    };
    if args.quiet {
        let mut ids: Vec<String> = rows.iter().map(|row| id(row.image)).collect();
        ids.dedup();
        print(ids.iter().map(|id| format!("{id}\n")).collect::<String>().as_bytes())?;
        return Ok(0);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut header: Vec<String> =
        ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned).to_vec();
    if args.digests {
        header.insert(2, "DIGEST".to_owned());
    }
    let mut lines = vec![header];
    for row in &rows {
        let repository = row.name.map_or(NONE.to_owned(), Reference::familiar_repository);
        let tag = row.name.and_then(Reference::tag).unwrap_or(NONE).to_owned();
        let created = match row.created.map(u64::try_from) {
            Some(Ok(created)) => {
                let span = now.saturating_sub(std::time::Duration::from_secs(created));
                format!("{} ago", age::span(span))
            }
            _ => "N/A".to_owned(),
        };
        let mut line = vec![repository, tag, id(row.image), created, size(row.image.size())];
        if args.digests {
            let digest = row.image.record().manifest.map_or(NONE.to_owned(), |d| d.to_string());
            line.insert(2, digest);
        }
        lines.push(line);
    }
    print(table::layout(&lines).as_bytes())?;
    Ok(0)
}

/// Docker's sizes: powers of 1000, three digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    for (index, unit) in UNITS.iter().enumerate() {
        // What would round to 1000 belongs to the next unit.
        if value < 999.5 || index + 1 == UNITS.len() {
            let decimals = match value {
                _ if index == 0 => 0,
                value if value < 9.995 => 2,
                value if value < 99.95 => 1,
                _ => 0,
            };
            let mut text = format!("{value:.decimals$}");
            if text.contains('.') {
                let end = text.trim_end_matches('0').trim_end_matches('.').len();
                text.truncate(end);
            }
            return text + unit;
        }
        value /= 1000.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_as_docker_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_261_502, "4.26MB"),
            (74_806_934, "74.8MB"),
            (117_000_000, "117MB"),
            (999_999, "1MB"),
            (1_100_000_000, "1.1GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
