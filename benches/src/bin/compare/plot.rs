//! The pictures of a report: copy-up latency over file size, walk time over layers, and each
//! workload's ratio to kernel overlayfs.

use crate::report::Report;
use crate::scale::{self, LAYERS};
use crate::stats::Summary;
use crate::svg::{self, Anchor, Axis, Svg};
use crate::system::{COWLFS, FUSE_OVERLAYFS, Kind, NATIVE, OVERLAY, System};
use crate::table::value;
use crate::workload::{Measure, Unit};

mod bars;

pub use bars::bars;

const INK: &str = "#1f2328";
const FAINT: &str = "#59636e";
const GRID: &str = "#d8dee4";
const TITLE: &str = "font-size=\"16\" font-weight=\"600\" fill=\"#1f2328\"";

/// How a system is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Style {
    colour: &'static str,
    shape: usize,
    dash: &'static str,
}

/// Known systems have the same colour in every picture; `@u` is the same, dashed.
fn style(report: &Report, system: &System) -> Style {
    // Okabe and Ito's colours, told apart with any colour vision, dark enough for white.
    const OTHERS: [&str; 4] = ["#009e73", "#cc79a7", "#8a6d00", "#56b4e9"];
    let base = system.name.trim_end_matches("@u");
    let (colour, shape) = match base {
        NATIVE => ("#6e7781", 3),
        OVERLAY => ("#1f2328", 1),
        COWLFS => ("#0072b2", 0),
        FUSE_OVERLAYFS => ("#d55e00", 2),
        _ => {
            let known = [NATIVE, OVERLAY, COWLFS, FUSE_OVERLAYFS];
            let mut others: Vec<&str> = Vec::new();
            for name in report.systems.iter().map(|s| s.name.trim_end_matches("@u")) {
                if !known.contains(&name) && !others.contains(&name) {
                    others.push(name);
                }
            }
            let number = others.iter().position(|name| *name == base).unwrap_or(0);
            (OTHERS.get(number % OTHERS.len()).copied().unwrap_or(INK), number + 1)
        }
    };
    Style { colour, shape, dash: if system.name.ends_with("@u") { "6 4" } else { "" } }
}

/// One curve: where it goes through, and how it is drawn.
struct Curve {
    name: String,
    style: Style,
    points: Vec<(f64, Summary)>,
}

fn curves(report: &Report, rows: &[(f64, String)]) -> Vec<Curve> {
    let curve = |system: &System| {
        let point = |(x, id): &(f64, String)| {
            Some((*x, Summary::of(report.cell(id, &system.name)).filter(|s| s.median > 0.0)?))
        };
        let points: Vec<_> = rows.iter().filter_map(point).collect();
        Curve { name: system.name.clone(), style: style(report, system), points }
    };
    report.systems.iter().map(curve).filter(|c| !c.points.is_empty()).collect()
}

/// Copy-up latency over file size; `None` without samples.
pub fn copyup(report: &Report) -> Option<String> {
    let rows: Vec<(f64, String)> =
        report.scale.copyup.iter().map(|c| (c.0 as f64, format!("copyup/{}", c.0))).collect();
    let ticks: Vec<(f64, String)> =
        report.scale.copyup.iter().map(|c| (c.0 as f64, scale::size(c.0))).collect();
    lines(
        report,
        "Writing one byte into a file of a lower layer",
        "time to open, write and close (log)",
        "size of the file (log)",
        &rows,
        &ticks,
    )
}

/// Walk time over the number of layers; `None` without samples.
pub fn walk(report: &Report) -> Option<String> {
    let kept = |kind: &str| -> Vec<(f64, String)> {
        LAYERS.iter().map(|n| (*n as f64, format!("walk{n}/{kind}"))).collect()
    };
    let has = |rows: &[(f64, String)]| rows.iter().any(|(_, id)| report.samples.contains_key(id));
    let (rows, how) = match kept("cold") {
        cold if has(&cold) => (cold, "cold caches"),
        _ => (kept("warm"), "warm caches"),
    };
    let ticks: Vec<(f64, String)> = LAYERS.iter().map(|n| (*n as f64, n.to_string())).collect();
    lines(
        report,
        &format!("Walking {} files, {how}", scale::count(report.scale.walk)),
        "time of the walk (log)",
        "number of layers (log)",
        &rows,
        &ticks,
    )
}

