//! Files with holes: where their data lies. GNU's old header form, and the maps of PAX.

use super::header::{BLOCK, field, number};
use super::pax::decimal;

/// Most segments one file may have; a map of that size is 16 MiB in memory.
const MAX_SEGMENTS: usize = 1 << 20;
/// Longest decimal number in a map.
const MAX_DIGITS: usize = 20;

/// A piece of data in a file with holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// What a GNU header of type `S` says.
#[derive(Debug)]
pub struct OldSparse {
    pub segments: Vec<Segment>,
    /// Another block with more segments follows.
    pub extended: bool,
    pub real_size: u64,
}

/// The four segments, the flag and the size in a header of type `S`.
pub fn parse_old(block: &[u8; BLOCK]) -> Result<OldSparse, &'static str> {
    let mut segments = Vec::new();
    push_old(&mut segments, field(block, 386, 4 * 24))?;
    let real_size =
        u64::try_from(number(field(block, 483, 12))?).map_err(|_| "a size is negative")?;
    Ok(OldSparse { segments, extended: field(block, 482, 1) != [0], real_size })
}

/// Adds the segments of an extension block; whether another block follows.
pub fn extend_old(segments: &mut Vec<Segment>, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
    push_old(segments, field(block, 0, 21 * 24))?;
    Ok(field(block, 504, 1) != [0])
}

fn push_old(segments: &mut Vec<Segment>, table: &[u8]) -> Result<(), &'static str> {
    for pair in table.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        // Unused places are all zeros.
        if offset.first() == Some(&0) && length.first() == Some(&0) {
            return Ok(());
        }
        let unsigned =
            |text| u64::try_from(number(text)?).map_err(|_| "a sparse map has a negative number");
        push(segments, unsigned(offset)?, unsigned(length)?)?;
    }
    Ok(())
}

fn push(segments: &mut Vec<Segment>, offset: u64, length: u64) -> Result<(), &'static str> {
    if segments.len() >= MAX_SEGMENTS {
        return Err("a sparse map is too long");
    }
    segments.push(Segment { offset, length });
    Ok(())
}

/// PAX 0.1: `offset,length,offset,length`.
pub fn parse_comma_map(text: &[u8]) -> Result<Vec<Segment>, &'static str> {
    let mut segments = Vec::new();
    if text.is_empty() {
        return Ok(segments);
    }
    let mut numbers = text.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or("a sparse map is malformed")?;
        push(&mut segments, decimal(offset)?, decimal(length)?)?;
    }
    Ok(segments)
}

/// PAX 1.0: in front of the data, one number a line: count, then offset and length of each.
#[derive(Debug, Default)]
pub struct MapParser {
    digits: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    segments: Vec<Segment>,
}

impl MapParser {
    /// Reads on; returns the map once it is complete (the rest of the block is padding).
    pub fn push(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<Segment>>, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                if self.digits.len() >= MAX_DIGITS {
                    return Err("a sparse map is malformed");
                }
                self.digits.push(*byte);
                continue;
            }
            let value = decimal(&self.digits)?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(value),
                (Some(_), None) => self.offset = Some(value),
                (Some(_), Some(offset)) => push(&mut self.segments, offset, value)?,
            }
            if self.offset.is_none() && self.count == Some(self.segments.len() as u64) {
                return Ok(Some(std::mem::take(&mut self.segments)));
            }
        }
        Ok(None)
    }
}

/// Checks a map against the file's size and the number of data bytes in the archive.
pub fn check(map: &[Segment], real_size: u64, archived: u64) -> Result<(), &'static str> {
    let mut end = 0u64;
    let mut total = 0u64;
    for segment in map {
        if segment.offset < end {
            return Err("the pieces of a sparse file overlap");
        }
        end = segment.offset.checked_add(segment.length).ok_or("a sparse file is too large")?;
        total += segment.length;
    }
    if end > real_size {
        return Err("the pieces of a sparse file exceed its size");
    }
    if total != archived {
        return Err("the pieces of a sparse file do not match its data");
    }
    Ok(())
}
