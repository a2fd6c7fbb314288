//! Where a layer is kept and under which name.
//!
//! A layer is found by its diff ID, so that images share it. One exception: unpacking some layers
//! reads the layers below (a directory that the layer implies but does not list takes the lower
//! one's attributes; a hard link may name a lower file). Such a layer's tree belongs to the chain it
//! was unpacked on, and is kept under its chain ID.
//!
//! This is the seam behind which an unpacked tree can become a packed layer.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, durable};
use crate::digest::Digest;

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
    /// Whether the tree depends on the layers it was unpacked on.
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
    /// The layer `diff_id` as unpacked on the chain that ends in `chain_id`, if it is present.
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

    /// Whether a layer directory of that name is published.
    pub(super) fn has_layer(&self, directory: &str) -> bool {
        fs::symlink_metadata(self.layer_path(directory)).is_ok()
    }
}
