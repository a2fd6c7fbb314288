//! From options to an open union: the directories are opened, locked against a second mount, and
//! checked for arrangements that would eat themselves.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fdcache::FdCache;
use crate::format::Namespace;
use crate::ident::LayerId;
use crate::layer::Layer;
use crate::layer::hostdir::{HostLayer, View};
use crate::layer::packed::PackedLayer;
use crate::options::{Io, Options};
use crate::overlay::{Overlay, Settings};
use crate::packed::{PackError, Packed};
use crate::sys::{self, Errno};
use crate::upper::{self, Upper};

/// Why a union cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be opened.
    #[error("{what} {path}: {why}", path = path.display())]
    Open {
        /// Which role it plays.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The errno in words.
        why: &'static str,
    },
    /// A packed layer cannot be opened.
    #[error("lowerdir: {0}")]
    Packed(#[from] PackError),
    /// Two directories lie in each other.
    #[error("{inner} lies inside {outer}: choose directories that do not contain each other")]
    Inside {
        /// The inner one, in words.
        inner: String,
        /// The outer one, in words.
        outer: String,
    },
    /// Upper and work directory lie on different filesystems.
    #[error("workdir {work} and upperdir {upper} lie on different filesystems or mounts; use one", work = .0.display(), upper = .1.display())]
    Apart(PathBuf, PathBuf),
    /// Another mount uses the directory.
    #[error("{what} {path} is used by another mount; unmount that first", what = .0, path = .1.display())]
    Busy(&'static str, PathBuf),
    /// A volatile mount was not unmounted cleanly.
    #[error("workdir {path} was last mounted volatile and not unmounted cleanly, so the upper may have lost data; discard both, or remove {path}/work/incompat/volatile to use it anyway", path = .0.display())]
    Volatile(PathBuf),
    /// The work directory was left by a filesystem that stores what we cannot read.
    #[error("workdir {path} holds work/incompat/{feature}, left by a filesystem with a feature that cowlfs does not know; use that, or another upper and workdir", path = .0.display(), feature = .1)]
    Incompatible(PathBuf, String),
    /// A lower cannot be made safe to hand to the kernel.
    #[error("cannot make a read-only view of lowerdir {path} for io=passthrough: {why}; use io=cached", path = .0.display(), why = .1.desc())]
    View(PathBuf, Errno),
    /// The upper cannot be used.
    #[error("cannot prepare workdir {path}: {why}", path = .0.display(), why = .1.desc())]
    Work(PathBuf, Errno),
    /// Kernel overlayfs keeps the hard links of this upper in a form that we do not read.
    #[error("workdir {path} holds an index of hard links by kernel overlayfs (index=on), without which names in the upper would show old content; mount it with kernel overlayfs, or remove {path}/index to give those links up", path = .0.display())]
    KernelIndex(PathBuf),
    /// `xino=on` over an upper that has no place for it.
    #[error("xino=on needs an upperdir with extended attributes, and {path} has none; leave xino out, or use another filesystem", path = .0.display())]
    Forgetful(PathBuf),
    /// `index=off` over an index that is in use.
    #[error("workdir {path} holds an index of files with several names (cowl-index), which index=off would tear apart; mount with index=on", path = .0.display())]
    Indexed(PathBuf),
    /// The roots of the layers cannot be read.
    #[error("cannot read the layers: {why}", why = .0.desc())]
    Layers(Errno),
    /// More layers than can be numbered.
    #[error("{0} lower layers are more than cowlfs can number (65,534)")]
    TooMany(usize),
}

/// A lower of the command line, opened.
enum Lower {
    /// A directory of the host.
    Dir(Opened),
    /// A packed layer, and the directory it is in.
    Packed(Box<Packed>, Opened),
}

impl Lower {
    /// A directory is a host directory, whatever is in it; anything else has to be an index.
    fn open(path: &Path) -> Result<Lower, StartError> {
        match open("lowerdir", path) {
            Err(StartError::Open { why, .. }) if why == Errno::ENOTDIR.desc() => {}
            other => return other.map(Lower::Dir),
        }
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let dir = open("lowerdir", dir)?;
        let packed = Packed::open(path)?;
        // Before anything is mounted, perhaps on top of it.
        packed.open_store()?;
        Ok(Lower::Packed(Box::new(packed), dir))
    }

    fn dir(&self) -> &Opened {
        match self {
            Lower::Dir(dir) | Lower::Packed(_, dir) => dir,
        }
    }
}

/// How long a mount that was unmounted may need to bring its last changes to the disk.
const LAST_WRITES: Duration = Duration::from_secs(30);

/// A directory of the command line, opened.
struct Opened {
    what: &'static str,
    path: PathBuf,
    fd: OwnedFd,
    id: (u64, u64),
    /// It and what lies above it.
    way_up: Vec<(u64, u64)>,
}

fn open(what: &'static str, path: &Path) -> Result<Opened, StartError> {
    let failed = |e: Errno| StartError::Open { what, path: path.into(), why: e.desc() };
    let fd = sys::dir::open_dir_path(path).map_err(failed)?;
    let attr = sys::dir::fstat(fd.as_fd()).map_err(failed)?;
    let id = (attr.dev, attr.ino);
    let way_up = way_up(fd.as_fd(), id);
    Ok(Opened { what, path: path.into(), fd, id, way_up })
}

impl Opened {
    fn words(&self) -> String {
        format!("{} {}", self.what, self.path.display())
    }
}

/// The directories strictly above `fd`, nearest first, as (device, inode), with `fd` itself in front.
/// Where one cannot be read the list ends.
fn way_up(fd: BorrowedFd<'_>, id: (u64, u64)) -> Vec<(u64, u64)> {
    let mut way = vec![id];
    let mut at = fd.try_clone_to_owned().ok();
    while let Some(dir) = at.take() {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let Ok(up) = sys::dir::openat(dir.as_fd(), b"..", flags, 0) else { break };
        let Ok(attr) = sys::dir::fstat(up.as_fd()) else { break };
        let id = (attr.dev, attr.ino);
        if way.last() != Some(&id) {
            way.push(id); // else: the root, which is its own parent
            at = Some(up);
        }
    }
    way
}

/// Whether a directory lies strictly below `outer`. Directories in `barrier` end the search: what is
/// below them is not seen from `outer`.
fn lies_below(inner: &Opened, outer: (u64, u64), barrier: &HashSet<(u64, u64)>) -> bool {
    let seen = inner.way_up.iter().position(|id| barrier.contains(id));
    inner.way_up.iter().take(seen.map_or(usize::MAX, |at| at + 1)).skip(1).any(|id| *id == outer)
}

fn refuse_below(
    inner: &Opened,
    outer: &Opened,
    barrier: &HashSet<(u64, u64)>,
    or_same: bool,
) -> Result<(), StartError> {
    if (or_same && inner.id == outer.id) || lies_below(inner, outer.id, barrier) {
        return Err(StartError::Inside { inner: inner.words(), outer: outer.words() });
    }
    Ok(())
}

/// Opens the union that `options` describe, to be mounted on `mountpoint` (if it is).
///
/// # Errors
/// See [`StartError`]; nothing is left behind but a work directory that may have been swept.
pub fn open_union(options: &Options, mountpoint: Option<&Path>) -> Result<Overlay, StartError> {
    let lowers: Vec<Lower> =
        options.lowers.iter().map(|p| Lower::open(p)).collect::<Result<_, _>>()?;
    if lowers.len() >= usize::from(u16::MAX) {
        return Err(StartError::TooMany(lowers.len()));
    }
    let hidden: HashSet<(u64, u64)> =
        options.hide.iter().map(|p| open("hide", p).map(|o| o.id)).collect::<Result<_, _>>()?;
    let writable = match (&options.upper, &options.work) {
        (Some(u), Some(w)) => Some((open("upperdir", u)?, open("workdir", w)?)),
        _ => None,
    };
    let none = HashSet::new();
    if let Some((upper, work)) = &writable {
        for (a, b) in [(upper, work), (work, upper)] {
            refuse_below(a, b, &none, true)?;
        }
        if upper.id.0 != work.id.0 {
            return Err(StartError::Apart(work.path.clone(), upper.path.clone()));
        }
        for lower in &lowers {
            for dir in [upper, work] {
                if let Lower::Dir(lower) = lower {
                    refuse_below(dir, lower, &hidden, true)?;
                }
                refuse_below(lower.dir(), dir, &none, true)?;
            }
        }
    }
    if let Some(path) = mountpoint {
        let mount = open("mount point", path)?;
        let all = writable.iter().flat_map(|(u, w)| [u, w]).chain(lowers.iter().map(Lower::dir));
        for dir in all {
            // On top of one of them is fine: ours are open already, below the new mount.
            refuse_below(&mount, dir, &hidden, false)?;
        }
    }
    let view = View {
        one_file_system: options.one_file_system,
        hidden,
        unmapped_to_root: options.unmapped_to_root,
        ownership: options.ownership,
    };
    build(options, lowers, writable, &view)
}

fn build(
    options: &Options,
    lowers: Vec<Lower>,
    writable: Option<(Opened, Opened)>,
    view: &View,
) -> Result<Overlay, StartError> {
    let fds = Arc::new(FdCache::new(sys::process::raise_open_files()));
    let upper = writable.map(|(u, w)| open_upper(options, u, &w)).transpose()?;
    let ownership = match &upper {
        Some(upper) => options.ownership.of_layer(upper.root()).map_err(StartError::Layers)?,
        None => options.ownership,
    };
    let mut layers: Vec<Box<dyn Layer>> = Vec::new();
    for (i, lower) in lowers.into_iter().enumerate() {
        let id = LayerId(i as u16);
        let mut lower = match lower {
            Lower::Dir(lower) => lower,
            Lower::Packed(packed, dir) => {
                if let (Io::Passthrough, Some(store)) = (options.io, packed.opened_store()) {
                    let view = sys::fuse::read_only_view(store.as_fd());
                    packed.set_view(view.map_err(|e| StartError::View(dir.path, e))?);
                }
                layers.push(Box::new(PackedLayer::new(*packed, id)));
                continue;
            }
        };
        if options.io == Io::Passthrough {
            // The kernel opens its files again as it was asked to: not for writing, whatever happens.
            lower.fd = sys::fuse::read_only_view(lower.fd.as_fd())
                .map_err(|e| StartError::View(lower.path.clone(), e))?;
        }
        let layer = HostLayer::new(lower.fd, id, Arc::clone(&fds), view.clone())
            .map_err(|e| StartError::Open { what: lower.what, path: lower.path, why: e.desc() })?;
        layers.push(Box::new(layer));
    }
    let settings = Settings {
        static_nlink: options.static_nlink,
        ids: options.ids.clone(),
        no_acl: options.no_acl,
        mapped: options.unmapped_to_root.then(sys::process::mapped_ids),
        ownership,
        no_fsync: options.no_fsync,
        redirects: options.redirects,
        no_index: options.no_index,
        no_uuid: options.no_uuid,
        short_ino: options.short_ino,
        no_writeback: options.no_writeback,
        metacopy: options.metacopy,
        copy_up_blocks: options.copy_up_blocks,
    };
    Overlay::new(layers, upper, fds, settings).map_err(StartError::Layers)
}

fn open_upper(options: &Options, upper_dir: Opened, work: &Opened) -> Result<Upper, StartError> {
    let failed = |e| StartError::Work(work.path.clone(), e);
    for dir in [&upper_dir, work] {
        // Whoever has unmounted gives the upper's lock up at once, and that of the work directory when
        // everything is on the disk. The first decides whether the layers are in use.
        let patience = if std::ptr::eq(dir, work) { LAST_WRITES } else { Duration::ZERO };
        match sys::process::lock_within(dir.fd.as_fd(), patience) {
            Ok(()) => {}
            Err(Errno::EWOULDBLOCK) => return Err(StartError::Busy(dir.what, dir.path.clone())),
            Err(e) => return Err(failed(e)),
        }
    }
    match Upper::incompatible(work.fd.as_fd()).map_err(failed)?.as_deref() {
        None => {}
        Some(b"volatile") => return Err(StartError::Volatile(work.path.clone())),
        Some(other) => {
            let name = String::from_utf8_lossy(other).into_owned();
            return Err(StartError::Incompatible(work.path.clone(), name));
        }
    }
    if upper::has_kernel_index(work.fd.as_fd()).map_err(failed)? {
        return Err(StartError::KernelIndex(work.path.clone()));
    }
    // The work directory's lock lives as long as its descriptor does.
    let keep = work.fd.try_clone().map_err(|_| failed(Errno::EMFILE))?;
    let opened =
        Upper::open(upper_dir.fd, keep, options.volatile, options.user_marks).map_err(failed)?;
    if options.lasting_ino && opened.features().namespace == Namespace::None {
        return Err(StartError::Forgetful(upper_dir.path));
    }
    if options.no_index && !opened.indexed().map_err(failed)?.is_empty() {
        return Err(StartError::Indexed(work.path.clone()));
    }
    Ok(opened)
}
