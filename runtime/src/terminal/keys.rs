//! The keys that part a terminal from its container: Ctrl-P Ctrl-Q, unless others are wanted.

/// Docker's: Ctrl-P Ctrl-Q.
const DEFAULT: [u8; 2] = [0x10, 0x11];

/// A sequence that is looked for in what is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachKeys {
    sequence: Vec<u8>,
    /// How much of it has been typed.
    matched: usize,
}

/// Keys that are none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid detach keys ({0}) provided: give keys with commas between them, each a letter or \
     ctrl- with one of a-z @ [ \\ ] ^ _"
)]
pub struct BadKeys(String);

impl Default for DetachKeys {
    fn default() -> Self {
        Self { sequence: DEFAULT.to_vec(), matched: 0 }
    }
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`. Empty for the default.
    pub fn parse(text: &str) -> Result<Self, BadKeys> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || BadKeys(text.to_owned());
        let key = |key: &str| match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([byte], _) if byte.is_ascii_graphic() || *byte == b' ' => Some(*byte),
            (_, Some([b'@'])) => Some(0),
            (_, Some([letter @ (b'a'..=b'z' | b'A'..=b'Z')])) => Some(letter & 0x1f),
            (_, Some([sign @ b'['..=b'_'])) => Some(sign & 0x1f),
            _ => None,
        };
        let sequence = text.split(',').map(key).collect::<Option<Vec<u8>>>().ok_or_else(bad)?;
        Ok(Self { sequence, matched: 0 })
    }

    /// Looks through what was typed: appends to `out` what goes to the container, and is true
    /// when the sequence is complete. What may be its beginning is held back.
    pub fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.sequence.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    self.matched = 0;
                    return true;
                }
                continue;
            }
            // Not it: what was held back goes; this byte may begin it anew.
            out.extend_from_slice(self.sequence.get(..self.matched).unwrap_or_default());
            self.matched = 0;
            if self.sequence.first() == Some(byte) && self.sequence.len() > 1 {
                self.matched = 1;
            } else {
                out.push(*byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_in_docker() {
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q"), Ok(DetachKeys::default()));
        assert_eq!(DetachKeys::parse(""), Ok(DetachKeys::default()));
        assert_eq!(DetachKeys::parse("a").unwrap().sequence, b"a");
        assert_eq!(
            DetachKeys::parse("ctrl-@,ctrl-[,ctrl-_,ctrl-\\").unwrap().sequence,
            [0, 27, 31, 28]
        );
        for bad in [",", "a,", "ctrl-", "ctrl-1", "ab", "ctrl-ab", "ä"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sequence_is_found_and_nothing_else_is_lost() {
        let mut keys = DetachKeys::default();
        let mut out = Vec::new();
        assert!(!keys.filter(b"ls\n\x10x", &mut out));
        assert_eq!(out, b"ls\n\x10x");
        out.clear();
        assert!(!keys.filter(b"\x10", &mut out));
        assert!(out.is_empty());
        assert!(!keys.filter(b"\x10", &mut out));
        assert_eq!(out, b"\x10");
        assert!(keys.filter(b"\x11", &mut out));
        assert_eq!(out, b"\x10");
        let mut one = DetachKeys::parse("q").unwrap();
        out.clear();
        assert!(one.filter(b"abq", &mut out));
        assert_eq!(out, b"ab");
    }
}
