//! An image from the store into a registry.
//!
//! A layer that the registry has is not sent: neither one that this repository has, nor one that
//! another repository of the registry has and may lend. The store keeps layers uncompressed; what
//! must be sent is compressed first. An image that came from a registry and whose layers are all
//! still known there goes out under the very manifest, and so the digest, that it came with.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::RegistryError;
use super::connection::{Registry, Scope};
use super::http::{Ask, Content};
use super::known::Known;
use super::manifest::{Descriptor, Manifest};
use super::progress::{Progress, Step};
use super::pull::Access;
use super::upload::{Source, Uploads};
use crate::digest::{Digest, HashingWriter};
use crate::image::{Image, LayerRecord};
use crate::reference::Reference;
use crate::store::Store;

/// Docker's media types: what registries of any age take.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// OCI's, for layers that Docker's cannot describe.
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// How much is compressed at a time.
const PIECE: usize = 256 * 1024;

/// What a registry has now.
#[derive(Debug, Clone, Copy)]
pub struct PushedImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The length of its manifest.
    pub size: usize,
}

/// Pushes the image that has the name `name`.
///
/// # Errors
/// When there is no such image, or the registry does not take it.
pub fn push(
    access: &Access,
    store: &Store,
    name: &Reference,
    progress: &dyn Progress,
) -> Result<PushedImage, RegistryError> {
    let image = store.resolve(&name.to_string())?;
    let registry = access.connect(name)?;
    // Holds back the collection of garbage, and has a place for what is compressed.
    let transaction = store.begin()?;
    let directory = transaction.directory().to_owned();
    let scope = Scope::push(name.path());
    let uploads = Uploads {
        registry: &registry,
        repository: name.path(),
        scope: &scope,
        chunk: access.settings.upload_chunk,
        attempts: access.settings.attempts,
        progress,
    };
    let push = Push { access, store, name, image: &image, uploads, directory: &directory };
    let pushed = push.run()?;
    drop(transaction);
    store.tag(&image.id.to_string(), &name.at_digest(pushed.digest))?;
    Ok(pushed)
}

struct Push<'a> {
    access: &'a Access,
    store: &'a Store,
    name: &'a Reference,
    image: &'a Image,
    uploads: Uploads<'a>,
    directory: &'a Path,
}

