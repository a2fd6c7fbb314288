//! One case: its plan, and running it on both sides.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::Rng;
use super::op::{self, Op, Side, Step};
use crate::mount::sys::{self, Partner};
use crate::mount::{Mode, Packed, Sut, World};
use crate::tree::{self, Depth};

/// Mount options of the cases, each as often as it is named; `COWL_MODEL_OPTIONS` names others,
/// separated by semicolons.
const OPTIONS: &[&str] =
    &["", "", "volatile", "timeout=0", "copyup=block", "copyup=block", "metacopy=on"];

/// Everything that decides a case.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides the layers.
    pub seed: u64,
    /// What is done.
    pub ops: Vec<Step>,
    /// How many processes do it, in turn, each with its own handles.
    pub processes: usize,
    /// The trees are compared whenever so many operations were done.
    pub every: usize,
    /// Mount options.
    pub options: String,
    /// Which of the lowers are packed layers.
    pub packed: Packed,
    layers: String,
}

impl Plan {
    /// The plan of a seed.
    pub fn random(seed: u64, ops: usize, mode: Mode) -> Plan {
        let mut rng = Rng::new(seed);
        let privileged = mode == Mode::Root;
        let processes = 1 + rng.below(2);
        // Looking at everything after every step finds the step; it also reads what a filesystem
        // may not have read yet, so other cases look rarely.
        let every = *rng.pick(&[1, 1, 10, 1_000_000]);
        let options = match std::env::var("COWL_MODEL_OPTIONS") {
            Ok(list) => (*rng.pick(&list.split(';').collect::<Vec<_>>())).to_owned(),
            Err(_) => (*rng.pick(OPTIONS)).to_owned(),
        };
        let mut ops: Vec<_> = (0..ops).map(|_| op::step(&mut rng, privileged, processes)).collect();
        if let Ok(skip) = std::env::var("COWL_MODEL_SKIP") {
            ops.retain(|s| !skip.split(',').any(|k| format!("{:?}", s.op).starts_with(k)));
        }
        let packed = Packed::from_env();
        Plan { seed, ops, processes, every, options, packed, layers: String::new() }
    }

    /// The layers and operations as shell-like lines.
    pub fn script(&self) -> String {
        let mut s = format!("layers (l0 is the topmost lower):\n{}", self.layers);
        if !self.options.is_empty() {
            s.push_str(&format!("mounted with -o {}\n", self.options));
        }
        if self.packed != Packed::None {
            s.push_str(&format!("packed layers: {:?}\n", self.packed));
        }
        s.push_str("operations:\n");
        for step in &self.ops {
            s.push_str("  ");
            s.push_str(&step.line());
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
    sys::umask(0o022);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut w = World::new(dir.clone(), mode, sut);
        if sut == Sut::Cowlfs && !plan.options.is_empty() {
            w.options.push(plan.options.clone());
        }
        w.packed = plan.packed;
        script = super::build_layers(&mut w, plan.seed);
        w.mount();
        let result = steps(&mut w, plan, &mut at);
        if result.is_ok() {
            w.finish();
        }
        result
    }));
    sys::umask(0o022);
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

/// The reference and the mount, as one process has them open.
struct Pair {
    want: Side,
    got: Side,
}

impl Pair {
    fn new(w: &World) -> Pair {
        let honest = w.sut != Sut::Overlay;
        Pair { want: Side::new(&w.r(""), honest), got: Side::new(&w.m(""), honest) }
    }

    /// Does the step on both; the difference, or nothing.
    fn step(&mut self, step: &Step) -> String {
        let (a, b) = (self.want.step(step), self.got.step(step));
        if a == b { String::new() } else { format!("`{}`\n  want {a}\n  got  {b}", step.line()) }
    }

    fn close_all(&mut self) {
        self.want.close_all();
        self.got.close_all();
    }
}

/// Asked of the second process: to close everything.
const CLOSE: u64 = u64::MAX;

/// A second process that does its steps when asked by their number.
fn second_process(w: &World, plan: &Plan) -> Partner {
    let mut pair = Pair::new(w);
    let steps = plan.ops.clone();
    let work = move |n: u64| match steps.get(n as usize) {
        Some(step) => pair.step(step).into_bytes(),
        None => {
            pair.close_all();
            Vec::new()
        }
    };
    Partner::fork(work).expect("fork")
}

fn steps(w: &mut World, plan: &Plan, at: &mut usize) -> Result<(), String> {
    let mut me = Pair::new(w);
    let partner = (plan.processes > 1).then(|| second_process(w, plan));
    let ask = |n: u64| -> Result<String, String> {
        let Some(partner) = &partner else { return Ok(String::new()) };
        let answer = partner.ask(n).map_err(|e| format!("the second process ended: {e}"))?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    compare(w, "right after the mount")?;
    for (i, step) in plan.ops.iter().enumerate() {
        *at = i;
        let op = &step.op;
        if matches!(op, Op::Remount | Op::Restack) {
            me.close_all();
            ask(CLOSE)?;
            if *op == Op::Restack { w.restack() } else { w.remount() }
        }
        let differs = if step.who == 0 { me.step(step) } else { ask(i as u64)? };
        if !differs.is_empty() {
            return Err(differs);
        }
        let due = matches!(op, Op::Remount | Op::Restack | Op::Compare);
        if due || i % plan.every == plan.every - 1 {
            compare(w, &format!("after `{}`", step.line()))?;
        }
    }
    compare(w, "at the end")?;
    me.close_all();
    ask(CLOSE)?;
    w.remount();
    compare(w, "after the last remount")
}

fn compare(w: &World, when: &str) -> Result<(), String> {
    let want = tree::read(&w.r(""), Depth::View);
    let d = tree::diff(&want, &w.view(), Depth::View);
    if d.is_empty() { Ok(()) } else { Err(format!("{when}, the trees differ:\n{d}")) }
}
