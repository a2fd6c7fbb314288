//! Where a layer is kept and under which name.
//!
//! A layer is found by its diff ID, so that images share it. One exception: where a name in a layer
//! leads through a symbolic link of the layers below, the packed layer belongs to the chain it was
//! packed on, and is kept under its chain ID.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowl_fs::packed::{INDEX, Packed};
use serde::{Deserialize, Serialize};

use super::{Context, Store, StoreError, durable};
use crate::archive::record::Replay;
use crate::digest::{Digest, HashingReader};
use crate::image::LayerRecord;

/// The record of the layer's stream, beside its index.
pub const STREAM: &str = "stream";

/// `layers/<hex>/layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Digest of the uncompressed layer.
    pub diff_id: Digest,
    /// Bytes of the uncompressed layer, as a tar stream.
    pub diff_size: u64,
    /// Bytes of file content in the layer.
    pub size: u64,
    /// Number of entries in the layer's archive.
    pub entries: u64,
    /// Whether the layer depends on the layers it was packed on.
    pub depends_on_parents: bool,
    /// Whether the layer says what the root directory itself is like.
    pub lists_root: bool,
    /// Digest of the layer as it first came, usually compressed.
    pub blob_digest: Digest,
    /// Size of the layer as it first came.
    pub blob_size: u64,
    /// Media type of the layer as it first came.
    pub media_type: String,
}

impl LayerInfo {
    /// The name under `layers/` of this layer when it lies on top of `chain_id`'s parents.
    pub fn directory(&self, chain_id: Digest) -> String {
        if self.depends_on_parents { chain_id.hex() } else { self.diff_id.hex() }
    }

    fn serves(&self, diff_id: Digest, chain_id: Digest) -> bool {
        self.diff_id == diff_id && (!self.depends_on_parents || diff_id == chain_id)
    }
}

impl Store {
    /// The layer `diff_id` as packed on the chain that ends in `chain_id`, if it is present.
    pub(super) fn find_layer(
        &self,
        diff_id: Digest,
        chain_id: Digest,
    ) -> Result<Option<LayerInfo>, StoreError> {
        if let Some(info) = self.layer_info(&diff_id.hex())?
            && info.serves(diff_id, chain_id)
        {
            return Ok(Some(info));
        }
        Ok(self.layer_info(&chain_id.hex())?.filter(|info| info.diff_id == diff_id))
    }

    fn layer_info(&self, directory: &str) -> Result<Option<LayerInfo>, StoreError> {
        durable::read_json(&self.layer_path(directory).join("layer.json"))
    }

    pub(super) fn layer_path(&self, directory: &str) -> PathBuf {
        self.path("layers").join(directory)
    }

    /// A layer's tar stream, not compressed, byte for byte as it came: when its end is reached it
    /// has been compared with the diff ID, and is an error if it differs.
    ///
    /// # Errors
    /// When the layer cannot be opened.
    pub fn layer_stream(&self, layer: &LayerRecord) -> Result<LayerSource, StoreError> {
        LayerSource::open(&self.layer_path(&layer.directory), layer.diff_id)
    }

    /// The length of [`Store::layer_stream`].
    ///
    /// # Errors
    /// When the layer is not there or damaged.
    pub fn layer_size(&self, layer: &LayerRecord) -> Result<u64, StoreError> {
        let info = self.layer_info(&layer.directory)?.ok_or_else(|| StoreError::Damaged {
            path: self.layer_path(&layer.directory),
            why: "is missing".to_owned(),
        })?;
        Ok(info.diff_size)
    }

    /// Whether a layer directory of that name is published.
    pub(super) fn has_layer(&self, directory: &str) -> bool {
        fs::symlink_metadata(self.layer_path(directory)).is_ok()
    }
}

/// A layer's tar stream, verified while it is read.
pub struct LayerSource {
    stream: HashingReader<Replay>,
    diff_id: Digest,
}

impl LayerSource {
    pub(super) fn open(layer: &Path, diff_id: Digest) -> Result<LayerSource, StoreError> {
        let index = layer.join(INDEX);
        let packed = Packed::open(&index).map_err(|error| StoreError::Damaged {
            path: index,
            why: format!("cannot be used: {error}"),
        })?;
        let path = layer.join(STREAM);
        let replay = Replay::open(&path, Arc::new(packed)).on("read", &path)?;
        Ok(LayerSource { stream: HashingReader::new(replay), diff_id })
    }
}

impl Read for LayerSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.stream.digest() != self.diff_id {
            let why = format!("the store's layer {} is damaged", self.diff_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(count)
    }
}