impl Push<'_> {
    fn registry(&self) -> &Registry {
        self.uploads.registry
    }

    fn run(&self) -> Result<PushedImage, RegistryError> {
        let layers = self.layers()?;
        let config = self.store.blob(self.image.id)?;
        if !self.has(self.image.id)? {
            let source = Source::Bytes(&config);
            let label = self.image.id.short();
            self.uploads.upload(&label, source, self.image.id, config.len() as u64)?;
        }
        let (media_type, text) = self.manifest(config.len() as u64, &layers)?;
        let tag = self.name.tag().unwrap_or(crate::reference::DEFAULT_TAG);
        let ask = Ask {
            method: "PUT",
            url: self.registry().url(self.name.path(), &format!("manifests/{tag}")),
            headers: vec![("content-type", media_type)],
            content: Content::Bytes(&text),
            again: true,
        };
        let response = self.registry().send(ask, self.uploads.scope, &|_| {})?;
        if !matches!(response.status().as_u16(), 200..=202) {
            return Err(self.refused(self.registry().refusal(response, "the manifest")));
        }
        let known = Known::of(self.store.root());
        for (layer, blob) in self.image.record().layers.iter().zip(&layers) {
            known.remember(layer.diff_id, blob, self.name);
        }
        Ok(PushedImage { digest: Digest::of(&text), size: text.len() })
    }

    /// Brings all layers to the registry; what they are there, lowest first.
    fn layers(&self) -> Result<Vec<Descriptor>, RegistryError> {
        let layers = &self.image.record().layers;
        // Each one goes once, however often the image has it.
        let mut different: Vec<&LayerRecord> = Vec::new();
        for layer in layers {
            if !different.iter().any(|other| other.diff_id == layer.diff_id) {
                different.push(layer);
                self.uploads.progress.step(&layer.diff_id.short(), &Step::Preparing);
            }
        }
        // The first question is asked alone: it shows whether we may push at all.
        let first = different.first().map(|layer| self.layer(layer)).transpose()?;
        let mut done: Vec<(Digest, Descriptor)> = different
            .first()
            .zip(first)
            .map(|(layer, blob)| (layer.diff_id, blob))
            .into_iter()
            .collect();
        let queue = Mutex::new(different.iter().skip(1));
        let results = Mutex::new(Vec::new());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..self.access.settings.uploads.min(different.len().saturating_sub(1)) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(layer) = next else { return };
                        let result = self.layer(layer).map(|blob| (layer.diff_id, blob));
                        if result.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                    }
                });
            }
        });
        for result in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            done.push(result?);
        }
        let mut blobs = Vec::with_capacity(layers.len());
        for layer in layers {
            let blob = done.iter().find(|(diff_id, _)| *diff_id == layer.diff_id);
            let (_, blob) = blob.ok_or_else(|| {
                let why = "it was not pushed".to_owned();
                self.registry().nonsense(&format!("layer {}", layer.diff_id.short()), why)
            })?;
            blobs.push(blob.clone());
        }
        Ok(blobs)
    }

    fn has(&self, digest: Digest) -> Result<bool, RegistryError> {
        self.uploads.has(digest).map_err(|error| self.refused(error))
    }

    /// A refusal for want of permission, in Docker's words.
    fn refused(&self, error: RegistryError) -> RegistryError {
        let repository = self.name.familiar_repository();
        match error {
            RegistryError::Unauthorized(why) => {
                RegistryError::Denied { action: "push", repository, why }
            }
            RegistryError::Refused { status: 401 | 403, why, .. } => {
                RegistryError::Denied { action: "push", repository, why }
            }
            error => error,
        }
    }

    /// Brings one layer to the registry.
    fn layer(&self, layer: &LayerRecord) -> Result<Descriptor, RegistryError> {
        let label = layer.diff_id.short();
        let step = |step: &Step| self.uploads.progress.step(&label, step);
        let came_as = Descriptor {
            media_type: layer.media_type.clone(),
            size: layer.blob_size,
            digest: layer.blob_digest,
            platform: None,
        };
        let places: Vec<_> = Known::of(self.store.root())
            .places(layer.diff_id)
            .into_iter()
            .filter(|place| place.registry == self.name.registry())
            .collect();
        let mut candidates = vec![came_as];
        for place in &places {
            if !candidates.iter().any(|known| known.digest == place.blob.digest) {
                candidates.push(place.blob.clone());
            }
        }
        for blob in &candidates {
            if self.has(blob.digest)? {
                step(&Step::OnRegistry);
                return Ok(blob.clone());
            }
        }
        for place in places.iter().filter(|place| place.repository != self.name.path()) {
            if self.uploads.mount(place.blob.digest, &place.repository)? {
                step(&Step::Mounted(place.repository.clone()));
                return Ok(place.blob.clone());
            }
        }
        step(&Step::Compressing);
        let path = self.directory.join(format!("push-{}", layer.diff_id.hex()));
        let (digest, size) = self.compress(layer, &path)?;
        let media_type = if layer.media_type.contains("docker") { DOCKER_LAYER } else { OCI_GZIP };
        let blob = Descriptor { media_type: media_type.to_owned(), size, digest, platform: None };
        if self.has(digest)? {
            step(&Step::OnRegistry);
            return Ok(blob);
        }
        self.uploads
            .upload(&label, Source::File(&path), digest, size)
            .map_err(|error| self.refused(error))?;
        // What cannot be removed goes with the transaction.
        std::fs::remove_file(&path).ok();
        step(&Step::Pushed);
        Ok(blob)
    }

    /// Compresses a layer into a file; its digest and length.
    fn compress(&self, layer: &LayerRecord, path: &Path) -> Result<(Digest, u64), RegistryError> {
        let cannot = |action: &'static str| {
            let path = path.to_owned();
            move |source: io::Error| RegistryError::File { action, path, source }
        };
        let mut content = self.store.layer_stream(layer)?;
        let file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(cannot("create"))?;
        let mut packed = GzEncoder::new(HashingWriter::new(file), Compression::default());
        let mut piece = vec![0; PIECE];
        loop {
            let count = match content.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cannot("read a layer for")(error)),
            };
            packed.write_all(piece.get(..count).unwrap_or_default()).map_err(cannot("write"))?;
        }
        let (_, digest, size) = packed.finish().map_err(cannot("write"))?.finish();
        Ok((digest, size))
    }

    /// The manifest that the image came with, if it still fits; else a new one.
    fn manifest(
        &self,
        config_size: u64,
        layers: &[Descriptor],
    ) -> Result<(String, Vec<u8>), RegistryError> {
        if let Some(digest) = self.image.record().manifest
            && let Ok(text) = self.store.blob(digest)
            && let Ok(came_with) = serde_json::from_slice::<Manifest>(&text)
            && came_with.config.digest == self.image.id
            && came_with.layers.iter().map(|layer| layer.digest).eq(layers.iter().map(|l| l.digest))
        {
            let media_type = match came_with.media_type.as_str() {
                "" => OCI_MANIFEST.to_owned(),
                other => other.to_owned(),
            };
            return Ok((media_type, text));
        }
        let oci = layers
            .iter()
            .any(|layer| layer.media_type.contains("zstd") || !layer.media_type.contains("gzip"));
        let (manifest, config) =
            if oci { (OCI_MANIFEST, OCI_CONFIG) } else { (DOCKER_MANIFEST, DOCKER_CONFIG) };
        let layers = layers.iter().map(|layer| {
            let docker = layer.media_type.contains("docker");
            let media_type = match (oci, docker) {
                (false, false) => DOCKER_LAYER,
                (true, true) => OCI_GZIP,
                _ => layer.media_type.as_str(),
            };
            Descriptor { media_type: media_type.to_owned(), ..layer.clone() }
        });
        let config = Descriptor {
            media_type: config.to_owned(),
            size: config_size,
            digest: self.image.id,
            platform: None,
        };
        let manifest_document = Manifest {
            schema_version: 2,
            media_type: manifest.to_owned(),
            config,
            layers: layers.collect(),
        };
        let text = serde_json::to_vec_pretty(&manifest_document)
            .map_err(|error| self.registry().nonsense("the manifest", error.to_string()))?;
        Ok((manifest.to_owned(), text))
    }
}

/// The names of a repository that can be pushed.
///
/// # Errors
/// When the store cannot be read, or has none.
pub fn tags(store: &Store, name: &Reference) -> Result<Vec<Reference>, RegistryError> {
    let mut found = Vec::new();
    for image in store.images()? {
        let ours = image.names().iter().filter(|other| other.repository() == name.repository());
        found.extend(ours.cloned());
    }
    found.sort();
    if found.is_empty() {
        return Err(RegistryError::NoTag(name.familiar_repository()));
    }
    Ok(found)
}
