//! Layers as trees of files, for kernel overlayfs: made from packed layers when a container first
//! needs them, on hosts without `/dev/fuse`.
//!
//! A tree is kept as `trees/LAYER/CHAIN` and goes when its layer goes. What directories are like
//! that a layer implies comes from the layers below, so it is named after the chain it was made on.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::layer::{LayerInfo, LayerSource};
use super::{Context, PRIVATE, StoreError, durable};
use crate::archive::tar::{Stream, TarReader};
use crate::digest::Digest;
use crate::unpack::{UnpackError, unpack};

/// How the names of trees begin that are being made; the number of the process follows.
const BEGUN: &str = "begun.";

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layer cannot be unpacked here.
    #[error("cannot unpack the layer {0} for kernel overlayfs: {1}")]
    Unpack(Digest, UnpackError),
}

/// The trees of the layers with these indexes, topmost first, as they are.
///
/// # Errors
/// When a layer is damaged, or cannot be unpacked; what was begun is removed.
pub fn of(indexes: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut trees: Vec<PathBuf> = Vec::new();
    let mut chain = String::new();
    for index in indexes.iter().rev() {
        let layer = index.parent().unwrap_or(Path::new("/"));
        let name = layer.file_name().unwrap_or_default().to_string_lossy();
        chain = Digest::of(format!("{chain} {name}").as_bytes()).hex();
        let store = layer.ancestors().nth(2).unwrap_or(Path::new("/"));
        let tree = store.join("trees").join(name.as_ref()).join(&chain);
        if !tree.is_dir() {
            make(layer, &tree, &trees)?;
        }
        trees.insert(0, tree);
    }
    Ok(trees)
}

fn make(layer: &Path, tree: &Path, lowers: &[PathBuf]) -> Result<(), Error> {
    let path = layer.join("layer.json");
    let info: LayerInfo = durable::read_json(&path)?
        .ok_or_else(|| StoreError::Damaged { path: path.clone(), why: "is missing".to_owned() })?;
    let parent = tree.parent().unwrap_or(layer);
    remove_abandoned(parent)?;
    let begun = parent.join(format!("{BEGUN}{}", std::process::id()));
    fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(&begun).on("create", &begun)?;
    let done = fill(layer, &info, &begun, lowers).and_then(|()| {
        match fs::rename(&begun, tree) {
            // Another command was as fast.
            Err(_) if tree.is_dir() => Ok(()),
            other => Ok(other.on("publish", tree)?),
        }
    });
    if begun.exists() {
        fs::remove_dir_all(&begun).on("remove", &begun)?;
    }
    done
}

/// Removes what was begun by processes that are gone.
fn remove_abandoned(parent: &Path) -> Result<(), StoreError> {
    let Ok(entries) = fs::read_dir(parent) else { return Ok(()) };
    for entry in entries {
        let path = entry.on("list", parent)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(BEGUN) else { continue };
        if !Path::new("/proc").join(process).exists() {
            fs::remove_dir_all(&path).on("remove", &path)?;
        }
    }
    Ok(())
}

fn fill(layer: &Path, info: &LayerInfo, tree: &Path, lowers: &[PathBuf]) -> Result<(), Error> {
    let source = LayerSource::open(layer, info.diff_id)?;
    let lowers: Vec<OwnedFd> =
        lowers.iter().map(|lower| directory(lower)).collect::<Result<_, _>>()?;
    unpack(&mut TarReader::new(Stream(source)), directory(tree)?, &lowers)
        .map_err(|error| Error::Unpack(info.diff_id, error))
        .map(drop)
}

fn directory(path: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).on("open", path)
}
