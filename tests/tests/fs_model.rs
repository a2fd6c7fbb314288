//! Random operations over random layers, against a plain directory on the disk.
//!
//! A failure prints a seed and a short script. More of it: `COWL_MODEL_CASES=100000 cargo test -p
//! cowl-tests --test fs_model`; one seed again: `COWL_MODEL_SEED=17 COWL_MODEL_CASES=1 …`.

use cowl_tests::model::{self, Size};
use cowl_tests::mount::{Mode, World, jail};

/// Enough for a run of thousands of cases on demand.
const PATIENCE: u64 = 3600;

fn first(w: &mut World) {
    model::run_in(w, Size::from_env(1, 150, 60));
}

fn second(w: &mut World) {
    model::run_in(w, Size::from_env(1_000, 150, 60));
}

fn long_sequences(w: &mut World) {
    model::run_in(w, Size::from_env(100_000, 4, 800));
}

#[test]
fn model_root() {
    jail::run("fs_model::model_root", Mode::Root, PATIENCE, first);
}

#[test]
fn model_userns() {
    jail::run("fs_model::model_userns", Mode::UserNs, PATIENCE, second);
}

#[test]
fn model_long_root() {
    jail::run("fs_model::model_long_root", Mode::Root, PATIENCE, long_sequences);
}

#[test]
fn model_long_userns() {
    jail::run("fs_model::model_long_userns", Mode::UserNs, PATIENCE, long_sequences);
}
