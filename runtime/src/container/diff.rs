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
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::record::same_path;
use super::{Container, Error, io_error};
use crate::sys::attribute;
use crate::view::View;

/// The id that the kernel shows for owners a user namespace does not have.
const OVERFLOW_ID: u32 = 65_534;

/// The mode of a directory that no layer describes.
const IMPLIED_MODE: u32 = 0o755;

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

/// The attributes that tell whether a directory is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attributes {
    is_dir: bool,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
}

/// The layers below a write layer.
enum Lowers {
    /// An image's.
    Image(View),
    /// This machine's own root filesystem, one filesystem only, owners that are not mapped shown
    /// as root's.
    Machine(PathBuf),
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

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Lowers {
    /// What the layers below show at `path` (relative to the root).
    fn find(&self, path: &Path) -> Result<Option<Attributes>, Error> {
        match self {
            Self::Image(view) => {
                let damaged = io_error("look into the layers for", path);
                image(view, path.as_os_str().as_bytes()).map_err(damaged)
            }
            Self::Machine(root) => machine(root, path),
        }
    }

    /// Names that the layers below show in a directory.
    fn names(&self, dir: &Path) -> Result<Vec<OsString>, Error> {
        match self {
            Self::Image(view) => {
                let names = view.names(dir.as_os_str().as_bytes());
                let names = names.map_err(io_error("look into the layers for", dir))?;
                Ok(names.into_iter().map(OsString::from_vec).collect())
            }
            Self::Machine(root) => {
                let mut names = Vec::new();
                let place = root.join(dir);
                let entries = match fs::read_dir(&place) {
                    Err(error) if absent(&error) => return Ok(names),
                    other => other.map_err(io_error("list", &place))?,
                };
                for entry in entries {
                    let name = entry.map_err(io_error("list", &place))?.file_name();
                    if machine(root, &dir.join(&name))?.is_some() {
                        names.push(name);
                    }
                }
                Ok(names)
            }
        }
    }
}

fn image(view: &View, path: &[u8]) -> io::Result<Option<Attributes>> {
    let Some(node) = view.find(path)? else { return Ok(None) };
    let is_dir = node.kind == cowl_fs::attr::Kind::Dir;
    let attr = view.attr(&node)?;
    Ok(Some(Attributes {
        is_dir,
        // What no layer describes is root's, and of no time.
        mode: attr.map_or(IMPLIED_MODE, |attr| u32::from(attr.perm)),
        uid: attr.map_or(0, |attr| attr.uid),
        gid: attr.map_or(0, |attr| attr.gid),
        mtime: attr.map_or((0, 0), |attr| (attr.mtime.sec, i64::from(attr.mtime.nsec))),
    }))
}

fn machine(root: &Path, path: &Path) -> Result<Option<Attributes>, Error> {
    let top = lstat(root)?.map(|found| found.dev());
    let mut here = root.to_owned();
    let mut last = lstat(root)?;
    for part in path {
        // What is mounted on the machine's root filesystem shows as empty.
        if last.as_ref().map(Metadata::dev) != top {
            return Ok(None);
        }
        here.push(part);
        last = lstat(&here)?;
    }
    let owner = |id| if id == OVERFLOW_ID { 0 } else { id };
    Ok(last.map(|found| Attributes {
        uid: owner(found.uid()),
        gid: owner(found.gid()),
        ..attributes(&found)
    }))
}

fn attributes(found: &Metadata) -> Attributes {
    Attributes {
        is_dir: found.is_dir(),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        mtime: (found.mtime(), found.mtime_nsec()),
    }
}

/// The attributes of something in the write layer. Where the host refuses owners they are kept
/// aside, with the mode.
fn own_attributes(place: &Path, found: &Metadata) -> Attributes {
    let plain = attributes(found);
    let kept = attribute::of_path(place, KEPT_OWNER);
    let Some(kept) = kept.and_then(|kept| String::from_utf8(kept).ok()) else { return plain };
    let mut fields = kept.split(':');
    let mut next = |radix| u32::from_str_radix(fields.next()?, radix).ok();
    match (next(10), next(10), next(8)) {
        (Some(uid), Some(gid), Some(mode)) => Attributes { uid, gid, mode: mode & 0o7777, ..plain },
        _ => plain,
    }
}

/// What happened to a path, and what a layer must say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: Kind,
    /// It is a directory through which nothing of the layers below shows.
    pub opaque: bool,
}

impl From<Kind> for Change {
    fn from(kind: Kind) -> Self {
        Self { kind, opaque: false }
    }
}

