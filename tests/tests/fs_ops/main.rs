//! One file per group of operations: the same calls on the union and on a plain directory must
//! answer the same and leave the same tree, with the content in a lower layer and in the upper.
#![allow(
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod access;
mod append;
mod direct;
mod flags;
mod hosts;
mod link;
mod locks;
mod mapping;
mod open;
mod paths;
mod ranges;
mod readdir;
mod remove;
mod rename;
mod space;
mod statfs;
mod times;
mod watch;
mod xattr;
