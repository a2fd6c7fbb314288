//! `cowlfs --pack` and `cowlfs --check`: packed layers by hand.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::pack::pack_dir;
use crate::packed::{INDEX, Objects};
use crate::packed::{OBJECTS, PackError, Packed, Summary, Writer};
use crate::sys::{self, Errno};

/// New objects of the layer that is being made.
const STAGING: &str = "new";

/// Packs the directory `dir` into the new directory `out`, with a store of objects of its own.
///
/// # Errors
/// See [`PackError`]; nothing is left of `out` then.
pub fn pack(dir: &Path, out: &Path) -> Result<Summary, PackError> {
    let host = |action, path: &Path| {
        let path = path.to_path_buf();
        move |e: std::io::Error| {
            let why = Errno::from_raw(e.raw_os_error().unwrap_or(Errno::EIO as i32));
            PackError::Host { action, path, why }
        }
    };
    if out.symlink_metadata().is_ok() {
        return Err(PackError::Host { action: "make", path: out.into(), why: Errno::EEXIST });
    }
    let part = partial_name(out);
    std::fs::create_dir(&part).map_err(host("make", &part))?;
    let made = fill(dir, &part).and_then(|summary| {
        std::fs::rename(&part, out).map_err(host("make", out))?;
        Ok(summary)
    });
    if made.is_err() {
        let _left_with_a_name_that_says_so = std::fs::remove_dir_all(&part);
    }
    made
}

/// Where a layer is made before it gets its name.
fn partial_name(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".part-{}", std::process::id()));
    out.with_file_name(name)
}

fn fill(dir: &Path, part: &Path) -> Result<Summary, PackError> {
    let failed = |action, path: PathBuf| {
        move |e: std::io::Error| PackError::Host {
            action,
            path,
            why: Errno::from_raw(e.raw_os_error().unwrap_or(Errno::EIO as i32)),
        }
    };
    let (store, staging) = (part.join(OBJECTS), part.join(STAGING));
    for path in [&store, &staging] {
        std::fs::create_dir(path).map_err(failed("make", path.clone()))?;
    }
    let objects = Arc::new(Objects::new(&store, &staging)?);
    let mut writer = Writer::create(part, Arc::clone(&objects), None)?;
    pack_dir(dir, &mut writer)?;
    let summary = writer.finish()?;
    objects.publish()?;
    std::fs::remove_dir(&staging).map_err(failed("remove", staging.clone()))?;
    let sync = sys::dir::open_dir_path(part).and_then(|fd| sys::file::syncfs(fd.as_fd()));
    sync.map_err(|why| PackError::Host { action: "sync", path: part.into(), why })?;
    Ok(summary)
}

/// Checks a packed layer, given by its index or its directory; returns how many inodes it has.
///
/// # Errors
/// What is wrong with it.
pub fn check(layer: &Path) -> Result<u32, PackError> {
    let index = if layer.is_dir() { layer.join(INDEX) } else { layer.into() };
    let packed = Packed::open(&index)?;
    packed.verify()?;
    Ok(packed.len())
}
