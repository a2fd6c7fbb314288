//! Reading tar archives: v7, ustar, GNU and PAX, as a stream.
//!
//! A layer is hostile input. This reader never looks at a filesystem: it turns a stream into
//! [`Entry`] values and data, names as bytes exactly as the archive has them; what a name may do is
//! decided by `unpack`. Every length is checked before it is believed, and memory is bounded:
//! extended headers may not exceed [`MAX_EXTENDED`].
//!
//! Where implementations differ, Go's `archive/tar` is followed, since it made nearly all layers:
//! a missing end marker is tolerated (see [`TarReader::saw_end`]), global PAX headers are skipped,
//! and links, directories and devices have no data whatever their size field says.

mod header;
mod pax;
mod sparse;
mod write;

use std::io::{self, Read, Seek, SeekFrom};

use header::{BLOCK, Header};
pub use sparse::Segment;
pub use write::TarWriter;

/// Largest extended header (PAX records, GNU long names): Go's limit is 1 MiB, but a PAX header
/// may carry a 64 KiB attribute many times over.
const MAX_EXTENDED: u64 = 4 << 20;
/// Most bytes of a name that are shown in a message.
const SHOWN_NAME: usize = 200;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream below failed: the disk, or the decompressor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The stream ended inside an entry.
    #[error("the archive is truncated: it ends within an entry")]
    Truncated,
    /// The first block is no header.
    #[error("this is not a tar archive")]
    NotTar,
    /// A header or an extended header is malformed.
    #[error("the archive is corrupt at byte {at}: {why}")]
    Corrupt {
        /// Where the header starts.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The entry is of a kind that no layer has.
    #[error("'{}' is a tar entry of type '{}', which is not supported", show(path), kind.escape_ascii())]
    UnknownType {
        /// The entry's name.
        path: Vec<u8>,
        /// Its type flag.
        kind: u8,
    },
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, perhaps with holes.
    File,
    /// Another name of a file earlier in the archive (or in a lower layer).
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A point in time: seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds, before 1970 when negative.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// One entry of an archive, as it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name, unchecked.
    pub path: Vec<u8>,
    /// Target of a link, unchecked.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of the file, holes included.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Access time, where the archive has one.
    pub atime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data lies in a file with holes.
    pub sparse: Option<Vec<Segment>>,
    /// Offset of the data in the archive.
    pub data_offset: u64,
}

/// A stream that can leave out bytes.
pub trait Skip: Read {
    /// Skips `count` bytes; a stream that ends first may report it now or at the next read.
    ///
    /// # Errors
    /// The stream's.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// A stream without random access: skipping is reading.
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Skip for Stream<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(count), &mut io::sink())?;
        if skipped < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Skip for &std::fs::File {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let count = i64::try_from(count).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.seek(SeekFrom::Current(count)).map(drop)
    }
}

/// Reads the entries of an archive one after the other.
pub struct TarReader<R> {
    input: R,
    position: u64,
    /// Data of the current entry that has not been read.
    remaining: u64,
    /// Zeros between that data and the next header.
    padding: u64,
    /// Where the data of the current entry goes; one segment for a plain file.
    segments: std::vec::IntoIter<Segment>,
    current: Option<Segment>,
    started: bool,
    ended: bool,
}

impl<R: Skip> TarReader<R> {
    /// A reader at the start of `input`.
    pub fn new(input: R) -> Self {
        TarReader {
            input,
            position: 0,
            remaining: 0,
            padding: 0,
            segments: Vec::new().into_iter(),
            current: None,
            started: false,
            ended: false,
        }
    }

    /// Whether the end marker (two blocks of zeros) was met, rather than the end of the stream.
    pub fn saw_end(&self) -> bool {
        self.ended
    }

