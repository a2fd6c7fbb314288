//! The image store: images, their layers and their names, under one directory.
//!
//! ```text
//! version.json           format and version; a newer one is refused
//! lock                   flock: exclusive to change names and records, shared to rely on them
//! gc.lock                flock: shared while something is staged, exclusive to collect garbage
//! dirty                  exists while unreferenced layers or blobs may exist
//! images.json            names -> image ids
//! images/<id>.json       what is known about an image (`ImageRecord`)
//! blobs/sha256/<hex>     configurations and manifests, byte for byte
//! objects/ab/<62 hex>    contents of large files, by their SHA-256, shared by all layers
//! layers/<hex>/          one packed layer: `layer.json`, `layer.index`, `layer.data` (see
//!                        `cowl_fs::packed`), and `stream`, how its archive was put together
//! tmp/                   work in progress; published by rename
//! ```
//!
//! Promises: a reader sees an image completely or not at all; a process killed at any point leaves
//! nothing visible and nothing that the next command does not reclaim; locks die with their holder.
//! Lock order: `gc.lock`, then `lock`. Layers are shared between images by content, and so are
//! large files between layers. No layer is ever unpacked.

mod check;
mod collect;
mod durable;
mod layer;
mod lock;
mod removal;
mod remove_image;
mod tag;
mod transaction;
pub mod tree;
mod usage;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use check::Checked;
pub use layer::{LayerInfo, LayerSource};
pub use lock::StoreLock;
pub use removal::remove_tree;
pub use remove_image::{Removal, Removed};
pub use transaction::{Renamed, StagedLayer, Transaction};
pub use usage::{Usage, disk_use};

use crate::digest::{Digest, DigestError};
use crate::image::{ConfigDocument, Image, ImageRecord};
use crate::reference::{Reference, ReferenceError};

/// What `version.json` says for a store that this program reads and writes.
const FORMAT: &str = "cowl-store";
/// The version of the layout described above.
const VERSION: u32 = 2;
/// Others must not enter: layers hold secrets of images, and old set-user-ID programs.
const PRIVATE: u32 = 0o700;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the store does not hold what it must.
    #[error("the image store is damaged: {} {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The directory holds something else.
    #[error("{} is not an image store and not empty; name another directory with --root", .0.display())]
    NotAStore(PathBuf),
    /// The store was written by a newer program.
    #[error("the image store {} has format version {found}, this program knows up to {VERSION}; use a newer cowl or another --root", path.display())]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The store was written by an older program, in another format.
    #[error(
        "the image store {} has format version {found} (unpacked layers), this program needs version {VERSION}; name another --root and load the images again, or remove this directory",
        path.display()
    )]
    Older {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It would not fit.
    #[error(
        "there is not enough space in {}: {wanted} bytes are needed at least and {free} are free; remove images with `cowl image prune`, or name another --root",
        path.display()
    )]
    NoSpace {
        /// The store.
        path: PathBuf,
        /// Bytes that are needed, at least.
        wanted: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// A packed layer or an object.
    #[error("{0}")]
    Packed(String),
    /// No image has that name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// Several images' ids start with these digits.
    #[error("'{0}' is ambiguous: the ids of several images start with it; give more digits")]
    Ambiguous(String),
    /// A name is malformed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A digest is malformed.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The image cannot be removed as things are.
    #[error("{0}")]
    Conflict(String),
}

/// Attaches what was tried, and on what, to a system error.
pub(crate) trait Context<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn on(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

/// An error of packed layers; it names the file itself.
fn packed(error: cowl_fs::packed::PackError) -> StoreError {
    StoreError::Packed(error.to_string())
}

#[derive(Serialize, Deserialize)]
struct Version {
    format: String,
    version: u32,
}

/// `images.json`.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Names {
    names: BTreeMap<String, Digest>,
}

