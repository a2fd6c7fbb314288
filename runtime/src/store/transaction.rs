//! Adding images: everything is staged out of sight and published at once.
//!
//! While a transaction lives it holds `gc.lock` shared, so that layers it found in the store stay.
//! Its staging directory belongs to it alone; when it dies, even by `kill -9`, the lock goes with
//! it and the directory is garbage that the next command removes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowl_fs::packed::{Objects, PackError, Writer};

use super::layer::STREAM;
use super::{
    Context, LayerInfo, PRIVATE, Store, StoreError, StoreLock, durable, packed, remove_tree,
};
use crate::digest::Digest;
use crate::image::ImageRecord;
use crate::reference::Reference;

/// From a layer's directory to the objects of the store.
const OBJECTS_OF_LAYER: &str = "../../objects";

/// Images and layers about to be added.
#[derive(Debug)]
pub struct Transaction<'store> {
    store: &'store Store,
    objects: Arc<Objects>,
    staging: Staging,
    layers: BTreeMap<String, (LayerInfo, PathBuf)>,
    images: Vec<NewImage>,
    next: u64,
    // Last: released only after the staging directory is gone.
    _gc: StoreLock,
}

#[derive(Debug)]
struct NewImage {
    record: ImageRecord,
    config: Vec<u8>,
    manifest: Option<Vec<u8>>,
    names: Vec<Reference>,
}

/// A layer in the making.
#[derive(Debug)]
pub struct StagedLayer {
    path: PathBuf,
    objects: Arc<Objects>,
}

impl StagedLayer {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its contents are written with.
    ///
    /// # Errors
    /// When its files cannot be made.
    pub fn writer(&self) -> Result<Writer, PackError> {
        Writer::create(&self.path, Arc::clone(&self.objects), Some(Path::new(OBJECTS_OF_LAYER)))
    }

    /// Where the record of its stream goes.
    pub fn stream(&self) -> PathBuf {
        self.path.join(STREAM)
    }
}

/// A name that now means another image than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The name.
    pub name: Reference,
    /// The image that had it.
    pub old: Digest,
}

/// Directory under `tmp/` that is removed when dropped.
#[derive(Debug)]
struct Staging {
    path: PathBuf,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Best effort: what is left is removed by the next command.
        if let Some(parent) = self.path.parent()
            && let Some(name) = self.path.file_name()
            && let Ok(parent) = File::open(parent)
            && let Ok(name) = CString::new(name.as_bytes())
        {
            remove_tree(parent.as_fd(), &name).ok();
        }
    }
}

impl<'store> Transaction<'store> {
    pub(super) fn begin(store: &'store Store) -> Result<Self, StoreError> {
        let gc = StoreLock::shared(&store.path("gc.lock"))?;
        store.mark_dirty()?;
        let path = store.path("tmp").join(durable::unique_name(""));
        let objects = path.join("objects");
        fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(&objects).on("create", &path)?;
        let staging = Staging { path };
        let objects = Objects::new(&store.path("objects"), &objects).map_err(packed)?;
        Ok(Transaction {
            store,
            objects: Arc::new(objects),
            staging,
            layers: BTreeMap::new(),
            images: Vec::new(),
            next: 0,
            _gc: gc,
        })
    }

    /// Where this transaction may keep files until it ends.
    pub fn directory(&self) -> &Path {
        &self.staging.path
    }

    /// The layer `diff_id` on the chain that ends in `chain_id`, staged or in the store, and its
    /// directory.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn find_layer(
        &self,
        diff_id: Digest,
        chain_id: Digest,
    ) -> Result<Option<(LayerInfo, PathBuf)>, StoreError> {
        for directory in [diff_id.hex(), chain_id.hex()] {
            if let Some((info, path)) = self.layers.get(&directory)
                && info.diff_id == diff_id
                && info.directory(chain_id) == directory
            {
                return Ok(Some((info.clone(), path.clone())));
            }
        }
        let found = self.store.find_layer(diff_id, chain_id)?;
        Ok(found.map(|info| {
            let path = self.store.layer_path(&info.directory(chain_id));
            (info, path)
        }))
    }

    /// Makes room for a new layer.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn stage_layer(&mut self) -> Result<StagedLayer, StoreError> {
        let path = self.staging.path.join(format!("layer-{}", self.next));
        self.next += 1;
        fs::DirBuilder::new().mode(PRIVATE).create(&path).on("create", &path)?;
        Ok(StagedLayer { path, objects: Arc::clone(&self.objects) })
    }

    /// Takes a finished layer, to be published under the name that `chain_id` and `info` give it;
    /// returns its directory.
    ///
    /// # Errors
    /// When its description cannot be written.
    pub fn add_layer(
        &mut self,
        layer: StagedLayer,
        info: LayerInfo,
        chain_id: Digest,
    ) -> Result<PathBuf, StoreError> {
        durable::write_json(&layer.path.join("layer.json"), &info)?;
        let path = layer.path.clone();
        self.layers.insert(info.directory(chain_id), (info, layer.path));
        Ok(path)
    }

    /// Takes an image whose layers have all been found or added.
    pub fn add_image(
        &mut self,
        record: ImageRecord,
        config: Vec<u8>,
        manifest: Option<Vec<u8>>,
        names: Vec<Reference>,
    ) {
        self.images.push(NewImage { record, config, manifest, names });
    }

    /// Publishes everything at once. Returns the names that were taken from other images.
    ///
    /// # Errors
    /// When something cannot be written; then no new image is visible.
    pub fn commit(self) -> Result<Vec<Renamed>, StoreError> {
        let store = self.store;
        let root = File::open(&store.root).on("open", &store.root)?;
        nix::unistd::syncfs(&root).on("sync", &store.root)?;
        let mut renamed = Vec::new();
        {
            let _lock = StoreLock::exclusive(&store.path("lock"))?;
            // Before what refers to them.
            self.objects.publish().map_err(packed)?;
            for (directory, (_, staged)) in &self.layers {
                // Another load may have published the same layer meanwhile.
                if !store.has_layer(directory) {
                    let target = store.layer_path(directory);
                    fs::rename(staged, &target).on("publish", &target)?;
                }
            }
            durable::sync_directory(&store.path("layers"))?;
            for image in &self.images {
                self.publish_blob(image.record.id, &image.config)?;
                if let (Some(digest), Some(manifest)) = (image.record.manifest, &image.manifest) {
                    self.publish_blob(digest, manifest)?;
                }
                durable::write_json(&store.record_path(image.record.id), &image.record)?;
            }
            let mut names = store.names()?;
            let mut changed = false;
            for image in &self.images {
                for name in &image.names {
                    let old = names.names.insert(name.to_string(), image.record.id);
                    changed |= old != Some(image.record.id);
                    renamed.extend(
                        old.filter(|old| *old != image.record.id)
                            .map(|old| Renamed { name: name.clone(), old }),
                    );
                }
            }
            if changed {
                store.write_names(&names)?;
            }
        }
        drop(self);
        store.reclaim()?;
        Ok(renamed)
    }

    fn publish_blob(&self, digest: Digest, content: &[u8]) -> Result<(), StoreError> {
        let path = self.store.blob_path(digest);
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(());
        }
        durable::write(&path, content)
    }
}
