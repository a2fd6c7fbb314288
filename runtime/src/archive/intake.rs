//! Layers and images on their way into the store, whatever they come from: an archive, a registry.
//!
//! The layers of one image are given lowest first. Each is read once; what it hashes to is compared
//! with what the image's configuration says (always) and with what the source says about the layer
//! as it came (where it says something). Nothing is visible before the transaction is committed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowl_fs::packed::INDEX;

use super::compression::Compression;
use super::load::{LoadError, Loaded};
use super::record::Recorder;
use super::stream::{Digests, LayerStream};
use super::tar::{TarError, TarReader};
use crate::digest::Digest;
use crate::image::{ConfigDocument, ImageRecord, LayerRecord};
use crate::pack::{self, PackError, Report};
use crate::reference::Reference;
use crate::store::{LayerInfo, StagedLayer, Transaction};
use crate::view::{self, View};

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
    /// The layers so far.
    below: View,
    layers: Vec<LayerRecord>,
}

impl<'transaction, 'store> Intake<'transaction, 'store> {
    /// An image without layers so far.
    pub fn new(transaction: &'transaction mut Transaction<'store>) -> Self {
        Intake { transaction, chain: None, below: View::default(), layers: Vec::new() }
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
            None => self.pack(expected, chain_id, stream)?,
        };
        let record = layer_record(&info, &digests, expected.media_type.clone(), chain_id);
        self.push(record, &tree)
    }

    fn pack(
        &mut self,
        expected: &Expected,
        chain_id: Digest,
        stream: LayerStream,
    ) -> Result<(LayerInfo, PathBuf, Digests), LoadError> {
        let staged = self.transaction.stage_layer()?;
        let (report, digests) =
            pack_stream(&staged, stream, &self.below, &expected.label, |d| check(expected, d))?;
        let info = layer_info(&report, &digests, expected.media_type.clone());
        let path = self.transaction.add_layer(staged, info.clone(), chain_id)?;
        Ok((info, path, digests))
    }

    fn push(&mut self, record: LayerRecord, layer: &Path) -> Result<(), LoadError> {
        let packed = view::open(&layer.join(INDEX))
            .map_err(|source| LoadError::Read { layer: record.diff_id.to_string(), source })?;
        self.chain = Some(Digest::chain(self.chain, record.diff_id));
        self.below.push(Arc::new(packed));
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

/// Packs a stream into the staged layer. `check` is asked when the digests are known: a damaged
/// layer is best explained by them, whatever else is wrong with it.
pub(super) fn pack_stream(
    staged: &StagedLayer,
    stream: LayerStream,
    below: &View,
    label: &str,
    check: impl Fn(&Digests) -> Result<(), LoadError>,
) -> Result<(Report, Digests), LoadError> {
    let read = |source| LoadError::Read { layer: label.to_owned(), source };
    let refused = |source| LoadError::Pack { layer: label.to_owned(), source };
    let writer = staged.writer().map_err(PackError::from).map_err(refused)?;
    let recorder = Recorder::new(stream, &staged.stream()).map_err(read)?;
    let mut archive = TarReader::new(recorder);
    match pack::pack(&mut archive, writer, below) {
        Ok((report, _)) => {
            let stream = archive.into_inner().finish().map_err(read)?;
            let digests = stream.finish().map_err(read)?;
            check(&digests)?;
            Ok((report, digests))
        }
        Err(error) => {
            let digests = archive.into_inner().abandon().finish();
            if let Ok(digests) = digests
                && !matches!(error, PackError::Archive(TarError::Io(_)) | PackError::Host(_))
            {
                check(&digests)?;
            }
            Err(refused(error))
        }
    }
}

/// The description of a layer that was just packed.
pub(super) fn layer_info(
    report: &Report,
    digests: &Digests,
    media_type: Option<String>,
) -> LayerInfo {
    LayerInfo {
        diff_id: digests.diff_id,
        diff_size: digests.diff_size,
        size: report.size,
        entries: report.entries,
        depends_on_parents: report.depends_on_parents,
        lists_root: report.lists_root,
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
