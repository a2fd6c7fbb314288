//! `system fsck`: everything in the store against its digests, and the references between them.
//!
//! Repair takes out what is wrong, so that loading or pulling the image again puts it right: a
//! damaged layer that stayed would be taken for the real one. Nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use cowl_fs::packed::{INDEX, Packed};

use super::layer::LayerSource;
use super::{Context, LayerInfo, Store, StoreError, StoreLock, durable};
use crate::digest::{Digest, HashingReader};
use crate::image::{ConfigDocument, ImageRecord};

/// What a check found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Images that were looked at.
    pub images: usize,
    /// Layers that were looked at.
    pub layers: usize,
    /// Objects that were looked at.
    pub objects: usize,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// What was done about it, one sentence each.
    pub repairs: Vec<String>,
}

impl Store {
    /// Checks everything. With `repair`, takes out what is wrong; `users` are the ids of the
    /// containers that use an image, which then stays although it cannot be used.
    ///
    /// # Errors
    /// When the store cannot be read or written at all.
    pub fn check(
        &self,
        repair: bool,
        users: &dyn Fn(&Digest) -> Result<Vec<String>, StoreError>,
    ) -> Result<Checked, StoreError> {
        // Nobody stages or removes anything meanwhile.
        let _gc = StoreLock::exclusive(&self.path("gc.lock"))?;
        let _lock = StoreLock::exclusive(&self.path("lock"))?;
        let mut checked = Checked::default();
        let mut broken_layers: BTreeSet<String> = BTreeSet::new();
        let mut broken_images: BTreeMap<Digest, String> = BTreeMap::new();
        let mut layers: BTreeMap<String, Digest> = BTreeMap::new();
        let mut objects = Objects::default();
        for id in self.image_ids()? {
            checked.images += 1;
            match self.record(id) {
                Ok(Some(record)) => {
                    for layer in &record.layers {
                        layers.insert(layer.directory.clone(), layer.diff_id);
                    }
                    if let Err(why) = self.check_image(id, &record) {
                        broken_images.insert(id, why);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    broken_images.insert(id, error.to_string());
                }
            }
        }
        for (directory, diff_id) in &layers {
            checked.layers += 1;
            if let Err(why) = self.check_layer(directory, *diff_id, &mut objects) {
                checked.problems.push(format!("layer {diff_id}: {why}"));
                broken_layers.insert(directory.clone());
            }
        }
        checked.objects = objects.good.len() + objects.bad.len();
        for (id, why) in &broken_images {
            checked.problems.push(format!("image {id}: {why}"));
        }
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                checked.problems.push(error.to_string());
                return self.repair_names(checked, repair);
            }
        };
        let lost: Vec<&String> = names
            .names
            .iter()
            .filter(|(_, id)| matches!(self.record(**id), Ok(None)))
            .map(|(name, _)| name)
            .collect();
        for name in &lost {
            checked.problems.push(format!("the name {name} stands for an image that is missing"));
        }
        if !repair || checked.problems.is_empty() {
            return Ok(checked);
        }

