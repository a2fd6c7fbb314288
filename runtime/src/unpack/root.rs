//! The root directory of a write layer.
//!
//! In a union the topmost directory gives a merged directory its attributes, and for the root that
//! is the write layer's own: it must look like the image's root before anything is mounted.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::attributes::{Attributes, DIRECTORY, Losses, apply_to_open};
use super::{Context, UnpackError};
use crate::view::View;

/// The id that the kernel shows for owners a user namespace does not have.
const OVERFLOW_ID: u32 = 65_534;

/// Whom the root directory is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// No layer describes it: `root:root` and 0755.
    Implied,
    /// The root directory of the packed layer with this index.
    Layer(PathBuf),
    /// This machine's root, with owners that are not mapped as root's.
    Machine,
}

impl Model {
    fn attributes(&self) -> Result<Attributes, UnpackError> {
        let of = |path: &Path| {
            let shown = path.as_os_str().as_encoded_bytes();
            let open = File::open(path).map_err(super::node::errno).on("open", shown)?;
            Attributes::of_lower(open.as_fd()).on("read the attributes of", shown)
        };
        match self {
            Self::Implied => Ok(Attributes::implied()),
            Self::Layer(index) => {
                let view = View::open(std::slice::from_ref(index)).map_err(UnpackError::Layer)?;
                let Some(root) = view.find(b"").map_err(UnpackError::Layer)? else {
                    return Ok(Attributes::implied());
                };
                let xattrs = view.xattrs(&root).map_err(UnpackError::Layer)?;
                let attr = view.attr(&root).map_err(UnpackError::Layer)?;
                Ok(attr
                    .map_or_else(Attributes::implied, |attr| Attributes::of_packed(&attr, xattrs)))
            }
            Self::Machine => {
                let mut attributes = of(Path::new("/"))?;
                for id in [&mut attributes.uid, &mut attributes.gid] {
                    if *id == OVERFLOW_ID {
                        *id = 0;
                    }
                }
                Ok(attributes)
            }
        }
    }

    /// Gives the empty directory `upper` these attributes. What a filesystem cannot keep of them
    /// was lost, and reported, when the layer itself was unpacked beside it.
    pub fn apply(&self, upper: &Path) -> Result<(), UnpackError> {
        let shown = upper.as_os_str().as_encoded_bytes();
        let directory = File::open(upper).map_err(super::node::errno).on("open", shown)?;
        apply_to_open(&directory, &self.attributes()?, DIRECTORY, shown, &mut Losses::default())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, UNIX_EPOCH};

    use cowl_fs::packed::{INDEX, Meta, Objects, Writer};

    use super::*;

    #[test]
    fn a_write_layer_looks_like_its_model() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        let then = UNIX_EPOCH + Duration::new(1_000_000, 7);
        let objects = std::sync::Arc::new(Objects::new(dir.path(), dir.path()).unwrap());
        let mut writer = Writer::create(dir.path(), objects, None).unwrap();
        let meta = Meta {
            perm: 0o1751,
            mtime: cowl_fs::attr::Time { sec: 1_000_000, nsec: 7 },
            xattrs: vec![(b"user.colour".to_vec(), b"red".to_vec())],
            ..Meta::default()
        };
        writer.dir(b"", &meta).unwrap();
        writer.finish().unwrap();

        Model::Layer(dir.path().join(INDEX)).apply(&upper).unwrap();
        let found = fs::metadata(&upper).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o1751);
        assert_eq!(found.modified().unwrap(), then);
        let colour = crate::sys::attribute::of_path(&upper, c"user.colour");
        assert_eq!(colour.as_deref(), Some(&b"red"[..]));

        Model::Implied.apply(&upper).unwrap();
        assert_eq!(fs::metadata(&upper).unwrap().mode() & 0o7777, 0o755);
    }
}
