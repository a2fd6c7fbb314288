//! Small files that are replaced atomically and survive a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, StoreError};

/// How names of files in the making begin; a crash can leave one behind.
pub const TEMPORARY_PREFIX: &str = ".new-";

/// A name that no other process or thread of this machine uses at this moment.
pub fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:x}-{nanos:x}-{count:x}", std::process::id())
}

/// Reads a JSON file; `None` when it does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).on("read", path),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        why: format!("does not parse: {error}"),
    })
}

/// Replaces `path` by `value` as readable JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| StoreError::Damaged {
        path: path.to_owned(),
        why: format!("cannot be written: {error}"),
    })?;
    text.push(b'\n');
    write(path, &text)
}

/// Replaces `path` by a file that holds `content`: readers see the old or the new one, never a
/// part, and once this returns a crash does not bring the old one back.
pub fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = directory.join(unique_name(TEMPORARY_PREFIX));
    let result = write_new(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path).on("replace", path));
    if let Err(error) = result {
        // Best effort: what cannot be removed now is reclaimed later.
        drop(fs::remove_file(&temporary));
        return Err(error);
    }
    sync_directory(directory)
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .on("create", path)?;
    file.write_all(content).on("write", path)?;
    file.sync_all().on("write", path)
}

/// Makes renames within `directory` durable.
pub fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|file| file.sync_all()).on("sync", directory)
}

/// Removes a file; one that is already gone is not an error.
pub fn remove(path: &PathBuf) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}
