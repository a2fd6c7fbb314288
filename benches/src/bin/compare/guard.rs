//! Whether one system became slower than another: for two builds of the same program.
//!
//! Repetitions are compared in pairs, since both were measured within seconds of each other. A
//! change counts when a quarter of the pairs at most lie on the other side of the limit.

use crate::report::Report;
use crate::stats::{Summary, geometric_mean, paired};
use crate::table::{self, value};
use crate::workload::Unit;

/// A change of less than this is never flagged.
const LIMIT: f64 = 1.10;
/// Fewer pairs say nothing about noise.
const PAIRS: usize = 3;

/// What became of one measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Beyond the limit and the noise.
    Slower,
    /// The same in the other direction.
    Faster,
    /// Neither.
    Same,
}

fn verdict(ratios: &Summary) -> Verdict {
    match ratios {
        r if r.count < PAIRS => Verdict::Same,
        r if r.low > LIMIT => Verdict::Slower,
        r if r.high < 1.0 / LIMIT => Verdict::Faster,
        _ => Verdict::Same,
    }
}

/// The comparison as text, and how many measures became slower.
pub fn compare(report: &Report, now: &str, before: &str) -> (String, usize) {
    let mut out = format!("{now} as a multiple of {before}: median of pairs (quartiles)\n\n");
    let (mut slower, mut all) = (0, Vec::new());
    // CPU time depends less than the clock on what else the machine does.
    for row in report.rows(false).chain(report.rows(true).filter(|row| table::worth(report, row))) {
        let Some(ratios) = paired(report.cell(&row.id, now), report.cell(&row.id, before)) else {
            continue;
        };
        let mark = match verdict(&ratios) {
            Verdict::Slower => "  SLOWER",
            Verdict::Faster => "  faster",
            Verdict::Same => "",
        };
        slower += usize::from(mark.contains("SLOWER"));
        all.push(ratios.median);
        let middle = |system| Summary::of(report.cell(&row.id, system)).map_or(0.0, |s| s.median);
        out += &format!(
            "{:>5.2} ({:.2}–{:.2})  {:>10} → {:<10} {}{}{mark}\n",
            ratios.median,
            ratios.low,
            ratios.high,
            value(middle(before), row.unit),
            value(middle(now), row.unit),
            if row.unit == Unit::CpuSeconds { "CPU time: " } else { "" },
            row.label
        );
    }
    for failure in &report.failures {
        out += &format!("FAILED: {} on {}: {}\n", failure.workload, failure.system, failure.reason);
    }
    if let Some(mean) = geometric_mean(&all) {
        out += &format!(
            "\n{mean:.2} geometric mean; {slower} slower by more than {:.0} % beyond noise\n",
            (LIMIT - 1.0) * 100.0
        );
    }
    (out, slower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn only_what_is_beyond_limit_and_noise_is_flagged() {
        let of = |samples: &[f64]| verdict(&Summary::of(samples).unwrap());
        assert_eq!(of(&[1.2, 1.25, 1.3]), Verdict::Slower);
        assert_eq!(of(&[0.9, 1.2, 1.9]), Verdict::Same, "noise");
        assert_eq!(of(&[1.05, 1.06, 1.07]), Verdict::Same, "too little");
        assert_eq!(of(&[0.5, 0.6, 0.55]), Verdict::Faster);
        assert_eq!(of(&[2.0, 2.0]), Verdict::Same, "too few");
    }

    #[test]
    fn the_slower_ones_are_counted() {
        let (text, slower) = compare(&example(), "overlay", "cowlfs");
        assert_eq!(slower, 3, "{text}");
        assert!(text.contains("SLOWER") && text.contains("geometric mean"), "{text}");
        let (text, slower) = compare(&example(), "cowlfs", "overlay");
        assert_eq!(slower, 0);
        assert!(text.contains("faster") && text.contains("FAILED: copyup"), "{text}");
    }
}
