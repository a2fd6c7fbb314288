//! The part of a README that a recorded run writes anew: some rows of the table, and a plot.

use std::path::Path;

use crate::fault::{Doing, Fault, Result};
use crate::report::Report;
use crate::stats::Summary;
use crate::system::{NATIVE, System};
use crate::table::{self, ratio, value};
use crate::workload::{Measure, Unit};

const BEGIN: &str = "<!-- compare: begin (written by tools/record-benchmarks) -->";
const END: &str = "<!-- compare: end -->";

/// What says most in the fewest rows; of copy-up the smallest and the largest file besides.
const ROWS: [&str; 23] = [
    "stat/cached",
    "missing/stat",
    "open/cached",
    "open/cold",
    "walk1/cold",
    "walk10/cold",
    "walk64/cold",
    "walk64/warm",
    "read/cached",
    "write/fsync",
    "random-write/write",
    "names/create",
    "names/rename",
    "untar/unpack",
    "copy/copy",
    "pack/warm",
    "rm-lower/rm",
    "git/status",
    "gcc/compile",
    "chmod/chmod",
    "mount/mount",
    "beside-copyup/stat",
    "walk64/memory",
];

/// Replaces what stands between the marks of the file.
///
/// # Errors
/// When the file has no marks, or cannot be read or written.
pub fn update(path: &Path, report: &Report, record: &Path) -> Result<()> {
    let what = || format!("update {}", path.display());
    let old = std::fs::read_to_string(path).doing(what)?;
    let record = record.display().to_string();
    let new = replaced(&old, &text(report, record.trim_end_matches('/')))
        .ok_or_else(|| Fault(format!("{} has no line {BEGIN}", path.display())))?;
    std::fs::write(path, new).doing(what)
}

fn replaced(old: &str, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}{END}{after}"))
}

fn text(report: &Report, record: &str) -> String {
    let name = report.name();
    let mut out = table::origin(report) + "\n\n";
    let Some(reference) = report.reference() else { return out };
    let systems: Vec<&System> =
        report.systems.iter().filter(|s| s.name != NATIVE && s.name != reference.name).collect();
    out += &format!(
        "Times as multiples of {}'s, which are given; less is faster. `@u` is in a user namespace, \
         as for an ordinary user.",
        if reference.name == "overlay" { "kernel overlayfs" } else { &reference.name }
    );
    for system in systems.iter().filter(|s| !s.options.is_empty()) {
        out += &format!(" `{}` has `-o {}`.", system.name, system.options);
    }
    if let Some(spread) = spread(report) {
        out += &format!(
            " Half the distance between the quartiles is {:.0} % of the median in half of all cells: \
             smaller differences mean nothing.",
            spread * 100.0
        );
    }
    out += &format!("\n\n| workload | {} |", reference.name);
    for system in &systems {
        out += &format!(" {} |", system.name);
    }
    out += &format!("\n|---|---:|{}\n", "---:|".repeat(systems.len()));
    for row in chosen(report) {
        out += &format!("| {} |", row.label);
        let cell = |system: &str| Summary::of(report.cell(&row.id, system));
        let absolute = |system: &str| {
            cell(system).map_or("–".into(), |s| value(s.median, row.unit).replace(' ', "\u{a0}"))
        };
        out += &format!(" {} |", absolute(&reference.name));
        for system in &systems {
            let text = if row.unit == Unit::Seconds {
                report.ratio(&row.id, &system.name, &reference.name).map_or("–".into(), ratio)
            } else {
                absolute(&system.name)
            };
            out += &format!(" {text} |");
        }
        out += "\n";
    }
    out += &format!(
        "\n![Time to write one byte into a lower file, over its size]({record}/{name}-copyup.svg)\n\n\
         All rows, with spread and CPU time: [{name}.md]({record}/{name}.md); a bar for each: \
         [ratios]({record}/{name}-ratios.svg); walks: [plot]({record}/{name}-walk.svg).\n"
    );
    out
}

/// The median spread of all cells with times.
fn spread(report: &Report) -> Option<f64> {
    let rows = report.rows(false).filter(|row| row.unit == Unit::Seconds);
    let cells = rows.flat_map(|row| report.systems.iter().map(|s| report.cell(&row.id, &s.name)));
    let spreads: Vec<f64> =
        cells.filter_map(Summary::of).filter(|s| s.count > 1).map(|s| s.spread()).collect();
    Summary::of(&spreads).map(|s| s.median)
}

fn chosen(report: &Report) -> Vec<&Measure> {
    let ends = [report.scale.copyup.first(), report.scale.copyup.last()];
    let ends: Vec<String> =
        ends.into_iter().flatten().map(|(bytes, _)| format!("copyup/{bytes}")).collect();
    report
        .rows(false)
        .filter(|row| ROWS.contains(&row.id.as_str()) || ends.contains(&row.id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let old = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&old, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert_eq!(replaced("no marks", "x"), None);
    }

    #[test]
    fn the_table_has_values_and_ratios() {
        let out = text(&example(), "benches/results");
        assert!(out.contains("is 0 % of the median in half of all cells"), "{out}");
        assert!(out.contains("| stat, cached | 2.00\u{a0}µs | 0.50 | – |"), "{out}");
        assert!(out.contains("| copy-up: 1-byte write into 1 GiB | 700\u{a0}ms | 0.00071 | – |"));
        assert!(out.contains("(benches/results/2026-01-31-vm-2cpu-copyup.svg)"), "{out}");
    }

    #[test]
    fn every_row_exists() {
        let all: Vec<String> = crate::workload::all()
            .into_iter()
            .flat_map(|w| crate::workload::rows(w, &crate::scale::Scale::full()))
            .map(|row| row.id)
            .collect();
        for row in ROWS {
            assert!(all.iter().any(|id| id == row), "{row}");
        }
    }
}
