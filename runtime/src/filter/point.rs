//! Points in time as users give them to `--since`, `--until` and the filter `until`.
//!
//! A span counts back from now (`10m`, `1h30m`, `1.5s`); a number is seconds since 1970
//! (`1700000000.25`); a date is RFC 3339 or the start of it (`2024-01-31`, `2024-01-31T12:00`),
//! in UTC unless it names an offset.

use crate::image::moment;

/// Nanoseconds in a second.
const SECOND: i128 = 1_000_000_000;

/// Nanoseconds since 1970; `now` is where spans count from. `None`: it is no point in time.
pub fn parse(text: &str, now: i128) -> Option<i128> {
    if let Some(span) = span(text) {
        return now.checked_sub(span);
    }
    if let Some(seconds) = decimal(text, SECOND) {
        return Some(seconds);
    }
    date(text)
}

/// A Go duration in nanoseconds.
pub fn span(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let unit = match unit {
            "h" => 3600 * SECOND,
            "m" => 60 * SECOND,
            "s" => SECOND,
            "ms" => SECOND / 1000,
            "us" | "µs" | "μs" => 1000,
            "ns" => 1,
            _ => return None,
        };
        total = total.checked_add(decimal(number, unit)?)?;
        rest = after;
    }
    Some(sign * total)
}

/// A decimal number of units.
fn decimal(text: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()?.into() };
    let fraction = fraction.get(..fraction.len().min(12))?;
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole.checked_mul(unit)?.checked_add(part * unit / scale)
}

fn date(text: &str) -> Option<i128> {
    let missing = match text.len() {
        10 => "T00:00:00Z",
        13 => ":00:00Z",
        16 => ":00Z",
        _ => "",
    };
    let full = format!("{text}{missing}");
    moment::nanoseconds(&full).or_else(|| moment::nanoseconds(&format!("{full}Z")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_as_docker_takes_them() {
        let now = 1_000_000 * SECOND;
        for (text, expected) in [
            ("10s", Some(now - 10 * SECOND)),
            ("1h30m", Some(now - 5400 * SECOND)),
            ("1.5s", Some(now - 1_500_000_000)),
            ("250ms", Some(now - 250_000_000)),
            ("-5s", Some(now + 5 * SECOND)),
            ("0", Some(now)),
            ("12", Some(12 * SECOND)),
            ("12.25", Some(12_250_000_000)),
            ("1970-01-02", Some(86_400 * SECOND)),
            ("1970-01-01T01:00", Some(3600 * SECOND)),
            ("1970-01-01T01:00:01", Some(3601 * SECOND)),
            ("1970-01-01T01:00:01.5", Some(3601 * SECOND + SECOND / 2)),
            ("1970-01-01T01:00:01.5+01:00", Some(SECOND + SECOND / 2)),
            ("1970-01-01T01:00:00Z", Some(3600 * SECOND)),
            ("", None),
            ("-", None),
            ("10", Some(10 * SECOND)),
            ("10x", None),
            ("s", None),
            ("1..5s", None),
            ("yesterday", None),
            ("1970-13-01", None),
            ("é", None),
        ] {
            assert_eq!(parse(text, now), expected, "{text}");
        }
    }
}
