//! Which images an archive holds, by its manifests: `docker save`'s `manifest.json`, or an OCI
//! image layout's `index.json`. Archives of Docker 25 and later have both; the first is used, since
//! it lists exactly what was saved.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::source::{Source, SourceError};
use crate::digest::Digest;
use crate::reference::Reference;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;
/// Full name of an image, as containerd writes it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Name or tag of an image, by the OCI specification.
const OCI_NAME: &str = "org.opencontainers.image.ref.name";
/// Marks manifests that describe another image instead of being one.
const DOCKER_REFERENCE: &str = "vnd.docker.reference.type";

/// Why an archive cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The archive cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is an archive, but of something else.
    #[error("there is no image in the archive: it has neither manifest.json nor index.json")]
    NoImage,
    /// A document is not the one that its digest names.
    #[error("'{path}' does not match its digest: it is {actual}")]
    Mismatch {
        /// Its name.
        path: String,
        /// What it hashes to.
        actual: Digest,
    },
    /// The image is for other machines.
    #[error("the image is not for linux/{wanted}; the archive has {found}")]
    Platform {
        /// This machine's architecture.
        wanted: &'static str,
        /// The platforms in the archive.
        found: String,
    },
    /// Something else does not fit together.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
}

/// An image in an archive.
#[derive(Debug)]
pub struct Found {
    /// Its configuration, verified.
    pub config: Vec<u8>,
    /// Its manifest, verified, where there is one in the OCI or registry sense.
    pub manifest: Option<Vec<u8>>,
    /// Its layers, lowest first.
    pub layers: Vec<FoundLayer>,
    /// Its names.
    pub names: Vec<Reference>,
}

/// A layer in an archive.
#[derive(Debug)]
pub struct FoundLayer {
    /// Its name in the archive.
    pub path: String,
    /// What it must hash to as it is in the archive, where that is known.
    pub digest: Option<Digest>,
    /// How long it must be, where that is known.
    pub size: Option<u64>,
    /// Its media type, where the archive has one.
    pub media_type: Option<String>,
}

/// The images in `source`.
///
/// # Errors
/// When there are none, or the archive is damaged.
pub fn images(source: &Source) -> Result<Vec<Found>, ManifestError> {
    if let Some(text) = source.document("manifest.json")? {
        return docker(source, &parse::<Vec<DockerImage>>("manifest.json", &text)?);
    }
    if let Some(text) = source.document("index.json")? {
        let index: Index = parse("index.json", &text)?;
        return layout(source, index.manifests);
    }
    Err(ManifestError::NoImage)
}

