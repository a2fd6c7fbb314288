//! Removing an image, or only a name of it, by Docker's rules.

use std::collections::BTreeSet;

use super::{Store, StoreError, StoreLock, durable};
use crate::digest::Digest;
use crate::image::Image;
use crate::reference::Reference;

/// What to remove, and how far.
pub struct Removal<'a> {
    /// Name or id, as the user wrote it.
    pub target: &'a str,
    /// Remove all names of an image given by id, and names of an image in use.
    pub force: bool,
    /// The ids of the containers that use an image. Called with the store locked.
    pub users: &'a dyn Fn(&Digest) -> Result<Vec<String>, StoreError>,
}

/// One thing that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// An image, or the part of one that no other image shares.
    Deleted(Digest),
}

impl Store {
    /// Removes what `removal` asks for and reports it in order.
    ///
    /// # Errors
    /// When there is no such image, or it is in use and may not be removed.
    pub fn remove(&self, removal: &Removal<'_>) -> Result<Vec<Removed>, StoreError> {
        let removed = {
            let _lock = StoreLock::exclusive(&self.path("lock"))?;
            self.remove_locked(removal)?
        };
        self.reclaim()?;
        Ok(removed)
    }

    fn remove_locked(&self, removal: &Removal<'_>) -> Result<Vec<Removed>, StoreError> {
        let image = self.resolve(removal.target)?;
        let name = removal.target.parse::<Reference>().ok();
        let name = name.map(|name| match name.digest() {
            Some(digest) => name.at_digest(digest),
            None => name,
        });
        let name = name.filter(|name| image.references().any(|known| known == name));
        let all: Vec<Reference> = image.references().cloned().collect();
        if let Some(name) = &name {
            let gone = with_digests(&image, name);
            if gone.len() < all.len() {
                return self.untag(&gone);
            }
        }
        let repositories: BTreeSet<String> = all.iter().map(Reference::repository).collect();
        if name.is_none() && repositories.len() > 1 && !removal.force {
            return Err(StoreError::Conflict(format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
                image.id.short()
            )));
        }
        let users = (removal.users)(&image.id)?;
        if let Some(user) = users.first() {
            if !removal.force {
                return Err(in_use(removal.target, name.is_some(), &image, user));
            }
            // The containers keep the image; it only loses its names.
            return self.untag(&all);
        }
        self.delete(&image)
    }

    fn untag(&self, gone: &[Reference]) -> Result<Vec<Removed>, StoreError> {
        let mut names = self.names()?;
        for name in gone {
            names.names.remove(&name.to_string());
        }
        self.write_names(&names)?;
        Ok(gone.iter().map(|name| Removed::Untagged(name.familiar())).collect())
    }

    fn delete(&self, image: &Image) -> Result<Vec<Removed>, StoreError> {
        // First, so that a crash in between still gets the layers reclaimed.
        self.mark_dirty()?;
        let all: Vec<Reference> = image.references().cloned().collect();
        let mut removed = if all.is_empty() { Vec::new() } else { self.untag(&all)? };
        durable::remove(&self.record_path(image.id))?;
        durable::sync_directory(&self.path("images"))?;
        removed.push(Removed::Deleted(image.id));

        let mut kept = BTreeSet::new();
        for id in self.image_ids()? {
            let record = self.record(id)?;
            kept.extend(record.into_iter().flat_map(|record| record.layers).map(|l| l.directory));
        }
        let mut chain = None;
        let mut gone = Vec::new();
        for layer in &image.record().layers {
            let id = Digest::chain(chain, layer.diff_id);
            chain = Some(id);
            if !kept.contains(&layer.directory) {
                gone.push(Removed::Deleted(id));
            }
        }
        removed.extend(gone.into_iter().rev());
        Ok(removed)
    }
}

/// What goes with a name: with the last tag of a repository, also its digests.
fn with_digests(image: &Image, name: &Reference) -> Vec<Reference> {
    let repository = name.repository();
    let others = image.names().iter().any(|n| n != name && n.repository() == repository);
    let mut gone = vec![name.clone()];
    if name.tag().is_some() && !others {
        let digests = image.digests().iter().filter(|digest| digest.repository() == repository);
        gone.extend(digests.cloned());
    }
    gone
}

fn in_use(target: &str, by_name: bool, image: &Image, user: &str) -> StoreError {
    let user: String = user.chars().take(crate::digest::SHORT_DIGITS).collect();
    let id = image.id.short();
    StoreError::Conflict(if by_name {
        format!(
            "conflict: unable to remove repository reference \"{target}\" (must be forced) - container {user} is using its referenced image {id}"
        )
    } else {
        format!(
            "conflict: unable to delete {id} (must be forced) - image is being used by container {user}"
        )
    })
}
