//! Unions over packed layers, alone and between host directories: the same trees, the same answers,
//! and the layers' files never change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use cowl_tests::model::{self, Size};
use cowl_tests::mount::{Mode, Packed, World, jail};

/// Enough for a run of thousands of cases on demand.
const PATIENCE: u64 = 7200;
const KINDS: [Packed; 3] = [Packed::All, Packed::Even, Packed::Odd];

/// Random operations over random layers against a plain directory.
fn model(w: &mut World) {
    w.in_memory();
    let first = if w.mode == Mode::Root { 1 } else { 10_000 };
    for (n, packed) in (0..).zip(KINDS) {
        w.packed = packed;
        model::run_in(w, Size::from_env(first + n * 1000, 20, 16));
    }
}

#[test]
fn model_root() {
    jail::run("fs_packed::model_root", Mode::Root, PATIENCE, model);
}

#[test]
fn model_userns() {
    jail::run("fs_packed::model_userns", Mode::UserNs, PATIENCE, model);
}
