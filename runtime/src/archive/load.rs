//! `cowl load`: from an archive into the store, every byte verified, all or nothing.

use std::io;

use super::intake::{Expected, Intake, diff_ids};
use super::manifest::{self, Found, ManifestError};
use super::source::{Input, Source, SourceError};
use crate::digest::Digest;
use crate::pack::PackError;
use crate::reference::Reference;
use crate::store::{Renamed, Store, StoreError, Transaction};

/// Why an archive was not loaded. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What the archive says it holds.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A layer cannot be read: corrupt or truncated compression, or the disk.
    #[error("layer {layer}: {source}")]
    Read {
        /// The layer.
        layer: String,
        /// Why.
        source: io::Error,
    },
    /// A layer cannot be taken.
    #[error("layer {layer}: {source}")]
    Pack {
        /// The layer.
        layer: String,
        /// Why.
        source: PackError,
    },
    /// A layer is not the one that it should be.
    #[error("layer {layer} does not match its digest: it is {actual}, not {expected}")]
    Mismatch {
        /// The layer.
        layer: String,
        /// What it hashes to.
        actual: Digest,
        /// What it should hash to.
        expected: Digest,
    },
    /// The archive's list of images is empty.
    #[error("the archive names no image; make it with `docker save IMAGE` or as an OCI layout")]
    NoImage,
    /// A layer is longer or shorter than the manifest says.
    #[error("layer {layer} has {actual} bytes, not the {expected} that the manifest says")]
    Size {
        /// The layer.
        layer: String,
        /// Its size.
        actual: u64,
        /// What it should be.
        expected: u64,
    },
    /// The image's configuration does not fit.
    #[error("the image's configuration cannot be used: {0}")]
    Config(String),
    /// The archive to import is not whole.
    #[error("the archive is truncated: it has no end marker")]
    NoEnd,
}

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names it was given.
    pub names: Vec<Reference>,
}

/// What loading did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The images, in the archive's order.
    pub images: Vec<Loaded>,
    /// Names that were taken from other images.
    pub renamed: Vec<Renamed>,
}

/// Loads all images of an archive.
///
/// # Errors
/// When anything about the archive is wrong; the store is then as it was.
pub fn load(store: &Store, input: Input<'_>) -> Result<Outcome, LoadError> {
    let mut transaction = store.begin()?;
    let source = Source::open(input, transaction.directory())?;
    let mut outcome = Outcome::default();
    let found = manifest::images(&source)?;
    if found.is_empty() {
        return Err(LoadError::NoImage);
    }
    let sizes = found.iter().flat_map(|image| &image.layers).filter_map(|layer| layer.size);
    // What is compressed takes at least as much when it is not.
    store.check_space(sizes.sum())?;
    for found in found {
        let loaded = load_image(&mut transaction, &source, found)?;
        outcome.images.push(loaded);
    }
    outcome.renamed = transaction.commit()?;
    Ok(outcome)
}

fn load_image(
    transaction: &mut Transaction<'_>,
    source: &Source,
    found: Found,
) -> Result<Loaded, LoadError> {
    let diff_ids = diff_ids(&found.config)?;
    if diff_ids.len() != found.layers.len() {
        return Err(LoadError::Config(format!(
            "it names {} layers, the manifest {}",
            diff_ids.len(),
            found.layers.len()
        )));
    }
    let mut intake = Intake::new(transaction);
    for (layer, diff_id) in found.layers.into_iter().zip(diff_ids) {
        let raw = source
            .open_entry(&layer.path)?
            .ok_or_else(|| SourceError::Missing(layer.path.clone()))?;
        let expected = Expected {
            label: layer.path,
            diff_id,
            blob: layer.digest,
            size: layer.size,
            media_type: layer.media_type,
        };
        intake.add(&expected, raw)?;
    }
    intake.finish(found.config, found.manifest, found.names)
}

#[cfg(test)]
mod tests;
