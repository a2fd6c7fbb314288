//! Giving an image another name.

use super::{Store, StoreError, StoreLock};
use crate::digest::Digest;
use crate::reference::Reference;

impl Store {
    /// Gives the image `target` (a name or an id) the name `name`; another image that had it loses
    /// it. Returns the image's id.
    ///
    /// # Errors
    /// When there is no such image, or the names cannot be written.
    pub fn tag(&self, target: &str, name: &Reference) -> Result<Digest, StoreError> {
        let _lock = StoreLock::exclusive(&self.path("lock"))?;
        let image = self.resolve(target)?;
        let mut names = self.names()?;
        if names.names.insert(name.to_string(), image.id) != Some(image.id) {
            self.write_names(&names)?;
        }
        Ok(image.id)
    }
}
