//! File content that is the same on every machine, and checkable at any offset without a copy.
//!
//! A file is a sequence of 4 KiB blocks; each is a pseudo-random stream whose seed is that of the
//! file and the number of the block. Nothing compresses or deduplicates it.

/// Size of the blocks, bytes.
pub const BLOCK: usize = 4096;

/// A small generator (xorshift64), good enough for offsets and content.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers; zero is allowed.
    pub fn new(seed: u64) -> Rng {
        // SplitMix64's finaliser: neighbouring seeds give unrelated streams, and never zero twice.
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Rng((z ^ (z >> 31)) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which must not be zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Fills the buffer with what file `seed` has from block `block` on.
pub fn fill(seed: u64, block: u64, buffer: &mut [u8]) {
    for (number, part) in (block..).zip(buffer.chunks_mut(BLOCK)) {
        let mut rng = Rng::new(seed.rotate_left(40) ^ number);
        for word in part.chunks_mut(8) {
            let bytes = rng.next().to_le_bytes();
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = from;
            }
        }
    }
}

/// The first `size` bytes of file `seed`.
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut buffer = vec![0; size];
    fill(seed, 0, &mut buffer);
    buffer
}

/// Whether `found`, read from the start of block `block`, is what file `seed` has there.
pub fn is(seed: u64, block: u64, found: &[u8]) -> bool {
    let mut want = vec![0; found.len()];
    fill(seed, block, &mut want);
    want == found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_the_same_read_alone_or_with_its_neighbours() {
        let whole = bytes(7, 3 * BLOCK + 100);
        assert!(is(7, 0, &whole));
        assert!(is(7, 2, &whole[2 * BLOCK..]));
        assert!(is(7, 3, &whole[3 * BLOCK..]));
        assert!(!is(8, 0, &whole));
        assert!(!is(7, 1, &whole[..BLOCK]));
    }

    #[test]
    fn blocks_and_files_differ() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..50 {
            let file = bytes(seed, 10 * BLOCK);
            assert!(file.chunks(BLOCK).all(|block| seen.insert(block.to_vec())));
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let mut file = bytes(3, BLOCK);
        file[4000] ^= 1;
        assert!(!is(3, 0, &file));
    }

    #[test]
    fn numbers_are_spread() {
        let mut rng = Rng::new(0);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[rng.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
