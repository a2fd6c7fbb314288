//! One entry as JSON, and back.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

/// Which stream of PID 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Its stdout; everything, when it has a terminal.
    Stdout,
    /// Its stderr.
    Stderr,
}

impl Stream {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line, with its end where it has one, or a piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it was written to.
    pub stream: Stream,
    /// When it was read, as RFC 3339 in UTC with nanoseconds.
    pub time: String,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// When more than one byte in this many is not text, the entry is kept as base64.
const FEW: usize = 16;

/// Begins the sequences by which terminals are controlled (ECMA-48).
const ESCAPE: u8 = 0x1b;

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_digit(value: u8) -> u8 {
    HEX.get(usize::from(value & 15)).copied().unwrap_or(b'0')
}

/// Appends the JSON line for `bytes`.
pub fn write(into: &mut Vec<u8>, stream: Stream, time: &str, bytes: &[u8]) {
    let start = into.len();
    into.extend_from_slice(b"{\"log\":\"");
    if !escape(into, bytes) {
        into.truncate(start);
        into.extend_from_slice(b"{\"log\":\"\",\"raw\":\"");
        base64(into, bytes);
    }
    into.extend_from_slice(b"\",\"stream\":\"");
    into.extend_from_slice(stream.word().as_bytes());
    into.extend_from_slice(b"\",\"time\":\"");
    into.extend_from_slice(time.as_bytes());
    into.extend_from_slice(b"\"}\n");
}

/// Appends text as the inside of a JSON string; false when too much of it is not text.
fn escape(into: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let mut odd = 0usize;
    let most = bytes.len().max(FEW) / FEW;
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut plain = 0;
        for (at, byte) in text.iter().enumerate() {
            let short = match byte {
                b'"' => b'"',
                b'\\' => b'\\',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0..0x20 => b'u',
                _ => continue,
            };
            into.extend_from_slice(text.get(plain..at).unwrap_or_default());
            plain = at + 1;
            into.extend_from_slice(&[b'\\', short]);
            if short == b'u' {
                into.extend_from_slice(&[b'0', b'0', hex_digit(byte >> 4), hex_digit(*byte)]);
                // Colours of a terminal are text, however many there are.
                odd += usize::from(*byte != ESCAPE);
                if odd > most {
                    return false; // before megabytes of zeros have become six times as many
                }
            }
        }
        into.extend_from_slice(text.get(plain..).unwrap_or_default());
        for byte in chunk.invalid() {
            odd += 1;
            into.extend_from_slice(b"\\udc");
            into.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(*byte)]);
        }
        if odd > most {
            return false;
        }
    }
    true
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(into: &mut Vec<u8>, bytes: &[u8]) {
    for three in bytes.chunks(3) {
        let mut padded = [0u8; 3];
        for (to, from) in padded.iter_mut().zip(three) {
            *to = *from;
        }
        let [a, b, c] = padded;
        let sextets = [a >> 2, (a & 3) << 4 | b >> 4, (b & 15) << 2 | c >> 6, c & 63];
        for (at, sextet) in sextets.into_iter().enumerate() {
            let digit = ALPHABET.get(usize::from(sextet)).copied().unwrap_or(b'A');
            into.push(if at <= three.len() { digit } else { b'=' });
        }
    }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut held, mut bits) = (0u32, 0);
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

/// The bytes of a JSON string in which lone surrogates stand for bytes.
struct Text(Vec<u8>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Text;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.as_bytes().to_vec()))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(unescape(bytes)))
            }
        }
        deserializer.deserialize_bytes(Read)
    }
}

/// The parser gives a lone surrogate in the three bytes that UTF-8 would have for it: U+DC80 to
/// U+DCBF begin with `ed b2`, U+DCC0 to U+DCFF with `ed b3`.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match rest {
            [0xed, 0xb2, low @ 0x80..=0xbf, tail @ ..] => {
                out.push(*low);
                rest = tail;
            }
            [0xed, 0xb3, low @ 0x80..=0xbf, tail @ ..] => {
                out.push(low + 0x40);
                rest = tail;
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                rest = tail;
            }
            [] => return out,
        }
    }
}

#[derive(serde::Deserialize)]
struct Line {
    log: Text,
    #[serde(default)]
    raw: Option<String>,
    stream: Stream,
    time: String,
}

impl Entry {
    /// Reads a line of the file.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        let Line { log, raw, stream, time } = serde_json::from_slice(line)?;
        let bytes = match raw {
            None => log.0,
            Some(text) => {
                from_base64(&text).ok_or_else(|| serde_json::Error::custom("bad base64"))?
            }
        };
        Ok(Self { stream, time, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write(&mut out, Stream::Stderr, "t", bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_are_dockers() {
        assert_eq!(
            line(b"a \"b\"\\\t\x1b[0m\xc3\xa4\n"),
            "{\"log\":\"a \\\"b\\\"\\\\\\t\\u001b[0m\u{e4}\\n\",\"stream\":\"stderr\",\"time\":\"t\"}\n"
        );
        assert!(line(b"one bad byte in many \xff, which is kept").contains("\\udcff"));
        assert!(line(b"\xff\xfe").contains("\"raw\":\"//4=\""));
    }

    #[test]
    fn what_is_no_text_does_not_grow_much() {
        let zeros = vec![0u8; 100_000];
        let text = line(&zeros);
        assert!(text.len() < 140_000, "{}", text.len());
        assert_eq!(Entry::parse(text.as_bytes()).unwrap().bytes, zeros);
        let colours = b"\x1b[1mbold\x1b[0m\n".repeat(100);
        assert!(line(&colours).contains("\\u001b[1mbold"));
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut cases: Vec<Vec<u8>> = vec![all, Vec::new(), b"plain\n".to_vec()];
        for byte in 0..=255 {
            cases.push(format!("{}x", "some text of a line, ".repeat(3)).into_bytes());
            cases.last_mut().unwrap().push(byte);
            cases.push(vec![byte]);
        }
        for length in 0..8 {
            cases.push([0xf0, 0x9f, 0x98, 0x80, 0xff, 0xed, 0xb2, 0x80][..length].to_vec());
        }
        for case in cases {
            let entry = Entry::parse(line(&case).as_bytes()).unwrap();
            assert_eq!(entry.bytes, case);
            assert_eq!(entry.stream, Stream::Stderr);
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bad in [
            "",
            "{}",
            "{\"log\":\"x\"",
            "[]",
            "{\"log\":\"\",\"raw\":\"*\",\"stream\":\"stdout\",\"time\":\"\"}",
        ] {
            assert!(Entry::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
