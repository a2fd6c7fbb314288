//! Images on their way in: archives, compression, manifests.

pub mod tar;
