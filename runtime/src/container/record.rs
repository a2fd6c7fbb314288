//! What is written about a container: readable JSON, replaced atomically.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, io_error};

/// A byte string in JSON: a plain string when it is text, an array of bytes when it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Bytes {
    /// As a path.
    pub fn path(&self) -> PathBuf {
        OsString::from(self).into()
    }
}

impl From<OsString> for Bytes {
    fn from(value: OsString) -> Self {
        match value.into_string() {
            Ok(text) => Self::Text(text),
            Err(raw) => Self::Raw(raw.into_vec()),
        }
    }
}

impl From<&Bytes> for OsString {
    fn from(value: &Bytes) -> Self {
        match value {
            Bytes::Text(text) => text.into(),
            Bytes::Raw(raw) => Self::from_vec(raw.clone()),
        }
    }
}

impl From<PathBuf> for Bytes {
    fn from(value: PathBuf) -> Self {
        value.into_os_string().into()
    }
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a record; none when the file does not exist.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes a record beside its place and renames it into it. Not synced: after a crash of the
/// machine nothing of the container lives, and one whose record does not read goes with `rm -f`.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    text.push(b'\n');
    File::create(&beside)
        .and_then(|mut file| file.write_all(&text))
        .map_err(io_error("write", &beside))?;
    fs::rename(&beside, path).map_err(io_error("replace", path))
}

/// Whether two byte strings are the same path.
pub fn same_path(recorded: &Bytes, path: &Path) -> bool {
    OsString::from(recorded).as_bytes() == path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_what_is_not_text() {
        for raw in [&b"/plain"[..], b"/\xff\xfe", b""] {
            let bytes = Bytes::from(OsString::from_vec(raw.to_vec()));
            let json = serde_json::to_string(&bytes).unwrap();
            let back: Bytes = serde_json::from_str(&json).unwrap();
            assert_eq!(OsString::from(&back).as_bytes(), raw, "{json}");
        }
    }
}