    /// The stream, to steer it; what is read from it is missing from the archive.
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The stream, wherever reading has got to.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what was not read of the current one's data is skipped.
    ///
    /// # Errors
    /// When the archive is truncated, malformed, or holds something unknown.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut long_path = None;
        let mut long_link = None;
        let mut records = pax::Records::default();
        loop {
            self.skip_rest()?;
            let at = self.position;
            let Some(block) = self.read_header_block()? else { return Ok(None) };
            let header = Header::parse(&block).map_err(|why| {
                if self.started { TarError::Corrupt { at, why } } else { TarError::NotTar }
            })?;
            self.started = true;
            match header.kind {
                b'x' | b'X' => {
                    let text = self.read_extended(header.size, at)?;
                    records = pax::parse(&text).map_err(|why| TarError::Corrupt { at, why })?;
                }
                b'g' => {
                    // Comments of `git archive`, and little else.
                    self.read_extended(header.size, at)?;
                }
                b'L' => long_path = Some(c_text(self.read_extended(header.size, at)?)),
                b'K' => long_link = Some(c_text(self.read_extended(header.size, at)?)),
                b'V' => self.expect_data(header.size, at)?,
                _ => return self.entry(header, records, long_path, long_link, at).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: Header,
        records: pax::Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        at: u64,
    ) -> Result<Entry, TarError> {
        let corrupt = |why| TarError::Corrupt { at, why };
        let path = records.path.or(long_path).unwrap_or(header.path);
        let size = records.size.unwrap_or(header.size);
        let kind = match header.kind {
            0 | b'0' | b'7' if size == 0 && path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            kind => return Err(TarError::UnknownType { path, kind }),
        };
        if kind == Kind::File || header.kind == b'D' {
            self.expect_data(size, at)?;
        }
        let mut sparse = None;
        let mut real_size = size;
        if kind == Kind::File {
            if let Some(old) = header.sparse {
                let mut map = old.segments;
                let mut more = old.extended;
                while more {
                    let block = self.read_block()?.ok_or(TarError::Truncated)?;
                    more = sparse::extend_old(&mut map, &block).map_err(corrupt)?;
                }
                real_size = old.real_size;
                sparse = Some(map);
            } else if records.sparse.in_data {
                sparse = Some(self.read_sparse_map(at)?);
                real_size =
                    records.sparse.real_size.ok_or_else(|| corrupt("a sparse file has no size"))?;
            } else if let Some(map) = records.sparse.map {
                sparse = Some(map);
                real_size =
                    records.sparse.real_size.ok_or_else(|| corrupt("a sparse file has no size"))?;
            }
            let map = match &sparse {
                Some(map) => {
                    sparse::check(map, real_size, self.remaining).map_err(corrupt)?;
                    map.clone()
                }
                None => vec![Segment { offset: 0, length: size }],
            };
            self.segments = map.into_iter();
            self.current = self.segments.next();
        }
        let id = |record: Option<u64>, plain: u64| {
            // The largest value means "unchanged" to chown(2), so no file can have it.
            u32::try_from(record.unwrap_or(plain))
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| corrupt("an owner or group number is out of range"))
        };
        Ok(Entry {
            path: records.sparse.name.unwrap_or(path),
            link: records.link.or(long_link).unwrap_or(header.link),
            kind,
            mode: header.mode,
            uid: id(records.uid, header.uid)?,
            gid: id(records.gid, header.gid)?,
            size: if kind == Kind::File { real_size } else { 0 },
            mtime: records.mtime.unwrap_or(Time { seconds: header.mtime, nanoseconds: 0 }),
            atime: records.atime,
            device: header.device,
            xattrs: records.xattrs,
            sparse,
            data_offset: self.position,
        })
    }

    /// The next piece of the current file's data and its offset in the file; `None` at its end.
    ///
    /// # Errors
    /// When the stream fails or ends.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, TarError> {
        while let Some(segment) = &mut self.current {
            if segment.length == 0 {
                self.current = self.segments.next();
                continue;
            }
            let wanted = usize::try_from(segment.length).unwrap_or(usize::MAX).min(buffer.len());
            let Some(room) = buffer.get_mut(..wanted) else { return Ok(None) };
            let count = read_some(&mut self.input, room)?;
            if count == 0 {
                return Err(TarError::Truncated);
            }
            let offset = segment.offset;
            segment.offset += count as u64;
            segment.length -= count as u64;
            self.remaining = self.remaining.saturating_sub(count as u64);
            self.position += count as u64;
            return Ok(Some((offset, count)));
        }
        Ok(None)
    }

    /// Notes that `size` bytes of data follow.
    fn expect_data(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(TarError::Corrupt { at, why: "a size is out of range" });
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let count = self.remaining + self.padding;
        self.segments = Vec::new().into_iter();
        self.current = None;
        if count > 0 {
            self.input.skip(count).map_err(truncated)?;
            self.position += count;
            self.remaining = 0;
            self.padding = 0;
        }
        Ok(())
    }

    fn read_extended(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENDED {
            return Err(TarError::Corrupt { at, why: "an extended header is too large" });
        }
        self.expect_data(size, at)?;
        let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
        self.input.read_exact(&mut text).map_err(truncated)?;
        self.position += size;
        self.remaining = 0;
        Ok(text)
    }

    /// The map in front of the data of a PAX 1.0 sparse file.
    fn read_sparse_map(&mut self, at: u64) -> Result<Vec<Segment>, TarError> {
        let mut parser = sparse::MapParser::default();
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(TarError::Corrupt { at, why: "a sparse map does not end" });
            }
            let block = self.read_block()?.ok_or(TarError::Truncated)?;
            self.remaining -= BLOCK as u64;
            if let Some(map) = parser.push(&block).map_err(|why| TarError::Corrupt { at, why })? {
                return Ok(map);
            }
        }
    }

    /// The next header, or `None` at the end of the archive.
    fn read_header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let at = self.position;
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.read_block()? {
            None => {}
            Some(second) if second == [0; BLOCK] => {}
            Some(_) => {
                let why = "a block of zeros is followed by data";
                return Err(TarError::Corrupt { at, why });
            }
        }
        self.ended = true;
        Ok(None)
    }

    /// The next block, or `None` at the end of the stream.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(room) = block.get_mut(filled..).filter(|room| !room.is_empty()) {
            match read_some(&mut self.input, room)? {
                0 if filled == 0 => return Ok(None),
                0 if self.started => return Err(TarError::Truncated),
                0 => return Err(TarError::NotTar),
                count => filled += count,
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }
}

/// One read that is not ended by a signal.
fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn truncated(error: io::Error) -> TarError {
    // Only a bare "unexpected end" means that; a decompressor's carries its own message.
    if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() {
        TarError::Truncated
    } else {
        TarError::Io(error)
    }
}

/// The text before the first NUL.
fn c_text(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// A name as it is shown in a message: bytes that are no text replaced, never too long.
pub fn show(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown = String::new();
    for c in text.chars().take(SHOWN_NAME) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN_NAME).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
