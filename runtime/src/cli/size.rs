//! Numbers of bytes in Docker's words: powers of 1000.

const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// Three digits, as in lists: `74.8MB`.
pub fn short(bytes: u64) -> String {
    digits(bytes, 3)
}

/// Four digits, as in sums: `74.81MB`.
pub fn long(bytes: u64) -> String {
    digits(bytes, 4)
}

fn digits(bytes: u64, count: usize) -> String {
    let mut value = bytes as f64;
    for (index, unit) in UNITS.iter().enumerate() {
        // What would round to 1000 belongs to the next unit.
        let decimals = match value {
            _ if index == 0 => 0,
            value if value < 9.995 => count - 1,
            value if value < 99.95 => count - 2,
            _ => count - 3,
        };
        let mut text = format!("{value:.decimals$}");
        let rounded: f64 = text.parse().unwrap_or(value);
        if rounded < 1000.0 || index + 1 == UNITS.len() {
            if text.contains('.') {
                let end = text.trim_end_matches('0').trim_end_matches('.').len();
                text.truncate(end);
            }
            return text + unit;
        }
        value /= 1000.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_261_502, "4.26MB"),
            (74_806_934, "74.8MB"),
            (117_000_000, "117MB"),
            (999_999, "1MB"),
            (1_100_000_000, "1.1GB"),
        ] {
            assert_eq!(short(bytes), text);
        }
        for (bytes, text) in [(0, "0B"), (1234, "1.234kB"), (74_806_934, "74.81MB")] {
            assert_eq!(long(bytes), text);
        }
    }
}
