//! `--cidfile`: a file that gets the id of the container, and must not be there before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::engine;
use crate::cli::{Failure, shown};

/// The file; removed again when no container comes of it.
#[derive(Debug)]
pub struct IdFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl IdFile {
    /// Makes it, empty.
    pub fn reserve(path: &Path) -> Result<Self, Failure> {
        match File::create_new(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, written: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(engine(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                shown(path)
            ))),
            Err(error) => Err(engine(format!(
                "failed to create the container ID file {}: {error}",
                shown(path)
            ))),
        }
    }

    /// Writes the id.
    pub fn write(mut self, id: &str) -> Result<(), Failure> {
        self.file.write_all(id.as_bytes()).map_err(|error| {
            engine(format!("failed to write the container ID file {}: {error}", shown(&self.path)))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            // It was made a moment ago; if it cannot be removed it stays, empty.
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_only_with_an_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        drop(IdFile::reserve(&path).unwrap());
        assert!(!path.exists());
        IdFile::reserve(&path).unwrap().write("abc").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert!(IdFile::reserve(&path).is_err());
    }
}
