//! The server that answers a container's questions about names, at 127.0.0.11 in its network
//! namespace: names of containers in the same networks from what is written down about them,
//! everything else from the servers that this machine asks.
//!
//! What is written down is read at every question: whoever comes, goes, or is attached meanwhile
//! is known at once. A thread waits for each question that is passed on; there are never more
//! than [`FORWARDED_MAX`].

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::dns::{self, Kind, Query, Reply};
use super::record::{Endpoint, Networks};

/// Docker's address for it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// DNS's port.
pub const PORT: u16 = 53;

/// Questions on their way at once; more are not answered, and asked again by who needs them.
const FORWARDED_MAX: usize = 64;
/// Connections at once.
const CONNECTIONS_MAX: usize = 32;
/// How long one server is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// The largest message.
const MESSAGE_MAX: usize = 65_535;

/// Who answers, for whom.
#[derive(Debug)]
pub struct Responder {
    /// What is known about networks.
    pub networks: Networks,
    /// The container that asks.
    pub container: String,
    /// Who is asked about other names.
    pub servers: Vec<IpAddr>,
    /// Answered here: name and address.
    pub hosts: Vec<(String, IpAddr)>,
}

impl Responder {
    /// The endpoints in networks where the container is, and names count; and whether any of its
    /// networks has a way out.
    fn neighbours(&self) -> (Vec<Endpoint>, bool) {
        let (mut found, mut outside) = (Vec::new(), false);
        // A record that is being replaced is read at the next question.
        for network in self.networks.list().unwrap_or_default() {
            if !matches!(self.networks.endpoint(&network.id, &self.container), Ok(Some(_))) {
                continue;
            }
            outside |= !network.internal;
            if network.resolves() {
                let all = self.networks.endpoints(&network.id).unwrap_or_default();
                found.extend(all.into_iter().filter(Endpoint::live));
            }
        }
        (found, outside)
    }

    /// What is known here about a question; none when others must be asked.
    pub fn local(&self, query: &Query) -> Option<Reply> {
        let (neighbours, outside) = self.neighbours();
        match query.kind {
            Kind::Ptr => {
                let address = dns::reversed(&query.name)?;
                if let Some(one) = neighbours.iter().find(|one| one.address == address) {
                    return Some(Reply::Name(format!("{}.{}", one.name, one.network_name)));
                }
            }
            Kind::A | Kind::Aaaa => {
                let hosts = self.hosts.iter().filter(|(name, _)| *name == query.name);
                let named = |one: &&Endpoint| {
                    let plain = query.name.strip_suffix(&format!(".{}", one.network_name));
                    let wanted = plain.unwrap_or(&query.name);
                    one.names.iter().any(|name| name.eq_ignore_ascii_case(wanted))
                };
                let mut addresses: Vec<Ipv4Addr> =
                    neighbours.iter().filter(named).map(|one| one.address).collect();
                let mut known = !addresses.is_empty();
                for (_, address) in hosts {
                    known = true;
                    addresses.extend(match address {
                        IpAddr::V4(address) => Some(*address),
                        IpAddr::V6(_) => None,
                    });
                }
                if known {
                    let asked = query.kind == Kind::A;
                    return Some(Reply::Addresses(if asked { addresses } else { Vec::new() }));
                }
            }
            Kind::Other => {}
        }
        (!outside).then_some(Reply::Unknown)
    }

