//! What a sequence of operations answered, line by line, to be compared between two filesystems.

use std::fmt::{Debug, Write as _};

/// A transcript.
#[derive(Debug, Default)]
pub struct Log {
    lines: Vec<String>,
}

impl Log {
    /// Notes what an operation answered.
    pub fn r<T: Debug>(&mut self, what: &str, answer: T) {
        let mut s = format!("{answer:?}");
        if s.len() > 400 {
            let sum = s.bytes().fold(0_u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
            s = format!("{} bytes of text, sum {sum:x}", s.len());
        }
        self.lines.push(format!("{what} = {s}"));
    }

    /// Notes whether an operation worked, for answers (descriptors) that differ by nature.
    pub fn ok<T, E: Debug>(&mut self, what: &str, answer: Result<T, E>) -> Option<T> {
        match answer {
            Ok(v) => {
                self.lines.push(format!("{what} = ok"));
                Some(v)
            }
            Err(e) => {
                self.lines.push(format!("{what} = {e:?}"));
                None
            }
        }
    }

    /// The lines that differ; `self` is what was wanted.
    pub fn diff(&self, got: &Log) -> String {
        let mut out = String::new();
        for i in 0..self.lines.len().max(got.lines.len()) {
            let none = "(nothing)".to_owned();
            let (w, g) = (self.lines.get(i).unwrap_or(&none), got.lines.get(i).unwrap_or(&none));
            if w != g {
                let _ = writeln!(out, "  want {w}\n  got  {g}");
            }
        }
        out
    }
}
