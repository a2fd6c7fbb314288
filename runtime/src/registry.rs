//! Registries: where images come from and go to, by the OCI distribution protocol.
//!
//! ```text
//! cli ── pull, push, login ──► connection (where is it, who are we) ──► http (one request)
//!            │                        │
//!            │                        └─ settings (mirrors, certificates), credentials, challenge
//!            └─ download, upload (one layer, resumed), manifest (media types), known (who has what)
//! ```
//!
//! Promises: every byte that comes is verified against its digest before it counts; nothing is
//! visible in the store before the whole image is there; credentials go to the registry they are
//! for, and to the token server that it names, and nowhere else. What is cut off is taken up where
//! it ended, a bounded number of times. Nothing here prints: progress is told to a [`Progress`].

mod challenge;
pub mod connection;
pub mod credentials;
mod download;
mod http;
mod known;
pub mod login;
mod manifest;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod settings;
mod upload;

use std::io;
use std::path::PathBuf;

pub use progress::{Progress, Step};

use crate::archive::load::LoadError;
use crate::digest::Digest;
use crate::reference::ReferenceError;
use crate::store::StoreError;

/// What can go wrong with a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What came is no image that can be kept.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What was asked for is no image name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No answer.
    #[error("cannot reach the registry {host}: {why}")]
    Unreachable {
        /// Which.
        host: String,
        /// Why.
        why: String,
    },
    /// The connection is not trusted.
    #[error(
        "cannot trust the registry {host}: {why}; put its authority's certificate into /etc/cowl/certs.d/{host}/ca.crt, or list it under \"insecure-registries\""
    )]
    Tls {
        /// Which.
        host: String,
        /// Why.
        why: String,
    },
    /// Wrong or missing credentials.
    #[error("unauthorized: {0}")]
    Unauthorized(String),
    /// There is no such repository, or it is not for us.
    #[error(
        "{action} access denied for {repository}, repository does not exist or may require 'cowl login': {why}"
    )]
    Denied {
        /// `pull` or `push`.
        action: &'static str,
        /// Which.
        repository: String,
        /// What the registry said.
        why: String,
    },
    /// There is no such tag or digest.
    #[error("manifest for {name} not found: {why}")]
    NoManifest {
        /// What was asked for.
        name: String,
        /// What the registry said.
        why: String,
    },
    /// The registry does not do what was asked.
    #[error("the registry {host} answered {status} to {what}: {why}")]
    Refused {
        /// Which.
        host: String,
        /// What was asked.
        what: String,
        /// HTTP's number.
        status: u16,
        /// What it said.
        why: String,
    },
    /// The answer is not what the protocol says.
    #[error("the registry {host} gave an answer that makes no sense to {what}: {why}")]
    Nonsense {
        /// Which.
        host: String,
        /// What was asked.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// What came is not what was asked for.
    #[error("{what} does not match its digest: it is {actual}, not {expected}")]
    Mismatch {
        /// What.
        what: String,
        /// What it hashes to.
        actual: Digest,
        /// What it should hash to.
        expected: Digest,
    },
    /// The image is in the format of before 2016.
    #[error(
        "{0} is an image in Docker's schema 1, which is not supported: push it again with a newer program"
    )]
    Schema1(String),
    /// It is something, but no image.
    #[error("{name} is no container image: {why}")]
    NoImage {
        /// What was asked for.
        name: String,
        /// Why not.
        why: String,
    },
    /// The image is for other machines.
    #[error(
        "no matching manifest for {wanted} in the manifest list entries of {name}: it has {found}"
    )]
    Platform {
        /// What was asked for.
        name: String,
        /// The platform.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A platform is malformed.
    #[error("\"{0}\" is an invalid platform: give os/architecture[/variant], like linux/arm64")]
    BadPlatform(String),
    /// Nothing to push.
    #[error("An image does not exist locally with the tag: {0}")]
    NoTag(String),
    /// A settings file is wrong.
    #[error("cannot use {}: {why}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A helper for credentials failed.
    #[error("the credential helper docker-credential-{helper} failed: {why}")]
    Helper {
        /// Its name.
        helper: String,
        /// What it said.
        why: String,
    },
    /// A file of ours.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}
