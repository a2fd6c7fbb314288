//! Writing tar archives: ustar headers, and PAX records for what those cannot say.
//!
//! What is written reads back as the same [`Entry`]: names are bytes, times have nanoseconds, owners
//! 32 bits, files their holes (GNU's PAX form 1.0, which Go's and GNU's readers know).

use std::io::{self, Write};

use super::header::BLOCK;
use super::{Entry, Kind, Time};

/// Longest name that fits into a header.
const NAME: usize = 100;
/// Largest number in a header's eight-byte fields: seven octal digits.
const MAX_SMALL: u64 = 0o777_7777;
/// Largest number in a header's twelve-byte fields: eleven octal digits.
const MAX_LARGE: u64 = 0o777_7777_7777;

/// Writes the entries of an archive one after the other.
pub struct TarWriter<W> {
    output: W,
    /// Data of the current file that is still to come.
    remaining: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    /// An archive at its start.
    pub fn new(output: W) -> Self {
        TarWriter { output, remaining: 0, padding: 0 }
    }

    /// Begins an entry. The data of a file follow through [`TarWriter::data`]: all of it, or, where
    /// `entry.sparse` says where data lie, those pieces one after the other.
    ///
    /// # Errors
    /// The output's, and when the last file's data are not complete.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_file()?;
        let sparse = entry.sparse.as_ref().filter(|_| entry.kind == Kind::File);
        let map = sparse.map(|map| {
            let mut text = format!("{}\n", map.len());
            for segment in map {
                text.push_str(&format!("{}\n{}\n", segment.offset, segment.length));
            }
            let mut text = text.into_bytes();
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            text
        });
        let data = match (entry.kind, sparse) {
            (Kind::File, Some(map)) => map.iter().map(|segment| segment.length).sum(),
            (Kind::File, None) => entry.size,
            _ => 0,
        };
        let map = map.unwrap_or_default();
        let stored = data + map.len() as u64;
        let records = records(entry, stored);
        if !records.is_empty() {
            let head = Fields { kind: b'x', size: records.len() as u64, ..Fields::default() };
            self.output.write_all(&head.block(b"PaxHeaders/entry", b""))?;
            self.output.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::CharDevice => b'3',
            Kind::BlockDevice => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        let fields = Fields {
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: stored,
            mtime: entry.mtime.seconds,
            device: entry.device,
        };
        let name = if sparse.is_some() { b"GNUSparseFile.0/file" } else { entry.path.as_slice() };
        self.output.write_all(&fields.block(name, &entry.link))?;
        self.output.write_all(&map)?;
        self.remaining = data;
        self.padding = padding(data);
        Ok(())
    }

    /// Writes a piece of the current file's data.
    ///
    /// # Errors
    /// The output's, and when it is more than the entry said.
    pub fn data(&mut self, piece: &[u8]) -> io::Result<()> {
        self.remaining = self
            .remaining
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| io::Error::other("a file grew while it was read"))?;
        self.output.write_all(piece)
    }

    /// Writes the end marker and returns the output.
    ///
    /// # Errors
    /// The output's, and when the last file's data are not complete.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_file()?;
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn end_file(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(io::Error::other("a file became shorter while it was read"));
        }
        let zeros = [0; BLOCK];
        self.output.write_all(zeros.get(..self.padding).unwrap_or(&[]))?;
        self.padding = 0;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.padding = padding(size);
        self.end_file()
    }
}

fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0)
}

