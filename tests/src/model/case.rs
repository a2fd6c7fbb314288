//! One case: its plan, and running it on both sides.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::Rng;
use super::op::{self, Op, Side};
use crate::mount::{Mode, Sut, World};
use crate::tree::{self, Depth};

/// Everything that decides a case.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides the layers.
    pub seed: u64,
    /// What is done.
    pub ops: Vec<Op>,
    layers: String,
}

impl Plan {
    /// The plan of a seed.
    pub fn random(seed: u64, ops: usize, mode: Mode) -> Plan {
        let mut rng = Rng::new(seed);
        let privileged = mode == Mode::Root;
        let mut ops: Vec<_> = (0..ops).map(|_| op::random(&mut rng, privileged)).collect();
        if let Ok(skip) = std::env::var("COWL_MODEL_SKIP") {
            ops.retain(|op| !skip.split(',').any(|s| format!("{op:?}").starts_with(s)));
        }
        Plan { seed, ops, layers: String::new() }
    }

    /// The layers and operations as shell-like lines.
    pub fn script(&self) -> String {
        let mut s = format!("layers (l0 is the topmost lower):\n{}operations:\n", self.layers);
        for op in &self.ops {
            s.push_str("  ");
            s.push_str(&op.line());
            s.push('\n');
        }
        s
    }

    /// Remembers what the layers were, for the script.
    pub fn with_layers(mut self, layers: &str) -> Plan {
        self.layers = layers.to_owned();
        self
    }
}

/// Where a case failed, and how.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What differs.
    pub why: String,
    /// Index of the operation after which it showed.
    pub at: usize,
    /// The layers of the case.
    pub layers: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.why)
    }
}

/// Runs a plan in a fresh directory below `base`.
pub fn run(base: &Path, mode: Mode, sut: Sut, plan: &Plan) -> Result<(), Failure> {
    let dir = base.join("case");
    std::fs::create_dir(&dir).expect("a directory for the case");
    let mut at = 0;
    let mut script = String::new();
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut w = World::new(dir.clone(), mode, sut);
        script = super::build_layers(&mut w, plan.seed);
        w.mount();
        let result = steps(&mut w, plan, &mut at);
        if result.is_ok() {
            w.finish();
        }
        result
    }));
    std::fs::remove_dir_all(&dir).expect("remove the directory of the case");
    let why = match done {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(why)) => why,
        Err(p) => p
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic without a message".into()),
    };
    Err(Failure { why, at, layers: script })
}

fn steps(w: &mut World, plan: &Plan, at: &mut usize) -> Result<(), String> {
    let honest = w.sut != Sut::Overlay;
    let mut want = Side::new(&w.r(""), honest);
    let mut got = Side::new(&w.m(""), honest);
    compare(w, "right after the mount")?;
    for (i, op) in plan.ops.iter().enumerate() {
        *at = i;
        if *op == Op::Remount {
            want.close_all();
            got.close_all();
            w.remount();
        }
        let (a, b) = (want.apply(op), got.apply(op));
        if a != b {
            return Err(format!("`{}`\n  want {a}\n  got  {b}", op.line()));
        }
        if matches!(op, Op::Remount | Op::Compare) || i % 15 == 14 {
            compare(w, &format!("after `{}`", op.line()))?;
        }
    }
    compare(w, "at the end")?;
    want.close_all();
    got.close_all();
    w.remount();
    compare(w, "after the last remount")
}

fn compare(w: &World, when: &str) -> Result<(), String> {
    let want = tree::read(&w.r(""), Depth::View);
    let d = tree::diff(&want, &w.view(), Depth::View);
    if d.is_empty() { Ok(()) } else { Err(format!("{when}, the trees differ:\n{d}")) }
}
