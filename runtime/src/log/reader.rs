//! Reading, also of a log that grows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Entry, rotated};

/// How much is read at a time when looking for the last lines.
const BLOCK: u64 = 64 * 1024;

/// Reads entries from the oldest on.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// The files that are still to be read, the oldest first; the last one grows.
    files: VecDeque<BufReader<File>>,
    /// A line whose end has not been written yet.
    begun: Vec<u8>,
}

impl Reader {
    /// Opens the log at `path`; one that does not exist (yet) is empty.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut files = VecDeque::new();
        for number in 0u32.. {
            match File::open(rotated(path, number)) {
                Ok(file) => files.push_front(BufReader::new(file)),
                // The newest is missing for a moment while it is rotated.
                Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { path: path.to_owned(), files, begun: Vec::new() })
    }

    /// Leaves only the last `count` entries to be read.
    pub fn tail(&mut self, count: u64) -> io::Result<()> {
        let mut left = count;
        let mut keep = 0;
        for file in self.files.iter_mut().rev() {
            keep += 1;
            let (start, found) = last_lines(file.get_ref(), left)?;
            file.seek(SeekFrom::Start(start))?;
            left -= found;
            if left == 0 {
                break;
            }
        }
        while self.files.len() > keep.max(1) {
            self.files.pop_front();
        }
        Ok(())
    }

    /// The next entry; none when there is no more for now. What is not an entry is passed over.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let Some(file) = self.files.front_mut() else {
                match File::open(&self.path) {
                    Ok(file) => self.files.push_back(BufReader::new(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
                continue;
            };
            file.read_until(b'\n', &mut self.begun)?;
            if self.begun.ends_with(b"\n") {
                let parsed = Entry::parse(&self.begun);
                self.begun.clear();
                if let Ok(entry) = parsed {
                    return Ok(Some(entry));
                }
            } else if self.files.len() > 1 {
                self.begun.clear();
                self.files.pop_front();
            } else if !self.newer()? {
                return Ok(None);
            }
        }
    }

    /// Whether the file that was the newest has been rotated away and is read to its end: then
    /// the newer ones follow.
    fn newer(&mut self) -> io::Result<bool> {
        let Some(current) = self.files.front() else { return Ok(false) };
        let current = current.get_ref().metadata()?;
        let same = |file: &File| {
            file.metadata()
                .map(|found| (found.dev(), found.ino()) == (current.dev(), current.ino()))
        };
        let mut newer = Vec::new();
        for number in 0u32.. {
            match File::open(rotated(&self.path, number)) {
                Ok(file) if same(&file)? => break,
                Ok(file) => newer.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if number == 0 {
                        return Ok(false);
                    }
                    break; // ours has been removed
                }
                Err(error) => return Err(error),
            }
        }
        if newer.is_empty() {
            return Ok(false);
        }
        // It may have grown between our reading and its being rotated.
        if let Some(file) = self.files.front_mut()
            && !file.fill_buf()?.is_empty()
        {
            return Ok(true);
        }
        self.begun.clear();
        self.files = newer.into_iter().rev().map(BufReader::new).collect();
        Ok(true)
    }
}

/// Where the last `count` lines of a file begin, and how many there are.
fn last_lines(file: &File, count: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    if count == 0 {
        return Ok((end, 0));
    }
    // The newline that ends the last line does not begin another one.
    let mut found = 0;
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
    let mut last = true;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let length = usize::try_from(end - start).unwrap_or(0);
        let Some(part) = block.get_mut(..length) else { break };
        file.read_exact_at(part, start)?;
        for (at, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' && !std::mem::take(&mut last) {
                found += 1;
                if found == count {
                    return Ok((start + at as u64 + 1, found));
                }
            }
            last = false;
        }
        end = start;
    }
    let any = file.metadata()?.len() > 0;
    Ok((0, found + u64::from(any)))
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Stream, Writer};
    use super::*;

    fn texts(reader: &mut Reader) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            all.push(String::from_utf8(entry.bytes).unwrap().trim().to_owned());
        }
        all
    }

    #[test]
    fn the_last_lines_over_files_and_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(texts(&mut Reader::open(&path).unwrap()).is_empty());
        for max_size in [None, Some(100_000)] {
            std::fs::remove_file(&path).ok();
            let limits = Limits { max_size, max_files: 9 };
            let mut writer = Writer::open(path.clone(), limits).unwrap();
            for number in 0..4000 {
                writer.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
            }
            for count in [0u64, 1, 2, 999, 2500, 4000, 9000] {
                let mut reader = Reader::open(&path).unwrap();
                reader.tail(count).unwrap();
                let got = texts(&mut reader);
                let expected = usize::try_from(count).unwrap().min(4000);
                assert_eq!(got.len(), expected, "{max_size:?}");
                if expected > 0 {
                    assert_eq!(got[0], format!("line {}", 4000 - expected));
                    assert_eq!(got[expected - 1], "line 3999");
                }
            }
        }
    }

    #[test]
    fn a_growing_log_is_followed_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut reader = Reader::open(&path).unwrap();
        assert!(texts(&mut reader).is_empty());
        let limits = Limits { max_size: Some(300), max_files: 8 };
        let mut writer = Writer::open(path.clone(), limits).unwrap();
        let mut got = Vec::new();
        for number in 0..200 {
            writer.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
            // Not after each: several files may have come meanwhile.
            if number % 7 == 0 {
                got.extend(texts(&mut reader));
            }
        }
        got.extend(texts(&mut reader));
        assert_eq!(got, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
