//! An image from a registry into the store.
//!
//! Mirrors are asked first where there are any for Docker Hub; what they do not have comes from the
//! registry itself. Layers that are in the store already do not come again. Several come at once,
//! and each is put into the store, lowest first, while the next ones are on their way.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use serde::Deserialize;
use ureq::http::Response;

use super::RegistryError;
use super::connection::{Registry, Scope, complaint};
use super::credentials::Credentials;
use super::download::Downloads;
use super::http::{Ask, Content};
use super::known::Known;
use super::manifest::{self, Descriptor, Document, Manifest};
use super::platform::Platform;
use super::progress::{Progress, Step};
use super::settings::Settings;
use crate::archive::intake::{self, Expected, Intake};
use crate::archive::load::LoadError;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::{Store, StoreError, Transaction};

/// Docker Hub, for which mirrors are.
const MIRRORED: &str = "docker.io";
/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;
/// Pages of tags that are read.
const MAX_PAGES: usize = 1000;

/// The ways to registries, as this machine and user have them.
#[derive(Debug)]
pub struct Access {
    /// What is said about registries.
    pub settings: Settings,
    /// Who we are.
    pub credentials: Credentials,
}

impl Access {
    /// Reads what there is.
    ///
    /// # Errors
    /// When a file cannot be read or understood.
    pub fn read() -> Result<Access, RegistryError> {
        Ok(Access { settings: Settings::read()?, credentials: Credentials::read()? })
    }

    /// Connects to the registry of a name.
    ///
    /// # Errors
    /// When it does not answer, or is not trusted.
    pub fn connect(&self, name: &Reference) -> Result<Registry, RegistryError> {
        let host = name.registry();
        Registry::connect(&self.settings, host, self.credentials.get(host)?)
    }

    /// Does something with each mirror of a name's registry, and then with the registry itself,
    /// until it succeeds.
    fn first<T>(
        &self,
        name: &Reference,
        mut action: impl FnMut(&Registry) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        if name.registry() == MIRRORED {
            for mirror in &self.settings.mirrors {
                let tried = Registry::mirror(&self.settings, mirror, &self.credentials)
                    .and_then(|registry| action(&registry));
                match tried {
                    // Our own trouble is not the mirror's.
                    Err(error @ (RegistryError::Store(_) | RegistryError::File { .. })) => {
                        return Err(error);
                    }
                    Err(_) => {}
                    done => return done,
                }
            }
        }
        action(&self.connect(name)?)
    }
}

/// An image that was pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Its id.
    pub id: Digest,
    /// The digest that the registry has it under: of an index, where it is one.
    pub digest: Digest,
    /// Whether the name means another image now than before.
    pub newer: bool,
}

/// Pulls one image. `platform` is the wanted one; this machine's when there is none.
///
/// # Errors
/// When it is not there, does not come, or is not what it should be. The store is then as it was.
pub fn pull(
    access: &Access,
    store: &Store,
    name: &Reference,
    platform: Option<&Platform>,
    progress: &dyn Progress,
) -> Result<Pulled, RegistryError> {
    access.first(name, |registry| {
        Pull { access, store, registry, name, progress, scope: Scope::pull(name.path()) }
            .run(platform)
    })
}

/// The tags of a repository.
///
/// # Errors
/// When there is no such repository, or the registry does not tell.
pub fn tags(access: &Access, name: &Reference) -> Result<Vec<String>, RegistryError> {
    #[derive(Deserialize)]
    struct Tags {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    access.first(name, |registry| {
        let what = "a question for the tags";
        let scope = Scope::pull(name.path());
        let mut url = registry.url(name.path(), "tags/list?n=1000");
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let ask = Ask {
                method: "GET",
                url,
                headers: Vec::new(),
                content: Content::None,
                again: true,
            };
            let response = registry.send(ask, &scope, &|_| {})?;
            if response.status().as_u16() != 200 {
                return Err(refused(registry, response, name, what));
            }
            let next = next_page(&response).map(|link| registry.resolve(&link));
            let text = registry.document(response, what)?;
            let page: Tags = serde_json::from_slice(&text)
                .map_err(|error| registry.nonsense(what, error.to_string()))?;
            all.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => url = next,
                None => return Ok(all),
            }
        }
        Err(registry.nonsense(what, "there is no end of them".to_owned()))
    })
}

/// The address of the next page: `<…>; rel="next"`.
fn next_page(response: &Response<ureq::Body>) -> Option<String> {
    let link = response.headers().get("link")?.to_str().ok()?;
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}

/// A refusal of something in a repository, in Docker's words.
fn refused(
    registry: &Registry,
    response: Response<ureq::Body>,
    name: &Reference,
    what: &str,
) -> RegistryError {
    let status = response.status().as_u16();
    if !matches!(status, 401 | 403 | 404) {
        return registry.refusal(response, what);
    }
    let (_, why) = complaint(response);
    let or = |text: &str| if why.is_empty() { text.to_owned() } else { why.clone() };
    if status == 404 {
        return RegistryError::NoManifest { name: name.familiar(), why: or("manifest unknown") };
    }
    RegistryError::Denied {
        action: "pull",
        repository: name.familiar_repository(),
        why: or("authentication required"),
    }
}

