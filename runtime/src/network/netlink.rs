//! The kernel's routing socket (rtnetlink): messages out, answers in.
//!
//! A message is a header, a fixed part, and attributes, each a length, a type and bytes, all in
//! the machine's byte order. Nothing here knows what a message means: that is `link`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Length of a message's header and of an attribute's.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

/// Flags of a request, in linux/netlink.h.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Make what the message describes; it must not exist.
pub const CREATE: u16 = 0x400 | 0x200;

/// Types of answers.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Large enough for what the kernel sends at once in answer to a dump.
const BUFFER: usize = 64 * 1024;

/// A request in the making.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this kind, with its fixed part.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]); // the sequence number and who sends: filled in by the kernel
        bytes.extend(fixed);
        Self { bytes }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute that is a text with a zero byte at its end.
    pub fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds an attribute that is a number.
    pub fn number(self, kind: u16, number: u32) -> Self {
        self.attribute(kind, &number.to_ne_bytes())
    }

    /// Adds an attribute that holds `fixed` and then other attributes.
    pub fn nested(mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend([0, 0]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(fixed);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        for (to, from) in filled.bytes.iter_mut().skip(start).zip(length.to_ne_bytes()) {
            *to = from;
        }
        filled
    }

    fn finish(mut self, more: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        for (to, from) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
        if let Some([low, high]) = self.bytes.get_mut(6..8) {
            let flags = u16::from_ne_bytes([*low, *high]) | more;
            [*low, *high] = flags.to_ne_bytes();
        }
        self.bytes
    }
}

/// One part of an answer: its type and what follows the header.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    kind: u16,
    body: &'a [u8],
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Splits what was received into answers; a malformed rest is left out.
fn answers(bytes: &[u8]) -> Vec<Answer<'_>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let (Some(length), Some(kind)) = (number_at(rest, 0), number_at(rest, 4)) {
        let length = u32::from_ne_bytes(length) as usize;
        let Some(body) = rest.get(HEADER..length) else { break };
        found.push(Answer { kind: u16::from_ne_bytes(kind), body });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The attributes after a fixed part of this length.
pub fn attributes(body: &[u8], fixed: usize) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    let mut rest = body.get(fixed..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (number_at(rest, 0), number_at(rest, 2)) {
        let length = usize::from(u16::from_ne_bytes(length));
        let Some(value) = rest.get(ATTRIBUTE..length) else { break };
        found.push((u16::from_ne_bytes(kind), value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// A routing socket: of the network namespace in which it was opened, for ever.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// One for this process's network namespace.
    pub fn open() -> nix::Result<Self> {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(Self)
    }

    /// One for another network namespace.
    pub fn open_in(namespace: BorrowedFd<'_>) -> nix::Result<Self> {
        inside(namespace, Self::open)?
    }

    /// Sends a request and waits until the kernel has done it.
    pub fn request(&self, message: Message) -> nix::Result<()> {
        self.send(&message.finish(ACK))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for answer in answers(self.receive(&mut buffer)?) {
                if answer.kind == ERROR {
                    return outcome(answer.body);
                }
            }
        }
    }

    /// Sends a question and collects what `keep` makes of each answer.
    pub fn dump<T>(
        &self,
        message: Message,
        mut keep: impl FnMut(&[u8]) -> Option<T>,
    ) -> nix::Result<Vec<T>> {
        self.send(&message.finish(DUMP))?;
        let mut found = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            for answer in answers(self.receive(&mut buffer)?) {
                match answer.kind {
                    DONE => return Ok(found),
                    ERROR => outcome(answer.body)?,
                    _ => found.extend(keep(answer.body)),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> nix::Result<&'a [u8]> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(length) => return Ok(buffer.get(..length).unwrap_or_default()),
            }
        }
    }
}

fn outcome(body: &[u8]) -> nix::Result<()> {
    match number_at(body, 0).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(code.wrapping_neg())),
        None => Err(Errno::EBADMSG),
    }
}

/// Does something in another network namespace. This thread comes back in any case; when the
/// kernel does not let it back, the error says so and nothing more must be done with it.
pub fn inside<T>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> T) -> nix::Result<T> {
    let own = std::fs::File::open("/proc/thread-self/ns/net")
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let result = act();
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_lengths_and_padding() {
        let message =
            Message::new(16, CREATE, &[1, 2, 3, 4])
                .text(3, "ab")
                .nested(18, &[], |message| message.text(1, "veth").number(2, 7));
        let bytes = message.finish(ACK);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(u16::from_ne_bytes(bytes[6..8].try_into().unwrap()), CREATE | REQUEST | ACK);
        let outer = attributes(&bytes, HEADER + 4);
        assert_eq!(outer[0], (3, &b"ab\0"[..]));
        assert_eq!(outer[1].0, 18);
        let inner = attributes(outer[1].1, 0);
        assert_eq!(inner, [(1, &b"veth\0"[..]), (2, &7u32.to_ne_bytes()[..])]);
        assert_eq!(answers(&bytes).len(), 1);
        assert_eq!(answers(&bytes)[0].kind, 16);
    }

    #[test]
    fn what_is_cut_short_is_left_out() {
        let bytes = Message::new(20, 0, &[]).number(1, 2).finish(0);
        for length in 0..bytes.len() {
            assert!(answers(&bytes[..length]).is_empty(), "{length}");
            attributes(&bytes[..length], HEADER);
        }
        assert!(attributes(&[0, 0, 1, 0, 9], 0).is_empty());
        assert_eq!(outcome(&(-17i32).to_ne_bytes()), Err(Errno::EEXIST));
        assert_eq!(outcome(&[]), Err(Errno::EBADMSG));
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::open().unwrap();
        // RTM_GETLINK of everything: there is a loopback interface in every namespace.
        let names = socket
            .dump(Message::new(18, 0, &[0; 16]), |body| {
                let name = attributes(body, 16).into_iter().find(|(kind, _)| *kind == 3)?.1;
                Some(String::from_utf8_lossy(name).into_owned())
            })
            .unwrap();
        assert!(names.contains(&"lo\0".to_owned()), "{names:?}");
        let missing = Message::new(17, 0, &[0; 16]).text(3, "cowl-none");
        assert!(socket.request(missing).is_err());
    }
}
