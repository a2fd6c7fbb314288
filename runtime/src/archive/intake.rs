//! Layers and images on their way into the store, whatever they come from: an archive, a registry.
//!
//! The layers of one image are given lowest first. Each is read once; what it hashes to is compared
//! with what the image's configuration says (always) and with what the source says about the layer
//! as it came (where it says something). Nothing is visible before the transaction is committed.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::compression::Compression;
use super::load::{LoadError, Loaded};
use super::source::SourceError;
use super::stream::{Digests, LayerStream};
use super::tar::{Stream, TarError, TarReader};
use crate::digest::Digest;
use crate::image::{ConfigDocument, ImageRecord, LayerRecord};
use crate::reference::Reference;
use crate::store::{LayerInfo, Transaction};
use crate::unpack::{self, UnpackError, Unpacked};

/// What is known about a layer before it is read.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What messages call it: its name in the archive, or its digest.
    pub label: String,
    /// What it must hash to when it is not compressed, by the image's configuration.
    pub diff_id: Digest,
    /// What it must hash to as it comes, where that is known.
    pub blob: Option<Digest>,
    /// How long it must be as it comes, where that is known.
    pub size: Option<u64>,
    /// Its media type, where the source has one.
    pub media_type: Option<String>,
}

/// One image whose layers are being added to a transaction.
pub struct Intake<'transaction, 'store> {
    transaction: &'transaction mut Transaction<'store>,
    chain: Option<Digest>,
    /// The trees of the layers so far, topmost first.
    trees: Vec<OwnedFd>,
    layers: Vec<LayerRecord>,
    /// What could not be kept on this host, in sentences.
    pub warnings: Vec<String>,
}

impl<'transaction, 'store> Intake<'transaction, 'store> {
    /// An image without layers so far.
    pub fn new(transaction: &'transaction mut Transaction<'store>) -> Self {
        Intake {
            transaction,
            chain: None,
            trees: Vec::new(),
            layers: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Whether the next layer, if it is `diff_id`, is in the store or in the transaction already.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn has(&self, diff_id: Digest) -> Result<bool, LoadError> {
        let chain_id = Digest::chain(self.chain, diff_id);
        Ok(self.transaction.find_layer(diff_id, chain_id)?.is_some())
    }

    /// Takes the next layer from the store without reading it again; `false` when it is not there.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn reuse(&mut self, expected: &Expected) -> Result<bool, LoadError> {
        let chain_id = Digest::chain(self.chain, expected.diff_id);
        let Some((info, tree)) = self.transaction.find_layer(expected.diff_id, chain_id)? else {
            return Ok(false);
        };
        let record = LayerRecord {
            diff_id: info.diff_id,
            directory: info.directory(chain_id),
            size: info.size,
            blob_digest: expected.blob.unwrap_or(info.blob_digest),
            blob_size: expected.size.unwrap_or(info.blob_size),
            media_type: expected.media_type.clone().unwrap_or(info.media_type),
            lists_root: info.lists_root,
        };
        self.push(record, &tree)?;
        Ok(true)
    }

    /// Takes the next layer, compressed or not, from `raw`. It is read to its end in any case, so
    /// that its digests are known to be right.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is not the expected one.
    pub fn add(&mut self, expected: &Expected, raw: Box<dyn Read + Send>) -> Result<(), LoadError> {
        let chain_id = Digest::chain(self.chain, expected.diff_id);
        let read = |source| LoadError::Read { layer: expected.label.clone(), source };
        let stream = LayerStream::start(raw).map_err(read)?;
        let found = self.transaction.find_layer(expected.diff_id, chain_id)?;
        let (info, tree, digests) = match found {
            Some((info, tree)) => {
                let digests = stream.finish().map_err(read)?;
                check(expected, &digests)?;
                (info, tree, digests)
            }
            None => self.unpack(expected, chain_id, stream)?,
        };
        let record = layer_record(&info, &digests, expected.media_type.clone(), chain_id);
        self.push(record, &tree)
    }

    fn unpack(
        &mut self,
        expected: &Expected,
        chain_id: Digest,
        stream: LayerStream,
    ) -> Result<(LayerInfo, PathBuf, Digests), LoadError> {
        let read = |source| LoadError::Read { layer: expected.label.clone(), source };
        let staged = self.transaction.stage_layer()?;
        let root = open_tree(&staged.diff())?;
        let mut archive = TarReader::new(Stream(stream));
        let unpacked = unpack::unpack(&mut archive, root, &self.trees);
        // Read to the end in any case: damage is best explained by the digest.
        let digests = archive.into_inner().0.finish();
        let (unpacked, digests) = match (unpacked, digests) {
            (Ok(unpacked), digests) => (unpacked, digests.map_err(read)?),
            (Err(error), digests) => {
                if let Ok(digests) = digests
                    && !matches!(error, UnpackError::Archive(TarError::Io(_)))
                {
                    check(expected, &digests)?;
                }
                return Err(LoadError::Unpack { layer: expected.label.clone(), source: error });
            }
        };
        check(expected, &digests)?;
        let label = &expected.label;
        self.warnings
            .extend(unpacked.warnings.iter().map(|warning| format!("layer {label}: {warning}")));
        let info = layer_info(&unpacked, &digests, expected.media_type.clone());
        let tree = self.transaction.add_layer(staged, info.clone(), chain_id)?;
        Ok((info, tree, digests))
    }

    fn push(&mut self, record: LayerRecord, tree: &Path) -> Result<(), LoadError> {
        self.chain = Some(Digest::chain(self.chain, record.diff_id));
        self.trees.insert(0, open_tree(tree)?);
        self.layers.push(record);
        Ok(())
    }

    /// Completes the image: the configuration must name just these layers.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn finish(
        self,
        config: Vec<u8>,
        manifest: Option<Vec<u8>>,
        names: Vec<Reference>,
    ) -> Result<Loaded, LoadError> {
        let same = self.layers.iter().map(|layer| layer.diff_id).eq(diff_ids(&config)?);
        if !same {
            return Err(LoadError::Config("it names other layers than these".to_owned()));
        }
        let id = Digest::of(&config);
        let manifest_digest = manifest.as_deref().map(Digest::of);
        let record = ImageRecord { id, manifest: manifest_digest, layers: self.layers };
        self.transaction.add_image(record, config, manifest, names.clone());
        Ok(Loaded { id, names })
    }
}

/// The digests of the uncompressed layers that a configuration names, lowest first.
///
/// # Errors
/// When it is no image configuration.
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, LoadError> {
    let document: ConfigDocument =
        serde_json::from_slice(config).map_err(|error| LoadError::Config(error.to_string()))?;
    Ok(document.rootfs.diff_ids)
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

fn check(expected: &Expected, digests: &Digests) -> Result<(), LoadError> {
    let name = || expected.label.clone();
    if let Some(blob) = expected.blob.filter(|blob| *blob != digests.blob) {
        return Err(LoadError::Mismatch { layer: name(), actual: digests.blob, expected: blob });
    }
    if let Some(size) = expected.size.filter(|size| *size != digests.blob_size) {
        return Err(LoadError::Size { layer: name(), actual: digests.blob_size, expected: size });
    }
    if digests.diff_id != expected.diff_id {
        let actual = digests.diff_id;
        return Err(LoadError::Mismatch { layer: name(), actual, expected: expected.diff_id });
    }
    Ok(())
}