fn parse<T: DeserializeOwned>(path: &str, text: &[u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(text)
        .map_err(|source| SourceError::Document { path: path.to_owned(), source }.into())
}

fn required(source: &Source, path: &str) -> Result<Vec<u8>, ManifestError> {
    source.document(path)?.ok_or_else(|| SourceError::Missing(path.to_owned()).into())
}

/// An element of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn docker(source: &Source, images: &[DockerImage]) -> Result<Vec<Found>, ManifestError> {
    let mut found = Vec::new();
    for image in images {
        let config = required(source, &image.config)?;
        // `<digest>.json`, or `blobs/sha256/<digest>`; other programs may use other names.
        let name = file_name(&image.config);
        if let Some(digest) = Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)) {
            verify(&image.config, &config, digest)?;
        }
        let layers = image.layers.iter().flatten().map(|path| FoundLayer {
            path: path.clone(),
            digest: path
                .starts_with("blobs/sha256/")
                .then(|| Digest::from_hex(file_name(path)))
                .flatten(),
            size: None,
            media_type: None,
        });
        let mut names = Vec::new();
        for name in image.repo_tags.iter().flatten() {
            let name = name.parse().map_err(|error| ManifestError::Damaged(format!("{error}")))?;
            names.push(name);
        }
        found.push(Found { config, manifest: None, layers: layers.collect(), names });
    }
    Ok(found)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn verify(path: &str, content: &[u8], digest: Digest) -> Result<(), ManifestError> {
    let actual = Digest::of(content);
    if actual == digest {
        return Ok(());
    }
    Err(ManifestError::Mismatch { path: path.to_owned(), actual })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Tells an index from a manifest where the descriptor's media type does not.
#[derive(Deserialize)]
struct Either {
    manifests: Option<serde::de::IgnoredAny>,
}

impl Descriptor {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Attestations and the like.
    fn is_image(&self) -> bool {
        self.annotation(DOCKER_REFERENCE).is_none()
            && self.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
    }

    /// The name that the layout gives it. A bare word is a repository, as for Podman.
    fn name(&self) -> Result<Option<Reference>, ManifestError> {
        let Some(name) = self.annotation(CONTAINERD_NAME).or_else(|| self.annotation(OCI_NAME))
        else {
            return Ok(None);
        };
        match name.parse() {
            Ok(name) => Ok(Some(name)),
            // The specification allows any text here; such an image is known by its id.
            Err(_) => Ok(None),
        }
    }

    fn read(&self, source: &Source) -> Result<Vec<u8>, ManifestError> {
        let path = self.path();
        let content = required(source, &path)?;
        verify(&path, &content, self.digest)?;
        if content.len() as u64 != self.size {
            return Err(ManifestError::Damaged(format!(
                "'{path}' has {} bytes, not {}",
                content.len(),
                self.size
            )));
        }
        Ok(content)
    }
}

/// This machine's architecture in Go's words, as OCI uses them.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

fn layout(source: &Source, manifests: Vec<Descriptor>) -> Result<Vec<Found>, ManifestError> {
    // The same name may stand for several platforms; each name is one image.
    let mut groups: BTreeMap<Option<Reference>, Vec<Descriptor>> = BTreeMap::new();
    for descriptor in manifests.into_iter().filter(Descriptor::is_image) {
        groups.entry(descriptor.name()?).or_default().push(descriptor);
    }
    let mut found: BTreeMap<Digest, Found> = BTreeMap::new();
    for (name, group) in groups {
        let chosen = if name.is_none() && group.iter().all(|d| d.platform.is_none()) {
            group
        } else {
            vec![choose(group)?]
        };
        for descriptor in chosen {
            let (digest, image) = follow(source, descriptor, MAX_DEPTH)?;
            found.entry(digest).or_insert(image).names.extend(name.clone());
        }
    }
    if found.is_empty() {
        return Err(ManifestError::Damaged("its index.json lists no image".to_owned()));
    }
    Ok(found.into_values().collect())
}

/// The one for this machine; a single one is taken as it is.
fn choose(mut group: Vec<Descriptor>) -> Result<Descriptor, ManifestError> {
    let wanted = architecture();
    if group.len() > 1 {
        let ours = group.iter().position(|descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "linux" && platform.architecture == wanted)
        });
        return match ours {
            Some(index) => Ok(group.swap_remove(index)),
            None => Err(platform_error(&group)),
        };
    }
    group.pop().ok_or_else(|| ManifestError::Damaged("an index lists no image".to_owned()))
}

fn platform_error(group: &[Descriptor]) -> ManifestError {
    let found: Vec<String> = group
        .iter()
        .map(|descriptor| match &descriptor.platform {
            None => "an unnamed platform".to_owned(),
            Some(platform) => {
                let variant = platform.variant.as_deref().unwrap_or_default();
                let slash = if variant.is_empty() { "" } else { "/" };
                format!("{}/{}{slash}{variant}", platform.os, platform.architecture)
            }
        })
        .collect();
    ManifestError::Platform { wanted: architecture(), found: found.join(", ") }
}

/// From an index or a manifest to the image.
fn follow(
    source: &Source,
    descriptor: Descriptor,
    depth: usize,
) -> Result<(Digest, Found), ManifestError> {
    let text = descriptor.read(source)?;
    let path = descriptor.path();
    if parse::<Either>(&path, &text)?.manifests.is_some() {
        if depth == 0 {
            return Err(ManifestError::Damaged("its indexes are nested too deeply".to_owned()));
        }
        let index: Index = parse(&path, &text)?;
        let images: Vec<Descriptor> =
            index.manifests.into_iter().filter(Descriptor::is_image).collect();
        return follow(source, choose(images)?, depth - 1);
    }
    let manifest: Manifest = parse(&path, &text)?;
    if !manifest.config.media_type.is_empty()
        && !manifest.config.media_type.contains("image.config")
        && !manifest.config.media_type.contains("container.image")
    {
        return Err(ManifestError::Damaged(format!(
            "it holds no container image but '{}'",
            manifest.config.media_type
        )));
    }
    let config = manifest.config.read(source)?;
    let layers = manifest
        .layers
        .iter()
        .map(|layer| FoundLayer {
            path: layer.path(),
            digest: Some(layer.digest),
            size: Some(layer.size),
            media_type: Some(layer.media_type.clone()).filter(|text| !text.is_empty()),
        })
        .collect();
    let found = Found { config, manifest: Some(text), layers, names: Vec::new() };
    Ok((descriptor.digest, found))
}
