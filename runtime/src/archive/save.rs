//! `cowl save`: images as an archive that is at once `docker save`'s and an OCI image layout.
//!
//! Docker, Podman and skopeo write and read the two forms; the blobs are the same, so one archive
//! serves readers of either. Layers are written uncompressed, byte for byte as they came, and are
//! verified while they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::tar::{Entry, Kind, TarWriter, Time};
use crate::digest::Digest;
use crate::image::{Image, LayerRecord};
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// Media types of what the layout holds.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Full name of an image, as containerd writes it, and its tag, by the OCI specification.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";
/// Data is moved in pieces of this size.
const BUFFER: usize = 256 * 1024;

/// Why images cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be read.
    #[error("cannot read layer {layer}: {source}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[from] io::Error),
    /// A document of the archive cannot be made.
    #[error("cannot describe the image: {0}")]
    Document(#[from] serde_json::Error),
}

/// An image and the names it is saved under.
#[derive(Debug)]
pub struct Saved {
    /// The image.
    pub image: Image,
    /// Its names in the archive.
    pub names: Vec<Reference>,
}

/// What a command line asks to be saved, each image once, in the order asked for.
///
/// A name without a tag stands for all names of that repository, as for Docker.
///
/// # Errors
/// When there is no such image.
pub fn select(store: &Store, targets: &[String]) -> Result<Vec<Saved>, StoreError> {
    let mut chosen: Vec<Saved> = Vec::new();
    let mut take = |image: Image, name: Option<Reference>| {
        let at = chosen.iter().position(|saved| saved.image.id == image.id);
        match at.and_then(|at| chosen.get_mut(at)) {
            Some(saved) => {
                let new = name.filter(|name| !saved.names.contains(name));
                saved.names.extend(new);
            }
            None => chosen.push(Saved { image, names: name.into_iter().collect() }),
        }
    };
    for target in targets {
        let reference = target.parse::<Reference>().ok();
        if let Some(reference) = &reference
            && !Reference::is_explicit(target)
        {
            let mut found = false;
            let mut images = store.images()?;
            images.sort_by_key(|image| image.id);
            for image in images {
                let names: Vec<Reference> = image
                    .names()
                    .iter()
                    .filter(|name| {
                        name.digest().is_none() && name.repository() == reference.repository()
                    })
                    .cloned()
                    .collect();
                for name in names {
                    found = true;
                    take(image.clone(), Some(name));
                }
            }
            if found {
                continue;
            }
        }
        let image = store.resolve(target)?;
        let name = reference.filter(|name| name.digest().is_none() && image.names().contains(name));
        take(image, name);
    }
    Ok(chosen)
}

/// Writes the archive.
///
/// # Errors
/// When the store is damaged or the output fails; what has been written is then of no use.
pub fn save(store: &Store, images: &[Saved], output: impl Write) -> Result<(), SaveError> {
    let mut archive = Archive { tar: TarWriter::new(output), written: BTreeSet::new() };
    archive.directory(b"blobs/")?;
    archive.directory(b"blobs/sha256/")?;
    let mut docker = Vec::new();
    let mut manifests = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for Saved { image, names } in images {
        let layers = &image.record().layers;
        let mut descriptors = Vec::new();
        for layer in layers {
            let size = archive.layer(store, layer)?;
            descriptors.push(json!({
                "mediaType": LAYER, "digest": layer.diff_id.to_string(), "size": size,
            }));
        }
        let config = store.blob(image.id)?;
        archive.blob(&config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": CONFIG, "digest": image.id.to_string(), "size": config.len(),
            },
            "layers": descriptors,
        });
        let manifest = serde_json::to_vec(&manifest)?;
        archive.blob(&manifest)?;
        let descriptor = |name: Option<&Reference>| {
            let mut descriptor = json!({
                "mediaType": MANIFEST,
                "digest": Digest::of(&manifest).to_string(),
                "size": manifest.len(),
                "platform": { "architecture": image.architecture, "os": image.os },
            });
            if let (Some(name), Some(members)) = (name, descriptor.as_object_mut()) {
                let tag = name.tag().unwrap_or_default();
                members.insert(
                    "annotations".to_owned(),
                    json!({ CONTAINERD_NAME: name.to_string(), OCI_NAME: tag }),
                );
            }
            descriptor
        };
        if names.is_empty() {
            manifests.push(descriptor(None));
        }
        manifests.extend(names.iter().map(|name| descriptor(Some(name))));
        let paths: Vec<String> = layers.iter().map(|layer| blob_path(layer.diff_id)).collect();
        for name in names {
            if let (Some(tag), Some(top)) = (name.tag(), layers.last()) {
                let tags = repositories.entry(name.familiar_repository()).or_default();
                tags.insert(tag.to_owned(), top.diff_id.hex());
            }
        }
        docker.push(json!({
            "Config": blob_path(image.id),
            "RepoTags": match names.as_slice() {
                [] => Value::Null,
                names => names.iter().map(Reference::familiar).collect(),
            },
            "Layers": paths,
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    archive.file(b"index.json", &serde_json::to_vec(&index)?)?;
    archive.file(b"manifest.json", &serde_json::to_vec(&docker)?)?;
    archive.file(b"oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file(b"repositories", &serde_json::to_vec(&repositories)?)?;
    archive.tar.finish()?;
    Ok(())
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Archive<W> {
    tar: TarWriter<W>,
    /// Blobs that are in it; images share them.
    written: BTreeSet<Digest>,
}

impl<W: Write> Archive<W> {
    fn directory(&mut self, path: &[u8]) -> io::Result<()> {
        self.tar.entry(&Entry { mode: 0o755, ..entry(path, Kind::Directory, 0) })
    }

    fn file(&mut self, path: &[u8], content: &[u8]) -> io::Result<()> {
        self.tar.entry(&entry(path, Kind::File, content.len() as u64))?;
        self.tar.data(content)
    }

    fn blob(&mut self, content: &[u8]) -> io::Result<()> {
        let digest = Digest::of(content);
        if self.written.insert(digest) {
            self.file(blob_path(digest).as_bytes(), content)?;
        }
        Ok(())
    }

    /// Writes a layer and returns its size.
    fn layer(&mut self, store: &Store, layer: &LayerRecord) -> Result<u64, SaveError> {
        let size = store.layer_size(layer)?;
        if !self.written.insert(layer.diff_id) {
            return Ok(size);
        }
        let mut stream = store.layer_stream(layer)?;
        self.tar.entry(&entry(blob_path(layer.diff_id).as_bytes(), Kind::File, size))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = stream
                .read(&mut buffer)
                .map_err(|source| SaveError::Layer { layer: layer.diff_id, source })?;
            if count == 0 {
                return Ok(size);
            }
            self.tar.data(buffer.get(..count).unwrap_or(&[]))?;
        }
    }
}

/// A file of the archive. All have the same time, so that the same images make the same archive.
fn entry(path: &[u8], kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.to_vec(),
        link: Vec::new(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime: Time::default(),
        atime: None,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
        data_offset: 0,
    }
}
