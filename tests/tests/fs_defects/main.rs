//! One test for every row of the defects seen in other union filesystems, named by its number.
//!
//! Each runs on a real mount, as root and (where it makes sense) as root of a user namespace, and
//! again after a remount where that matters.
#![allow(
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod attributes;
mod identity;
mod lower;
mod names;
mod rename;
mod speed;
mod stability;
mod whiteout;
