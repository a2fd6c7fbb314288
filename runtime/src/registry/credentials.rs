//! Names and passwords, where Docker keeps them: `config.json` in `$DOCKER_CONFIG` or `~/.docker`,
//! and the helper programs that it names.
//!
//! Only the entries that change are touched; what else is in the file stays as it is.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::RegistryError;

/// Docker Hub's name in `config.json`.
pub const HUB: &str = "https://index.docker.io/v1/";
/// What a helper says when it has nothing.
const NOT_FOUND: &str = "credentials not found";
/// The name that a helper gives for a token instead of a password.
const TOKEN_USER: &str = "<token>";

/// Who we are for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that stands for both.
    IdentityToken(String),
}

/// Secrets stay out of messages.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential")
    }
}

impl Credential {
    /// The header of basic authentication.
    pub fn basic(&self) -> Option<String> {
        match self {
            Credential::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Credential::IdentityToken(_) => None,
        }
    }
}

/// `config.json`.
#[derive(Debug)]
pub struct Credentials {
    path: PathBuf,
    /// All of the file but `auths`.
    file: Map<String, Value>,
    auths: Map<String, Value>,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Credentials {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON object.
    pub fn read() -> Result<Credentials, RegistryError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = set("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Credentials::of(directory.unwrap_or_else(|| "/.docker".into()).join("config.json"))
    }

    fn of(path: PathBuf) -> Result<Credentials, RegistryError> {
        let mut file = match fs::read(&path) {
            Ok(text) if text.trim_ascii().is_empty() => Map::new(),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| RegistryError::Settings {
                path: path.clone(),
                why: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(source) => return Err(RegistryError::File { action: "read", path, source }),
        };
        let auths = match file.shift_remove("auths") {
            Some(Value::Object(auths)) => auths,
            _ => Map::new(),
        };
        Ok(Credentials { path, file, auths })
    }

    /// Where they are kept.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The helper for a registry, if one is set.
    pub fn helper(&self, key: &str) -> Option<&str> {
        let special = self.file.get("credHelpers").and_then(|helpers| helpers.get(key));
        special.or_else(|| self.file.get("credsStore"))?.as_str().filter(|name| !name.is_empty())
    }

    /// Who we are for a registry.
    ///
    /// # Errors
    /// When a helper fails.
    pub fn get(&self, host: &str) -> Result<Option<Credential>, RegistryError> {
        let key = key(host);
        if let Some(helper) = self.helper(&key) {
            let answer = match ask(helper, "get", &key) {
                Ok(answer) => answer,
                Err(RegistryError::Helper { why, .. }) if why.contains(NOT_FOUND) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let answer: Answer = serde_json::from_str(&answer)
                .map_err(|error| failed(helper, &format!("it answered no JSON: {error}")))?;
            return Ok(Some(if answer.username == TOKEN_USER {
                Credential::IdentityToken(answer.secret)
            } else {
                Credential::Password { user: answer.username, password: answer.secret }
            }));
        }
        let auths = &self.auths;
        let entry = auths
            .get(&key)
            .or_else(|| auths.iter().find(|(name, _)| bare(name) == bare(&key)).map(|(_, e)| e));
        let Some(entry) = entry else { return Ok(None) };
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        if !text("identitytoken").is_empty() {
            return Ok(Some(Credential::IdentityToken(text("identitytoken").to_owned())));
        }
        let (mut user, mut password) = (text("username").to_owned(), text("password").to_owned());
        if !text("auth").is_empty() {
            let wrong = || RegistryError::Settings {
                path: self.path.clone(),
                why: format!("the entry 'auth' of {host} is not in Docker's form; log in again"),
            };
            let plain = STANDARD.decode(text("auth").trim()).map_err(|_| wrong())?;
            let plain = String::from_utf8(plain).map_err(|_| wrong())?;
            let (name, secret) = plain.split_once(':').ok_or_else(wrong)?;
            user = name.to_owned();
            password = secret.trim_end_matches('\0').to_owned();
        }
        Ok((!user.is_empty()).then_some(Credential::Password { user, password }))
    }

    /// Keeps who we are for a registry. Says whether the password lies in the file as it is.
    ///
    /// # Errors
    /// When the file cannot be written, or a helper fails.
    pub fn set(&mut self, host: &str, user: &str, password: &str) -> Result<bool, RegistryError> {
        let key = key(host);
        if let Some(helper) = self.helper(&key).map(str::to_owned) {
            let entry = json!({ "ServerURL": key, "Username": user, "Secret": password });
            ask(&helper, "store", &entry.to_string())?;
            self.auths.insert(key, json!({}));
            self.write()?;
            return Ok(false);
        }
        let auth = STANDARD.encode(format!("{user}:{password}"));
        self.auths.insert(key, json!({ "auth": auth }));
        self.write()?;
        Ok(true)
    }

    /// Forgets who we are for a registry. Says whether anything was known.
    ///
    /// # Errors
    /// When the file cannot be written, or a helper fails.
    pub fn erase(&mut self, host: &str) -> Result<bool, RegistryError> {
        let key = key(host);
        if let Some(helper) = self.helper(&key).map(str::to_owned) {
            match ask(&helper, "erase", &key) {
                Err(RegistryError::Helper { why, .. }) if why.contains(NOT_FOUND) => {}
                result => {
                    result?;
                }
            }
        }
        let before = self.auths.len();
        self.auths.retain(|name, _| bare(name) != bare(&key));
        let known = self.auths.len() != before;
        if known {
            self.write()?;
        }
        Ok(known)
    }

    fn write(&self) -> Result<(), RegistryError> {
        let error = |action: &'static str, source: io::Error| RegistryError::File {
            action,
            path: self.path.clone(),
            source,
        };
        // Through a symbolic link to the file that it means.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let directory = path.parent().unwrap_or(&self.path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| error("make the directory of", source))?;
        let new = directory.join(format!(".config.json.{}", std::process::id()));
        let mut file = self.file.clone();
        file.insert("auths".to_owned(), Value::Object(self.auths.clone()));
        let text =
            serde_json::to_vec_pretty(&file).map_err(|source| error("write", source.into()))?;
        let written = (|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        })();
        written.map_err(|source| {
            fs::remove_file(&new).ok();
            error("write", source)
        })
    }
}

/// The key of a registry in `config.json`.
pub fn key(host: &str) -> String {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// A key without scheme and path: older programs wrote whole addresses.
fn bare(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let rest = rest.unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

fn failed(helper: &str, why: &str) -> RegistryError {
    RegistryError::Helper { helper: helper.to_owned(), why: why.to_owned() }
}

/// Runs a helper with something on its standard input.
fn ask(helper: &str, verb: &str, input: &str) -> Result<String, RegistryError> {
    if helper.contains('/') {
        return Err(failed(helper, "its name must not contain '/'"));
    }
    let error = |error: io::Error| failed(helper, &error.to_string());
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(error)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It may not want to read everything.
            Err(broken) if broken.kind() == io::ErrorKind::BrokenPipe => {}
            result => result.map_err(error)?,
        }
    }
    let output = child.wait_with_output().map_err(error)?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(text);
    }
    // Helpers explain themselves on standard output.
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let why = if text.is_empty() { complaint } else { text };
    Err(failed(helper, why.lines().next().unwrap_or("it gave no reason")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_dockers_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/config.json");
        let mut credentials = Credentials::of(path.clone()).unwrap();
        assert_eq!(credentials.get("a.example").unwrap(), None);
        assert!(!credentials.erase("a.example").unwrap());
        assert!(!path.exists());

        fs::create_dir(directory.path().join("deep")).unwrap();
        fs::write(
            &path,
            r#"{"psFormat": "x", "auths": {"https://old.example/v1/": {"auth": "dTpwOnc="},
                "t.example": {"identitytoken": "tok"}, "bad.example": {"auth": "!"}}}"#,
        )
        .unwrap();
        let mut credentials = Credentials::of(path.clone()).unwrap();
        let password = |user: &str, password: &str| {
            Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
        };
        assert_eq!(credentials.get("old.example").unwrap(), password("u", "p:w"));
        let token = Some(Credential::IdentityToken("tok".to_owned()));
        assert_eq!(credentials.get("t.example").unwrap(), token);
        assert!(credentials.get("bad.example").unwrap_err().to_string().contains("bad.example"));

        assert!(credentials.set("docker.io", "me", "secret").unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("psFormat") && text.contains(HUB), "{text}");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut again = Credentials::of(path.clone()).unwrap();
        assert_eq!(again.get("registry-1.docker.io").unwrap(), password("me", "secret"));
        assert!(again.erase("docker.io").unwrap());
        assert_eq!(Credentials::of(path).unwrap().get("docker.io").unwrap(), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let credential = Credential::Password { user: "u".to_owned(), password: "hush".to_owned() };
        assert!(!format!("{credential:?}").contains("hush"));
        assert_eq!(credential.basic().as_deref(), Some("Basic dTpodXNo"));
    }
}
