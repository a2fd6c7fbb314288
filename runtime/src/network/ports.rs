//! Published ports: `-p [ADDRESS:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`, as Docker
//! reads it, and how they are shown.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// A port of a container that shall be reached, or is, at a port of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Published {
    /// The container's port.
    pub container: Port,
    /// At which address of this machine; unspecified for all.
    pub address: IpAddr,
    /// At which port of this machine; 0 for any that is free.
    pub host: u16,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.address, self.host))
    }
}

/// Why a port cannot be published or exposed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No port of the container.
    #[error("No port specified: {0}<empty>")]
    Empty(String),
    /// Not a number from 1 to 65535, nor two of them with a hyphen.
    #[error("Invalid {kind}: {text}")]
    Number {
        /// `containerPort` or `hostPort`.
        kind: &'static str,
        /// As written.
        text: String,
    },
    /// Neither tcp nor udp.
    #[error("Invalid proto: {0}: cowl publishes tcp and udp")]
    Protocol(String),
    /// Not an address of a machine.
    #[error("Invalid ip address: {0}")]
    Address(String),
    /// `1000-1001:80-85`.
    #[error("Invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The container's.
        container: String,
        /// The machine's.
        host: String,
    },
}

fn range(text: &str, kind: &'static str) -> Result<(u16, u16), Error> {
    let wrong = || Error::Number { kind, text: text.to_owned() };
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(wrong()),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last { Err(wrong()) } else { Ok((first, last)) }
}

fn protocol(text: &str) -> Result<Protocol, Error> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(Error::Protocol(text.to_owned())),
    }
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), Error> {
    match text.rsplit_once('/') {
        Some((ports, name)) => Ok((ports, protocol(name)?)),
        None => Ok((text, Protocol::Tcp)),
    }
}

/// Reads an argument of `--expose`, or a port of an image: a port or a range of ports.
pub fn exposed(text: &str) -> Result<Vec<Port>, Error> {
    let (ports, protocol) = split_protocol(text)?;
    let (first, last) = range(ports, "containerPort")?;
    Ok((first..=last).map(|number| Port { number, protocol }).collect())
}

/// Reads an argument of `-p`.
pub fn published(text: &str) -> Result<Vec<Published>, Error> {
    let (rest, protocol) = split_protocol(text)?;
    let (rest, container) = match rest.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, rest),
    };
    if container.is_empty() {
        return Err(Error::Empty(text.to_owned()));
    }
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, host)) => (Some(address), host),
            None => (None, rest),
        },
    };
    let address = match address {
        None | Some("") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(text) => text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text)
            .parse()
            .map_err(|_| Error::Address(text.to_owned()))?,
    };
    let inside = range(container, "containerPort")?;
    let ports = inside.0..=inside.1;
    if host.is_empty() {
        return Ok(ports
            .map(|number| Published { container: Port { number, protocol }, address, host: 0 })
            .collect());
    }
    let outside = range(host, "hostPort")?;
    if outside.1 - outside.0 != inside.1 - inside.0 {
        let (container, host) = (container.to_owned(), host.to_owned());
        return Err(Error::Ranges { container, host });
    }
    Ok(ports
        .zip(outside.0..=outside.1)
        .map(|(number, host)| Published { container: Port { number, protocol }, address, host })
        .collect())
}

/// The text in the column PORTS of `ps`: published ones with their places, others as they are.
/// Neighbours are joined into ranges.
pub fn column(published: &[Published], exposed: &BTreeSet<Port>) -> String {
    let mut published = published.to_vec();
    published.sort();
    let mut parts: Vec<(Published, u16)> = Vec::new();
    for next in published {
        match parts.last_mut() {
            Some((first, more))
                if first.address == next.address
                    && first.container.protocol == next.container.protocol
                    && first.container.number.checked_add(*more + 1)
                        == Some(next.container.number)
                    && first.host.checked_add(*more + 1) == Some(next.host) =>
            {
                *more += 1;
            }
            _ => parts.push((next, 0)),
        }
    }
    let run = |first: u16, more: u16| {
        if more == 0 {
            first.to_string()
        } else {
            format!("{first}-{}", first.saturating_add(more))
        }
    };
    let mut text: Vec<String> = parts
        .iter()
        .map(|(first, more)| {
            let address = match first.address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            let (host, inside) = (run(first.host, *more), run(first.container.number, *more));
            format!("{address}:{host}->{inside}/{}", first.container.protocol)
        })
        .collect();
    let shown: BTreeSet<Port> = parts
        .iter()
        .flat_map(|(first, more)| {
            let protocol = first.container.protocol;
            let first = first.container.number;
            (first..=first.saturating_add(*more)).map(move |number| Port { number, protocol })
        })
        .collect();
    text.extend(exposed.difference(&shown).map(ToString::to_string));
    text.join(", ")
}

impl FromStr for Port {
    type Err = Error;

    /// Reads the argument of `cowl port`: one port.
    fn from_str(text: &str) -> Result<Self, Error> {
        match exposed(text)?.as_slice() {
            [port] => Ok(*port),
            _ => Err(Error::Number { kind: "containerPort", text: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        published(text).unwrap().iter().map(|p| format!("{p} {}", p.container)).collect()
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        assert_eq!(shown("80"), ["0.0.0.0:0 80/tcp"]);
        assert_eq!(shown("8080:80"), ["0.0.0.0:8080 80/tcp"]);
        assert_eq!(shown("8080:80/udp"), ["0.0.0.0:8080 80/udp"]);
        assert_eq!(shown("127.0.0.1:8080:80"), ["127.0.0.1:8080 80/tcp"]);
        assert_eq!(shown("127.0.0.1::80"), ["127.0.0.1:0 80/tcp"]);
        assert_eq!(shown("[::1]:8080:80/TCP"), ["[::1]:8080 80/tcp"]);
        assert_eq!(shown("90-91:80-81"), ["0.0.0.0:90 80/tcp", "0.0.0.0:91 81/tcp"]);
        for (bad, said) in [
            ("", "No port specified: <empty>"),
            ("8080:", "No port specified: 8080:<empty>"),
            ("x", "Invalid containerPort: x"),
            ("0", "Invalid containerPort: 0"),
            ("+1", "Invalid containerPort: +1"),
            ("65536", "Invalid containerPort: 65536"),
            ("x:80", "Invalid hostPort: x"),
            ("81-80", "Invalid containerPort: 81-80"),
            ("a.b:1:80", "Invalid ip address: a.b"),
            ("80/icmp", "Invalid proto: icmp: cowl publishes tcp and udp"),
            ("1-2:80-85", "Invalid ranges specified for container and host Ports: 80-85 and 1-2"),
        ] {
            assert_eq!(published(bad).unwrap_err().to_string(), said);
        }
        assert_eq!(exposed("53/udp").unwrap()[0].to_string(), "53/udp");
        assert_eq!(exposed("1-3").unwrap().len(), 3);
        assert!("1-3".parse::<Port>().is_err());
    }

    #[test]
    fn the_column_of_ps() {
        let all: Vec<Published> = ["8080:80", "90-92:90-92", "127.0.0.1:53:53/udp"]
            .into_iter()
            .flat_map(|text| published(text).unwrap())
            .collect();
        let exposed: BTreeSet<Port> =
            ["80", "443"].into_iter().flat_map(|text| exposed(text).unwrap()).collect();
        assert_eq!(
            column(&all, &exposed),
            "127.0.0.1:53->53/udp, 0.0.0.0:8080->80/tcp, 0.0.0.0:90-92->90-92/tcp, 443/tcp"
        );
        assert_eq!(column(&[], &BTreeSet::new()), "");
    }
}
