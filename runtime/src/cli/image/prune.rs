//! `cowl image prune`

use std::collections::BTreeMap;

use super::list::now;
use crate::cli::{Context, Failure, confirm, print, size};
use crate::digest::Digest;
use crate::filter::Filters;
use crate::image::{Image, moment};
use crate::store::{Removal, Removed, Store, StoreError};

/// Filters that it knows.
const FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];

/// Remove images that nothing uses
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only images for which this holds: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the filters are malformed, or the store cannot be changed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let all = args.all || filters.truth("dangling")? == Some(false);
    let warning = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !args.force && !confirm(warning)? {
        print(b"Total reclaimed space: 0B\n")?;
        return Ok(0);
    }
    let store = context.store()?;
    let (removed, reclaimed) = prune(&store, all, &filters)?;
    let mut text = String::new();
    text.push_str(&listed(&removed));
    text.push_str(&format!("Total reclaimed space: {}\n", size::long(reclaimed)));
    print(text.as_bytes())?;
    Ok(0)
}

/// What went, as Docker lists it; nothing when nothing did.
pub fn listed(removed: &[Removed]) -> String {
    if removed.is_empty() {
        return String::new();
    }
    let mut text = "Deleted Images:\n".to_owned();
    for removed in removed {
        text.push_str(&match removed {
            Removed::Untagged(name) => format!("untagged: {name}\n"),
            Removed::Deleted(digest) => format!("deleted: {digest}\n"),
        });
    }
    text.push('\n');
    text
}

/// Removes images without a name, or all that no container uses. Returns what went, and how many
/// bytes that were.
///
/// # Errors
/// When the filters are malformed, or the store cannot be changed.
pub fn prune(store: &Store, all: bool, filters: &Filters) -> Result<(Vec<Removed>, u64), Failure> {
    let until = filters.point("until", now())?;
    let before = layers(store)?;
    let mut gone = Vec::new();
    for image in store.images()? {
        let dangling = image.references().next().is_none();
        if !(all || dangling) || !filters.labels(|key| label(&image, key)) {
            continue;
        }
        if let Some(until) = until
            && moment::nanoseconds(&image.created).is_none_or(|created| created >= until)
        {
            continue;
        }
        let users = |id: &Digest| match super::users(store, id)?.first() {
            Some(user) => Err(StoreError::Conflict(user.clone())),
            None => Ok(Vec::new()),
        };
        let target = image.id.to_string();
        match store.remove(&Removal { target: &target, force: true, users: &users }) {
            Ok(removed) => gone.extend(removed),
            // In use, or removed by another command meanwhile.
            Err(StoreError::Conflict(_) | StoreError::NoSuchImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let after = layers(store)?;
    let reclaimed =
        before.iter().filter(|(name, _)| !after.contains_key(*name)).map(|(_, size)| size).sum();
    Ok((gone, reclaimed))
}

/// The value of a label of an image.
pub fn label<'a>(image: &'a Image, key: &str) -> Option<&'a str> {
    image.config.labels.get(key).map(String::as_str)
}

/// The layers that images have, with their sizes.
fn layers(store: &Store) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut found = BTreeMap::new();
    for image in store.images()? {
        let layers = image.record().layers.iter();
        found.extend(layers.map(|layer| (layer.directory.clone(), layer.size)));
    }
    Ok(found)
}
