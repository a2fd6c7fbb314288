//! What an image is: its configuration, its layers, its names.
//!
//! The configuration is read from the OCI image configuration (Docker's has the same shape). Only
//! what a container needs is interpreted; the original bytes stay in the store as a blob, since
//! their digest is the image's id.

pub mod moment;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cowl_fs::packed::INDEX;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::reference::Reference;

/// How a container of this image runs, unless the command line says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    /// What is executed, before the command.
    #[serde(default, deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// The default command, or the entry point's default arguments.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Environment, as `NAME=value`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty for root.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: String,
    /// Where the command starts; empty for `/`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Ports as `80/tcp`.
    #[serde(default, deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// Directories that get an anonymous volume.
    #[serde(default, deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// Labels.
    #[serde(default, deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the command to stop; empty for SIGTERM.
    #[serde(default, deserialize_with = "null_is_default")]
    pub stop_signal: String,
}

/// The OCI image configuration document.
#[derive(Debug, Clone, Deserialize)]
pub struct ConfigDocument {
    /// When the image was made, RFC 3339.
    #[serde(default, deserialize_with = "null_is_default")]
    pub created: String,
    /// The processor it is for, in Go's names (`amd64`).
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The operating system it is for.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// How its containers run.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ImageConfig,
    /// Its layers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rootfs: RootFs,
}

/// The `rootfs` of a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Sets are written as objects with empty values (`{"80/tcp": {}}`).
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let set: BTreeMap<String, serde::de::IgnoredAny> = null_is_default(deserializer)?;
    Ok(set.into_keys().collect())
}

/// One layer of an image as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the uncompressed layer.
    pub diff_id: Digest,
    /// Directory of the layer under the store's `layers/`.
    pub directory: String,
    /// Bytes of file content in the layer.
    pub size: u64,
    /// Digest of the layer as it came, usually compressed.
    pub blob_digest: Digest,
    /// Size of the layer as it came.
    pub blob_size: u64,
    /// Media type of the layer as it came.
    pub media_type: String,
    /// Whether the layer says what the root directory itself is like.
    pub lists_root: bool,
}

/// What the store writes down about an image, `images/<id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// The manifest it came with, if it came with one.
    pub manifest: Option<Digest>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRecord>,
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration: the image's id.
    pub id: Digest,
    /// How its containers run.
    pub config: ImageConfig,
    /// When it was made, RFC 3339; empty when unknown.
    pub created: String,
    /// The processor it is for (`amd64`).
    pub architecture: String,
    /// The operating system it is for.
    pub os: String,
    record: ImageRecord,
    names: Vec<Reference>,
    digests: Vec<Reference>,
    layers_root: PathBuf,
}

impl Image {
    /// An image from what the store holds about it.
    pub(crate) fn new(
        record: ImageRecord,
        document: ConfigDocument,
        names: Vec<Reference>,
        layers_root: &Path,
    ) -> Image {
        let (names, digests) = names.into_iter().partition(|name| name.tag().is_some());
        Image {
            id: record.id,
            config: document.config,
            created: document.created,
            architecture: document.architecture,
            os: document.os,
            record,
            names,
            digests,
            layers_root: layers_root.to_owned(),
        }
    }

    /// Its names with tags, in order; empty for an image that is only known by its id or digest.
    pub fn names(&self) -> &[Reference] {
        &self.names
    }

    /// Its names with digests: how registries know it that it came from or went to.
    pub fn digests(&self) -> &[Reference] {
        &self.digests
    }

    /// All its names, those with tags first.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.names.iter().chain(&self.digests)
    }

    /// What the store wrote down about it.
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }

    /// The bytes of file content in all its layers, as Docker counts an image's size.
    pub fn size(&self) -> u64 {
        self.record.layers.iter().map(|layer| layer.size).sum()
    }

    /// The layer whose root directory's owner, mode and times the root directory of a container
    /// has: the topmost that lists its root. `None`: no layer does, so `root:root` and 0755.
    pub fn root_attributes(&self) -> Option<PathBuf> {
        let layer = self.record.layers.iter().rev().find(|layer| layer.lists_root)?;
        Some(self.layers_root.join(&layer.directory).join(INDEX))
    }

    /// The index files of its layers, topmost first: the order of `lowerdir`.
    ///
    /// A layer that occurs twice is listed once, at its topmost place: everything the lower
    /// occurrence says is said again above it, and union filesystems refuse a repeated layer.
    pub fn layer_dirs(&self) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = Vec::with_capacity(self.record.layers.len());
        for layer in self.record.layers.iter().rev() {
            let directory = self.layers_root.join(&layer.directory).join(INDEX);
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        directories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_with_nulls_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","created":null,
            "config":{"Env":["A=b"],"Cmd":null,"Entrypoint":["/bin/sh","-c"],"ExposedPorts":{"80/tcp":{}},
                      "Volumes":null,"Labels":null,"User":"nobody","WorkingDir":"/srv","StopSignal":"SIGINT"},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[]}"#;
        let document: ConfigDocument = serde_json::from_str(text).unwrap();
        assert_eq!(document.config.entrypoint, ["/bin/sh", "-c"]);
        assert!(document.config.cmd.is_empty());
        assert_eq!(document.config.exposed_ports, ["80/tcp"]);
        assert_eq!(document.config.user, "nobody");
        assert_eq!(document.config.stop_signal, "SIGINT");
        let empty: ConfigDocument = serde_json::from_str(r#"{"config":null}"#).unwrap();
        assert_eq!(empty.config, ImageConfig::default());
    }
}
