//! What a container changed: a scan of its write layer, compared with the layers below.
//!
//! The write layer is in overlayfs's format. A name that is a whiteout was deleted; a name that
//! the layers below have too was changed; any other was added. A directory is there also when
//! only something in it changed, and when nothing did (a copy-up alone); it counts as changed
//! when its attributes differ or something in it changed. An opaque directory deletes what the
//! layers below have in it; a redirected one shows the content of another place as added.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::record::same_path;
use super::{Container, Error, io_error};
use crate::sys::attribute;

/// The id that the kernel shows for owners a user namespace does not have.
const OVERFLOW_ID: u32 = 65_534;

/// The file that marks an opaque directory where there are no xattrs.
const OPAQUE_MARKER: &str = ".wh..wh..opq";

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It was there and is different.
    Changed,
    /// It was there and is gone.
    Deleted,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Added => "A",
            Self::Changed => "C",
            Self::Deleted => "D",
        })
    }
}

/// The attribute that keeps owners which the host refuses.
const KEPT_OWNER: &CStr = c"user.containers.override_stat";

/// Something in a layer.
#[derive(Debug)]
struct Found {
    place: PathBuf,
    metadata: Metadata,
}

/// The layers below a write layer, topmost first.
#[derive(Debug)]
struct Lowers {
    layers: Vec<PathBuf>,
    /// One filesystem only, owners that are not mapped shown as root's: this machine's own root.
    machine: bool,
}

fn is_whiteout(path: &Path, found: &Metadata) -> bool {
    let kind = found.file_type();
    (kind.is_char_device() && found.rdev() == 0)
        || (kind.is_file()
            && found.len() == 0
            && [c"trusted.overlay.whiteout", c"user.overlay.whiteout"]
                .into_iter()
                .any(|name| attribute::of_path(path, name).is_some()))
}

fn is_opaque(path: &Path) -> bool {
    [c"trusted.overlay.opaque", c"user.overlay.opaque", c"user.fuseoverlayfs.opaque"]
        .into_iter()
        .any(|name| attribute::of_path(path, name).as_deref() == Some(b"y"))
        || path.join(OPAQUE_MARKER).symlink_metadata().is_ok()
}

/// Where the content of a renamed directory lies in the layers below.
fn redirect(path: &Path, parent: Option<&Path>) -> Option<PathBuf> {
    let value = [c"trusted.overlay.redirect", c"user.overlay.redirect"]
        .into_iter()
        .find_map(|name| attribute::of_path(path, name))?;
    let target = Path::new(OsStr::from_bytes(&value));
    match target.strip_prefix("/") {
        Ok(inside) => Some(inside.to_owned()),
        Err(_) => Some(parent?.join(target)),
    }
}

fn lstat(path: &Path) -> Result<Option<Metadata>, Error> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(io_error("look at", path)(error)),
    }
}

