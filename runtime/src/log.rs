//! What a container wrote: a file of one JSON object a line, as Docker's json-file.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-31T12:34:56.000000789Z"}
//! ```
//!
//! An entry is a line, or a piece of a very long one. Bytes that are not text are kept, although
//! JSON has no place for them: one or few in an entry become the escapes `\udc80` to `\udcff`
//! (lone surrogates, which no text has, and which other readers show as U+FFFD); an entry with
//! many is written as base64 under `raw`, with an empty `log`.
//!
//! With a largest size, the file is renamed to `….1` when it is full, `….1` to `….2` and so on,
//! and the oldest beyond the number of files goes.
//!
//! A monitor that is killed leaves at worst half a line at the end, which readers pass over.

pub mod entry;
pub mod reader;
pub mod writer;

use std::path::{Path, PathBuf};

pub use entry::{Entry, Stream};
pub use reader::Reader;
pub use writer::{Limits, Writer};

/// The file's name in a container's directory: Docker's.
pub fn place(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}-json.log"))
}

/// An older file's name.
fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}
