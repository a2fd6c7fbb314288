//! Flags about what is mounted in the container, and the volumes that they make.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::engine;
use crate::cli::{Failure, shown};
use crate::container::Containers;
use crate::container::config::{Mount, MountKind, Propagation};
use crate::spec::{mount, volume};
use crate::volume::Volumes;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Show a directory or file of this machine, or a volume, in the container
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    volume: Vec<OsString>,
    /// The same, with every option by its name
    #[arg(long, value_name = "type=TYPE,source=SOURCE,target=TARGET,…")]
    mount: Vec<String>,
    /// Mount a filesystem in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Mount what another container has mounted
    #[arg(long, value_name = "CONTAINER[:ro]")]
    volumes_from: Vec<String>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    mounts: Vec<Mount>,
    others: Vec<(String, bool)>,
}

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Read, Failure> {
        let here = std::env::current_dir()
            .map_err(|error| engine(format!("cannot find the current directory: {error}")))?;
        let mut mounts = volume::parse_all(&self.volume, &here).map_err(engine)?;
        for text in &self.mount {
            let made = mount::parse(text).map_err(engine)?;
            if let MountKind::Bind { source } = &made.kind
                && fs::symlink_metadata(source.path()).is_err()
            {
                return Err(engine(mount::Error::Missing(shown(&source.path()))));
            }
            mounts.push(made);
        }
        for text in &self.tmpfs {
            mounts.push(mount::tmpfs(text).map_err(engine)?);
        }
        let mut others = Vec::new();
        for text in self.volumes_from {
            let (name, mode) = text.split_once(':').unwrap_or((&text, "rw"));
            let read_only = match mode {
                "ro" => true,
                "rw" | "z" | "Z" => false,
                other => {
                    return Err(engine(format!(
                        "invalid mode \"{other}\" for volumes-from: give ro or rw"
                    )));
                }
            };
            others.push((name.to_owned(), read_only));
        }
        let read = Read { mounts, others };
        read.distinct()?;
        Ok(read)
    }
}

impl Read {
    /// No two on one place.
    fn distinct(&self) -> Result<(), Failure> {
        let mut targets: Vec<PathBuf> =
            self.mounts.iter().map(|mount| mount.target.path()).collect();
        targets.sort();
        for (one, next) in targets.iter().zip(targets.iter().skip(1)) {
            if one == next {
                return Err(engine(volume::VolumeError::Duplicate(shown(one))));
            }
        }
        Ok(())
    }

    /// All mounts in mounting order: with those of other containers, and a volume for each place
    /// that the image wants one for. Volumes and missing sources of binds are made. The names of
    /// the volumes that were made for this container come along, for whoever has to undo it.
    pub fn make(
        self,
        containers: &Containers,
        root: &Path,
        image: &[String],
    ) -> Result<(Vec<Mount>, Vec<String>), Failure> {
        let Self { mut mounts, others } = self;
        for (name, read_only) in others {
            for mut theirs in containers.find(&name).map_err(engine)?.config.mounts {
                let taken = mounts.iter().any(|mount| mount.target == theirs.target);
                if taken || matches!(theirs.kind, MountKind::Tmpfs { .. }) {
                    continue;
                }
                theirs.read_only |= read_only;
                mounts.push(theirs);
            }
        }
        for place in image {
            let target = volume::clean(Path::new(place));
            let taken = mounts.iter().any(|mount| mount.target.path() == target);
            if taken || target == Path::new("/") {
                continue;
            }
            mounts.push(Mount {
                kind: MountKind::Volume {
                    name: String::new(),
                    anonymous: true,
                    nocopy: false,
                    subpath: None,
                },
                target: target.into(),
                read_only: false,
                propagation: Propagation::Rprivate,
                non_recursive: false,
                mode: String::new(),
            });
        }
        let volumes = Volumes::open(root).map_err(engine)?;
        let mut made = Vec::new();
        for mount in &mut mounts {
            match &mut mount.kind {
                MountKind::Bind { source } => make_source(&source.path())?,
                MountKind::Volume { name, anonymous, .. } => {
                    let wanted = Some(name.as_str()).filter(|name| !name.is_empty());
                    let fresh = *anonymous && wanted.is_none();
                    *name = volumes.create(wanted, BTreeMap::new()).map_err(engine)?.name;
                    if fresh {
                        made.push(name.clone());
                    }
                }
                MountKind::Tmpfs { .. } => {}
            }
        }
        mounts.sort_by_key(|mount| mount.target.path());
        Ok((mounts, made))
    }
}

/// Makes the source of a bind that does not exist, as Docker does.
fn make_source(source: &Path) -> Result<(), Failure> {
    if fs::symlink_metadata(source).is_ok() {
        return Ok(());
    }
    fs::create_dir_all(source)
        .map_err(|error| engine(format!("cannot create {}: {error}", shown(source))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(volume: &[&str], tmpfs: &[&str]) -> Options {
        Options {
            volume: volume.iter().map(OsString::from).collect(),
            mount: Vec::new(),
            tmpfs: tmpfs.iter().map(|&text| text.to_owned()).collect(),
            volumes_from: Vec::new(),
        }
    }

    #[test]
    fn missing_sources_and_volumes_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a/b");
        let bind = format!("{}:/x", source.display());
        let read = options(&[&bind, "data:/d", "/nameless"], &[]).read().unwrap();
        let containers = Containers::open(dir.path()).unwrap();
        let image = ["/d".to_owned(), "/of/image".to_owned()];
        let (mounts, made) = read.make(&containers, dir.path(), &image).unwrap();
        assert!(source.is_dir());
        let targets: Vec<_> = mounts.iter().map(|mount| mount.target.path()).collect();
        let expected = ["/d", "/nameless", "/of/image", "/x"].map(PathBuf::from);
        assert_eq!(targets, expected);
        assert_eq!(made.len(), 2);
        assert_eq!(Volumes::open(dir.path()).unwrap().list().unwrap().len(), 3);
    }

    #[test]
    fn one_place_takes_one_mount() {
        assert!(options(&["/a:/x"], &["/x/"]).read().is_err());
        assert!(options(&["/a:/x"], &["/y"]).read().is_ok());
    }
}
