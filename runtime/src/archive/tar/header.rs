//! One tar header block, in the v7, ustar, star and GNU layouts.

use super::sparse::{self, OldSparse};

/// Everything in a tar archive is a multiple of this many bytes.
pub const BLOCK: usize = 512;

/// The fields of a header that matter.
#[derive(Debug)]
pub struct Header {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: i64,
    pub device: (u32, u32),
    pub sparse: Option<OldSparse>,
}

impl Header {
    /// Reads a header block; the error says what is wrong with it.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Header, &'static str> {
        check_sum(block)?;
        let gnu = field(block, 257, 8) == b"ustar  \0";
        let ustar = !gnu && field(block, 257, 5) == b"ustar";
        let kind = field(block, 156, 1).first().copied().unwrap_or(0);
        let mut path = text(field(block, 0, 100)).to_vec();
        if ustar {
            // star keeps times behind a shorter prefix.
            let length = if field(block, 508, 4) == b"tar\0" { 131 } else { 155 };
            let prefix = text(field(block, 345, length));
            if !prefix.is_empty() {
                path = [prefix, b"/", &path].concat();
            }
        }
        let device = |offset| -> Result<u32, &'static str> {
            if !matches!(kind, b'3' | b'4') || !(gnu || ustar) {
                return Ok(0);
            }
            u32::try_from(number(field(block, offset, 8))?)
                .map_err(|_| "a device number is out of range")
        };
        let unsigned = |offset, length, why| {
            u64::try_from(number(field(block, offset, length))?).map_err(|_| why)
        };
        Ok(Header {
            path,
            link: text(field(block, 157, 100)).to_vec(),
            kind,
            mode: u32::try_from(number(field(block, 100, 8))? & 0o7777).unwrap_or(0),
            uid: unsigned(108, 8, "an owner is negative")?,
            gid: unsigned(116, 8, "a group is negative")?,
            size: unsigned(124, 12, "a size is negative")?,
            mtime: number(field(block, 136, 12))?,
            device: (device(329)?, device(337)?),
            sparse: if kind == b'S' { Some(sparse::parse_old(block)?) } else { None },
        })
    }
}

/// `length` bytes of the block at `offset`.
pub fn field(block: &[u8; BLOCK], offset: usize, length: usize) -> &[u8] {
    block.get(offset..offset + length).unwrap_or(&[])
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(&[])
}

/// The sum of all bytes, the sum's own field counted as spaces. Some old programs added signed
/// bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let stored = number(field(block, 148, 8)).map_err(|_| "a header's checksum is malformed")?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || stored == signed {
        Ok(())
    } else {
        Err("a header's checksum is wrong")
    }
}

/// A number: octal text, or big-endian two's complement when the first bit is set (GNU).
pub fn number(field: &[u8]) -> Result<i64, &'static str> {
    const RANGE: &str = "a number is out of range";
    if let Some((first, rest)) = field.split_first()
        && first & 0x80 != 0
    {
        // The second bit is the sign; the first only marks the encoding.
        let negative = first & 0x40 != 0;
        let lead = if negative { i64::from(*first) - 256 } else { i64::from(first & 0x7f) };
        return rest.iter().try_fold(lead, |value, byte| {
            value
                .checked_mul(256)
                .and_then(|value| value.checked_add(i64::from(*byte)))
                .ok_or(RANGE)
        });
    }
    let digits = field
        .iter()
        .skip_while(|byte| matches!(byte, b' ' | 0))
        .take_while(|byte| !matches!(byte, b' ' | 0));
    let mut value = 0i64;
    for digit in digits {
        if !matches!(digit, b'0'..=b'7') {
            return Err("a number is not octal");
        }
        let digit = i64::from(digit - b'0');
        value = value.checked_mul(8).and_then(|value| value.checked_add(digit)).ok_or(RANGE)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_in_every_encoding() {
        let cases: [(&[u8], Result<i64, ()>); 10] = [
            (b"0000644\0", Ok(0o644)),
            (b"  644 \0\0", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"77777777777\0", Ok(0o77777777777)),
            (b"\x80\0\0\0\0\0\x01\x86\xa0", Ok(100_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"0000648\0", Err(())),
            (b"-1\0", Err(())),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Err(())),
        ];
        for (text, value) in cases {
            assert_eq!(number(text).map_err(drop), value, "{}", text.escape_ascii());
        }
    }
}
