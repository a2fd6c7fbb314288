//! How many requests of each kind were answered: what shows which round trips a workload costs
//! (`cowlfs --debug` prints it at the end).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::op;

/// One above the highest number counted on its own; the rest is counted together at 0.
const KINDS: usize = 64;

/// Counts requests by their number.
#[derive(Debug)]
pub(super) struct Counts([AtomicU64; KINDS]);

impl Default for Counts {
    fn default() -> Self {
        Counts(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counts {
    /// One more.
    pub fn add(&self, opcode: u32) {
        let at = self.0.get(opcode as usize).or_else(|| self.0.first());
        if let Some(count) = at {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.iter().map(|c| c.load(Ordering::Relaxed)).zip(0u32..);
        let mut all: Vec<(u64, u32)> = counts.filter(|(n, _)| *n > 0).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let sum: u64 = all.iter().map(|(n, _)| n).sum();
        write!(f, "requests {sum}")?;
        for (n, opcode) in all {
            match op::name(opcode) {
                Some(name) => write!(f, ", {name} {n}")?,
                None => write!(f, ", number {opcode} {n}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_comes_first() {
        let counts = Counts::default();
        for opcode in [op::LOOKUP, op::WRITE, op::WRITE, 63, 4000] {
            counts.add(opcode);
        }
        assert_eq!(counts.to_string(), "requests 5, WRITE 2, number 63 1, LOOKUP 1, number 0 1");
    }
}