    /// Asks the servers in turn, over UDP; the answer as it came.
    fn forward(&self, message: &[u8]) -> Option<Vec<u8>> {
        for server in &self.servers {
            let any: IpAddr = match server {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
                socket.connect((*server, PORT))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send(message)?;
                let mut buffer = vec![0; MESSAGE_MAX];
                loop {
                    let length = socket.recv(&mut buffer)?;
                    // Late answers to other questions are not this one's.
                    if buffer.get(..2) == message.get(..2) {
                        buffer.truncate(length);
                        return Ok(buffer);
                    }
                }
            });
            if let Ok(answer) = asked {
                return Some(answer);
            }
        }
        None
    }

    fn forward_stream(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.servers.iter().find_map(|server| {
            let mut stream =
                TcpStream::connect_timeout(&SocketAddr::new(*server, PORT), PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            send_framed(&mut stream, message).ok()?;
            receive_framed(&mut stream).ok()
        })
    }

    /// Answers datagrams, for ever.
    pub fn datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let busy = Arc::new(AtomicUsize::new(0));
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let message = buffer.get(..length).unwrap_or_default();
            let Some(query) = dns::parse(message) else { continue };
            if let Some(reply) = self.local(&query) {
                // Who asked may be gone.
                socket.send_to(&dns::answer(&query, &reply, dns::UDP_MAX), from).ok();
                continue;
            }
            if busy.fetch_add(1, Ordering::AcqRel) >= FORWARDED_MAX {
                busy.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (own, to, count) = (Arc::clone(&self), Arc::clone(&socket), Arc::clone(&busy));
            let message = message.to_vec();
            std::thread::spawn(move || {
                let answer = own
                    .forward(&message)
                    .unwrap_or_else(|| dns::answer(&query, &Reply::Failed, dns::UDP_MAX));
                to.send_to(&answer, from).ok();
                count.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }

    /// Answers connections, for ever.
    pub fn connections(self: Arc<Self>, listener: &TcpListener) {
        let busy = Arc::new(AtomicUsize::new(0));
        loop {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(100)); // out of descriptors, say
                continue;
            };
            if busy.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
                busy.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (own, count) = (Arc::clone(&self), Arc::clone(&busy));
            std::thread::spawn(move || {
                own.converse(stream);
                count.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }

    fn converse(&self, mut stream: TcpStream) {
        if stream.set_read_timeout(Some(IDLE)).is_err() {
            return;
        }
        while let Ok(message) = receive_framed(&mut stream) {
            let Some(query) = dns::parse(&message) else { return };
            let answer = match self.local(&query) {
                Some(reply) => dns::answer(&query, &reply, MESSAGE_MAX),
                None => self
                    .forward_stream(&message)
                    .unwrap_or_else(|| dns::answer(&query, &Reply::Failed, MESSAGE_MAX)),
            };
            if send_framed(&mut stream, &answer).is_err() {
                return;
            }
        }
    }
}

fn send_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())
}

fn receive_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{endpoint, network};
    use super::*;

    fn responder(dir: &std::path::Path, internal: bool) -> Responder {
        let networks = Networks::of(dir);
        let (guard, _) = networks.lock().unwrap();
        let mut own = network("abc1", "mine");
        own.internal = internal;
        let other = network("abc2", "other");
        networks.save(&own, &guard).unwrap();
        networks.save(&other, &guard).unwrap();
        for (net, container, last) in [(&own, "c1", 2), (&own, "c2", 3), (&other, "c3", 4)] {
            networks.save_endpoint(&endpoint(net, container, last), &guard).unwrap();
        }
        drop(guard);
        let hosts = vec![("db".to_owned(), "10.0.0.9".parse().unwrap())];
        Responder { networks, container: "c1".into(), servers: Vec::new(), hosts }
    }

    fn query(name: &str, kind: u16) -> Query {
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        dns::parse(&message).unwrap()
    }

    #[test]
    fn neighbours_are_found_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let responder = responder(dir.path(), false);
        let addresses = |list: &[&str]| {
            Some(Reply::Addresses(list.iter().map(|text| text.parse().unwrap()).collect()))
        };
        assert_eq!(responder.local(&query("name-of-c2", 1)), addresses(&["10.9.0.3"]));
        assert_eq!(responder.local(&query("Name-Of-C2.mine", 1)), addresses(&["10.9.0.3"]));
        assert_eq!(responder.local(&query("name-of-c2", 28)), addresses(&[]));
        assert_eq!(responder.local(&query("db", 1)), addresses(&["10.0.0.9"]));
        let Some(Reply::Addresses(both)) = responder.local(&query("alias", 1)) else {
            panic!("an alias of two")
        };
        assert_eq!(both.len(), 2);
        assert_eq!(
            responder.local(&query("3.0.9.10.in-addr.arpa", 12)),
            Some(Reply::Name("name-of-c2.mine".into()))
        );
        // In a network where this container is not; and names of the world.
        assert_eq!(responder.local(&query("name-of-c3", 1)), None);
        assert_eq!(responder.local(&query("example.com", 1)), None);
        assert_eq!(responder.local(&query("name-of-c2", 16)), None);
    }

    #[test]
    fn nothing_leaves_an_internal_network() {
        let dir = tempfile::tempdir().unwrap();
        let responder = responder(dir.path(), true);
        assert_eq!(responder.local(&query("example.com", 1)), Some(Reply::Unknown));
    }
}