fn lines(
    report: &Report,
    title: &str,
    up: &str,
    along: &str,
    rows: &[(f64, String)],
    ticks: &[(f64, String)],
) -> Option<String> {
    const WIDTH: f64 = 760.0;
    const HEIGHT: f64 = 430.0;
    const TOP: f64 = 50.0;
    const BOTTOM: f64 = HEIGHT - 62.0;
    const LEFT: f64 = 84.0;
    let curves = curves(report, rows);
    if curves.is_empty() {
        return None;
    }
    let legend = curves.iter().map(|c| svg::width(&c.name)).fold(0.0, f64::max);
    let right = WIDTH - legend - 66.0;
    let mut out = Svg::new(WIDTH, HEIGHT);
    out.text((20.0, 29.0), title, Anchor::Start, TITLE);
    let all = curves.iter().flat_map(|c| c.points.iter().flat_map(|(_, s)| [s.low, s.high]));
    let y = Axis::decades(all, BOTTOM, TOP);
    let (first, last) = (ticks.first()?.0, ticks.last()?.0);
    let x = Axis::log(first, last, LEFT + 16.0, right - 16.0);
    for power in y.powers() {
        let at = y.at(power);
        out.line((LEFT, at), (right, at), GRID, 1.0);
        let label = value(power, Unit::Seconds).replace(".00", "").replace(".0", "");
        out.text((LEFT - 8.0, at + 4.5), &label, Anchor::End, &format!("fill=\"{FAINT}\""));
    }
    // From the end, which counts most: a label that would touch the one behind it is left out.
    let mut free = f64::MAX;
    for (number, label) in ticks.iter().rev() {
        let at = x.at(*number);
        out.line((at, BOTTOM), (at, BOTTOM + 5.0), FAINT, 1.0);
        let half = svg::width(label) / 2.0;
        if at + half < free {
            out.text((at, BOTTOM + 20.0), label, Anchor::Middle, &format!("fill=\"{FAINT}\""));
            free = at - half - 6.0;
        }
    }
    out.line((LEFT, BOTTOM), (right, BOTTOM), FAINT, 1.0);
    out.text(
        ((LEFT + right) / 2.0, HEIGHT - 18.0),
        along,
        Anchor::Middle,
        &format!("fill=\"{INK}\""),
    );
    out.upwards((24.0, (TOP + BOTTOM) / 2.0), up, &format!("fill=\"{INK}\""));
    for curve in &curves {
        let Style { colour, shape, dash } = curve.style;
        let points: Vec<(f64, f64)> =
            curve.points.iter().map(|(n, s)| (x.at(*n), y.at(s.median))).collect();
        out.path(&points, colour, dash);
        for (point, (_, s)) in points.iter().zip(&curve.points) {
            out.line((point.0, y.at(s.low)), (point.0, y.at(s.high)), colour, 1.5);
            out.marker(*point, shape, colour);
        }
    }
    names(&mut out, &curves, right, &y);
    Some(out.finish(title))
}

/// The legend: each name beside the end of its curve, moved apart where they would overlap.
fn names(out: &mut Svg, curves: &[Curve], right: f64, y: &Axis) {
    const APART: f64 = 19.0;
    let end = |c: &Curve| c.points.last().map_or(0.0, |(_, s)| y.at(s.median));
    let mut places: Vec<(f64, &Curve)> = curves.iter().map(|c| (end(c), c)).collect();
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let heights: Vec<f64> = places.iter().map(|p| p.0).collect();
    for (at, (_, curve)) in apart(&heights, APART).into_iter().zip(&places) {
        let Style { colour, shape, dash } = curve.style;
        let from = right + 6.0;
        out.path(&[(from, at), (from + 30.0, at)], colour, dash);
        out.marker((from + 15.0, at), shape, colour);
        out.text((from + 37.0, at + 4.5), &curve.name, Anchor::Start, &format!("fill=\"{INK}\""));
    }
}

/// Moves rising numbers apart by at least `distance`: neighbours that are too close push each other.
fn apart(rising: &[f64], distance: f64) -> Vec<f64> {
    let mut out = rising.to_vec();
    // Each round settles at least one pair for good; more rounds than this change no pixel.
    for _ in 0..200 {
        let mut above: Option<&mut f64> = None;
        for here in &mut out {
            if let Some(above) = above {
                let missing = distance - (*here - *above);
                if missing > 0.0 {
                    *above -= missing / 2.0;
                    *here += missing / 2.0;
                }
            }
            above = Some(here);
        }
    }
    out
}

/// Rows that a picture of ratios has: times, of the union systems.
fn compared(report: &Report) -> Vec<&Measure> {
    report.rows(false).filter(|m| m.unit == Unit::Seconds).collect()
}

fn union(system: &System) -> bool {
    system.kind != Kind::Native
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn labels_keep_their_distance() {
        let out = apart(&[10.0, 11.0, 12.0, 100.0], 19.0);
        assert!(out.windows(2).all(|w| w[1] - w[0] > 18.9), "{out:?}");
        assert_eq!(apart(&[10.0, 50.0], 19.0), [10.0, 50.0]);
        assert!(apart(&[], 19.0).is_empty());
    }

    #[test]
    fn pictures_show_who_was_measured() {
        let report = example();
        let picture = copyup(&report).unwrap();
        for part in [">cowlfs<", ">overlay<", ">1 GiB<", ">4 KiB<", ">1 ms<", "size of the file"] {
            assert!(picture.contains(part), "{part}");
        }
        assert!(!picture.contains(">native<"), "it has no copy-up");
        assert_eq!(picture.matches("<polyline").count(), 4, "two curves, two legends");
        assert!(walk(&report).is_none(), "nothing was measured");
        let ratios = bars(&report).unwrap();
        assert!(ratios.contains(">stat, cached<") && ratios.contains(">0.50<"), "{ratios}");
    }

    #[test]
    fn added_systems_have_colours_of_their_own() {
        let mut report = example();
        for name in ["block", "block@u", "mine"] {
            let mut system = report.systems[2].clone();
            system.name = name.into();
            report.systems.push(system);
        }
        let all: Vec<Style> = report.systems.iter().map(|s| style(&report, s)).collect();
        for (a, one) in all.iter().enumerate() {
            assert!(all.iter().skip(a + 1).all(|other| other != one), "{one:?} twice");
        }
    }
}
