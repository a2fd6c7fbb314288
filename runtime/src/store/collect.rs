//! Garbage: what killed commands and removed images leave behind.
//!
//! Whoever holds `gc.lock` exclusively knows that nothing is staged: everything in `tmp/` is dead,
//! and so is every layer and blob that no image record names. Unreferenced layers are looked for
//! only when `dirty` exists, so that the usual command pays for two `stat`s and a short listing.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cowl_fs::packed::{INDEX, Packed};

use super::{Context, Store, StoreError, StoreLock, durable, remove_tree};

impl Store {
    /// Notes that there may be garbage; only [`Store::reclaim`] takes the note back.
    pub(super) fn mark_dirty(&self) -> Result<(), StoreError> {
        let path = self.path("dirty");
        File::create(&path).map(drop).on("create", &path)
    }

    /// Removes garbage, unless there is none or another command is adding images right now; that
    /// command will do it when it ends.
    pub(super) fn reclaim(&self) -> Result<(), StoreError> {
        let tmp = self.path("tmp");
        let dirty = fs::symlink_metadata(self.path("dirty")).is_ok();
        if !dirty && list(&tmp)?.is_empty() {
            return Ok(());
        }
        let Some(_gc) = StoreLock::try_exclusive(&self.path("gc.lock"))? else { return Ok(()) };
        if dirty {
            let _lock = StoreLock::exclusive(&self.path("lock"))?;
            self.discard_unreferenced()?;
            durable::remove(&self.path("dirty"))?;
        }
        let directory = File::open(&tmp).on("open", &tmp)?;
        for name in list(&tmp)? {
            let path = tmp.join(&name);
            let name = CString::new(name.as_bytes()).on("remove", &path)?;
            remove_tree(directory.as_fd(), &name).on("remove", &path)?;
        }
        Ok(())
    }

    /// Moves what no image uses out of sight, into `tmp/`.
    fn discard_unreferenced(&self) -> Result<(), StoreError> {
        let mut layers = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        for id in self.image_ids()? {
            let Some(record) = self.record(id)? else { continue };
            blobs.insert(OsString::from(record.id.hex()));
            blobs.extend(record.manifest.map(|digest| OsString::from(digest.hex())));
            layers.extend(record.layers.into_iter().map(|layer| OsString::from(layer.directory)));
        }
        for (directory, used) in [("layers", &layers), ("trees", &layers), ("blobs/sha256", &blobs)]
        {
            let directory = self.path(directory);
            if !directory.exists() {
                continue; // trees are made on demand
            }
            for name in list(&directory)?.into_iter().filter(|name| !used.contains(name)) {
                let path = directory.join(&name);
                let dead = self.path("tmp").join(durable::unique_name("dead-"));
                fs::rename(&path, dead).on("remove", &path)?;
            }
        }
        self.discard_objects(&layers)?;
        for directory in [self.root.clone(), self.path("images")] {
            for name in list(&directory)? {
                if name.as_bytes().starts_with(durable::TEMPORARY_PREFIX.as_bytes()) {
                    durable::remove(&directory.join(name))?;
                }
            }
        }
        Ok(())
    }
}

impl Store {
    /// Removes the objects that no layer refers to. While a layer cannot be read nobody knows what
    /// it refers to, and all stay; `system fsck` says what is wrong with it.
    fn discard_objects(&self, layers: &BTreeSet<OsString>) -> Result<(), StoreError> {
        let mut used = BTreeSet::new();
        for layer in layers {
            let Ok(packed) = Packed::open(&self.path("layers").join(layer).join(INDEX)) else {
                return Ok(());
            };
            for object in packed.objects() {
                let Ok((digest, _)) = object else { return Ok(()) };
                used.insert(digest.to_string());
            }
        }
        let objects = self.path("objects");
        for start in list(&objects)? {
            let directory = objects.join(&start);
            for name in list(&directory)? {
                let digest = [start.as_bytes(), name.as_bytes()].concat();
                if !std::str::from_utf8(&digest).is_ok_and(|digest| used.contains(digest)) {
                    durable::remove(&directory.join(name))?;
                }
            }
        }
        Ok(())
    }
}

fn list(directory: &Path) -> Result<Vec<OsString>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).on("list", directory)? {
        names.push(entry.on("list", directory)?.file_name());
    }
    Ok(names)
}
