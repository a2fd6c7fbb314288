//! Which blocks of a file the upper holds, while the rest is still only in a lower.
//!
//! Pure arithmetic on a bitmap: no files, no locks. Blocks are [`BLOCK`] bytes. Only blocks below
//! [`Blocks::end`] can be missing: what lies beyond was never the lower's, or was cut off, and is the
//! upper's in any case. `end` only ever shrinks, so cut-off data of the lower never comes back.

use std::ops::Range;

/// Bytes of a block: a page, which is what the kernel writes back at least.
pub const BLOCK: u64 = 4096;
const BITS: u64 = u64::BITS as u64;

/// The blocks of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// A set bit: the upper holds the block.
    words: Vec<u64>,
    /// How many blocks below `end` are missing.
    missing: u64,
    end: u64,
}

/// Number of blocks that `bytes` touch.
pub fn count(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

/// The words of a bitmap that speak of these blocks.
fn words_of(blocks: &Range<u64>) -> Range<usize> {
    (blocks.start / BITS) as usize..blocks.end.div_ceil(BITS) as usize
}

impl Blocks {
    /// No block of a lower file of `end` bytes is in the upper.
    pub fn none(end: u64) -> Blocks {
        let words = vec![0; count(end).div_ceil(BITS) as usize];
        Blocks { words, missing: count(end), end }
    }

    /// From the words of a record; missing words are zero, surplus ones are ignored.
    pub fn from_words(words: impl IntoIterator<Item = u64>, end: u64) -> Blocks {
        let mut blocks = Blocks::none(end);
        for (to, from) in blocks.words.iter_mut().zip(words) {
            *to = from;
        }
        blocks.recount();
        blocks
    }

    fn recount(&mut self) {
        let all = count(self.end);
        let mut held = 0;
        for (i, word) in self.words.iter().enumerate() {
            let first = i as u64 * BITS;
            let inside = all.saturating_sub(first).min(BITS);
            let mask = if inside == BITS { u64::MAX } else { (1 << inside) - 1 };
            held += u64::from((word & mask).count_ones());
        }
        self.missing = all - held;
    }

    /// Bytes from the start that the lower may still show; never grows.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether nothing is missing any more.
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    fn bit(&self, block: u64) -> bool {
        let word = self.words.get((block / BITS) as usize).copied().unwrap_or(u64::MAX);
        word >> (block % BITS) & 1 != 0
    }

    /// Whether the upper holds the byte at `at`.
    pub fn holds(&self, at: u64) -> bool {
        at >= self.end || self.bit(at / BLOCK)
    }

    /// Whether the upper holds every byte of `range`.
    pub fn holds_all(&self, range: &Range<u64>) -> bool {
        self.missing == 0 || self.touched(range).all(|b| self.bit(b))
    }

    /// The blocks with data of the lower's in `range` (bytes).
    fn touched(&self, range: &Range<u64>) -> Range<u64> {
        if range.start >= self.end.min(range.end) {
            return 0..0;
        }
        range.start / BLOCK..count(range.end.min(self.end))
    }

    /// Who has the byte at `at` (`true`: the upper), and where that ends, at `limit` at the latest.
    pub fn run(&self, at: u64, limit: u64) -> (bool, u64) {
        if at >= self.end || self.missing == 0 {
            return (true, limit);
        }
        let held = self.bit(at / BLOCK);
        let last = count(self.end.min(limit));
        let mut block = at / BLOCK + 1;
        while block < last && self.bit(block) == held {
            let word = self.words.get((block / BITS) as usize).copied().unwrap_or(u64::MAX);
            let same = if held { u64::MAX } else { 0 };
            block += if block.is_multiple_of(BITS) && word == same { BITS } else { 1 };
        }
        let stop = block * BLOCK;
        // The end of the lower's data is a border even inside a block.
        let stop = if held && stop >= self.end { limit } else { stop.min(self.end) };
        (held, stop.min(limit))
    }

    /// The upper holds every block that `range` (bytes) touches from now on. Returns the words that
    /// changed, as a range of their numbers.
    pub fn hold(&mut self, range: &Range<u64>) -> Range<usize> {
        let touched = self.touched(range);
        if touched.is_empty() {
            return 0..0;
        }
        for block in touched.clone() {
            if let Some(word) = self.words.get_mut((block / BITS) as usize) {
                let mask = 1 << (block % BITS);
                self.missing -= u64::from(*word & mask == 0);
                *word |= mask;
            }
        }
        words_of(&touched)
    }

    /// The words that [`Blocks::hold`] would change for `range`, as they are.
    pub fn clone_words(&self, range: &Range<u64>) -> (usize, Vec<u64>) {
        let words = words_of(&self.touched(range));
        (words.start, self.words.get(words).unwrap_or_default().to_vec())
    }

    /// Puts back what [`Blocks::clone_words`] gave.
    pub fn restore(&mut self, (first, values): (usize, Vec<u64>)) {
        for (to, from) in self.words.iter_mut().skip(first).zip(values) {
            *to = from;
        }
        self.recount();
    }

    /// The file is cut to `size` bytes: what the lower has beyond is gone for good.
    pub fn cut(&mut self, size: u64) {
        if size < self.end {
            self.end = size;
            self.recount();
        }
    }

    /// The words of the bitmap, lowest block in the lowest bit of the first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_change_at_block_borders_and_at_the_end() {
        let mut b = Blocks::none(10 * BLOCK + 5);
        assert_eq!(b.run(0, 100 * BLOCK), (false, 10 * BLOCK + 5));
        assert_eq!(b.run(10 * BLOCK + 5, 100 * BLOCK), (true, 100 * BLOCK));
        b.hold(&(BLOCK + 1..BLOCK + 2));
        assert_eq!(b.run(0, 100 * BLOCK), (false, BLOCK));
        assert_eq!(b.run(BLOCK + 7, 100 * BLOCK), (true, 2 * BLOCK));
        assert_eq!(b.run(2 * BLOCK, 3 * BLOCK), (false, 3 * BLOCK));
        b.hold(&(10 * BLOCK..10 * BLOCK + 1));
        assert_eq!(b.run(10 * BLOCK, 100 * BLOCK), (true, 100 * BLOCK));
        assert!(!b.complete());
        b.hold(&(0..u64::MAX));
        assert!(b.complete());
    }

    #[test]
    fn what_was_cut_off_never_comes_back() {
        let mut b = Blocks::none(3 * BLOCK);
        b.cut(BLOCK + 1);
        b.cut(3 * BLOCK);
        assert_eq!(b.end(), BLOCK + 1);
        assert_eq!(b.run(0, 3 * BLOCK), (false, BLOCK + 1));
        assert!(b.holds(BLOCK + 1));
        b.hold(&(0..BLOCK));
        assert!(!b.complete());
        b.cut(BLOCK);
        assert!(b.complete());
    }

    /// Every answer against the plainest model: one flag a byte.
    #[test]
    fn agrees_with_a_model_of_single_bytes() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        for _ in 0..30 {
            let size = random(300 * BLOCK);
            let (mut blocks, mut end) = (Blocks::none(size), size);
            let mut model = vec![false; count(size) as usize];
            for _ in 0..60 {
                let at = random(size + 2 * BLOCK);
                let to = at + random(20 * BLOCK) + 1;
                if random(8) == 0 {
                    blocks.cut(at);
                    end = end.min(at);
                } else {
                    let changed = blocks.hold(&(at..to));
                    for b in (at / BLOCK..count(to.min(end))).filter(|_| at < end) {
                        model[b as usize] = true;
                        assert!(changed.contains(&((b / BITS) as usize)));
                    }
                }
                let holds = |at: u64| at >= end || model[(at / BLOCK) as usize];
                let from = random(size + BLOCK);
                let limit = from + 1 + random(size + BLOCK);
                let (held, stop) = blocks.run(from, limit);
                assert_eq!(held, holds(from));
                assert!(stop > from && stop <= limit);
                assert!((from..stop).step_by(512).all(|at| holds(at) == held));
                assert!(stop == limit || holds(stop) != held || stop == end);
                let range = from..limit;
                let all = range.clone().step_by(512).chain([limit - 1]).all(holds);
                assert_eq!(blocks.holds_all(&range), all);
                let missing = (0..count(end)).filter(|b| !model[*b as usize]).count();
                assert_eq!(blocks.complete(), missing == 0);
                assert_eq!(Blocks::from_words(blocks.words().to_vec(), end), {
                    let mut same = blocks.clone();
                    same.words.truncate(count(end).div_ceil(BITS) as usize);
                    same
                });
            }
        }
    }
}
