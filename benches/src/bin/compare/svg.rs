//! Writes SVG: shapes and text with fixed attributes, on an opaque panel, so that a picture looks
//! the same on a light and on a dark page.

use std::fmt::Write as _;

/// Widths of text are estimated by this share of the font size for each character.
const ASPECT: f64 = 0.56;
/// Font size of everything but titles, pixels.
pub const FONT: f64 = 13.0;

/// Where text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Centred.
    Middle,
    /// To the left.
    End,
}

/// A picture being drawn.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty panel of this many pixels.
    pub fn new(width: f64, height: f64) -> Svg {
        Svg { width, height, body: String::new() }
    }

    /// The finished file; the title is for who cannot see it.
    pub fn finish(self, title: &str) -> String {
        let (w, h) = (self.width, self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
             viewBox=\"0 0 {w} {h}\" role=\"img\" font-family=\"-apple-system, 'Segoe UI', Roboto, \
             'DejaVu Sans', Arial, sans-serif\" font-size=\"{FONT}\">\n<title>{}</title>\n\
             <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#ffffff\" \
             stroke=\"#d0d7de\"/>\n{}</svg>\n",
            escape(title),
            w - 1.0,
            h - 1.0,
            self.body
        )
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.put(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
             stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// A line through points; `dash` is empty for a solid one.
    pub fn path(&mut self, points: &[(f64, f64)], colour: &str, dash: &str) {
        let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash =
            if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-linejoin=\"round\"{dash}/>",
            list.join(" ")
        ));
    }

    /// A marker: each shape for another system, so that colour is not all there is.
    pub fn marker(&mut self, at: (f64, f64), shape: usize, colour: &str) {
        let (x, y) = at;
        match shape % 4 {
            0 => self.put(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
            )),
            1 => self.put(format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"/>",
                x - 3.5,
                y - 3.5
            )),
            2 => self.polygon(&[(x, y - 5.0), (x + 4.6, y + 3.5), (x - 4.6, y + 3.5)], colour),
            _ => {
                self.polygon(&[(x, y - 5.0), (x + 5.0, y), (x, y + 5.0), (x - 5.0, y)], colour);
            }
        }
    }

    fn polygon(&mut self, points: &[(f64, f64)], colour: &str) {
        let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.put(format_args!("<polygon points=\"{}\" fill=\"{colour}\"/>", list.join(" ")));
    }

    /// A filled rectangle.
    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{colour}\"/>"
        ));
    }

    /// Text at its baseline.
    pub fn text(&mut self, at: (f64, f64), text: &str, anchor: Anchor, style: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" {style}>{}</text>",
            at.0,
            at.1,
            escape(text)
        ));
    }

    /// Text that runs upwards, centred on its point.
    pub fn upwards(&mut self, at: (f64, f64), text: &str, style: &str) {
        let turn = format!("transform=\"rotate(-90 {:.1} {:.1})\" {style}", at.0, at.1);
        self.text(at, text, Anchor::Middle, &turn);
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _written = writeln!(self.body, "{element}");
    }
}

/// Estimated width of text, pixels.
pub fn width(text: &str) -> f64 {
    text.chars().count() as f64 * FONT * ASPECT
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An axis from a range of values to a range of pixels, linear or logarithmic.
#[derive(Debug, Clone)]
pub struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    log: bool,
}

impl Axis {
    /// A logarithmic one over whole decades around positive values.
    pub fn decades(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Axis {
        let (low, high) = values
            .filter(|v| *v > 0.0)
            .fold((f64::MAX, f64::MIN_POSITIVE), |(l, h), v| (l.min(v), h.max(v)));
        let low = if low == f64::MAX { high } else { low };
        let (from, mut to) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
        if from >= to {
            to = from * 10.0;
        }
        Axis { from, to, start, end, log: true }
    }

    /// A logarithmic one over exactly this range.
    pub fn log(from: f64, to: f64, start: f64, end: f64) -> Axis {
        Axis { from, to: if to > from { to } else { from * 2.0 }, start, end, log: true }
    }

    /// The pixel of a value, inside the axis.
    pub fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.from, self.to);
        let share = if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start + (self.end - self.start) * share
    }

    /// Every power of ten on it.
    pub fn powers(&self) -> Vec<f64> {
        let (low, high) = (self.from.log10().ceil() as i32, self.to.log10().floor() as i32);
        // Rounded: 10^-6 is a little more than 1e-6 otherwise.
        (low..=high).map(|e| format!("1e{e}").parse().unwrap_or(1.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_hold_all_values() {
        let axis = Axis::decades([3e-4, 0.7].into_iter(), 0.0, 400.0);
        assert_eq!(axis.powers(), [1e-4, 1e-3, 1e-2, 0.1, 1.0]);
        assert_eq!(axis.at(1e-4), 0.0);
        assert!((axis.at(1e-2) - 200.0).abs() < 1e-9);
        assert!((axis.at(1.0) - 400.0).abs() < 1e-9);
        assert!((axis.at(50.0) - 400.0).abs() < 1e-9, "clamped");
        // No values, or one on a power of ten: still an axis.
        for values in [vec![], vec![1.0]] {
            let axis = Axis::decades(values.into_iter(), 0.0, 1.0);
            assert!(axis.at(1.0).is_finite());
        }
    }

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((1.0, 2.0), "a<b & c", Anchor::End, "");
        let out = svg.finish("x > y");
        assert!(out.contains(">a&lt;b &amp; c</text>") && out.contains("<title>x &gt; y</title>"));
        assert!(out.starts_with("<svg ") && out.ends_with("</svg>\n"));
    }
}
