//! Manifests and indexes, in Docker's and in OCI's media types.

use serde::{Deserialize, Serialize};

use super::RegistryError;
use super::platform::Platform;
use crate::digest::Digest;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What we take.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Something by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// How long it is.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// For which machine it is.
    #[serde(default, skip_serializing)]
    pub platform: Option<Platform>,
}

/// A manifest of one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

/// What a registry has under a name.
#[derive(Debug)]
pub enum Document {
    /// One image.
    Image(Manifest),
    /// Images for several machines.
    Index(Vec<Descriptor>),
}

/// Reads a manifest or index; `media_type` is what the registry calls it.
///
/// # Errors
/// When it is neither.
pub fn read(name: &str, media_type: &str, text: &[u8]) -> Result<Document, RegistryError> {
    let wrong = |why: String| RegistryError::NoImage { name: name.to_owned(), why };
    let either: Either = serde_json::from_slice(text)
        .map_err(|error| wrong(format!("its manifest is damaged: {error}")))?;
    let kind = either.media_type.as_deref().unwrap_or(media_type);
    if either.schema_version == 1 || kind.contains("distribution.manifest.v1+") {
        return Err(RegistryError::Schema1(name.to_owned()));
    }
    if matches!(kind, DOCKER_LIST | OCI_INDEX)
        || (either.manifests.is_some() && either.config.is_none())
    {
        let index: Index = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("its index is damaged: {error}")))?;
        return Ok(Document::Index(index.manifests));
    }
    if either.config.is_none() {
        return Err(wrong("it has no configuration".to_owned()));
    }
    let manifest: Manifest = serde_json::from_slice(text)
        .map_err(|error| wrong(format!("its manifest is damaged: {error}")))?;
    let config = manifest.config.media_type.as_str();
    if !config.is_empty() && !config.contains("image.config") && !config.contains("container.image")
    {
        return Err(wrong(format!("it holds '{config}'")));
    }
    if let Some(layer) = manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        return Err(wrong(format!("a layer of it is '{}'", layer.media_type)));
    }
    Ok(Document::Image(manifest))
}

/// Layers that are tar archives, compressed or not, and are kept in registries.
fn is_layer(media_type: &str) -> bool {
    media_type.is_empty() || (media_type.contains("tar") && !media_type.contains("encrypted"))
}

/// The one of an index for a machine.
///
/// # Errors
/// When there is none.
pub fn choose(
    name: &str,
    images: Vec<Descriptor>,
    wanted: &Platform,
) -> Result<Descriptor, RegistryError> {
    let mut images = images;
    images.retain(|image| image.platform.as_ref().is_none_or(|platform| platform.os != "unknown"));
    let fits = |image: &Descriptor| image.platform.as_ref().is_some_and(|have| have.serves(wanted));
    // One whose variant is just the wanted one is better than one that only fits.
    let exact = images.iter().position(|image| image.platform.as_ref() == Some(wanted));
    match exact.or_else(|| images.iter().position(fits)) {
        Some(at) => Ok(images.swap_remove(at)),
        None => {
            let found: Vec<String> = images
                .iter()
                .map(|image| {
                    image.platform.as_ref().map_or("an unnamed one".to_owned(), Platform::to_string)
                })
                .collect();
            Err(RegistryError::Platform {
                name: name.to_owned(),
                wanted: wanted.to_string(),
                found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

    fn descriptor(text: &str) -> String {
        format!(r#"{{"mediaType":"{text}","size":3,"digest":"{}"}}"#, Digest::of(b"abc"))
    }

    #[test]
    fn documents_are_told_apart() {
        let layer = descriptor(DOCKER_LAYER);
        let image = |config: &str, layer: &str| {
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layer}]}}"#, descriptor(config))
        };
        let read = |text: &str| super::read("x", OCI_MANIFEST, text.as_bytes());
        assert!(matches!(read(&image(DOCKER_CONFIG, &layer)), Ok(Document::Image(_))));
        assert!(matches!(read(&image(OCI_CONFIG, &descriptor(""))), Ok(Document::Image(_))));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{layer}]}}"#);
        assert!(matches!(read(&index), Ok(Document::Index(list)) if list.len() == 1));
        for (text, why) in [
            (r#"{"schemaVersion":1,"name":"x"}"#.to_owned(), "schema 1"),
            (image("application/vnd.cncf.helm.config.v1+json", &layer), "helm"),
            (image(OCI_CONFIG, &descriptor("application/x-other")), "x-other"),
            (r#"{"schemaVersion":2}"#.to_owned(), "no configuration"),
            ("[]".to_owned(), "no configuration"),
            (String::new(), "damaged"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn platforms_are_chosen() {
        let index: Vec<Descriptor> = [("amd64", None), ("arm", Some("v6")), ("arm", Some("v7"))]
            .iter()
            .enumerate()
            .map(|(number, (architecture, variant))| Descriptor {
                media_type: OCI_MANIFEST.to_owned(),
                size: number as u64,
                digest: Digest::of(b"x"),
                platform: Some(Platform {
                    os: "linux".to_owned(),
                    architecture: (*architecture).to_owned(),
                    variant: variant.map(str::to_owned),
                }),
            })
            .collect();
        let choose = |wanted: &str| super::choose("x", index.clone(), &wanted.parse().unwrap());
        assert_eq!(choose("linux/amd64").unwrap().size, 0);
        assert_eq!(choose("linux/arm/v7").unwrap().size, 2);
        let error = choose("linux/s390x").unwrap_err().to_string();
        assert!(
            error.contains("no matching manifest for linux/s390x")
                && error.contains("linux/arm/v6")
        );
    }
}
