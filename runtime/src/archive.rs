//! Images on their way in: archives, compression, manifests.
//!
//! `load` and `import` are two ways in; registries are another. All stream each layer once
//! (`stream`: read, decompress, hash; `record`: remember how it was put together) through `intake`, which verifies it, and publish everything
//! in one transaction of the store.

pub mod change;
pub mod commit;
pub mod compression;
pub mod extract;
pub mod import;
pub mod intake;
pub mod load;
pub mod manifest;
pub(crate) mod name;
pub mod record;
pub mod save;
pub mod source;
pub mod stream;
pub mod tar;
pub mod walk;
