//! One blob into a registry: in one piece when it is small, else in chunks, each of which can be
//! sent again from where the registry says that it stands.

use std::path::Path;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::RegistryError;
use super::connection::{Registry, Scope, query};
use super::http::{Ask, Content};
use super::progress::{Progress, Step};
use crate::digest::Digest;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a blob consists of.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// This file.
    File(&'a Path),
}

/// Whatever several uploads share.
pub struct Uploads<'a> {
    /// Where to.
    pub registry: &'a Registry,
    /// The repository.
    pub repository: &'a str,
    /// What the token is for.
    pub scope: &'a Scope,
    /// Largest piece.
    pub chunk: u64,
    /// How often it is tried.
    pub attempts: u32,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Uploads<'_> {
    fn ask<'b>(
        &self,
        method: &'static str,
        url: String,
        headers: Vec<(&'static str, String)>,
        content: Content<'b>,
        again: bool,
    ) -> Result<Response<Body>, RegistryError> {
        self.registry.send(Ask { method, url, headers, content, again }, self.scope, &|_| {})
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// When the registry does not answer, or refuses to.
    pub fn has(&self, digest: Digest) -> Result<bool, RegistryError> {
        let url = self.registry.url(self.repository, &format!("blobs/{digest}"));
        let response = self.ask("HEAD", url, Vec::new(), Content::None, true)?;
        match response.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.registry.refusal(response, "a question for a layer")),
        }
    }

    /// Asks the registry to take a blob from another of its repositories.
    ///
    /// # Errors
    /// When the registry does not answer, or refuses.
    pub fn mount(&self, digest: Digest, from: &str) -> Result<bool, RegistryError> {
        let fields = query(&[("mount", &digest.to_string()), ("from", from)]);
        let url = self.registry.url(self.repository, &format!("blobs/uploads/?{fields}"));
        let scope = self.scope.clone().and_pull(from);
        let ask = Ask {
            method: "POST",
            url,
            headers: Vec::new(),
            content: Content::Bytes(&[]),
            again: true,
        };
        let response = self.registry.send(ask, &scope, &|_| {})?;
        match response.status().as_u16() {
            201 => Ok(true),
            // It started an upload instead; an unused one is forgotten by the registry.
            202 => {
                if let Some(url) = self.location(&response) {
                    self.ask("DELETE", url, Vec::new(), Content::None, false)?;
                }
                Ok(false)
            }
            // No right to read there, say: then it has to be sent.
            401 | 403 | 404 | 405 => Ok(false),
            _ => Err(self.registry.refusal(response, "the request to mount a layer")),
        }
    }

    fn location(&self, response: &Response<Body>) -> Option<String> {
        let location = response.headers().get("location")?.to_str().ok()?;
        Some(self.registry.resolve(location))
    }

    /// Sends a blob.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn upload(
        &self,
        label: &str,
        source: Source<'_>,
        digest: Digest,
        size: u64,
    ) -> Result<(), RegistryError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let error = match self.try_upload(label, source, digest, size) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let passing = match &error {
                RegistryError::Unreachable { .. } => true,
                // An upload that the registry forgot, or that it cannot go on with.
                RegistryError::Refused { status, .. } => matches!(status, 404 | 416 | 500..),
                _ => false,
            };
            if !passing || attempt >= self.attempts {
                return Err(error);
            }
            self.progress.step(label, &Step::Retrying(pause.as_secs().max(1)));
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            // What was sent may have arrived although its answer did not.
            if self.has(digest)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn try_upload(
        &self,
        label: &str,
        source: Source<'_>,
        digest: Digest,
        size: u64,
    ) -> Result<(), RegistryError> {
        let url = self.registry.url(self.repository, "blobs/uploads/");
        let response = self.ask("POST", url, Vec::new(), Content::Bytes(&[]), true)?;
        if response.status().as_u16() != 202 {
            return Err(self.registry.refusal(response, "the start of an upload"));
        }
        let no_location =
            || self.registry.nonsense("the start of an upload", "it has no location".to_owned());
        let mut location = self.location(&response).ok_or_else(no_location)?;
        let kind = ("content-type", "application/octet-stream".to_owned());
        let mut rest = match source {
            Source::Bytes(bytes) => Content::Bytes(bytes),
            Source::File(path) => Content::Part(path, 0, size),
        };
        if let Source::File(path) = source
            && size > self.chunk
        {
            let mut at = 0;
            let mut failures = 0;
            while at < size {
                let length = self.chunk.min(size - at);
                let range = ("content-range", format!("{at}-{}", at + length - 1));
                let part = Content::Part(path, at, length);
                let sent =
                    self.ask("PATCH", location.clone(), vec![kind.clone(), range], part, false);
                match sent {
                    Ok(response) if response.status().as_u16() == 202 => {
                        location = self.location(&response).unwrap_or(location);
                        at += length;
                        self.progress.step(label, &Step::Pushing(at, size));
                    }
                    Ok(response)
                        if !matches!(response.status().as_u16(), 408 | 416 | 429 | 500..) =>
                    {
                        return Err(self.registry.refusal(response, "a part of a layer"));
                    }
                    broken => {
                        failures += 1;
                        if failures >= self.attempts {
                            return match broken {
                                Ok(response) => {
                                    Err(self.registry.refusal(response, "a part of a layer"))
                                }
                                Err(error) => Err(error),
                            };
                        }
                        self.progress.step(label, &Step::Retrying(1));
                        std::thread::sleep(FIRST_PAUSE.saturating_mul(failures));
                        (location, at) = self.standing(&location)?;
                        if at > size {
                            let why = format!("it has {at} of {size} bytes");
                            return Err(self.registry.nonsense("a part of a layer", why));
                        }
                    }
                }
            }
            rest = Content::Bytes(&[]);
        }
        self.progress.step(label, &Step::Pushing(size, size));
        let mark = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{mark}{}", query(&[("digest", &digest.to_string())]));
        let response = self.ask("PUT", url, vec![kind], rest, false)?;
        match response.status().as_u16() {
            201 | 204 => Ok(()),
            _ => Err(self.registry.refusal(response, "the upload of a layer")),
        }
    }

    /// Where the registry stands with an upload: the next address, and the next byte.
    fn standing(&self, location: &str) -> Result<(String, u64), RegistryError> {
        let what = "a question for an upload";
        let response = self.ask("GET", location.to_owned(), Vec::new(), Content::None, true)?;
        if response.status().as_u16() != 204 {
            return Err(self.registry.refusal(response, what));
        }
        let next = self.location(&response).unwrap_or_else(|| location.to_owned());
        let range = response.headers().get("range").and_then(|range| range.to_str().ok());
        let last = range.and_then(|range| range.rsplit('-').next()?.trim().parse::<u64>().ok());
        match last {
            // The protocol cannot tell nothing from one byte: from the start, then.
            None | Some(0) => Ok((next, 0)),
            Some(last) => Ok((next, last + 1)),
        }
    }
}
