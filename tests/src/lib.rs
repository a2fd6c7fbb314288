//! What crosses crates: the fixtures of the mount tests, the container tests and the
//! interoperability tests, which live in `tests/tests/`.
//!
//! This crate is test code: a fixture that cannot be made stops the test, so `expect`, `panic` and
//! indexing are the right tools here, unlike in the programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod container;
pub mod model;
pub mod mount;
pub mod tree;
