//! What the administrator and the user say about registries.
//!
//! Files with Docker's keys, each read if it is there, in this order:
//! `$XDG_CONFIG_HOME/cowl/daemon.json` (or `~/.config/cowl`), `/etc/cowl/daemon.json`,
//! `/etc/docker/daemon.json`. Lists add up; of single values the first counts. Beside them is
//! `certs.d/HOST[:PORT]/`, with authorities (`*.crt`) and a client's certificate (`*.cert`, `*.key`).

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;

/// Docker's defaults.
const DOWNLOADS: usize = 3;
const UPLOADS: usize = 5;
const ATTEMPTS: u32 = 5;
/// Largest piece that is uploaded in one request; what is broken off costs at most this.
const UPLOAD_CHUNK: u64 = 64 << 20;

/// One file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    insecure_registries: Vec<String>,
    registry_mirrors: Vec<String>,
    max_concurrent_downloads: Option<usize>,
    max_concurrent_uploads: Option<usize>,
    max_download_attempts: Option<u32>,
    max_upload_chunk: Option<u64>,
}

/// All files together.
#[derive(Debug, Clone)]
pub struct Settings {
    insecure: Vec<String>,
    /// Addresses that are asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// Layers that come at once.
    pub downloads: usize,
    /// Layers that go at once.
    pub uploads: usize,
    /// How often a layer is tried without any progress.
    pub attempts: u32,
    /// Largest piece that is uploaded in one request.
    pub upload_chunk: u64,
    directories: Vec<PathBuf>,
}

impl Settings {
    /// Reads what there is on this machine.
    ///
    /// # Errors
    /// When a file cannot be read or understood.
    pub fn read() -> Result<Settings, RegistryError> {
        let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let own = set("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .map(|directory| directory.join("cowl"));
        let mut directories: Vec<PathBuf> = own.into_iter().collect();
        directories.extend(["/etc/cowl", "/etc/docker"].map(PathBuf::from));
        Settings::of(directories)
    }

    fn of(directories: Vec<PathBuf>) -> Result<Settings, RegistryError> {
        let mut all = File::default();
        for directory in &directories {
            let path = directory.join("daemon.json");
            let text = match fs::read(&path) {
                Ok(text) => text,
                // Another user's home, as seen from a user namespace, is nobody's settings.
                Err(error) if is_absent(&error) => continue,
                Err(source) => return Err(RegistryError::File { action: "read", path, source }),
            };
            let wrong = |why: String| RegistryError::Settings { path: path.clone(), why };
            let file: File =
                serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
            if let Some(mirror) = file.registry_mirrors.iter().find(|mirror| !is_url(mirror)) {
                return Err(wrong(format!(
                    "the registry mirror '{mirror}' is no address like https://mirror.example"
                )));
            }
            all.insecure_registries.extend(file.insecure_registries);
            all.registry_mirrors.extend(file.registry_mirrors);
            all.max_concurrent_downloads =
                all.max_concurrent_downloads.or(file.max_concurrent_downloads);
            all.max_concurrent_uploads = all.max_concurrent_uploads.or(file.max_concurrent_uploads);
            all.max_download_attempts = all.max_download_attempts.or(file.max_download_attempts);
            all.max_upload_chunk = all.max_upload_chunk.or(file.max_upload_chunk);
        }
        Ok(Settings {
            insecure: all.insecure_registries,
            mirrors: all.registry_mirrors,
            downloads: all.max_concurrent_downloads.unwrap_or(DOWNLOADS).max(1),
            uploads: all.max_concurrent_uploads.unwrap_or(UPLOADS).max(1),
            attempts: all.max_download_attempts.unwrap_or(ATTEMPTS).max(1),
            upload_chunk: all.max_upload_chunk.unwrap_or(UPLOAD_CHUNK).max(1),
            directories,
        })
    }

    /// Whether a registry may be spoken to without a trusted certificate, or without any: because
    /// it is on this machine, or because it is listed (by host, host and port, or network).
    pub fn is_insecure(&self, host: &str) -> bool {
        let name = without_port(host);
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        if name == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.insecure.iter().any(|listed| {
            let listed = listed
                .trim_start_matches("http://")
                .trim_start_matches("https://")
                .trim_end_matches('/');
            listed.eq_ignore_ascii_case(host)
                || listed.eq_ignore_ascii_case(name)
                || address.is_some_and(|address| is_within(address, listed))
        })
    }

    /// The files of certificates for a registry that end in `.extension`.
    ///
    /// # Errors
    /// When a directory of certificates cannot be listed.
    pub fn certificates(&self, host: &str, extension: &str) -> Result<Vec<PathBuf>, RegistryError> {
        let mut found = Vec::new();
        for directory in &self.directories {
            let path = directory.join("certs.d").join(host);
            let list = |path: &Path| -> io::Result<Vec<PathBuf>> {
                let mut files = Vec::new();
                for entry in fs::read_dir(path)? {
                    files.push(entry?.path());
                }
                Ok(files)
            };
            let mut files = match list(&path) {
                Ok(files) => files,
                Err(error) if is_absent(&error) => continue,
                Err(source) => return Err(RegistryError::File { action: "list", path, source }),
            };
            files.retain(|file| file.extension().is_some_and(|found| found == extension));
            files.sort();
            found.extend(files);
        }
        Ok(found)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory
    )
}

fn is_url(text: &str) -> bool {
    text.strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

/// The host without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether an address is in a network like `10.0.0.0/8`.
fn is_within(address: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let (a, b, width): (u128, u128, u32) = match (address, base) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.into(), b.into(), 128),
        _ => return false,
    };
    let Some(rest) = width.checked_sub(bits) else { return false };
    a.checked_shr(rest).unwrap_or(0) == b.checked_shr(rest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_add_up() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("daemon.json"), text).unwrap();
            path
        };
        let first = at(
            "a",
            r#"{"insecure-registries": ["10.0.0.0/8", "reg.example:5000"], "max-concurrent-downloads": 1,
                "log-driver": "json-file"}"#,
        );
        let second = at(
            "b",
            r#"{"registry-mirrors": ["https://m.example/"], "max-concurrent-downloads": 9}"#,
        );
        fs::create_dir_all(first.join("certs.d/reg.example:5000")).unwrap();
        fs::write(first.join("certs.d/reg.example:5000/ca.crt"), "").unwrap();
        let absent = directory.path().join("none");
        let settings = Settings::of(vec![absent, first, second]).unwrap();
        assert_eq!((settings.downloads, settings.uploads, settings.attempts), (1, 5, 5));
        assert_eq!(settings.mirrors, ["https://m.example/"]);
        for (host, insecure) in [
            ("reg.example:5000", true),
            ("reg.example", false),
            ("10.2.3.4:80", true),
            ("11.2.3.4", false),
            ("127.0.0.1:5000", true),
            ("localhost", true),
            ("[::1]:5000", true),
            ("docker.io", false),
        ] {
            assert_eq!(settings.is_insecure(host), insecure, "{host}");
        }
        assert_eq!(settings.certificates("reg.example:5000", "crt").unwrap().len(), 1);
        assert!(settings.certificates("other", "crt").unwrap().is_empty());

        for wrong in
            ["{", r#"{"registry-mirrors": ["m.example"]}"#, r#"{"insecure-registries": 1}"#]
        {
            let error = Settings::of(vec![at("c", wrong)]).unwrap_err().to_string();
            assert!(error.contains("daemon.json"), "{error}");
        }
    }
}