/// Paths relative to the root, with what happened to them: a directory before what is in it.
pub type Changes = BTreeMap<PathBuf, Change>;

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
                self.changes.insert(path.to_owned(), Kind::Deleted.into());
            }
            return Ok(existed);
        }
        if !found.is_dir() {
            if before.is_none() && found.len() == 0 && self.is_mountpoint(path) {
                return Ok(false);
            }
            let kind = if before.is_some() { Kind::Changed } else { Kind::Added };
            self.changes.insert(path.to_owned(), kind.into());
            return Ok(true);
        }
        if let Some(moved) = redirect(&place, parent_origin) {
            let change = Change { kind: kind_of(before.as_ref()), opaque: true };
            self.changes.insert(path.to_owned(), change);
            self.directory(path, Some(&moved))?;
            self.shown_anew(path, &moved)?;
            return Ok(true);
        }
        let merged = before.as_ref().filter(|before| before.is_dir);
        match (merged, &origin) {
            (Some(before), Some(origin)) => {
                let opaque = is_opaque(&place);
                let mut changed = self.directory(path, (!opaque).then_some(origin))?;
                if opaque {
                    changed |= self.opaque(path, origin)?;
                }
                let changed = changed || own_attributes(&place, &found) != *before;
                if changed {
                    let change = Change { kind: Kind::Changed, opaque };
                    self.changes.insert(path.to_owned(), change);
                }
                Ok(changed)
            }
            _ => {
                let inner = self.directory(path, None)?;
                if before.is_none() && !inner && self.is_mountpoint(path) {
                    return Ok(false);
                }
                self.changes.insert(path.to_owned(), kind_of(before.as_ref()).into());
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
            self.changes.entry(child).or_insert_with(|| kind.into()).kind = kind;
        }
        Ok(any)
    }

    /// A renamed directory shows, as added, all that lies at its old place and that the write
    /// layer does not say otherwise about.
    fn shown_anew(&mut self, path: &Path, moved: &Path) -> Result<(), Error> {
        for name in self.lowers.names(moved)? {
            let (child, old) = (path.join(&name), moved.join(&name));
            match self.changes.get(&child) {
                Some(Change { kind: Kind::Deleted, .. }) => {
                    // Never was at this place: nothing to tell.
                    self.changes.remove(&child);
                    continue;
                }
                _ => {
                    let change = self.changes.entry(child.clone()).or_insert(Kind::Added.into());
                    change.kind = Kind::Added;
                }
            }
            if self.lowers.find(&old)?.is_some_and(|found| found.is_dir) {
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

fn kind_of(before: Option<&Attributes>) -> Kind {
    if before.is_some() { Kind::Changed } else { Kind::Added }
}

/// What a container changed: absolute paths in the order of their bytes.
///
/// # Errors
/// When the write layer or a layer below cannot be read.
pub fn diff(container: &Container) -> Result<Vec<(Kind, PathBuf)>, Error> {
    let mut all: Vec<_> = changes(container)?
        .into_iter()
        .map(|(path, change)| (change.kind, Path::new("/").join(path)))
        .collect();
    all.sort_by(|(_, a), (_, b)| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(all)
}

/// What a container changed, as a layer has to say it.
///
/// # Errors
/// When the write layer or a layer below cannot be read.
pub fn changes(container: &Container) -> Result<Changes, Error> {
    let layers: Vec<PathBuf> =
        container.config.layers.iter().map(|layer| OsString::from(layer).into()).collect();
    let lowers = if container.config.image_id.is_none() {
        Lowers::Machine(PathBuf::from("/"))
    } else {
        Lowers::Image(View::open(&layers).map_err(io_error("open the layers of", &container.dir))?)
    };
    let mut scan =
        Scan { upper: container.dir.join("upper"), lowers, container, changes: Changes::new() };
    scan.directory(Path::new(""), Some(Path::new("")))?;
    Ok(scan.changes)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ContainerId, State};
    use super::*;
    use cowl_fs::attr::Time;
    use cowl_fs::packed::{INDEX, Meta, Objects, Writer};
    use nix::sys::stat::{Mode, SFlag, mknod};
    use std::sync::Arc;

    const THEN: i64 = 1_000_000_000;

    /// A packed layer of directories and empty files.
    fn layer(dir: &Path, directories: &[&str], files: &[&str]) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let objects = Arc::new(Objects::new(dir, dir).unwrap());
        let mut writer = Writer::create(dir, objects, None).unwrap();
        let meta = |perm| Meta {
            perm,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mtime: Time { sec: THEN, nsec: 0 },
            ..Meta::default()
        };
        for path in directories {
            writer.dir(path.as_bytes(), &meta(0o755)).unwrap();
        }
        for path in files {
            writer.file(path.as_bytes(), &meta(0o644), 0, None, &mut io::empty()).unwrap();
        }
        writer.finish().unwrap();
        dir.join(INDEX)
    }

    #[test]
    fn added_changed_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let low = layer(&at("low"), &["etc", "keep", "gone"], &["etc/passwd", "gone/x", "etc/old"]);
        let top = layer(&at("top"), &["opt"], &["opt/f"]);
        for made in ["upper/etc", "upper/keep", "upper/new/sub", "upper/proc", "upper/opt"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        for (file, text) in [
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
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(THEN.unsigned_abs());
        fs::File::open(at("upper/keep")).unwrap().set_modified(time).unwrap();
        fs::set_permissions(at("upper/keep"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let id = ContainerId::random().unwrap();
        let config = Config {
            layers: vec![top.into(), low.into()],
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
