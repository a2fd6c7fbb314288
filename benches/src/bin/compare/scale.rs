//! How much each workload does: the full sizes, smaller ones for a quick look, tiny ones to see
//! that everything works.

use serde::{Deserialize, Serialize};

/// Numbers and sizes of the fixtures and of the loops over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Its name: `full`, `quick`, `tiny`.
    pub name: String,
    /// 4 KiB files that `stat` and `open` go over.
    pub files: usize,
    /// Files in the trees that are walked.
    pub walk: usize,
    /// Bytes of the large file.
    pub big: u64,
    /// Random reads and writes.
    pub random: usize,
    /// Files created, renamed, removed.
    pub names: usize,
    /// File sizes for copy-up, and how many files of each.
    pub copyup: Vec<(u64, usize)>,
    /// Files of the tree that is packed, unpacked, copied, removed.
    pub tree: usize,
    /// Files in the git repository.
    pub repo: usize,
    /// C files to compile.
    pub sources: usize,
    /// Mounts and unmounts.
    pub mounts: usize,
    /// Samples of a tail latency, at least; one a millisecond.
    pub beside: usize,
}

/// Numbers of layers that trees are spread over and walked in.
pub const LAYERS: [usize; 3] = [1, 10, 64];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Scale {
    /// The sizes of published figures; some tens of minutes for five repetitions.
    pub fn full() -> Scale {
        Scale {
            name: "full".into(),
            files: 20_000,
            walk: 50_000,
            big: GIB,
            random: 100_000,
            names: 20_000,
            copyup: vec![
                (4 * KIB, 100),
                (64 * KIB, 50),
                (MIB, 20),
                (16 * MIB, 5),
                (64 * MIB, 3),
                (256 * MIB, 1),
                (GIB, 1),
            ],
            tree: 8_500,
            repo: 20_000,
            sources: 100,
            mounts: 5,
            beside: 500,
        }
    }

    /// Two to three minutes for four systems; copy-up up to 64 MiB.
    pub fn quick() -> Scale {
        Scale {
            name: "quick".into(),
            files: 3_000,
            walk: 5_000,
            big: 128 * MIB,
            random: 20_000,
            names: 3_000,
            copyup: vec![(4 * KIB, 50), (64 * KIB, 20), (MIB, 10), (16 * MIB, 3), (64 * MIB, 1)],
            tree: 1_500,
            repo: 3_000,
            sources: 12,
            mounts: 3,
            beside: 300,
        }
    }

    /// A few seconds; the figures mean nothing.
    pub fn tiny() -> Scale {
        Scale {
            name: "tiny".into(),
            files: 150,
            walk: 300,
            big: 2 * MIB,
            random: 200,
            names: 120,
            copyup: vec![(4 * KIB, 3), (MIB, 1)],
            tree: 60,
            repo: 40,
            sources: 2,
            mounts: 1,
            beside: 30,
        }
    }
}

/// A size for people: `4 KiB`, `1 GiB`.
pub fn size(bytes: u64) -> String {
    for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} bytes")
}

/// A count for people: `50 000`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_for_people() {
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(GIB), "1 GiB");
        assert_eq!(size(1000), "1000 bytes");
        assert_eq!(count(50_000), "50\u{202f}000");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn copy_up_sizes_rise() {
        for scale in [Scale::full(), Scale::quick(), Scale::tiny()] {
            assert!(scale.copyup.windows(2).all(|w| w[0].0 < w[1].0), "{}", scale.name);
        }
    }
}
