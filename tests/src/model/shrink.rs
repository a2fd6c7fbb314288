//! Makes a failing case short: leaves out operations as long as it still fails.

use super::Plan;
use super::case::Failure;

/// How often a case is run again at most.
const ATTEMPTS: usize = 250;

/// Delta debugging on the operations; any failure counts as the same one.
pub fn shrink(
    plan: Plan,
    first: Failure,
    run: impl Fn(&Plan) -> Result<(), Failure>,
) -> (Plan, Failure) {
    let (mut best, mut why) = (plan, first);
    best.ops.truncate(why.at + 1);
    let mut left = ATTEMPTS;
    let mut chunk = best.ops.len().div_ceil(2).max(1);
    loop {
        let before = best.ops.len();
        let mut start = 0;
        while start < best.ops.len() && left > 0 {
            let mut tried = best.clone();
            let end = (start + chunk).min(tried.ops.len());
            tried.ops.drain(start..end);
            left -= 1;
            match run(&tried) {
                Err(w) => {
                    tried.ops.truncate(w.at + 1);
                    (best, why) = (tried, w);
                }
                Ok(()) => start = end,
            }
        }
        if left == 0 || (chunk == 1 && best.ops.len() == before) {
            break;
        }
        if best.ops.len() == before || chunk > best.ops.len() {
            chunk = (chunk / 2).max(1);
        }
    }
    let layers = why.layers.clone();
    (best.with_layers(&layers), why)
}