/// What does not fit into the header, as PAX records.
fn records(entry: &Entry, stored: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        records.extend_from_slice(format!("{length} ").as_bytes());
        records.extend_from_slice(key);
        records.push(b'=');
        records.extend_from_slice(value);
        records.push(b'\n');
    };
    if let Some(map) = entry.sparse.as_ref().filter(|_| entry.kind == Kind::File) {
        add(b"GNU.sparse.major", b"1");
        add(b"GNU.sparse.minor", b"0");
        add(b"GNU.sparse.name", &entry.path);
        add(b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
        debug_assert!(map.iter().all(|segment| segment.offset <= entry.size));
    } else if entry.path.len() > NAME {
        add(b"path", &entry.path);
    }
    if entry.link.len() > NAME {
        add(b"linkpath", &entry.link);
    }
    if stored > MAX_LARGE {
        add(b"size", stored.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > MAX_SMALL {
            add(key, id.to_string().as_bytes());
        }
    }
    let plain = u64::try_from(entry.mtime.seconds).is_ok_and(|seconds| seconds <= MAX_LARGE);
    if !plain || entry.mtime.nanoseconds != 0 {
        add(b"mtime", time(entry.mtime).as_bytes());
    }
    if let Some(atime) = entry.atime {
        add(b"atime", time(atime).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// `[-]seconds[.nanoseconds]`
fn time(time: Time) -> String {
    let (mut seconds, mut nanoseconds) = (i128::from(time.seconds), time.nanoseconds);
    let sign = if seconds < 0 { "-" } else { "" };
    if seconds < 0 {
        seconds = -seconds;
        if nanoseconds > 0 {
            seconds -= 1;
            nanoseconds = 1_000_000_000 - nanoseconds;
        }
    }
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

/// The numbers of a header.
#[derive(Default)]
struct Fields {
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    device: (u32, u32),
}

impl Fields {
    fn block(&self, name: &[u8], link: &[u8]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            for (byte, value) in block.iter_mut().skip(at).zip(bytes) {
                *byte = *value;
            }
        };
        // What is too large stands in a record; readers of those ignore the field.
        let small = |number: u32| format!("{:07o}", u64::from(number).min(MAX_SMALL));
        let large = |number: u64| format!("{:011o}", number.min(MAX_LARGE));
        put(0, name.get(..NAME).unwrap_or(name));
        put(100, small(self.mode).as_bytes());
        put(108, small(self.uid).as_bytes());
        put(116, small(self.gid).as_bytes());
        put(124, large(self.size).as_bytes());
        put(136, large(u64::try_from(self.mtime).unwrap_or(0)).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, link.get(..NAME).unwrap_or(link));
        put(257, b"ustar\x0000");
        put(329, small(self.device.0).as_bytes());
        put(337, small(self.device.1).as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        for (byte, value) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").as_bytes()) {
            *byte = *value;
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Segment, Stream, TarReader};
    use super::*;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Time { seconds: 1_000_000_000, nanoseconds: 0 },
            atime: None,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
            data_offset: 0,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let long = [b"a/".repeat(200), vec![0xff; 255]].concat();
        let mut all = vec![
            entry(b"plain", Kind::File),
            entry(&long, Kind::File),
            entry(b"d/", Kind::Directory),
            entry(b"dev", Kind::CharDevice),
            entry(b"block", Kind::BlockDevice),
            entry(b"pipe", Kind::Fifo),
            entry(b"sym", Kind::Symlink),
            entry(b"hard", Kind::HardLink),
            entry(b"holes", Kind::File),
            entry(b"last", Kind::File),
        ];
        all[0].size = 700;
        all[0].mode = 0o6755;
        all[0].xattrs =
            vec![(b"user.empty".to_vec(), Vec::new()), (b"user.raw".to_vec(), b"=\n\0".to_vec())];
        all[1].mtime = Time { seconds: -3, nanoseconds: 250_000_001 };
        all[1].uid = 3_000_000_000;
        all[1].gid = 65_536;
        all[3].device = (5, 70_000);
        all[6].link = long.clone();
        all[7].link = b"plain".to_vec();
        all[8].size = 1 << 40;
        let segment = |offset, length| Segment { offset, length };
        all[8].sparse = Some(vec![segment(4096, 5), segment(1 << 39, 600)]);
        all[9].size = 3;
        all[9].mtime = Time { seconds: 12, nanoseconds: 500_000_000 };
        let content = |entry: &Entry| {
            let length = match &entry.sparse {
                Some(map) => map.iter().map(|segment| segment.length).sum(),
                None => entry.size,
            };
            vec![7u8; usize::try_from(length).unwrap()]
        };
        let mut writer = TarWriter::new(Vec::new());
        for entry in &all {
            writer.entry(entry).unwrap();
            writer.data(&content(entry)).unwrap();
        }
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = TarReader::new(Stream(bytes.as_slice()));
        for entry in &all {
            let mut read = reader.next_entry().unwrap().unwrap();
            read.data_offset = 0;
            assert_eq!(&read, entry);
            let mut length = 0;
            let mut buffer = [0; 1000];
            while let Some((_, count)) = reader.read_data(&mut buffer).unwrap() {
                assert!(buffer[..count].iter().all(|byte| *byte == 7));
                length += count;
            }
            assert_eq!(length, content(entry).len());
        }
        assert!(reader.next_entry().unwrap().is_none());
        assert!(reader.saw_end());
    }

    #[test]
    fn a_file_of_another_length_is_an_error() {
        let mut short = entry(b"f", Kind::File);
        short.size = 10;
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&short).unwrap();
        assert!(writer.data(&[0; 11]).is_err());
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&short).unwrap();
        writer.data(&[0; 9]).unwrap();
        assert!(writer.finish().is_err());
    }
}
