//! Random operations over random layers, against a plain directory on the disk.
//!
//! A failure prints a seed and a short script. More of it: `COWL_MODEL_CASES=100000 cargo test -p
//! cowl-tests --test fs_model`; one seed again: `COWL_MODEL_SEED=17 COWL_MODEL_CASES=1 …`.

use cowl_tests::model::{self, Size, churn};
use cowl_tests::mount::{Mode, World, jail};

/// Enough for a run of thousands of cases on demand.
const PATIENCE: u64 = 7200;

/// Short sequences, many of them, on a filesystem in memory.
fn short_in_memory(w: &mut World) {
    w.in_memory();
    let first = if w.mode == Mode::Root { 1 } else { 10_000 };
    model::run_in(w, Size::from_env(first, 600, 16));
}

/// On the disk's filesystem.
fn on_disk(w: &mut World) {
    let first = if w.mode == Mode::Root { 20_000 } else { 30_000 };
    model::run_in(w, Size::from_env(first, 80, 60));
}

fn long_sequences(w: &mut World) {
    model::run_in(w, Size::from_env(100_000, 3, 800));
}

fn many_threads(w: &mut World) {
    let size = Size::from_env(1, 6, 300);
    for seed in size.seed..size.seed + size.cases {
        println!("churn {seed}");
        churn::run(&w.dir, w.mode, w.sut, seed, size.ops);
    }
}

#[test]
fn model_root() {
    jail::run("fs_model::model_root", Mode::Root, PATIENCE, short_in_memory);
}

#[test]
fn model_userns() {
    jail::run("fs_model::model_userns", Mode::UserNs, PATIENCE, short_in_memory);
}

#[test]
fn model_on_disk_root() {
    jail::run("fs_model::model_on_disk_root", Mode::Root, PATIENCE, on_disk);
}

#[test]
fn model_on_disk_userns() {
    jail::run("fs_model::model_on_disk_userns", Mode::UserNs, PATIENCE, on_disk);
}

#[test]
fn model_long_root() {
    jail::run("fs_model::model_long_root", Mode::Root, PATIENCE, long_sequences);
}

#[test]
fn model_long_userns() {
    jail::run("fs_model::model_long_userns", Mode::UserNs, PATIENCE, long_sequences);
}

#[test]
fn churn_root() {
    jail::run("fs_model::churn_root", Mode::Root, PATIENCE, many_threads);
}

#[test]
fn churn_userns() {
    jail::run("fs_model::churn_userns", Mode::UserNs, PATIENCE, many_threads);
}
