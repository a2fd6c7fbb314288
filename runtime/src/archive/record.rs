//! How a layer's tar stream was put together, so that it can be written again byte for byte.
//!
//! A packed layer keeps what a filesystem shows; two archives that differ in the order of their
//! entries, in padding or in unused header fields look the same there. Their digests do not. The
//! record keeps everything that is not content of a file as it was, and says where the content
//! lies in the packed layer. Headers repeat themselves, so compressed they need about a hundredth
//! of their size.
//!
//! ```text
//! "cowl stream 1\n"
//! one zstd frame of steps, numbers little-endian:
//!   1  u32 length, bytes                                bytes as they were
//!   2  u64 at, u64 length, u64 from, u64 count          a part of a small file's content
//!   3  32 bytes, u64 length, u64 from, u64 count        a part of an object's content
//!   0                                                   the end
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use cowl_fs::packed::{Content, Digest, Packed};

use super::tar::Skip;

/// How the file begins; the number is the version.
const MAGIC: &[u8; 14] = b"cowl stream 1\n";
/// Literal bytes are written in pieces of at most this size.
const LITERAL: usize = 64 * 1024;
/// Headers are so regular that a higher level gains nothing.
const LEVEL: i32 = 1;

const END: u8 = 0;
const BYTES: u8 = 1;
const DATA: u8 = 2;
const OBJECT: u8 = 3;

/// Reads a layer's stream and records it.
pub struct Recorder<R> {
    input: R,
    output: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    literal: Vec<u8>,
    /// Bytes being read are content, which is recorded by reference.
    aside: bool,
}

impl<R: Read> Recorder<R> {
    /// Records what is read from `input` into the new file `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(input: R, path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create_new(path)?);
        file.write_all(MAGIC)?;
        let mut output = zstd::stream::write::Encoder::new(file, LEVEL)?;
        output.include_checksum(true)?;
        Ok(Recorder { input, output, literal: Vec::with_capacity(LITERAL), aside: false })
    }

    /// What is read next is content of a file.
    pub fn begin_content(&mut self) {
        self.aside = true;
    }

    /// The content has been read; this is where it lies. `segments` are the parts of a file with
    /// holes that were in the stream.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn end_content(
        &mut self,
        content: Content,
        size: u64,
        segments: Option<&[(u64, u64)]>,
    ) -> io::Result<()> {
        self.aside = false;
        let whole = [(0, size)];
        for (from, count) in segments.unwrap_or(&whole) {
            if *count == 0 {
                continue;
            }
            self.flush_literal()?;
            let mut step = Vec::with_capacity(64);
            match content {
                Content::Empty => return Err(io::Error::other("content was not kept")),
                Content::Data { at, len } => {
                    step.push(DATA);
                    step.extend_from_slice(&at.to_le_bytes());
                    step.extend_from_slice(&len.to_le_bytes());
                }
                Content::Object { digest, len } => {
                    step.push(OBJECT);
                    step.extend_from_slice(&digest.0);
                    step.extend_from_slice(&len.to_le_bytes());
                }
            }
            step.extend_from_slice(&from.to_le_bytes());
            step.extend_from_slice(&count.to_le_bytes());
            self.output.write_all(&step)?;
        }
        Ok(())
    }

    /// Completes the record and gives the stream back. What is left of the stream is recorded too.
    ///
    /// # Errors
    /// When the stream cannot be read or the record not be written.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        self.flush_literal()?;
        self.output.write_all(&[END])?;
        self.output.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(self.input)
    }

    /// Gives the stream back; the record is of no use.
    pub fn abandon(self) -> R {
        self.input
    }

    fn flush_literal(&mut self) -> io::Result<()> {
        if self.literal.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.literal.len()).map_err(io::Error::other)?;
        self.output.write_all(&[BYTES])?;
        self.output.write_all(&length.to_le_bytes())?;
        self.output.write_all(&self.literal)?;
        self.literal.clear();
        Ok(())
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        if !self.aside {
            for piece in buffer.get(..count).unwrap_or(&[]).chunks(LITERAL) {
                if self.literal.len() + piece.len() > LITERAL {
                    self.flush_literal()?;
                }
                self.literal.extend_from_slice(piece);
            }
        }
        Ok(count)
    }
}

impl<R: Read> Skip for Recorder<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.take(count), &mut io::sink())?;
        if skipped < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Where the next bytes of a replayed stream come from.
enum Source {
    Nowhere,
    Bytes(u64),
    Content { content: Content, from: u64, count: u64 },
    End,
}

/// A layer's stream, written again from its record and its contents.
pub struct Replay {
    packed: Arc<Packed>,
    steps: zstd::stream::read::Decoder<'static, BufReader<File>>,
    source: Source,
}

impl Replay {
    /// The stream recorded in the file `path`, of the packed layer.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn open(path: &Path, packed: Arc<Packed>) -> io::Result<Replay> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(damaged());
        }
        let steps = zstd::stream::read::Decoder::with_buffer(file)?;
        Ok(Replay { packed, steps, source: Source::Nowhere })
    }

    fn next(&mut self) -> io::Result<Source> {
        Ok(match self.array::<1>()? {
            [END] => Source::End,
            [BYTES] => Source::Bytes(u64::from(u32::from_le_bytes(self.array()?))),
            [DATA] => {
                let content = Content::Data { at: self.number()?, len: self.number()? };
                Source::Content { content, from: self.number()?, count: self.number()? }
            }
            [OBJECT] => {
                let digest = Digest(self.array()?);
                let content = Content::Object { digest, len: self.number()? };
                Source::Content { content, from: self.number()?, count: self.number()? }
            }
            _ => return Err(damaged()),
        })
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.steps.read_exact(&mut array)?;
        Ok(array)
    }

    fn number(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of a layer's stream is damaged")
}

impl Read for Replay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.source {
                Source::End => return Ok(0),
                Source::Bytes(left) if *left > 0 => {
                    let read = (&mut self.steps).take(*left).read(buffer)?;
                    if read == 0 {
                        return Err(damaged());
                    }
                    *left -= read as u64;
                    return Ok(read);
                }
                Source::Content { content, from, count } if *count > 0 => {
                    let wanted = usize::try_from(*count).unwrap_or(usize::MAX).min(buffer.len());
                    let room = buffer.get_mut(..wanted).unwrap_or_default();
                    let read = self.packed.read(content, *from, room).map_err(io::Error::other)?;
                    if read == 0 {
                        return Err(damaged());
                    }
                    *from += read as u64;
                    *count -= read as u64;
                    return Ok(read);
                }
                _ => {}
            }
            self.source = self.next()?;
        }
    }
}
