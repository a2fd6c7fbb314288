//! The wire format of DNS (RFC 1035), as much as a responder needs: one question in, addresses or
//! names out. Every byte comes from a container and is untrusted.

use std::net::Ipv4Addr;

/// The largest message over UDP without extensions; a longer answer is cut and marked so.
pub const UDP_MAX: usize = 512;
const HEADER: usize = 12;
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;
/// Docker's time to live of containers' names, in seconds.
const TTL: u32 = 600;

/// Class IN.
const INTERNET: u16 = 1;

/// What is asked for, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Something else.
    Other,
}

/// A message that asks.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    /// Its number and flags, to be repeated.
    id: [u8; 2],
    recursion: bool,
    /// The question's bytes, to be repeated.
    question: Vec<u8>,
    /// The name, in lower case, without the dot at its end.
    pub name: String,
    /// What about it.
    pub kind: Kind,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Addresses; none when the name exists without any of the kind.
    Addresses(Vec<Ipv4Addr>),
    /// A name.
    Name(String),
    /// There is no such name.
    Unknown,
    /// Nobody could be asked.
    Failed,
}

/// Reads a query with one question; none for anything else.
pub fn parse(message: &[u8]) -> Option<Query> {
    let flags = *message.get(2)?;
    let questions = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    // An answer, or an operation other than a standard query.
    if flags & 0xf8 != 0 || questions != 1 {
        return None;
    }
    let mut name = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > LABEL_MAX || name.len() + length > NAME_MAX {
            return None;
        }
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(message.get(at..at + length)?.to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    let class = u16::from_be_bytes(message.get(at + 2..at + 4)?.try_into().ok()?);
    let kind = match (class, kind) {
        (INTERNET, 1) => Kind::A,
        (INTERNET, 28) => Kind::Aaaa,
        (INTERNET, 12) => Kind::Ptr,
        _ => Kind::Other,
    };
    Some(Query {
        id: message.get(..2)?.try_into().ok()?,
        recursion: flags & 1 != 0,
        question: message.get(HEADER..at + 4)?.to_vec(),
        name: String::from_utf8(name).ok()?,
        kind,
    })
}

/// The address that a name below `in-addr.arpa` stands for.
pub fn reversed(name: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut labels = name.strip_suffix(".in-addr.arpa")?.rsplit('.');
    for octet in &mut octets {
        *octet = labels.next()?.parse().ok()?;
    }
    labels.next().is_none().then(|| octets.into())
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = label.as_bytes();
        let length = label.len().min(LABEL_MAX);
        bytes.push(length as u8);
        bytes.extend(label.iter().take(length));
    }
    bytes.push(0);
    bytes
}

/// The message that answers a query.
pub fn answer(query: &Query, reply: &Reply, limit: usize) -> Vec<u8> {
    let (records, code): (Vec<(u16, Vec<u8>)>, u8) = match reply {
        Reply::Addresses(list) => {
            (list.iter().map(|address| (1, address.octets().to_vec())).collect(), 0)
        }
        Reply::Name(name) => (vec![(12, encoded(name))], 0),
        Reply::Unknown => (Vec::new(), 3),
        Reply::Failed => (Vec::new(), 2),
    };
    let mut message = query.id.to_vec();
    // An answer; recursion desired as in the query, and available.
    message.extend([0x80 | u8::from(query.recursion), 0x80 | code]);
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(&query.question);
    let mut count = 0u16;
    let mut cut = false;
    for (kind, data) in records {
        let mut record = vec![0xc0, HEADER as u8]; // the question's name
        record.extend(kind.to_be_bytes());
        record.extend(INTERNET.to_be_bytes());
        record.extend(TTL.to_be_bytes());
        record.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        record.extend(data);
        if message.len() + record.len() > limit {
            cut = true;
            break;
        }
        message.extend(record);
        count += 1;
    }
    for (to, from) in message.iter_mut().skip(6).zip(count.to_be_bytes()) {
        *to = from;
    }
    if cut && let Some(flags) = message.get_mut(2) {
        *flags |= 2;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(encoded(name));
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn questions_are_read() {
        let query = parse(&asks("Web.Example", 1)).unwrap();
        assert_eq!((query.name.as_str(), query.kind), ("web.example", Kind::A));
        assert_eq!(parse(&asks("x", 28)).unwrap().kind, Kind::Aaaa);
        assert_eq!(parse(&asks("x", 16)).unwrap().kind, Kind::Other);
        assert_eq!(parse(&asks("", 2)).unwrap().name, "");
    }

    #[test]
    fn nothing_malformed_is_a_question() {
        let good = asks("a.bc", 1);
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None, "{length}");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x3f, 0x80, 0xc0, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                parse(&bad); // must not panic
            }
        }
        let mut pointer = asks("a", 1);
        pointer[HEADER] = 0xc0;
        assert_eq!(parse(&pointer), None);
        let mut answer = good;
        answer[2] |= 0x80;
        assert_eq!(parse(&answer), None);
    }

    #[test]
    fn answers_repeat_the_question() {
        let question = asks("web", 1);
        let query = parse(&question).unwrap();
        let address = Ipv4Addr::new(172, 18, 0, 2);
        let message = answer(&query, &Reply::Addresses(vec![address]), UDP_MAX);
        assert_eq!(message[..2], question[..2]);
        assert_eq!(message[2..4], [0x81, 0x80]);
        assert_eq!(message[4..12], [0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(message[HEADER..question.len()], question[HEADER..]);
        assert_eq!(message[message.len() - 4..], [172, 18, 0, 2]);
        assert_eq!(answer(&query, &Reply::Unknown, UDP_MAX)[3], 0x83);
        assert_eq!(answer(&query, &Reply::Failed, UDP_MAX)[3], 0x82);
    }

    #[test]
    fn a_long_answer_is_cut_and_says_so() {
        let query = parse(&asks("web", 1)).unwrap();
        let reply = Reply::Addresses(vec![Ipv4Addr::LOCALHOST; 100]);
        let message = answer(&query, &reply, UDP_MAX);
        assert!(message.len() <= UDP_MAX && message[2] & 2 != 0);
        assert_eq!(answer(&query, &reply, 65_535)[2] & 2, 0);
    }

    #[test]
    fn addresses_are_found_in_reversed_names() {
        assert_eq!(reversed("2.0.18.172.in-addr.arpa"), Some(Ipv4Addr::new(172, 18, 0, 2)));
        for bad in
            ["2.0.18.in-addr.arpa", "1.2.0.18.172.in-addr.arpa", "x", "256.0.0.1.in-addr.arpa"]
        {
            assert_eq!(reversed(bad), None, "{bad}");
        }
    }
}
