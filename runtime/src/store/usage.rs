//! How much of the disk the store takes, and for what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Context, Store, StoreError};
use crate::digest::Digest;

/// Size of a block in `st_blocks`.
const BLOCK: u64 = 512;

/// What the images take.
#[derive(Debug, Default, Clone)]
pub struct Usage {
    /// Bytes on disk of layers, objects, configurations and manifests.
    pub disk: u64,
    /// Bytes of file content in all layers, each layer counted once.
    pub content: u64,
    /// Layers.
    pub layers: usize,
    /// Of each image: bytes of the layers that other images have too, and of those of its own.
    pub images: BTreeMap<Digest, (u64, u64)>,
}

impl Store {
    /// Measures the store.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        let images = self.images()?;
        let mut users: BTreeMap<&str, (u64, BTreeSet<Digest>)> = BTreeMap::new();
        for image in &images {
            for layer in &image.record().layers {
                let entry = users.entry(&layer.directory).or_default();
                entry.0 = layer.size;
                entry.1.insert(image.id);
            }
        }
        usage.layers = users.len();
        usage.content = users.values().map(|(size, _)| size).sum();
        for image in &images {
            let mut sizes = (0, 0);
            for (size, ids) in users.values().filter(|(_, ids)| ids.contains(&image.id)) {
                if ids.len() > 1 {
                    sizes.0 += size;
                } else {
                    sizes.1 += size;
                }
            }
            usage.images.insert(image.id, sizes);
        }
        for part in ["images", "blobs", "layers", "objects", "trees"] {
            usage.disk += disk_use(&self.path(part))?;
        }
        Ok(usage)
    }

    /// Says so, before half the work is done, when `wanted` bytes will not fit.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn check_space(&self, wanted: u64) -> Result<(), StoreError> {
        let found = nix::sys::statvfs::statvfs(&self.root).on("look at", &self.root)?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        if free < wanted {
            return Err(StoreError::NoSpace { path: self.root.clone(), wanted, free });
        }
        Ok(())
    }
}

/// The bytes that a tree takes on disk. What goes away meanwhile takes none.
pub fn disk_use(path: &Path) -> Result<u64, StoreError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(0) };
    let mut sum = found.blocks() * BLOCK;
    if found.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return Ok(sum) };
        for entry in entries {
            sum += disk_use(&entry.on("list", path)?.path())?;
        }
    }
    Ok(sum)
}
