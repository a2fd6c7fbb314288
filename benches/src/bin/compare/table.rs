//! Tables of a report: for the terminal, and in Markdown.

use crate::report::Report;
use crate::stats::Summary;
use crate::system::{Kind, NATIVE};
use crate::workload::{Measure, Unit};

/// A value with its unit, three significant digits.
pub fn value(value: f64, unit: Unit) -> String {
    let steps: &[(f64, &str)] = match unit {
        Unit::Seconds | Unit::CpuSeconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
        Unit::Bytes => &[(1e6, "MB"), (1e3, "kB")],
    };
    let fits = steps.iter().find(|(size, _)| value >= size * 0.9995).or(steps.last());
    let (size, name) = fits.copied().unwrap_or((1.0, ""));
    let number = value / size;
    if value == 0.0 {
        return "0".into();
    }
    let digits = if number >= 99.95 { 0 } else { 1 + usize::from(number < 9.995) };
    format!("{number:.digits$} {name}")
}

/// A ratio, with as many digits as matter.
pub fn ratio(ratio: f64) -> String {
    match ratio {
        r if r >= 9.95 => format!("{r:.0}"),
        r if r >= 0.0995 => format!("{r:.2}"),
        r => plain(r).unwrap_or_else(|| format!("{r:.1e}")),
    }
}

/// Small ratios without an exponent: `0.0023`.
fn plain(ratio: f64) -> Option<String> {
    (ratio >= 1e-5).then(|| {
        let digits = (1.0 - ratio.log10().floor()) as usize;
        format!("{ratio:.digits$}")
    })
}

struct Cell {
    value: String,
    spread: String,
    ratios: String,
}

/// `None` where nothing was measured.
fn cell(report: &Report, row: &Measure, system: &str) -> Option<Cell> {
    let summary = Summary::of(report.cell(&row.id, system))?;
    let mut ratios = Vec::new();
    if row.unit == Unit::Seconds {
        let reference = report.reference().map(|s| s.name.as_str());
        if let Some(name) = reference.filter(|name| *name != system && *name != NATIVE)
            && system != NATIVE
            && let Some(r) = report.ratio(&row.id, system, name)
        {
            ratios.push(format!("{} O", ratio(r)));
        }
        if let Some(r) = report.ratio(&row.id, system, NATIVE).filter(|_| system != NATIVE) {
            ratios.push(format!("{} N", ratio(r)));
        }
    }
    Some(Cell {
        value: value(summary.median, row.unit),
        spread: format!("±{:.0} %", summary.spread() * 100.0),
        ratios: ratios.join(", "),
    })
}

fn empty(report: &Report, row: &Measure, system: &str) -> &'static str {
    let workload = row.id.trim_start_matches("cpu:").split('/').next().unwrap_or_default();
    if report.failed(workload, system) { "failed" } else { "–" }
}

const LEGEND: &str = "Medians; ± is half the distance between the quartiles; O: ratio to kernel \
                      overlayfs, N: ratio to a plain directory. @u: in a user namespace.";

/// A paragraph on where the figures come from.
pub fn origin(report: &Report) -> String {
    let m = &report.machine;
    let repetitions = report.samples.values().flat_map(|row| row.values().map(Vec::len)).max();
    format!(
        "{}, {} ({} CPUs, {:.0} GiB, {}), Linux {}, {}, sizes: {}, up to {} repetitions, systems \
         interleaved.",
        report.date,
        m.kind,
        m.cpus,
        m.memory as f64 / 1024.0,
        m.processor,
        m.kernel,
        report.filesystem,
        report.scale.name,
        repetitions.unwrap_or(0),
    )
}

fn systems(report: &Report) -> Vec<String> {
    let describe = |kind: &Kind| match kind {
        Kind::Native | Kind::Overlay => "",
        Kind::Fuse(_) => " (FUSE)",
    };
    let line = |s: &crate::system::System| {
        let options =
            if s.options.is_empty() { String::new() } else { format!(", -o {}", s.options) };
        // Some programs put a colon behind their own name.
        format!("{}: {}{}{options}", s.name, s.version.replacen(": ", " ", 1), describe(&s.kind))
    };
    report.systems.iter().map(line).collect()
}

/// Failures and what was left out, a sentence each.
pub fn remarks(report: &Report) -> Vec<String> {
    let mut out: Vec<String> = report
        .failures
        .iter()
        .map(|f| format!("FAILED: {} on {}: {}", f.workload, f.system, f.reason))
        .collect();
    out.extend(report.left_out.iter().map(|sentence| format!("Left out: {sentence}.")));
    out
}

/// Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("{}\n\n", origin(report));
    for line in systems(report) {
        out += &format!("- {}\n", escape(&line));
    }
    out += &format!("\n{LEGEND}\n\n");
    for (cpu, title) in [(false, "workload"), (true, "CPU time of the mount program")] {
        let rows: Vec<&Measure> = report.rows(cpu).filter(|row| worth(report, row)).collect();
        if rows.is_empty() {
            continue;
        }
        let columns: Vec<&str> = report
            .systems
            .iter()
            .filter(|s| !cpu || matches!(s.kind, Kind::Fuse(_)))
            .map(|s| s.name.as_str())
            .collect();
        out += &format!("| {title} | {} |\n", columns.join(" | "));
        out += &format!("|---|{}\n", "---:|".repeat(columns.len()));
        for row in rows {
            out += &format!("| {} |", escape(&row.label));
            for system in &columns {
                let text = match cell(report, row, system) {
                    Some(c) if c.ratios.is_empty() => format!("{} {}", c.value, c.spread),
                    Some(c) => format!("{} {}<br>{}", c.value, c.spread, c.ratios),
                    None => empty(report, row, system).to_owned(),
                };
                out += &format!(" {} |", text.replace(' ', "\u{a0}").replace(",\u{a0}", ", "));
            }
            out += "\n";
        }
        out += "\n";
    }
    for remark in remarks(report) {
        out += &format!("- {}\n", escape(&remark));
    }
    out
}

/// CPU rows in which every system stays under a clock tick of old, 10 ms, say nothing.
pub fn worth(report: &Report, row: &Measure) -> bool {
    row.unit != Unit::CpuSeconds
        || report.systems.iter().any(|s| {
            Summary::of(report.cell(&row.id, &s.name)).is_some_and(|found| found.median >= 0.01)
        })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|")
}

/// Plain text in columns, for a terminal.
pub fn text(report: &Report) -> String {
    let mut out = format!("{}\n", origin(report));
    for line in systems(report) {
        out += &format!("  {line}\n");
    }
    out += &format!("{LEGEND}\n\n");
    for (cpu, title) in [(false, "workload"), (true, "CPU time of the mount program")] {
        let rows: Vec<&Measure> = report.rows(cpu).filter(|row| worth(report, row)).collect();
        if rows.is_empty() {
            continue;
        }
        let systems = report.systems.iter().filter(|s| !cpu || matches!(s.kind, Kind::Fuse(_)));
        let systems: Vec<&str> = systems.map(|s| s.name.as_str()).collect();
        let mut lines = vec![
            std::iter::once(title)
                .chain(systems.iter().copied())
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        ];
        for row in rows {
            let mut line = vec![row.label.clone()];
            for system in &systems {
                line.push(match cell(report, row, system) {
                    Some(c) => format!("{} {} {}", c.value, c.spread, c.ratios).trim().to_owned(),
                    None => empty(report, row, system).to_owned(),
                });
            }
            lines.push(line);
        }
        out += &aligned(&lines);
        out += "\n";
    }
    for remark in remarks(report) {
        out += &format!("{remark}\n");
    }
    out
}

/// Columns as wide as their widest cell; the first is left-aligned.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let pad = " ".repeat(width(column).saturating_sub(cell.chars().count()));
            let (left, right) = if column == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
            text += &format!("{left}{cell}{right}  ");
        }
        out += text.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn values_have_three_digits_and_a_unit() {
        for (seconds, want) in [
            (1.234_5, "1.23 s"),
            (0.999_9, "1.00 s"),
            (0.012_34, "12.3 ms"),
            (0.123_4, "123 ms"),
            (2.7e-6, "2.70 µs"),
            (1e-8, "0.01 µs"),
            (0.0, "0"),
            (75.0, "75.0 s"),
        ] {
            assert_eq!(value(seconds, Unit::Seconds), want);
        }
        assert_eq!(value(15_300_000.0, Unit::Bytes), "15.3 MB");
        assert_eq!(value(100.0, Unit::Bytes), "0.10 kB");
    }

    #[test]
    fn ratios_keep_what_matters() {
        for (number, want) in
            [(12.34, "12"), (2.345, "2.35"), (0.5, "0.50"), (0.0123, "0.012"), (0.00071, "0.00071")]
        {
            assert_eq!(ratio(number), want);
        }
    }

    #[test]
    fn markdown_has_every_cell() {
        let text = markdown(&example());
        let row = text.lines().find(|l| l.starts_with("| stat, cached | 1.10")).unwrap();
        let row = row.replace('\u{a0}', " ");
        assert_eq!(
            row,
            "| stat, cached | 1.10 µs ±5 % | 2.00 µs ±5 %<br>1.82 N | 1.00 µs ±0 %<br>0.50 O, 0.91 N | – |"
        );
        let row = text.lines().find(|l| l.contains("into 1 GiB")).unwrap().replace('\u{a0}', " ");
        assert!(row.ends_with("| – | 700 ms ±4 % | 500 µs ±0 %<br>0.00071 O | failed |"), "{row}");
        assert!(text.contains(
            "FAILED: copyup on cowlfs@u: it ended &lt;too> early &amp; left \\| nothing"
        ));
        assert!(text.contains("Left out: cold caches: not allowed here."));
        // Every line of a table has the same number of cells.
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        let table: Vec<_> = text.lines().filter(|l| l.starts_with('|')).collect();
        assert!(table[..6].iter().all(|l| bars(l) == 6), "{table:#?}");
    }

    #[test]
    fn text_is_aligned() {
        let out = text(&example());
        assert!(out.contains("0.50 O, 0.91 N"), "{out}");
        assert!(out.contains("CPU time"), "{out}");
        assert_eq!(
            aligned(&[vec!["a".into(), "1".into()], vec!["bcd".into(), "µ22".into()]]),
            "a      1\nbcd  µ22\n"
        );
    }
}
