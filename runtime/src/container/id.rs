//! Container ids: 64 hexadecimal digits, shown as the first twelve.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// How many digits people are shown.
const SHORT: usize = 12;

/// A container's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(String);

/// `N` random bytes from the kernel.
pub(super) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl ContainerId {
    /// A new one.
    pub fn random() -> io::Result<Self> {
        loop {
            let digits: String =
                random_bytes::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
            // As Docker: a short id that is all decimal would be a number as a host name.
            if digits.chars().take(SHORT).any(|digit| !digit.is_ascii_digit()) {
                return Ok(Self(digits));
            }
        }
    }

    /// Reads a full id.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (text.len() == 64 && hex).then(|| Self(text.to_owned()))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The twelve digits shown to people.
    pub fn short(&self) -> &str {
        self.0.get(..SHORT).unwrap_or(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_lower_case_digits() {
        let id = ContainerId::random().unwrap();
        assert_eq!(ContainerId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(id.short().len(), 12);
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65)] {
            assert_eq!(ContainerId::parse(bad), None, "{bad}");
        }
    }
}
