//! Images on their way in: archives, compression, manifests.

pub mod compression;
pub mod stream;
pub mod tar;
