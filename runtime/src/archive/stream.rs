//! A layer as a stream, read once: a second thread reads, decompresses and hashes while the caller
//! unpacks.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::compression::{self, Compression};
use crate::digest::{Digest, HashingReader};

/// Size of the pieces handed from one thread to the other.
const PIECE: usize = 256 * 1024;
/// Pieces that may wait: bounds memory, and evens out the two threads' speeds.
const WAITING: usize = 16;

/// What was learned about a layer by reading it to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Digest of the uncompressed layer.
    pub diff_id: Digest,
    /// Size of the uncompressed layer.
    pub diff_size: u64,
    /// Digest of the layer as it came.
    pub blob: Digest,
    /// Size of the layer as it came.
    pub blob_size: u64,
    /// How it came.
    pub compression: Compression,
}

/// The uncompressed content of a layer.
pub struct LayerStream {
    pieces: Option<Receiver<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
    worker: Option<JoinHandle<io::Result<Digests>>>,
    result: Option<Digests>,
}

impl LayerStream {
    /// Starts reading `raw`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(raw: Box<dyn Read + Send>) -> io::Result<LayerStream> {
        let (sender, pieces) = sync_channel(WAITING);
        let worker = std::thread::Builder::new()
            .name("layer".to_owned())
            .spawn(move || read_layer(raw, &sender))?;
        Ok(LayerStream {
            pieces: Some(pieces),
            piece: io::Cursor::default(),
            worker: Some(worker),
            result: None,
        })
    }

    /// Reads what is left and returns the digests.
    ///
    /// # Errors
    /// When reading or decompressing fails.
    pub fn finish(mut self) -> io::Result<Digests> {
        while self.next_piece()? {}
        self.result.ok_or_else(|| io::Error::other("the layer was not read to its end"))
    }

    /// Waits for the next piece; `false` at the end of the layer.
    fn next_piece(&mut self) -> io::Result<bool> {
        if let Some(piece) = self.pieces.as_ref().and_then(|pieces| pieces.recv().ok()) {
            self.piece = io::Cursor::new(piece);
            return Ok(true);
        }
        self.pieces = None;
        self.piece = io::Cursor::default();
        if let Some(worker) = self.worker.take() {
            let result =
                worker.join().map_err(|_| io::Error::other("the thread reading the layer died"))?;
            self.result = Some(result?);
        }
        Ok(false)
    }
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece.read(buffer)?;
            if count > 0 || buffer.is_empty() || !self.next_piece()? {
                return Ok(count);
            }
        }
    }
}

impl Drop for LayerStream {
    fn drop(&mut self) {
        // The worker notices at its next piece; wait, so that its input is closed too.
        self.pieces = None;
        if let Some(worker) = self.worker.take() {
            worker.join().ok();
        }
    }
}

fn read_layer(raw: Box<dyn Read + Send>, pieces: &SyncSender<Vec<u8>>) -> io::Result<Digests> {
    let (compression, raw) = compression::detect(raw)?;
    let mut raw = HashingReader::new(raw);
    if compression == Compression::Plain {
        pass_on(&mut raw, pieces)?;
        let (digest, size) = raw.finish();
        return Ok(Digests {
            diff_id: digest,
            diff_size: size,
            blob: digest,
            blob_size: size,
            compression,
        });
    }
    let mut content = HashingReader::new(compression::decoder(compression, &mut raw)?);
    pass_on(&mut content, pieces)?;
    let (diff_id, diff_size) = content.finish();
    io::copy(&mut raw, &mut io::sink())?;
    let (blob, blob_size) = raw.finish();
    Ok(Digests { diff_id, diff_size, blob, blob_size, compression })
}

fn pass_on(content: &mut impl Read, pieces: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        content.take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        if pieces.send(piece).is_err() {
            return Err(io::Error::other("the layer is no longer wanted"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_cover_every_byte() {
        let text = b"abc".repeat(1_000_000);
        let packed = zstd::encode_all(&text[..], 1).unwrap();
        for (raw, compression) in [(text.clone(), Compression::Plain), (packed, Compression::Zstd)]
        {
            let mut stream = LayerStream::start(Box::new(io::Cursor::new(raw.clone()))).unwrap();
            let mut start = [0; 10];
            stream.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"abcabcabca");
            let digests = stream.finish().unwrap();
            assert_eq!(digests.diff_id, Digest::of(&text));
            assert_eq!(digests.blob, Digest::of(&raw));
            assert_eq!((digests.diff_size, digests.blob_size), (3_000_000, raw.len() as u64));
            assert_eq!(digests.compression, compression);
        }
    }

    #[test]
    fn a_stream_can_be_left_early() {
        let stream = LayerStream::start(Box::new(io::repeat(1))).unwrap();
        drop(stream);
    }
}
