//! Writing, in the monitor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::entry::{self, Stream};
use super::rotated;
use crate::image::moment;

/// The longest entry: a longer line is cut into pieces of this size, as in Docker.
const PIECE: usize = 16 * 1024;

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// When a file is full.
    pub max_size: Option<u64>,
    /// How many files there are, the newest included.
    pub max_files: u32,
}

impl Limits {
    /// Everything.
    pub const NONE: Self = Self { max_size: None, max_files: 1 };
}

/// An open log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    limits: Limits,
    /// The beginnings of lines that have not ended yet: stdout's, stderr's.
    begun: [Vec<u8>; 2],
    /// What is to be written.
    text: Vec<u8>,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Writer {
    /// Opens the log at `path`, at its end. Half a line that a killed monitor left is closed off.
    pub fn open(path: PathBuf, limits: Limits) -> io::Result<Self> {
        let mut file = open(&path)?;
        let mut size = file.metadata()?.len();
        if size > 0 && !ends_with_newline(&path, size)? {
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok(Self { path, file, size, limits, begun: Default::default(), text: Vec::new() })
    }

    /// Takes down what was read from a stream.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let time = now();
        let [out, err] = &mut self.begun;
        let begun = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        while !bytes.is_empty() {
            let room = PIECE.saturating_sub(begun.len());
            let piece = bytes.get(..room).unwrap_or(bytes);
            let line = piece.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let (head, tail) = bytes.split_at(line.unwrap_or(piece.len()));
            bytes = tail;
            if begun.is_empty() && (line.is_some() || head.len() == PIECE) {
                entry::write(&mut self.text, stream, &time, head);
                continue;
            }
            begun.extend_from_slice(head);
            if line.is_some() || begun.len() >= PIECE {
                entry::write(&mut self.text, stream, &time, begun);
                begun.clear();
            }
        }
        self.put()
    }

    /// Takes down the lines that will not end any more.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = now();
        for (stream, begun) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut self.begun) {
            if !begun.is_empty() {
                entry::write(&mut self.text, stream, &time, begun);
                *begun = Vec::new();
            }
        }
        self.put()
    }

    fn put(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.text);
        self.size = self.size.saturating_add(self.text.len() as u64);
        self.text.clear();
        if self.text.capacity() > 8 * PIECE {
            self.text = Vec::new(); // a monitor is small again after a storm
        }
        written?;
        if self.limits.max_size.is_some_and(|max| self.size >= max) {
            self.rotate()?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.limits.max_files <= 1 {
            fs::remove_file(&self.path)?;
        } else {
            for number in (0..self.limits.max_files - 1).rev() {
                match fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn ends_with_newline(path: &Path, size: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, size - 1)?;
    Ok(last == [b'\n'])
}

fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    moment::format(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    fn read(path: &Path) -> Vec<(Stream, Vec<u8>)> {
        let mut reader = Reader::open(path).unwrap();
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            all.push((entry.stream, entry.bytes));
        }
        all
    }

    #[test]
    fn lines_are_entries_whatever_pieces_they_come_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::open(path.clone(), Limits::NONE).unwrap();
        writer.write(Stream::Stdout, b"one\ntw").unwrap();
        writer.write(Stream::Stderr, b"bad\n").unwrap();
        writer.write(Stream::Stdout, b"o\nthree").unwrap();
        writer.finish().unwrap();
        let expected = [
            (Stream::Stdout, b"one\n".to_vec()),
            (Stream::Stderr, b"bad\n".to_vec()),
            (Stream::Stdout, b"two\n".to_vec()),
            (Stream::Stdout, b"three".to_vec()),
        ];
        assert_eq!(read(&path), expected);
    }

    #[test]
    fn long_lines_are_cut_and_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let data: Vec<u8> = (0..100_000u32).map(|n| b'a' + (n % 26) as u8).collect();
        for chunk in [1000, PIECE, 70_000] {
            fs::remove_file(&path).ok();
            let mut writer = Writer::open(path.clone(), Limits::NONE).unwrap();
            for part in data.chunks(chunk) {
                writer.write(Stream::Stdout, part).unwrap();
            }
            writer.finish().unwrap();
            let entries = read(&path);
            assert_eq!(entries.len(), data.len().div_ceil(PIECE));
            assert_eq!(entries.concat_bytes(), data);
        }
    }

    trait Concat {
        fn concat_bytes(&self) -> Vec<u8>;
    }
    impl Concat for Vec<(Stream, Vec<u8>)> {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
        }
    }

    #[test]
    fn full_files_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let limits = Limits { max_size: Some(500), max_files: 3 };
        let mut writer = Writer::open(path.clone(), limits).unwrap();
        for number in 0..100 {
            writer.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        let entries = read(&path);
        assert!((10..30).contains(&entries.len()), "{}", entries.len());
        assert_eq!(entries.last().unwrap().1, b"line 99\n");
        let numbers: Vec<usize> = entries
            .iter()
            .map(|(_, bytes)| {
                String::from_utf8_lossy(bytes).trim().rsplit(' ').next().unwrap().parse().unwrap()
            })
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    }

    #[test]
    fn half_a_line_of_a_killed_monitor_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::open(path.clone(), Limits::NONE).unwrap();
        writer.write(Stream::Stdout, b"one\n").unwrap();
        drop(writer);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"log\":\"hal").unwrap();
        let mut writer = Writer::open(path.clone(), Limits::NONE).unwrap();
        writer.write(Stream::Stdout, b"two\n").unwrap();
        assert_eq!(read(&path).concat_bytes(), b"one\ntwo\n");
    }
}
