//! Connections from this machine itself to published ports, passed on to the container: to
//! 127.0.0.1 no rule of the packet filter leads out of the machine. The listening sockets also
//! keep the ports from being taken by somebody else.

use std::collections::HashMap;
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::ports::{Protocol, Published};

/// How long a container may take to accept.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long datagrams of one sender are remembered, as in Docker's proxy.
const DATAGRAM_IDLE: Duration = Duration::from_secs(90);
/// Senders of datagrams remembered at once.
const SENDERS_MAX: usize = 1024;
/// The largest datagram.
const DATAGRAM_MAX: usize = 65_535;

/// A port of this machine that is ours.
#[derive(Debug)]
pub enum Listening {
    /// For connections.
    Stream(TcpListener),
    /// For datagrams.
    Datagram(UdpSocket),
}

/// A port is taken, or may not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it.
    #[error("Bind for {0} failed: port is already allocated")]
    Taken(Published),
    /// The kernel says no.
    #[error("Bind for {0} failed: {1}")]
    Refused(Published, io::Error),
}

impl Listening {
    /// Takes a port, and says which it is.
    pub fn bind(wanted: Published) -> Result<(Self, Published), Error> {
        let at = SocketAddr::new(wanted.address, wanted.host);
        let bound = match wanted.container.protocol {
            Protocol::Tcp => TcpListener::bind(at).and_then(|socket| {
                let port = socket.local_addr()?.port();
                Ok((Self::Stream(socket), port))
            }),
            Protocol::Udp => UdpSocket::bind(at).and_then(|socket| {
                let port = socket.local_addr()?.port();
                Ok((Self::Datagram(socket), port))
            }),
        };
        match bound {
            Ok((listening, host)) => Ok((listening, Published { host, ..wanted })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::Taken(wanted)),
            Err(error) => Err(Error::Refused(wanted, error)),
        }
    }

    /// Passes everything on, for ever.
    pub fn serve(self, to: SocketAddr) {
        match self {
            Self::Stream(listener) => loop {
                match listener.accept() {
                    Ok((stream, _)) => {
                        std::thread::spawn(move || pass_stream(&stream, to));
                    }
                    // Out of descriptors, say.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            },
            Self::Datagram(socket) => pass_datagrams(&Arc::new(socket), to),
        }
    }
}

/// Copies both ways; an end of one side is passed on as such, the other way stays open.
fn pass_stream(outside: &TcpStream, to: SocketAddr) {
    let Ok(inside) = TcpStream::connect_timeout(&to, CONNECT_PATIENCE) else { return };
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        // Either side may end the connection at any time.
        io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Write).ok();
        from.shutdown(Shutdown::Read).ok();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(outside, &inside));
        one_way(&inside, outside);
    });
}

type Senders = Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>;

/// Each sender gets a socket of its own towards the container, so that answers find back.
fn pass_datagrams(outside: &Arc<UdpSocket>, to: SocketAddr) {
    let senders: Arc<Senders> = Arc::default();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, from)) = outside.recv_from(&mut buffer) else { continue };
        let mut known = senders.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = match known.get(&from) {
            Some(inside) => Arc::clone(inside),
            None if known.len() >= SENDERS_MAX => continue,
            None => {
                let Ok(inside) = towards(to) else { continue };
                let inside = Arc::new(inside);
                known.insert(from, Arc::clone(&inside));
                let (back, outside) = (Arc::clone(&inside), Arc::clone(outside));
                let senders = Arc::clone(&senders);
                std::thread::spawn(move || {
                    answer(&back, &outside, from);
                    senders.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
                });
                inside
            }
        };
        drop(known);
        // A container that does not listen yet refuses: datagrams may be lost.
        inside.send(buffer.get(..length).unwrap_or_default()).ok();
    }
}

fn towards(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(DATAGRAM_IDLE))?;
    Ok(socket)
}

/// Passes answers back until there have been none for a while.
fn answer(inside: &UdpSocket, outside: &UdpSocket, to: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        match inside.recv(&mut buffer) {
            Ok(length) => {
                outside.send_to(buffer.get(..length).unwrap_or_default(), to).ok();
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ports::published;
    use super::*;
    use std::io::{Read, Write};

    fn wanted(text: &str) -> Published {
        published(text).unwrap().into_iter().next().unwrap()
    }

    #[test]
    fn a_port_is_had_once() {
        let (first, given) = Listening::bind(wanted("127.0.0.1::80")).unwrap();
        assert!(given.host > 0);
        let error = Listening::bind(given).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Bind for 127.0.0.1:{} failed: port is already allocated", given.host)
        );
        drop(first);
    }

    #[test]
    fn streams_are_passed_on_with_their_ends() {
        let inside = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = inside.local_addr().unwrap();
        let (listening, given) = Listening::bind(wanted("127.0.0.1::80")).unwrap();
        std::thread::spawn(move || listening.serve(to));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = inside.accept().unwrap();
            let mut asked = String::new();
            stream.read_to_string(&mut asked).unwrap(); // up to the half-close
            write!(stream, "you said {asked}").unwrap();
        });
        let mut stream = TcpStream::connect(("127.0.0.1", given.host)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "you said hello");
        server.join().unwrap();
    }

    #[test]
    fn datagrams_find_back() {
        let inside = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = inside.local_addr().unwrap();
        let (listening, given) = Listening::bind(wanted("127.0.0.1::53/udp")).unwrap();
        std::thread::spawn(move || listening.serve(to));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                let (length, from) = inside.recv_from(&mut buffer).unwrap();
                inside.send_to(&[b"re:", &buffer[..length]].concat(), from).unwrap();
            }
        });
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        client.connect(("127.0.0.1", given.host)).unwrap();
        for word in ["one", "two"] {
            client.send(word.as_bytes()).unwrap();
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], format!("re:{word}").as_bytes());
        }
    }
}
