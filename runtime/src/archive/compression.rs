//! Compression of layers and archives, told by their first bytes: media types and file names lie.

use std::io::{self, BufRead, BufReader, Read};

/// How much is read from below at a time.
const BUFFER: usize = 256 * 1024;
/// Bytes that tell every known format.
const MAGIC: usize = 6;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What the first bytes of `input` say about it; they stay readable.
///
/// # Errors
/// The input's, and formats that are recognized but not supported.
pub fn detect(input: impl Read) -> io::Result<(Compression, impl Read)> {
    let mut input = input;
    let mut start = Vec::with_capacity(MAGIC);
    (&mut input).take(MAGIC as u64).read_to_end(&mut start)?;
    let compression = match start.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one that only carries notes.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unsupported("xz", "xz -d")),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => return Err(unsupported("bzip2", "bzip2 -d")),
        _ => Compression::Plain,
    };
    Ok((compression, io::Cursor::new(start).chain(input)))
}

fn unsupported(format: &str, tool: &str) -> io::Error {
    let message = format!(
        "it is compressed with {format}, which is not supported; decompress it first ({tool})"
    );
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// The decompressed content of `input`.
///
/// # Errors
/// When the decompressor cannot be set up.
pub fn decoder<'a>(
    compression: Compression,
    input: impl Read + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    let input = BufReader::with_capacity(BUFFER, input);
    Ok(match compression {
        Compression::Plain => Box::new(input),
        Compression::Gzip => Box::new(Explained {
            format: "gzip",
            inner: flate2::bufread::MultiGzDecoder::new(input),
        }),
        Compression::Zstd => Box::new(Explained { format: "zstd", inner: zstd(input)? }),
    })
}

fn zstd<R: BufRead>(input: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    zstd::stream::read::Decoder::with_buffer(input)
}

/// Says which decompressor failed.
struct Explained<R> {
    format: &'static str,
    inner: R,
}

impl<R: Read> Read for Explained<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let what = if error.kind() == io::ErrorKind::UnexpectedEof {
                "is truncated".to_owned()
            } else {
                format!("is corrupt ({error})")
            };
            io::Error::new(error.kind(), format!("its {} data {what}", self.format))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn unpack(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let (compression, input) = detect(bytes)?;
        let mut text = Vec::new();
        decoder(compression, input)?.read_to_end(&mut text)?;
        Ok((compression, text))
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn formats_are_told_by_content() {
        let text = b"hello".repeat(1000);
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        assert_eq!(unpack(&text).unwrap(), (Compression::Plain, text.clone()));
        assert_eq!(unpack(&gzip(&text)).unwrap(), (Compression::Gzip, text.clone()));
        assert_eq!(unpack(&zstd).unwrap(), (Compression::Zstd, text.clone()));
        assert_eq!(unpack(b"").unwrap(), (Compression::Plain, Vec::new()));
        let twice = [gzip(&text), gzip(b"more")].concat();
        assert_eq!(unpack(&twice).unwrap().1, [text.as_slice(), b"more"].concat());
    }

    #[test]
    fn broken_streams_say_so() {
        let text: Vec<u8> =
            (0..10_000u32).flat_map(|n| n.wrapping_mul(2654435761).to_le_bytes()).collect();
        for whole in [gzip(&text), zstd::encode_all(&text[..], 1).unwrap()] {
            let cut = unpack(&whole[..whole.len() / 2]).unwrap_err().to_string();
            assert!(cut.contains("truncated"), "{cut}");
            let mut bad = whole.clone();
            let middle = bad.len() / 2;
            bad[middle..middle + 64].fill(0xa5);
            // zstd may lack a checksum: then the digest of the content tells.
            assert!(unpack(&bad).ok().is_none_or(|(_, content)| content != text));
        }
        let xz = unpack(b"\xfd7zXZ\0....").unwrap_err().to_string();
        assert!(xz.contains("xz"), "{xz}");
    }
}
