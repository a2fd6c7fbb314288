//! Flags about what is mounted in the container.

use std::ffi::OsString;
use std::fs;

use clap::Args;

use super::engine;
use crate::cli::{Failure, shown};
use crate::container::config::{Mount, MountKind};
use crate::spec::volume;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Show a directory or file of this machine in the container
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    volume: Vec<OsString>,
}

impl Options {
    /// Reads the flags; the result is in mounting order.
    pub fn read(self) -> Result<Vec<Mount>, Failure> {
        let here = std::env::current_dir()
            .map_err(|error| engine(format!("cannot find the current directory: {error}")))?;
        volume::parse_all(&self.volume, &here).map_err(engine)
    }
}

/// Makes sources of volumes that do not exist, as Docker does.
pub fn make_sources(mounts: &[Mount]) -> Result<(), Failure> {
    for mount in mounts {
        let MountKind::Bind { source } = &mount.kind else { continue };
        let source = source.path();
        if fs::symlink_metadata(&source).is_err() {
            fs::create_dir_all(&source)
                .map_err(|error| engine(format!("cannot create {}: {error}", shown(&source))))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn missing_volume_sources_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a/b");
        let text = format!("{}:/x", source.display()).into();
        make_sources(&volume::parse_all(&[text], Path::new("/")).unwrap()).unwrap();
        assert!(source.is_dir());
    }
}
