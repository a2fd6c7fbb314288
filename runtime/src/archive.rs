//! Images on their way in: archives, compression, manifests.
//!
//! `load` and `import` are the two ways; both stream each layer once (`stream`: read, decompress,
//! hash) into `unpack`, verify it, and publish everything in one transaction of the store.

pub mod change;
pub mod compression;
pub mod import;
pub mod load;
pub mod manifest;
pub mod source;
pub mod stream;
pub mod tar;