struct Pull<'a> {
    access: &'a Access,
    store: &'a Store,
    registry: &'a Registry,
    name: &'a Reference,
    progress: &'a dyn Progress,
    scope: Scope,
}

impl Pull<'_> {
    fn run(&self, platform: Option<&Platform>) -> Result<Pulled, RegistryError> {
        let wanted = match (self.name.digest(), self.name.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
        };
        let (digest, text, document) = self.document(&wanted, self.name.digest())?;
        self.progress.say(&format!("{wanted}: Pulling from {}", self.name.path()));
        let (text, manifest) = self.image(text, document, platform)?;
        let config = self.config(&manifest.config)?;
        let diff_ids = intake::diff_ids(&config)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(RegistryError::NoImage {
                name: self.name.familiar(),
                why: format!(
                    "its configuration names {} layers, its manifest {}",
                    diff_ids.len(),
                    manifest.layers.len()
                ),
            });
        }
        let by_digest = self.name.at_digest(digest);
        let names = match (self.name.digest(), self.name.tag()) {
            (None, Some(_)) => vec![self.name.clone(), by_digest],
            _ => vec![by_digest],
        };
        let id = Digest::of(&config);
        let newer = match self.store.resolve(&names.first().unwrap_or(self.name).to_string()) {
            Ok(image) => image.id != id,
            Err(StoreError::NoSuchImage(_)) => true,
            Err(error) => return Err(error.into()),
        };
        let mut transaction = self.store.begin()?;
        self.layers(&mut transaction, &manifest, &diff_ids, |intake| {
            intake.finish(config, Some(text), names)?;
            Ok(())
        })?;
        transaction.commit()?;
        let known = Known::of(self.store.root());
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            known.remember(*diff_id, layer, self.name);
        }
        Ok(Pulled { id, digest, newer })
    }

    /// A manifest or index, by tag or digest.
    fn document(
        &self,
        wanted: &str,
        expected: Option<Digest>,
    ) -> Result<(Digest, Vec<u8>, Document), RegistryError> {
        let what = format!("a question for {wanted}");
        let ask = Ask {
            method: "GET",
            url: self.registry.url(self.name.path(), &format!("manifests/{wanted}")),
            headers: vec![("accept", manifest::ACCEPT.to_owned())],
            content: Content::None,
            again: true,
        };
        let response = self.registry.send(ask, &self.scope, &|_| {})?;
        if response.status().as_u16() != 200 {
            return Err(refused(self.registry, response, self.name, &what));
        }
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        let text = self.registry.document(response, &what)?;
        let actual = Digest::of(&text);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            let what = format!("the manifest of {}", self.name.familiar());
            return Err(RegistryError::Mismatch { what, actual, expected });
        }
        let document = manifest::read(&self.name.familiar(), &kind, &text)?;
        Ok((actual, text, document))
    }

    /// From an index to the image for the wanted machine.
    fn image(
        &self,
        text: Vec<u8>,
        document: Document,
        platform: Option<&Platform>,
    ) -> Result<(Vec<u8>, Manifest), RegistryError> {
        let here = Platform::here();
        let wanted = platform.unwrap_or(&here);
        let (mut text, mut document) = (text, document);
        for depth in 0..=MAX_DEPTH {
            let images = match document {
                Document::Image(manifest) => {
                    if depth == 0
                        && let Some(wanted) = platform
                    {
                        self.check_platform(&manifest, wanted)?;
                    }
                    return Ok((text, manifest));
                }
                Document::Index(images) => images,
            };
            let chosen = manifest::choose(&self.name.familiar(), images, wanted)?;
            let found = self.document(&chosen.digest.to_string(), Some(chosen.digest))?;
            (text, document) = (found.1, found.2);
        }
        Err(RegistryError::NoImage {
            name: self.name.familiar(),
            why: "its indexes are nested too deeply".to_owned(),
        })
    }

    /// An image that is alone must be for the machine that was asked for.
    fn check_platform(&self, manifest: &Manifest, wanted: &Platform) -> Result<(), RegistryError> {
        let config = self.config(&manifest.config)?;
        let found: Platform = serde_json::from_slice(&config)
            .map_err(|error| LoadError::Config(error.to_string()))?;
        if found.serves(wanted) {
            return Ok(());
        }
        Err(RegistryError::Platform {
            name: self.name.familiar(),
            wanted: wanted.to_string(),
            found: found.to_string(),
        })
    }

    /// An image's configuration, verified.
    fn config(&self, config: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        // One that is here need not come.
        if let Ok(here) = self.store.blob(config.digest) {
            return Ok(here);
        }
        let what = "a question for an image's configuration";
        let ask = Ask {
            method: "GET",
            url: self.registry.url(self.name.path(), &format!("blobs/{}", config.digest)),
            headers: Vec::new(),
            content: Content::None,
            again: true,
        };
        let response = self.registry.send(ask, &self.scope, &|_| {})?;
        if response.status().as_u16() != 200 {
            return Err(self.registry.refusal(response, what));
        }
        let text = self.registry.document(response, what)?;
        let actual = Digest::of(&text);
        if actual != config.digest {
            let what = format!("the configuration of {}", self.name.familiar());
            return Err(RegistryError::Mismatch { what, actual, expected: config.digest });
        }
        Ok(text)
    }

    /// Gets the layers, and gives the image to `finish` once it has them all.
    fn layers<T>(
        &self,
        transaction: &mut Transaction<'_>,
        manifest: &Manifest,
        diff_ids: &[Digest],
        finish: impl FnOnce(Intake<'_, '_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let directory = transaction.directory().to_owned();
        // Each blob comes once, however often the image has it.
        let mut wanted: Vec<&Descriptor> = Vec::new();
        let mut chain = None;
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let chain_id = Digest::chain(chain, *diff_id);
            chain = Some(chain_id);
            let label = layer.digest.short();
            if transaction.find_layer(*diff_id, chain_id)?.is_some() {
                self.progress.step(&label, &Step::Exists);
            } else if !wanted.iter().any(|other| other.digest == layer.digest) {
                self.progress.step(&label, &Step::Waiting);
                wanted.push(layer);
            }
        }
        check_space(&directory, &wanted)?;

        let stop = AtomicBool::new(false);
        let downloads = Downloads {
            registry: self.registry,
            repository: self.name.path(),
            scope: &self.scope,
            attempts: self.access.settings.attempts,
            progress: self.progress,
            stop: &stop,
        };
        let queue = Mutex::new(wanted.iter());
        let (sender, arrivals) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.access.settings.downloads.min(wanted.len()) {
                let (sender, queue, downloads) = (sender.clone(), &queue, &downloads);
                let directory = &directory;
                scope.spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(layer) = next else { return };
                        let path = blob_path(directory, layer.digest);
                        let result = downloads.download(layer, &path);
                        let failed = result.is_err();
                        // First the reason: the others only say that they were told to stop.
                        let unheard = sender.send((layer.digest, result)).is_err();
                        if failed || unheard {
                            downloads.stop.store(true, Ordering::Relaxed);
                        }
                        if downloads.stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            let result = self.feed(transaction, manifest, diff_ids, &arrivals, &directory);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            finish(result?)
        })
    }

    /// Puts the layers into the store in their order, as they arrive.
    fn feed<'t, 's>(
        &self,
        transaction: &'t mut Transaction<'s>,
        manifest: &Manifest,
        diff_ids: &[Digest],
        arrivals: &mpsc::Receiver<(Digest, Result<(), RegistryError>)>,
        directory: &Path,
    ) -> Result<Intake<'t, 's>, RegistryError> {
        let mut intake = Intake::new(transaction);
        let mut arrived: BTreeSet<Digest> = BTreeSet::new();
        for (number, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
            let label = layer.digest.short();
            let expected = Expected {
                label: label.clone(),
                diff_id: *diff_id,
                blob: Some(layer.digest),
                size: Some(layer.size),
                media_type: Some(layer.media_type.clone()).filter(|kind| !kind.is_empty()),
            };
            if intake.reuse(&expected)? {
                continue;
            }
            while !arrived.contains(&layer.digest) {
                let (digest, result) = arrivals.recv().map_err(|_| {
                    self.registry.nonsense(&format!("layer {label}"), "it never came".to_owned())
                })?;
                result?;
                arrived.insert(digest);
            }
            self.progress.step(&label, &Step::Extracting);
            let path = blob_path(directory, layer.digest);
            let file = File::open(&path).map_err(|source| RegistryError::File {
                action: "open",
                path: path.clone(),
                source,
            })?;
            intake.add(&expected, Box::new(file))?;
            let again = manifest.layers.iter().skip(number + 1).any(|l| l.digest == layer.digest);
            if !again {
                // What cannot be removed goes with the transaction.
                fs::remove_file(&path).ok();
            }
            self.progress.step(&label, &Step::Pulled);
        }
        Ok(intake)
    }
}

fn blob_path(directory: &Path, digest: Digest) -> PathBuf {
    directory.join(format!("blob-{}", digest.hex()))
}

/// Refuses what cannot fit before any of it has come.
fn check_space(directory: &Path, layers: &[&Descriptor]) -> Result<(), RegistryError> {
    let needed: u64 = layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    // Where nobody can tell, it is tried.
    let Ok(space) = nix::sys::statvfs::statvfs(directory) else { return Ok(()) };
    let free = space.blocks_available().saturating_mul(space.fragment_size());
    if needed <= free {
        return Ok(());
    }
    let why = format!("{needed} bytes are needed for the layers alone, {free} are free");
    Err(RegistryError::File {
        action: "download into",
        path: directory.to_owned(),
        source: io::Error::new(io::ErrorKind::StorageFull, why),
    })
}
