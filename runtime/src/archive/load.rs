//! `cowl load`: from an archive into the store, every byte verified, all or nothing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::compression::Compression;
use super::manifest::{self, Found, FoundLayer, ManifestError};
use super::source::{Input, Source, SourceError};
use super::stream::{Digests, LayerStream};
use super::tar::{Stream, TarError, TarReader};
use crate::digest::Digest;
use crate::image::{ConfigDocument, ImageRecord, LayerRecord};
use crate::reference::Reference;
use crate::store::{LayerInfo, Renamed, Store, StoreError, Transaction};
use crate::unpack::{self, UnpackError, Unpacked};

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
    /// A layer cannot be unpacked.
    #[error("layer {layer}: {source}")]
    Unpack {
        /// The layer.
        layer: String,
        /// Why.
        source: UnpackError,
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
    /// What could not be kept on this host.
    pub warnings: Vec<String>,
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
    for found in found {
        let loaded = load_image(&mut transaction, &source, found, &mut outcome.warnings)?;
        outcome.images.push(loaded);
    }
    outcome.renamed = transaction.commit()?;
    Ok(outcome)
}

fn load_image(
    transaction: &mut Transaction<'_>,
    source: &Source,
    found: Found,
    warnings: &mut Vec<String>,
) -> Result<Loaded, LoadError> {
    let document: ConfigDocument = serde_json::from_slice(&found.config)
        .map_err(|error| LoadError::Config(error.to_string()))?;
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() != found.layers.len() {
        return Err(LoadError::Config(format!(
            "it names {} layers, the manifest {}",
            diff_ids.len(),
            found.layers.len()
        )));
    }
    let mut below = Below::default();
    let mut layers = Vec::new();
    for (layer, diff_id) in found.layers.iter().zip(diff_ids) {
        layers.push(load_layer(transaction, source, layer, diff_id, &mut below, warnings)?);
    }
    let id = Digest::of(&found.config);
    let record = ImageRecord { id, manifest: found.manifest.as_deref().map(Digest::of), layers };
    transaction.add_image(record, found.config, found.manifest, found.names.clone());
    Ok(Loaded { id, names: found.names })
}

/// The layers that the next one lies on.
#[derive(Default)]
struct Below {
    chain: Option<Digest>,
    /// Their trees, topmost first.
    trees: Vec<OwnedFd>,
}

fn load_layer(
    transaction: &mut Transaction<'_>,
    source: &Source,
    layer: &FoundLayer,
    diff_id: Digest,
    below: &mut Below,
    warnings: &mut Vec<String>,
) -> Result<LayerRecord, LoadError> {
    let chain_id = Digest::chain(below.chain, diff_id);
    let read = |source| LoadError::Read { layer: layer.path.clone(), source };
    let raw =
        source.open_entry(&layer.path)?.ok_or_else(|| SourceError::Missing(layer.path.clone()))?;
    let stream = LayerStream::start(raw).map_err(read)?;
    let (info, tree, digests) = match transaction.find_layer(diff_id, chain_id)? {
        Some((info, tree)) => {
            let digests = stream.finish().map_err(read)?;
            check(layer, diff_id, &digests)?;
            (info, tree, digests)
        }
        None => {
            let staged = transaction.stage_layer()?;
            let root = open_tree(&staged.diff())?;
            let mut archive = TarReader::new(Stream(stream));
            let unpacked = unpack::unpack(&mut archive, root, &below.trees);
            // Read to the end in any case: damage is best explained by the digest.
            let digests = archive.into_inner().0.finish();
            let (unpacked, digests) = match (unpacked, digests) {
                (Ok(unpacked), digests) => (unpacked, digests.map_err(read)?),
                (Err(error), digests) => {
                    if let Ok(digests) = digests
                        && !matches!(error, UnpackError::Archive(TarError::Io(_)))
                    {
                        check(layer, diff_id, &digests)?;
                    }
                    return Err(LoadError::Unpack { layer: layer.path.clone(), source: error });
                }
            };
            check(layer, diff_id, &digests)?;
            warnings.extend(
                unpacked.warnings.iter().map(|warning| format!("layer {}: {warning}", layer.path)),
            );
            let media_type = layer.media_type.clone();
            let info = layer_info(&unpacked, &digests, media_type);
            let tree = transaction.add_layer(staged, info.clone(), chain_id)?;
            (info, tree, digests)
        }
    };
    below.chain = Some(chain_id);
    below.trees.insert(0, open_tree(&tree)?);
    Ok(layer_record(&info, &digests, layer.media_type.clone(), chain_id))
}

pub(super) fn open_tree(path: &Path) -> Result<OwnedFd, LoadError> {
    let error = |source| SourceError::Read { path: PathBuf::from(path), source };
    Ok(File::open(path).map_err(error)?.into())
}

/// The description of a layer that was just unpacked.
pub(super) fn layer_info(
    unpacked: &Unpacked,
    digests: &Digests,
    media_type: Option<String>,
) -> LayerInfo {
    LayerInfo {
        diff_id: digests.diff_id,
        diff_size: digests.diff_size,
        size: unpacked.size,
        entries: unpacked.entries,
        depends_on_parents: unpacked.depends_on_parents,
        lists_root: unpacked.lists_root,
        blob_digest: digests.blob,
        blob_size: digests.blob_size,
        media_type: media_type.unwrap_or_else(|| default_media_type(digests.compression)),
    }
}

/// The layer as this image has it: it may have come compressed in another way before.
pub(super) fn layer_record(
    info: &LayerInfo,
    digests: &Digests,
    media_type: Option<String>,
    chain_id: Digest,
) -> LayerRecord {
    LayerRecord {
        diff_id: info.diff_id,
        directory: info.directory(chain_id),
        size: info.size,
        blob_digest: digests.blob,
        blob_size: digests.blob_size,
        media_type: media_type.unwrap_or_else(|| default_media_type(digests.compression)),
        lists_root: info.lists_root,
    }
}

fn default_media_type(compression: Compression) -> String {
    let suffix = match compression {
        Compression::Plain => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    format!("application/vnd.oci.image.layer.v1.tar{suffix}")
}

fn check(layer: &FoundLayer, diff_id: Digest, digests: &Digests) -> Result<(), LoadError> {
    let name = || layer.path.clone();
    if let Some(expected) = layer.digest.filter(|expected| *expected != digests.blob) {
        return Err(LoadError::Mismatch { layer: name(), actual: digests.blob, expected });
    }
    if let Some(expected) = layer.size.filter(|expected| *expected != digests.blob_size) {
        return Err(LoadError::Size { layer: name(), actual: digests.blob_size, expected });
    }
    if digests.diff_id != diff_id {
        let actual = digests.diff_id;
        return Err(LoadError::Mismatch { layer: name(), actual, expected: diff_id });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
