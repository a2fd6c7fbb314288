//! Amounts as people write them: bytes with a unit, limits of processes, processors.

/// Not an amount.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number of bytes.
    #[error("invalid size: '{0}': give a number and one of b, k, m, g, t")]
    Bytes(String),
    /// Not a number of processors.
    #[error("failed to parse {0} as a rational number")]
    Cpus(String),
    /// Not `NAME=SOFT[:HARD]`.
    #[error("invalid ulimit argument: {0}: give NAME=SOFT or NAME=SOFT:HARD")]
    Ulimit(String),
    /// No such limit.
    #[error("invalid ulimit type: {0}")]
    UlimitName(String),
    /// The soft limit is above the hard one.
    #[error("ulimit soft limit must be less than or equal to hard limit: {0}")]
    UlimitOrder(String),
}

/// Bytes: `64m`, `1.5GiB`, `4096`.
pub fn bytes(text: &str) -> Result<u64, Error> {
    let bad = || Error::Bytes(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let shift = match lower.get(number.len()..).unwrap_or_default().trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let fraction: f64 = number.parse().map_err(|_| bad())?;
    let value = fraction * (1u64 << shift) as f64;
    if !(0.0..9e18).contains(&value) {
        return Err(bad());
    }
    Ok(value as u64)
}

/// Processors in billionths: `1.5`.
pub fn nano_cpus(text: &str) -> Result<u64, Error> {
    let bad = || Error::Cpus(text.to_owned());
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + part.len() == 0 || part.len() > 9 || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let part: u64 = format!("{part:0<9}").parse().map_err(|_| bad())?;
    whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(part)).ok_or_else(bad)
}

/// Docker's names of limits, and their numbers in asm-generic/resource.h.
const LIMITS: [(&str, u32); 15] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// The number of a limit.
pub fn limit_number(name: &str) -> Option<u32> {
    LIMITS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// `NAME=SOFT[:HARD]`; -1 is no limit.
pub fn ulimit(text: &str) -> Result<(String, u64, u64), Error> {
    let bad = || Error::Ulimit(text.to_owned());
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    if limit_number(name).is_none() {
        return Err(Error::UlimitName(name.to_owned()));
    }
    let value = |text: &str| match text.parse::<i64>() {
        Ok(-1) => Ok(u64::MAX),
        Ok(number) => u64::try_from(number).map_err(|_| bad()),
        Err(_) => Err(bad()),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    if soft > hard {
        return Err(Error::UlimitOrder(text.to_owned()));
    }
    Ok((name.to_owned(), soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("1b", 1),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2 k", 2048),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1mm", "99999999999t", "nan", "inf", "1e30g"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".000000001"), Ok(1));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        for bad in ["", ".", "x", "-1", "1.0000000001", "99999999999999"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_of_processes() {
        assert_eq!(ulimit("nofile=5:6"), Ok(("nofile".into(), 5, 6)));
        assert_eq!(ulimit("core=-1"), Ok(("core".into(), u64::MAX, u64::MAX)));
        assert_eq!(ulimit("x=5"), Err(Error::UlimitName("x".into())));
        for bad in ["nofile", "nofile=", "nofile=5:", "nofile=-2", "nofile=6:5"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }
}