        self.mark_dirty()?;
        for digest in &objects.bad {
            let path = self.object_path(digest);
            durable::remove(&path)?;
            checked.repairs.push(format!("removed the damaged object {digest}"));
        }
        for directory in &broken_layers {
            let path = self.layer_path(directory);
            if fs::symlink_metadata(&path).is_ok() {
                let dead = self.path("tmp").join(durable::unique_name("dead-"));
                fs::rename(&path, dead).on("remove", &path)?;
            }
            checked.repairs.push(format!("removed the layer {directory}"));
        }
        let mut names = names.clone();
        for id in self.image_ids()? {
            let needs = match self.record(id) {
                Ok(Some(record)) => {
                    record.layers.iter().any(|layer| broken_layers.contains(&layer.directory))
                }
                _ => true,
            };
            if !needs && !broken_images.contains_key(&id) {
                continue;
            }
            let mut used = users(&id)?;
            let same: Vec<String> = names
                .names
                .iter()
                .filter(|(_, named)| **named == id)
                .map(|(n, _)| n.clone())
                .collect();
            let called = if same.is_empty() { id.to_string() } else { same.join(", ") };
            names.names.retain(|_, named| *named != id);
            durable::remove(&self.record_path(id))?;
            durable::remove(&self.blob_path(id))?;
            let mut sentence = format!("removed the image {called}: load or pull it again");
            if let Some(user) = used.pop() {
                sentence.push_str(&format!(" before container {user} can be used"));
            }
            checked.repairs.push(sentence);
        }
        names.names.retain(|_, id| matches!(self.record(*id), Ok(Some(_))));
        self.write_names(&names)?;
        Ok(checked)
    }

    fn repair_names(&self, mut checked: Checked, repair: bool) -> Result<Checked, StoreError> {
        if repair {
            self.write_names(&super::Names::default())?;
            checked
                .repairs
                .push("all images lost their names: give them new ones with `cowl tag`".to_owned());
        }
        Ok(checked)
    }

    fn check_image(&self, id: Digest, record: &ImageRecord) -> Result<(), String> {
        if record.id != id {
            return Err(format!("its record is that of {}", record.id));
        }
        let config = self.blob(id).map_err(|error| error.to_string())?;
        let document: ConfigDocument = serde_json::from_slice(&config)
            .map_err(|error| format!("its configuration cannot be used: {error}"))?;
        if !document.rootfs.diff_ids.iter().eq(record.layers.iter().map(|layer| &layer.diff_id)) {
            return Err("its record names other layers than its configuration".to_owned());
        }
        if let Some(manifest) = record.manifest {
            self.blob(manifest).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn check_layer(
        &self,
        directory: &str,
        diff_id: Digest,
        objects: &mut Objects,
    ) -> Result<(), String> {
        let path = self.layer_path(directory);
        let info: Option<LayerInfo> =
            durable::read_json(&path.join("layer.json")).map_err(|error| error.to_string())?;
        let info = info.ok_or("it is missing")?;
        if info.diff_id != diff_id {
            return Err(format!("its description is that of {}", info.diff_id));
        }
        let packed = Packed::open(&path.join(INDEX)).map_err(|error| error.to_string())?;
        // Each object once, however many layers share it.
        let mut wrong = None;
        for object in packed.objects() {
            let (digest, length) = object.map_err(|_| "its list of objects is damaged")?;
            let digest = Digest::from_bytes(digest.0);
            if objects.good.contains(&digest) {
                continue;
            }
            match hash(&self.object_path(&digest)) {
                Ok((actual, size)) if actual == digest && size == length => {
                    objects.good.insert(digest);
                }
                Ok(_) => {
                    objects.bad.insert(digest);
                    wrong = Some(format!("its object {digest} is damaged"));
                }
                Err(error) => {
                    objects.bad.insert(digest);
                    wrong = Some(format!("its object {digest} cannot be read: {error}"));
                }
            }
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        packed.verify_index().map_err(|error| error.to_string())?;
        // Index and contents together make the stream that the layer is named by.
        let mut stream = LayerSource::open(&path, diff_id).map_err(|error| error.to_string())?;
        io::copy(&mut stream, &mut io::sink()).map_err(|error| error.to_string())?;
        packed.verify().map_err(|error| error.to_string())
    }

    /// Where an object is kept.
    fn object_path(&self, digest: &Digest) -> std::path::PathBuf {
        let hex = digest.hex();
        let (start, rest) = hex.split_at(2);
        self.path("objects").join(start).join(rest)
    }
}

/// Objects that were looked at.
#[derive(Default)]
struct Objects {
    good: BTreeSet<Digest>,
    bad: BTreeSet<Digest>,
}

fn hash(path: &Path) -> io::Result<(Digest, u64)> {
    let mut reader = HashingReader::new(File::open(path)?);
    let mut buffer = vec![0; 1 << 18];
    while io::Read::read(&mut reader, &mut buffer)? > 0 {}
    Ok(reader.finish())
}
