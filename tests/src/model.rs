//! Random operations on a union, with a plain directory as the reference.
//!
//! A case is a seed: it makes one to three lower layers with whiteouts, opaque directories, sparse
//! files and hard links, prepares a plain directory with the same merged content (`layers`), and
//! then applies the same random operations (`op`, `apply`) to both, from one or two processes and as
//! several users. Every answer must be the same, and the whole tree, after every step or more
//! rarely; remounts happen in between, some with the upper as a further lower. A failing case is
//! shrunk to a short script (`shrink`, `line`). What threads do at the same time, in no certain
//! order, is `churn`.
//!
//! `COWL_MODEL_SEED` chooses the first seed, `COWL_MODEL_CASES` and `COWL_MODEL_OPS` how much;
//! `COWL_MODEL_OPTIONS` the mount options; `COWL_MODEL_SKIP=Truncate,FdMap` leaves operations out,
//! to look behind a failure already known.
// An answer that a test does not need is dropped on purpose, and writing to a string cannot fail.
#![allow(clippy::let_underscore_must_use)]

use std::path::Path;

use crate::mount::{Mode, Packed, Sut, World};

mod apply;
mod case;
pub mod churn;
mod layers;
mod line;
pub mod op;
mod rng;
mod shrink;

pub use case::Plan;
pub use rng::Rng;

/// How much to run.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// First seed.
    pub seed: u64,
    /// Number of cases, each with the next seed.
    pub cases: u64,
    /// Operations in each.
    pub ops: usize,
}

impl Size {
    /// The given numbers, unless the environment says otherwise.
    pub fn from_env(seed: u64, cases: u64, ops: usize) -> Size {
        let var = |n: &str| std::env::var(n).ok().map(|v| v.parse::<u64>().expect("a number"));
        Size {
            seed: var("COWL_MODEL_SEED").unwrap_or(seed),
            cases: var("COWL_MODEL_CASES").unwrap_or(cases),
            ops: var("COWL_MODEL_OPS").map_or(ops, |n| n as usize),
        }
    }
}

/// Runs the cases below `dir`; stops at the first failure with a script that shows it.
pub fn run(dir: &Path, mode: Mode, sut: Sut, packed: Packed, size: Size) {
    for seed in size.seed..size.seed + size.cases {
        let mut plan = Plan::random(seed, size.ops, mode);
        plan.packed = packed;
        // Seen only when a case hangs: the time limit of the jail prints it.
        println!("case {seed}");
        let Err(why) = case::run(dir, mode, sut, &plan) else { continue };
        println!("case {seed} failed, shrinking: {why}");
        let (small, why) = shrink::shrink(plan, why, |p| case::run(dir, mode, sut, p));
        panic!(
            "seed {seed} ({} operations left after shrinking):\n{}\n{why}",
            small.ops.len(),
            small.script()
        );
    }
}

/// Gives `w`, not yet mounted, the random layers of a seed and the matching plain directory; what
/// was made, as shell-like lines.
pub fn build_layers(w: &mut World, seed: u64) -> String {
    w.set_lowers(1 + (seed % 3) as usize);
    layers::build(w, seed, "").script
}

/// Runs the cases in the directory of a test's own world, which stays unmounted.
pub fn run_in(w: &mut World, size: Size) {
    run(&w.dir, w.mode, w.sut, w.packed, size);
}
