//! A bar for each workload and system: its ratio to kernel overlayfs, on a logarithmic axis whose
//! middle is 1. To the left is faster.

use super::{FAINT, GRID, INK, TITLE, compared, style, union};
use crate::report::Report;
use crate::svg::{self, Anchor, Axis, Svg};
use crate::system::System;
use crate::table::ratio;

const WIDTH: f64 = 860.0;
const BAR: f64 = 9.0;
const GAP: f64 = 10.0;
/// Room for a number beside a bar.
const NUMBER: f64 = 46.0;

/// `None` when there is nothing to compare.
pub fn bars(report: &Report) -> Option<String> {
    let reference = report.reference()?;
    let systems: Vec<&System> =
        report.systems.iter().filter(|s| union(s) && s.name != reference.name).collect();
    let mut rows = Vec::new();
    for row in compared(report) {
        let ratios: Vec<(&System, f64)> = systems
            .iter()
            .filter_map(|s| Some((*s, report.ratio(&row.id, &s.name, &reference.name)?)))
            .collect();
        if !ratios.is_empty() {
            rows.push((row.label.as_str(), ratios));
        }
    }
    let all: Vec<f64> = rows.iter().flat_map(|(_, r)| r.iter().map(|(_, ratio)| *ratio)).collect();
    if all.is_empty() {
        return None;
    }
    let left = rows.iter().map(|(label, _)| svg::width(label)).fold(0.0, f64::max) + 22.0;
    let legend = Legend::new(&systems);
    let top = 58.0 + legend.height + 24.0;
    let height = top + rows.iter().map(|(_, r)| r.len() as f64 * BAR + GAP).sum::<f64>() + 20.0;
    let title = format!("Time as a multiple of {}'s (to the left is faster)", name(reference));
    let mut out = Svg::new(WIDTH, height);
    out.text((20.0, 29.0), &title, Anchor::Start, TITLE);
    legend.draw(&mut out, report);
    let (low, high) = all.iter().fold((1.0_f64, 1.0_f64), |(l, h), r| (l.min(*r), h.max(*r)));
    // A file's size makes some ratios a thousandth: beyond these the number tells.
    let (low, high) = (low.clamp(0.01, 0.5), high.clamp(2.0, 100.0));
    let x = Axis::log(low, high, left + NUMBER, WIDTH - 20.0 - NUMBER);
    // On a wide axis the powers of ten alone, lest numbers overlap.
    let wide = high / low > 60.0;
    for tick in [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
        let power = [0.01, 0.1, 1.0, 10.0, 100.0].contains(&tick);
        if tick < low * 0.999 || tick > high * 1.001 || (wide && !power) {
            continue;
        }
        let one = (tick - 1.0_f64).abs() < 1e-9;
        let at = x.at(tick);
        let (colour, width) = if one { (INK, 1.5) } else { (GRID, 1.0) };
        out.line((at, top - 6.0), (at, height - 16.0), colour, width);
        let label = format!("{tick}×");
        out.text((at, top - 11.0), &label, Anchor::Middle, &format!("fill=\"{FAINT}\""));
    }
    let mut y = top + GAP / 2.0;
    for (label, ratios) in &rows {
        let middle = y + ratios.len() as f64 * BAR / 2.0;
        out.text((left, middle + 4.5), label, Anchor::End, &format!("fill=\"{INK}\""));
        for (system, number) in ratios {
            bar(&mut out, report, system, *number, y, &x);
            y += BAR;
        }
        y += GAP;
    }
    Some(out.finish(&title))
}

fn bar(out: &mut Svg, report: &Report, system: &System, number: f64, y: f64, x: &Axis) {
    let style = style(report, system);
    let (one, end) = (x.at(1.0), x.at(number));
    let (from, width) =
        if end < one { (one - (one - end).max(1.0), one - end) } else { (one, end - one) };
    let tall = BAR - 1.5;
    out.bar(from, y, width.max(1.0), tall, style.colour);
    if !style.dash.is_empty() {
        // A lighter core marks what ran in a user namespace.
        out.bar(from, y + tall / 3.0, width.max(1.0), tall / 3.0, "#ffffff");
    }
    let (at, anchor) =
        if end < one { (end - 4.0, Anchor::End) } else { (end + 4.0, Anchor::Start) };
    let small = format!("font-size=\"9.5\" fill=\"{FAINT}\"");
    out.text((at, y + tall - 0.3), &ratio(number), anchor, &small);
}

fn name(system: &System) -> String {
    if system.name == "overlay" { "kernel overlayfs".into() } else { system.name.clone() }
}

/// Names with their colours, in lines that fit.
struct Legend<'a> {
    entries: Vec<(f64, f64, &'a System)>,
    height: f64,
}

impl<'a> Legend<'a> {
    fn new(systems: &[&'a System]) -> Legend<'a> {
        let (mut x, mut y) = (20.0, 50.0);
        let mut entries = Vec::new();
        for system in systems {
            let wide = svg::width(&system.name) + 46.0;
            if x + wide > WIDTH - 10.0 {
                x = 20.0;
                y += 20.0;
            }
            entries.push((x, y, *system));
            x += wide;
        }
        Legend { entries, height: y - 30.0 }
    }

    fn draw(&self, out: &mut Svg, report: &Report) {
        for (x, y, system) in &self.entries {
            let style = style(report, system);
            out.bar(*x, *y - 9.0, 22.0, 10.0, style.colour);
            if !style.dash.is_empty() {
                out.bar(*x, *y - 5.7, 22.0, 3.4, "#ffffff");
            }
            let text = format!("fill=\"{INK}\"");
            out.text((x + 28.0, *y), &system.name, Anchor::Start, &text);
        }
    }
}