impl Lowers {
    /// What the layers below show at `path` (relative to the root).
    fn find(&self, path: &Path) -> Result<Option<Found>, Error> {
        for layer in &self.layers {
            let root = lstat(layer)?;
            let mut here = layer.clone();
            let mut last = root.clone();
            let mut opaque = false;
            for part in path {
                // What is mounted on the machine's root filesystem shows as empty.
                if self.machine
                    && last.as_ref().map(Metadata::dev) != root.as_ref().map(Metadata::dev)
                {
                    return Ok(None);
                }
                here.push(part);
                last = lstat(&here)?;
                match &last {
                    None => break,
                    Some(found) if is_whiteout(&here, found) => return Ok(None),
                    Some(found) => opaque |= found.is_dir() && is_opaque(&here),
                }
            }
            if let Some(metadata) = last {
                return Ok(Some(Found { place: here, metadata }));
            }
            // Something that is no directory hides what lies below it in lower layers.
            if opaque || self.blocked(layer, path)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Whether a layer has something other than a directory above `path`.
    fn blocked(&self, layer: &Path, path: &Path) -> Result<bool, Error> {
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if let Some(found) = lstat(&layer.join(above))? {
                return Ok(!found.is_dir());
            }
        }
        Ok(false)
    }

    /// Names that the layers below show in a directory.
    fn names(&self, dir: &Path) -> Result<Vec<OsString>, Error> {
        let mut names = Vec::new();
        for layer in &self.layers {
            match fs::read_dir(layer.join(dir)) {
                Ok(entries) => {
                    for entry in entries {
                        let name = entry.map_err(io_error("list", dir))?.file_name();
                        if !names.contains(&name) && self.find(&dir.join(&name))?.is_some() {
                            names.push(name);
                        }
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => return Err(io_error("list", &layer.join(dir))(error)),
            }
        }
        Ok(names)
    }

    fn owner(&self, id: u32) -> u32 {
        if self.machine && id == OVERFLOW_ID { 0 } else { id }
    }

    /// Whether a directory of the write layer still has the attributes it had.
    fn same_attributes(&self, upper: &Found, lower: &Found) -> bool {
        // Where the host refuses owners they are kept aside, with the mode.
        let kept = |found: &Found| attribute::of_path(&found.place, KEPT_OWNER);
        if kept(upper) != kept(lower) {
            return false;
        }
        let (upper, lower) = (&upper.metadata, &lower.metadata);
        upper.mode() == lower.mode()
            && upper.uid() == self.owner(lower.uid())
            && upper.gid() == self.owner(lower.gid())
            && (upper.mtime(), upper.mtime_nsec()) == (lower.mtime(), lower.mtime_nsec())
    }
}

/// Paths relative to the root, with what happened to them, in the order of their bytes.
type Changes = BTreeMap<PathBuf, Kind>;

struct Scan<'a> {
    upper: PathBuf,
    lowers: Lowers,
    container: &'a Container,
    changes: Changes,
}

impl Scan<'_> {
    /// Scans directory `dir`, whose content in the layers below lies at `origin` (none when it
    /// is new or opaque). Whether anything in it changed.
    fn directory(&mut self, dir: &Path, origin: Option<&Path>) -> Result<bool, Error> {
        let place = self.upper.join(dir);
        let mut changed = false;
        for entry in fs::read_dir(&place).map_err(io_error("list", &place))? {
            let name = entry.map_err(io_error("list", &place))?.file_name();
            if name == OPAQUE_MARKER {
                continue;
            }
            changed |=
                self.entry(&dir.join(&name), origin.map(|origin| origin.join(&name)), origin)?;
        }
        Ok(changed)
    }

    fn entry(
        &mut self,
        path: &Path,
        origin: Option<PathBuf>,
        parent_origin: Option<&Path>,
    ) -> Result<bool, Error> {
        let place = self.upper.join(path);
        let Some(found) = lstat(&place)? else { return Ok(false) }; // gone meanwhile
        let before = match &origin {
            Some(origin) => self.lowers.find(origin)?,
            None => None,
        };
        if is_whiteout(&place, &found) {
            let existed = before.is_some();
            if existed {
                self.changes.insert(path.to_owned(), Kind::Deleted);
            }
            return Ok(existed);
        }
        if !found.is_dir() {
            if before.is_none() && found.len() == 0 && self.is_mountpoint(path) {
                return Ok(false);
            }
            let kind = if before.is_some() { Kind::Changed } else { Kind::Added };
            self.changes.insert(path.to_owned(), kind);
            return Ok(true);
        }
        if let Some(moved) = redirect(&place, parent_origin) {
            self.changes.insert(path.to_owned(), kind_of(before.as_ref()));
            self.directory(path, Some(&moved))?;
            self.shown_anew(path, &moved)?;
            return Ok(true);
        }
        let merged = before.as_ref().filter(|before| before.metadata.is_dir());
        match (merged, &origin) {
            (Some(before), Some(origin)) => {
                let opaque = is_opaque(&place);
                let mut changed = self.directory(path, (!opaque).then_some(origin))?;
                if opaque {
                    changed |= self.opaque(path, origin)?;
                }
                let changed = changed
                    || !self.lowers.same_attributes(&Found { place, metadata: found }, before);
                if changed {
                    self.changes.insert(path.to_owned(), Kind::Changed);
                }
                Ok(changed)
            }
            _ => {
                let inner = self.directory(path, None)?;
                if before.is_none() && !inner && self.is_mountpoint(path) {
                    return Ok(false);
                }
                self.changes.insert(path.to_owned(), kind_of(before.as_ref()));
                Ok(true)
            }
        }
    }

    /// An opaque directory: what was in it is deleted, or changed where it is there again.
    fn opaque(&mut self, path: &Path, origin: &Path) -> Result<bool, Error> {
        let names = self.lowers.names(origin)?;
        let any = !names.is_empty();
        for name in names {
            let child = path.join(&name);
            let kind = if lstat(&self.upper.join(&child))?.is_some() {
                Kind::Changed
            } else {
                Kind::Deleted
            };
            self.changes.insert(child, kind);
        }
        Ok(any)
    }

    /// A renamed directory shows, as added, all that lies at its old place and that the write
    /// layer does not say otherwise about.
    fn shown_anew(&mut self, path: &Path, moved: &Path) -> Result<(), Error> {
        for name in self.lowers.names(moved)? {
            let (child, old) = (path.join(&name), moved.join(&name));
            match self.changes.get(&child) {
                Some(Kind::Deleted) => {
                    // Never was at this place: nothing to tell.
                    self.changes.remove(&child);
                    continue;
                }
                _ => {
                    self.changes.insert(child.clone(), Kind::Added);
                }
            }
            if self.lowers.find(&old)?.is_some_and(|found| found.metadata.is_dir()) {
                self.shown_anew(&child, &old)?;
            }
        }
        Ok(())
    }

    fn is_mountpoint(&self, path: &Path) -> bool {
        let path = Path::new("/").join(path);
        self.container.state.mountpoints.iter().any(|made| same_path(made, &path))
    }
}

fn kind_of(before: Option<&Found>) -> Kind {
    if before.is_some() { Kind::Changed } else { Kind::Added }
}

/// What a container changed: absolute paths in the order of their bytes.
pub fn diff(container: &Container) -> Result<Vec<(Kind, PathBuf)>, Error> {
    let layers = container.config.layers.iter().map(|layer| OsString::from(layer).into()).collect();
    let machine = container.config.image_id.is_none();
    let mut scan = Scan {
        upper: container.dir.join("upper"),
        lowers: Lowers { layers, machine },
        container,
        changes: Changes::new(),
    };
    scan.directory(Path::new(""), Some(Path::new("")))?;
    let mut all: Vec<_> =
        scan.changes.into_iter().map(|(path, kind)| (kind, Path::new("/").join(path))).collect();
    all.sort_by(|(_, a), (_, b)| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ContainerId, State};
    use super::*;
    use nix::sys::stat::{Mode, SFlag, mknod};

    #[test]
    fn added_changed_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for made in [
            "low/etc",
            "low/keep",
            "low/gone",
            "top/opt",
            "upper/etc",
            "upper/keep",
            "upper/new/sub",
            "upper/proc",
            "upper/opt",
        ] {
            fs::create_dir_all(at(made)).unwrap();
        }
        for (file, text) in [
            ("low/etc/passwd", "a"),
            ("low/gone/x", ""),
            ("low/etc/old", ""),
            ("top/opt/f", ""),
            ("upper/etc/passwd", "b"),
            ("upper/new/sub/f", ""),
            ("upper/etc/hosts", ""),
            ("upper/opt/g", ""),
        ] {
            fs::write(at(file), text).unwrap();
        }
        let whiteouts = ["upper/gone", "upper/etc/old", "upper/etc/never"];
        for whiteout in whiteouts {
            if mknod(&at(whiteout), SFlag::S_IFCHR, Mode::empty(), 0).is_err() {
                return; // an ordinary user outside of a namespace
            }
        }
        let time = fs::metadata(at("low/keep")).unwrap().modified().unwrap();
        fs::File::open(at("upper/keep")).unwrap().set_modified(time).unwrap();
        let id = ContainerId::random().unwrap();
        let config = Config {
            layers: vec![at("top").into(), at("low").into()],
            image_id: Some("i".into()),
            ..Config::new(id, "n".into(), "i".into())
        };
        let mut state = State::created();
        state.mountpoints = vec![PathBuf::from("/proc").into(), PathBuf::from("/etc/hosts").into()];
        let container = Container { dir: dir.path().to_owned(), config, state };
        let lines: Vec<_> = diff(&container)
            .unwrap()
            .into_iter()
            .map(|(kind, path)| format!("{kind} {}", path.display()))
            .collect();
        assert_eq!(
            lines,
            [
                "C /etc",
                "D /etc/old",
                "C /etc/passwd",
                "D /gone",
                "A /new",
                "A /new/sub",
                "A /new/sub/f",
                "C /opt",
                "A /opt/g"
            ]
        );
    }
}
