//! PAX extended headers: `<length> <key>=<value>\n`, where they override the header after them.

use super::Time;
use super::sparse::{self, Segment};

/// What the records of one extended header say.
#[derive(Debug, Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

/// GNU's three ways to write a file with holes as PAX.
#[derive(Debug, Default)]
pub struct PaxSparse {
    /// The map, in versions 0.0 and 0.1.
    pub map: Option<Vec<Segment>>,
    /// The map is in front of the data: version 1.0.
    pub in_data: bool,
    pub real_size: Option<u64>,
    pub name: Option<Vec<u8>>,
}

/// Reads all records of an extended header.
pub fn parse(mut text: &[u8]) -> Result<Records, &'static str> {
    let mut records = Records::default();
    while !text.is_empty() {
        let ((key, value), rest) = split_record(text)?;
        text = rest;
        apply(&mut records, key, value)?;
    }
    Ok(records)
}

const MALFORMED: &str = "an extended header is malformed";

/// One record's key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record, and what follows it.
fn split_record(text: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    let space = text.iter().position(|byte| *byte == b' ').ok_or(MALFORMED)?;
    let length =
        usize::try_from(decimal(text.get(..space).unwrap_or(&[]))?).map_err(|_| MALFORMED)?;
    let (record, rest) = text.split_at_checked(length).ok_or(MALFORMED)?;
    let record = record.get(space + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or(MALFORMED)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
    let (key, value) = record.split_at(equals);
    if key.is_empty() {
        return Err(MALFORMED);
    }
    Ok(((key, value.get(1..).unwrap_or(&[])), rest))
}

fn apply(records: &mut Records, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        // The exact form: it replaces the other one of the same name. An empty value is a value.
        records.xattrs.retain(|(other, _)| other != name);
        records.xattrs.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
        let name = percent_decode(name).ok_or("an attribute's name is malformed")?;
        let value = base64_decode(value).ok_or("an attribute's value is malformed")?;
        if !records.xattrs.iter().any(|(other, _)| *other == name) {
            records.xattrs.push((name, value));
        }
        return Ok(());
    }
    let number = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some) };
    let bytes = || {
        if value.contains(&0) {
            Err("a name contains a NUL byte")
        } else {
            Ok(Some(value.to_vec()).filter(|value| !value.is_empty()))
        }
    };
    match key {
        b"path" => records.path = bytes()?,
        b"linkpath" => records.link = bytes()?,
        b"size" => records.size = number()?,
        b"uid" => records.uid = number()?,
        b"gid" => records.gid = number()?,
        b"mtime" => records.mtime = time(value)?,
        b"atime" => records.atime = time(value)?,
        b"GNU.sparse.major" => records.sparse.in_data = value == b"1",
        b"GNU.sparse.name" => records.sparse.name = bytes()?,
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => records.sparse.real_size = number()?,
        b"GNU.sparse.map" => records.sparse.map = Some(sparse::parse_comma_map(value)?),
        b"GNU.sparse.numblocks" => {
            records.sparse.map.get_or_insert_default();
        }
        b"GNU.sparse.offset" => {
            let offset = decimal(value)?;
            records.sparse.map.get_or_insert_default().push(Segment { offset, length: 0 });
        }
        b"GNU.sparse.numbytes" => {
            let length = decimal(value)?;
            let map = records.sparse.map.get_or_insert_default();
            map.last_mut().ok_or(MALFORMED)?.length = length;
        }
        // Names of owners, change times, character sets, vendors' notes.
        _ => {}
    }
    Ok(())
}

/// A non-negative decimal number.
pub fn decimal(text: &[u8]) -> Result<u64, &'static str> {
    const WRONG: &str = "a decimal number is malformed";
    if text.is_empty() {
        return Err(WRONG);
    }
    text.iter().try_fold(0u64, |value, byte| {
        if !byte.is_ascii_digit() {
            return Err(WRONG);
        }
        let digit = u64::from(byte - b'0');
        value.checked_mul(10).and_then(|value| value.checked_add(digit)).ok_or(WRONG)
    })
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Result<Option<Time>, &'static str> {
    const WRONG: &str = "a time is malformed";
    if text.is_empty() {
        return Ok(None);
    }
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or(&[])).map_err(|_| WRONG)?;
    let mut seconds = i64::try_from(whole).map_err(|_| WRONG)?;
    let mut nanoseconds = 0u32;
    let mut unit = 100_000_000;
    for digit in parts.next().unwrap_or(&[]) {
        if !digit.is_ascii_digit() {
            return Err(WRONG);
        }
        nanoseconds += u32::from(digit - b'0') * unit;
        unit /= 10;
    }
    if negative {
        seconds = -seconds;
        if nanoseconds > 0 {
            seconds -= 1;
            nanoseconds = 1_000_000_000 - nanoseconds;
        }
    }
    Ok(Some(Time { seconds, nanoseconds }))
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let hex = |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?,
            other => *other,
        });
    }
    Some(decoded)
}

fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0u32);
    // libarchive leaves the padding out; others write it.
    for byte in text.iter().take_while(|byte| **byte != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ".as_slice(), key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn records_are_read() {
        let text = [
            record("path", b"a\xff/b"),
            record("mtime", b"-1.25"),
            record("atime", b"12.0000000019"),
            record("uid", b"100000"),
            record("SCHILY.xattr.user.empty", b""),
            record("LIBARCHIVE.xattr.user.b%20c", b"aGkA"),
            record("SCHILY.xattr.user.raw", b"x=\0\n"),
        ]
        .concat();
        let records = parse(&text).unwrap();
        assert_eq!(records.path.as_deref(), Some(b"a\xff/b".as_slice()));
        assert_eq!(records.mtime, Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(records.atime, Some(Time { seconds: 12, nanoseconds: 1 }));
        assert_eq!(records.uid, Some(100_000));
        let expected: [(&[u8], &[u8]); 3] =
            [(b"user.empty", b""), (b"user.b c", b"hi\0"), (b"user.raw", b"x=\0\n")];
        assert_eq!(records.xattrs.len(), 3);
        for ((name, value), (expected_name, expected_value)) in records.xattrs.iter().zip(expected)
        {
            assert_eq!((name.as_slice(), value.as_slice()), (expected_name, expected_value));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        let nul = record("path", b"a\0b");
        let bad: [&[u8]; 9] = [
            b"x",
            b"5 a=b",
            b"99 a=b\n",
            b"6 a=bc",
            b"6 abcd\n",
            b"0 a=b\n",
            b"5 =b\n",
            b"11 size=-1\n",
            &nul,
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{}", text.escape_ascii());
        }
    }
}