/// An image store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, creating it when there is none, and reclaims what a killed
    /// command left behind.
    ///
    /// # Errors
    /// When the directory cannot be made or used, holds something else, or is too new.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let root = std::path::absolute(root).on("find", root)?;
        fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(&root).on("create", &root)?;
        let store = Store { root };
        if !store.check_version()? {
            store.create_layout()?;
        }
        store.reclaim()?;
        Ok(store)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps images from being removed while the guard lives: hold it from resolving an image
    /// until what uses it is written down.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        StoreLock::shared(&self.path("lock"))
    }

    /// Starts adding layers and images; nothing is visible before [`Transaction::commit`].
    ///
    /// # Errors
    /// When the staging area cannot be made.
    pub fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        Transaction::begin(self)
    }

    /// The image with this name, this id, or the only one whose id starts with these digits.
    ///
    /// # Errors
    /// [`StoreError::NoSuchImage`], [`StoreError::Ambiguous`], or a damaged store.
    pub fn resolve(&self, name_or_id: &str) -> Result<Image, StoreError> {
        let names = self.names()?;
        let unknown = || StoreError::NoSuchImage(name_or_id.to_owned());
        let hex = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        if let Some(id) = Digest::from_hex(hex) {
            return self.image(id, &names)?.ok_or_else(unknown);
        }
        let reference = name_or_id.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(image) = self.by_reference(reference, &names)?
        {
            return Ok(image);
        }
        if !hex.is_empty() && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let mut matching = self.image_ids()?.into_iter().filter(|id| id.hex().starts_with(hex));
            match (matching.next(), matching.next()) {
                (Some(id), None) => return self.image(id, &names)?.ok_or_else(unknown),
                (Some(_), Some(_)) => return Err(StoreError::Ambiguous(name_or_id.to_owned())),
                (None, _) => {}
            }
        }
        match reference {
            Ok(reference) => Err(StoreError::NoSuchImage(reference.familiar())),
            Err(error) => Err(error.into()),
        }
    }

    /// A configuration or manifest, byte for byte, verified.
    ///
    /// # Errors
    /// When the store does not have it, or has something else in its place.
    pub fn blob(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let content = fs::read(&path).on("read", &path)?;
        if Digest::of(&content) != digest {
            let why = "does not match its digest".to_owned();
            return Err(StoreError::Damaged { path, why });
        }
        Ok(content)
    }

    fn by_reference(
        &self,
        reference: &Reference,
        names: &Names,
    ) -> Result<Option<Image>, StoreError> {
        let Some(digest) = reference.digest() else {
            return match names.names.get(&reference.to_string()) {
                Some(id) => self.image(*id, names),
                None => Ok(None),
            };
        };
        if let Some(id) = names.names.get(&reference.at_digest(digest).to_string()) {
            return self.image(*id, names);
        }
        for image in self.images()? {
            let same_repository =
                image.references().any(|name| name.repository() == reference.repository());
            if same_repository && (image.record().manifest == Some(digest) || image.id == digest) {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// All images, in no particular order.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let names = self.names()?;
        let mut images = Vec::new();
        for id in self.image_ids()? {
            // Another command may have removed it since the directory was listed.
            images.extend(self.image(id, &names)?);
        }
        Ok(images)
    }

    fn image(&self, id: Digest, names: &Names) -> Result<Option<Image>, StoreError> {
        let Some(record) = self.record(id)? else { return Ok(None) };
        let path = self.blob_path(id);
        let config = match fs::read(&path) {
            Ok(config) => config,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Removed by another command between the two reads, or really missing.
                return match self.record(id)? {
                    None => Ok(None),
                    Some(_) => Err(error).on("read", &path),
                };
            }
            Err(error) => return Err(error).on("read", &path),
        };
        let document: ConfigDocument = serde_json::from_slice(&config).map_err(|error| {
            StoreError::Damaged { path, why: format!("is no image configuration: {error}") }
        })?;
        let mut own = Vec::new();
        for (name, _) in names.names.iter().filter(|(_, named)| **named == id) {
            own.push(name.parse()?);
        }
        Ok(Some(Image::new(record, document, own, &self.path("layers"))))
    }

    fn image_ids(&self) -> Result<Vec<Digest>, StoreError> {
        let directory = self.path("images");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&directory).on("list", &directory)? {
            let name = entry.on("list", &directory)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            ids.extend(id.and_then(Digest::from_hex));
        }
        Ok(ids)
    }

    fn record(&self, id: Digest) -> Result<Option<ImageRecord>, StoreError> {
        durable::read_json(&self.record_path(id))
    }

    fn names(&self) -> Result<Names, StoreError> {
        Ok(durable::read_json(&self.path("images.json"))?.unwrap_or_default())
    }

    fn write_names(&self, names: &Names) -> Result<(), StoreError> {
        durable::write_json(&self.path("images.json"), names)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn record_path(&self, id: Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether there is a store of a known version.
    fn check_version(&self) -> Result<bool, StoreError> {
        let path = self.path("version.json");
        let Some(found) = durable::read_json::<Version>(&path)? else { return Ok(false) };
        if found.format != FORMAT {
            return Err(StoreError::NotAStore(self.root.clone()));
        }
        if found.version > VERSION {
            return Err(StoreError::Newer { path: self.root.clone(), found: found.version });
        }
        if found.version < VERSION {
            return Err(StoreError::Older { path: self.root.clone(), found: found.version });
        }
        Ok(true)
    }

    fn create_layout(&self) -> Result<(), StoreError> {
        // What an earlier, killed attempt may have left; anything else is not ours to fill.
        const OURS: [&str; 10] = [
            "lock",
            "gc.lock",
            "containers",
            "images",
            "blobs",
            "layers",
            "trees",
            "objects",
            "tmp",
            "lost+found",
        ];
        for entry in fs::read_dir(&self.root).on("list", &self.root)? {
            let name = entry.on("list", &self.root)?.file_name();
            let temporary = name.to_string_lossy().starts_with(durable::TEMPORARY_PREFIX);
            if !temporary && !OURS.iter().any(|ours| name == *ours) && name != "version.json" {
                // Unless another command has just made it one.
                return if self.check_version()? {
                    Ok(())
                } else {
                    Err(StoreError::NotAStore(self.root.clone()))
                };
            }
        }
        let _lock = StoreLock::exclusive(&self.path("lock"))?;
        for directory in ["images", "blobs/sha256", "layers", "objects", "tmp"] {
            let path = self.root.join(directory);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(PRIVATE)
                .create(&path)
                .on("create", &path)?;
        }
        let version = Version { format: FORMAT.to_owned(), version: VERSION };
        durable::write_json(&self.path("version.json"), &version)
    }
}

#[cfg(test)]
mod tests;
