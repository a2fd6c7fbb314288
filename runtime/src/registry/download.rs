//! One layer from a registry into a file: taken up again where it broke off, and verified.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::RegistryError;
use super::connection::{Registry, Scope};
use super::http::{Ask, Content};
use super::manifest::Descriptor;
use super::progress::{Progress, Step};
use crate::digest::Digest;

/// How much is read at a time.
const PIECE: usize = 128 * 1024;
/// The pause after the first break; each next one without progress is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whatever several downloads share.
pub struct Downloads<'a> {
    /// Where from.
    pub registry: &'a Registry,
    /// The repository.
    pub repository: &'a str,
    /// What the token is for.
    pub scope: &'a Scope,
    /// How often it is tried without progress.
    pub attempts: u32,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// Set when another one failed: no need to go on.
    pub stop: &'a AtomicBool,
}

/// What has come so far.
struct Partial {
    hash: Sha256,
    length: u64,
}

impl Downloads<'_> {
    /// Downloads `layer` to the new file `path`.
    ///
    /// # Errors
    /// When it does not come, or is not what its digest says.
    pub fn download(&self, layer: &Descriptor, path: &Path) -> Result<(), RegistryError> {
        let label = layer.digest.short();
        let what = format!("layer {label}");
        let cannot = |action: &'static str| {
            let path = path.to_owned();
            move |source: io::Error| RegistryError::File { action, path, source }
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(cannot("create"))?;
        let mut partial = Partial { hash: Sha256::new(), length: 0 };
        let mut failures = 0;
        let mut pause = FIRST_PAUSE;
        while partial.length < layer.size || layer.size == 0 {
            let before = partial.length;
            let mut headers = vec![("accept-encoding", "identity".to_owned())];
            if before > 0 {
                headers.push(("range", format!("bytes={before}-")));
            }
            let ask = Ask {
                method: "GET",
                url: self.registry.url(self.repository, &format!("blobs/{}", layer.digest)),
                headers,
                content: Content::None,
                again: true,
            };
            let pausing =
                |wait: Duration| self.progress.step(&label, &Step::Retrying(wait.as_secs().max(1)));
            let response = self.registry.send(ask, self.scope, &pausing)?;
            match response.status().as_u16() {
                206 if continues(&response, before) => {}
                // The server cannot go on in the middle: all of it once more.
                200 | 206 | 416 if before > 0 || response.status().as_u16() == 200 => {
                    let whole = response.status().as_u16() == 200;
                    file.set_len(0).map_err(cannot("truncate"))?;
                    io::Seek::rewind(&mut file).map_err(cannot("rewind"))?;
                    partial = Partial { hash: Sha256::new(), length: 0 };
                    if !whole {
                        failures += 1;
                        if failures >= self.attempts {
                            return Err(self.registry.refusal(response, &what));
                        }
                        continue;
                    }
                }
                _ => return Err(self.registry.refusal(response, &what)),
            }
            let start = partial.length;
            let broken = self.receive(response, layer, &label, &mut partial, &mut file);
            match broken {
                Ok(()) if partial.length >= layer.size => break,
                Ok(()) => {}
                Err(Broken::Disk(source)) => return Err(cannot("write")(source)),
                Err(Broken::TooLong) => {
                    let why = format!("it has more than {} bytes", layer.size);
                    return Err(self.registry.nonsense(&what, why));
                }
                Err(Broken::Stopped) => return Err(self.stopped()),
                Err(Broken::Connection) => {}
            }
            if partial.length > start {
                (failures, pause) = (0, FIRST_PAUSE);
            }
            failures += 1;
            if failures >= self.attempts {
                return Err(RegistryError::Unreachable {
                    host: self.registry.host.clone(),
                    why: format!(
                        "layer {label} broke off after {} of {} bytes, {failures} times",
                        partial.length, layer.size
                    ),
                });
            }
            self.progress.step(&label, &Step::Retrying(pause.as_secs().max(1)));
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.stopped());
            }
        }
        let actual = Digest::from_hash(partial.hash);
        if actual != layer.digest {
            return Err(RegistryError::Mismatch { what, actual, expected: layer.digest });
        }
        self.progress.step(&label, &Step::Downloaded);
        Ok(())
    }

    /// Never shown: the failure that set the flag is.
    fn stopped(&self) -> RegistryError {
        RegistryError::Unreachable {
            host: self.registry.host.clone(),
            why: "the transfer was given up".to_owned(),
        }
    }

    fn receive(
        &self,
        response: Response<Body>,
        layer: &Descriptor,
        label: &str,
        partial: &mut Partial,
        file: &mut impl Write,
    ) -> Result<(), Broken> {
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Broken::Stopped);
            }
            let count = match body.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Broken::Connection),
            };
            let bytes = piece.get(..count).unwrap_or_default();
            partial.length += count as u64;
            if partial.length > layer.size {
                return Err(Broken::TooLong);
            }
            partial.hash.update(bytes);
            file.write_all(bytes).map_err(Broken::Disk)?;
            self.progress.step(label, &Step::Downloading(partial.length, layer.size));
        }
    }
}

/// Why receiving ended early.
enum Broken {
    Connection,
    Disk(io::Error),
    TooLong,
    Stopped,
}

/// Whether an answer goes on at just this byte.
fn continues(response: &Response<Body>, at: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    range
        .and_then(|range| range.trim().strip_prefix("bytes "))
        .and_then(|range| range.split('-').next()?.trim().parse::<u64>().ok())
        == Some(at)
}
