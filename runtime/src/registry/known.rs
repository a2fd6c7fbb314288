//! Which registries have a layer, and as what: so that it is not compressed and sent twice.
//!
//! `registry/known/<diff ID>.json` in the store. Only a hint: it is checked with the registry
//! before it counts, and may be deleted at any time.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::manifest::Descriptor;
use crate::digest::Digest;
use crate::reference::Reference;

/// Places that are remembered for a layer.
const MOST: usize = 20;
/// Layers that are remembered.
const MOST_LAYERS: usize = 2000;

/// A layer in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it is there.
    pub blob: Descriptor,
    /// The registry.
    pub registry: String,
    /// The repository within it.
    pub repository: String,
}

/// What is known about all layers.
#[derive(Debug)]
pub struct Known {
    directory: PathBuf,
}

impl Known {
    /// In a store.
    pub fn of(store_root: &Path) -> Known {
        Known { directory: store_root.join("registry/known") }
    }

    fn path(&self, diff_id: Digest) -> PathBuf {
        self.directory.join(format!("{}.json", diff_id.hex()))
    }

    /// Where a layer is, the last one first.
    pub fn places(&self, diff_id: Digest) -> Vec<Place> {
        // A hint that cannot be read is no hint.
        let text = fs::read(self.path(diff_id)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Remembers where a layer is. Nothing depends on it: errors only cost time later.
    pub fn remember(&self, diff_id: Digest, blob: &Descriptor, name: &Reference) {
        let blob = Descriptor { platform: None, ..blob.clone() };
        let place = Place {
            blob,
            registry: name.registry().to_owned(),
            repository: name.path().to_owned(),
        };
        let mut places = self.places(diff_id);
        if places.first() == Some(&place) {
            return;
        }
        places.retain(|known| *known != place);
        places.insert(0, place);
        places.truncate(MOST);
        if fs::create_dir_all(&self.directory).is_err() {
            return;
        }
        let count = fs::read_dir(&self.directory).map_or(0, Iterator::count);
        let path = self.path(diff_id);
        if count >= MOST_LAYERS && !path.exists() {
            return;
        }
        let new = path.with_extension(format!("new.{}", std::process::id()));
        let written = serde_json::to_vec(&places)
            .is_ok_and(|text| fs::write(&new, text).is_ok() && fs::rename(&new, &path).is_ok());
        if !written {
            fs::remove_file(&new).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_remembered_once() {
        let directory = tempfile::tempdir().unwrap();
        let known = Known::of(directory.path());
        let layer = Digest::of(b"layer");
        assert!(known.places(layer).is_empty());
        let blob = Descriptor {
            media_type: "m".to_owned(),
            size: 1,
            digest: Digest::of(b"blob"),
            platform: None,
        };
        let (a, b): (Reference, Reference) = ("r.example/a".parse().unwrap(), "b".parse().unwrap());
        for name in [&a, &b, &a] {
            known.remember(layer, &blob, name);
        }
        let places = known.places(layer);
        assert_eq!(places.len(), 2);
        assert_eq!(
            (places[0].registry.as_str(), places[0].repository.as_str()),
            ("r.example", "a")
        );
        fs::write(known.path(layer), "{").unwrap();
        assert!(known.places(layer).is_empty());
    }
}
