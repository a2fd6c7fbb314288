//! Interfaces, addresses and routes: bridges, pairs of virtual Ethernet interfaces.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

use super::netlink::{CREATE, Message, Socket, attributes};
use super::subnet::Subnet;

// Types of messages, in linux/rtnetlink.h.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

// Attributes of a link, in linux/if_link.h.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;

// Attributes of an address and of a route.
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;

const INET: u8 = libc::AF_INET as u8;
const UP: u32 = libc::IFF_UP as u32;
/// Length of the fixed part of a link's message.
const LINK_FIXED: usize = 16;
/// Length of the fixed part of a route's message.
const ROUTE_FIXED: usize = 12;

/// A hardware address.
pub type Mac = [u8; 6];

/// The fixed part of a link's message.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut fixed = vec![0; 4];
    fixed.extend(index.to_ne_bytes());
    fixed.extend(flags.to_ne_bytes());
    fixed.extend(flags.to_ne_bytes()); // which of the flags are meant
    fixed
}

/// One end of a new pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address; else the kernel's choice.
    pub mac: Option<Mac>,
}

impl Socket {
    /// The number of the interface with this name.
    pub fn index(&self, name: &str) -> nix::Result<Option<u32>> {
        let found = self.dump(Message::new(GET_LINK, 0, &link(0, 0)), |body| {
            let (_, value) =
                attributes(body, LINK_FIXED).into_iter().find(|(kind, _)| *kind == LINK_NAME)?;
            let index = body.get(4..8)?.try_into().ok().map(u32::from_ne_bytes)?;
            (value.strip_suffix(b"\0") == Some(name.as_bytes())).then_some(index)
        })?;
        Ok(found.into_iter().next())
    }

    /// Makes a bridge, brings it up, and gives its number.
    pub fn make_bridge(&self, name: &str, mac: Mac, mtu: Option<u32>) -> nix::Result<u32> {
        let mut message = Message::new(NEW_LINK, CREATE, &link(0, UP))
            .text(LINK_NAME, name)
            .attribute(LINK_ADDRESS, &mac);
        if let Some(mtu) = mtu {
            message = message.number(LINK_MTU, mtu);
        }
        self.request(message.nested(LINK_INFO, &[], |info| info.text(INFO_KIND, "bridge")))?;
        self.index(name)?.ok_or(Errno::ENODEV)
    }

    /// Makes a pair of interfaces: one here, up, a port of the bridge `master`; the other one in
    /// another network namespace.
    pub fn make_pair(
        &self,
        here: &str,
        master: u32,
        there: End<'_>,
        namespace: BorrowedFd<'_>,
        mtu: Option<u32>,
    ) -> nix::Result<()> {
        let mut message = Message::new(NEW_LINK, CREATE, &link(0, UP))
            .text(LINK_NAME, here)
            .number(LINK_MASTER, master);
        if let Some(mtu) = mtu {
            message = message.number(LINK_MTU, mtu);
        }
        let namespace = namespace.as_raw_fd().cast_unsigned();
        self.request(message.nested(LINK_INFO, &[], |info| {
            info.text(INFO_KIND, "veth").nested(INFO_DATA, &[], |data| {
                data.nested(VETH_PEER, &link(0, 0), |mut peer| {
                    peer = peer.text(LINK_NAME, there.name).number(LINK_NAMESPACE, namespace);
                    if let Some(mtu) = mtu {
                        peer = peer.number(LINK_MTU, mtu);
                    }
                    match there.mac {
                        Some(mac) => peer.attribute(LINK_ADDRESS, &mac),
                        None => peer,
                    }
                })
            })
        }))
    }

    /// Brings an interface up.
    pub fn bring_up(&self, index: u32) -> nix::Result<()> {
        self.request(Message::new(NEW_LINK, 0, &link(index, UP)))
    }

    /// Removes an interface; one that is not there is no error.
    pub fn remove(&self, name: &str) -> nix::Result<()> {
        let Some(index) = self.index(name)? else { return Ok(()) };
        match self.request(Message::new(DELETE_LINK, 0, &link(index, 0))) {
            Err(Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives an interface an address in a network.
    pub fn add_address(&self, index: u32, address: Ipv4Addr, network: Subnet) -> nix::Result<()> {
        let mut fixed = vec![INET, network.prefix(), 0, 0];
        fixed.extend(index.to_ne_bytes());
        let message = Message::new(NEW_ADDRESS, CREATE, &fixed)
            .attribute(ADDRESS_LOCAL, &address.octets())
            .attribute(ADDRESS_ADDRESS, &address.octets())
            .attribute(ADDRESS_BROADCAST, &network.last().octets());
        self.request(message)
    }

    /// Sends everything without a route of its own over an interface to a gateway.
    pub fn add_default_route(&self, index: u32, gateway: Ipv4Addr) -> nix::Result<()> {
        let fixed = [
            INET,
            0, // destination: everything
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(NEW_ROUTE, CREATE, &fixed)
            .attribute(ROUTE_GATEWAY, &gateway.octets())
            .number(ROUTE_OUT, index);
        self.request(message)
    }

    /// The networks that this namespace has routes to, the default route left out.
    pub fn routed(&self) -> nix::Result<Vec<Subnet>> {
        let mut fixed = [0; ROUTE_FIXED];
        if let Some(family) = fixed.first_mut() {
            *family = INET;
        }
        self.dump(Message::new(GET_ROUTE, 0, &fixed), |body| {
            let prefix = *body.get(1)?;
            let destination = attributes(body, ROUTE_FIXED)
                .into_iter()
                .find(|(kind, _)| *kind == ROUTE_DESTINATION)?;
            let octets: [u8; 4] = destination.1.try_into().ok()?;
            (prefix > 0).then(|| Subnet::around(octets.into(), prefix)).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_routed() {
        let socket = Socket::open().unwrap();
        assert_eq!(socket.index("lo").unwrap(), Some(1));
        assert_eq!(socket.index("cowl-none").unwrap(), None);
        let loopback: Subnet = "127.0.0.0/8".parse().unwrap();
        assert!(socket.routed().unwrap().iter().all(|net| net.prefix() > 0));
        // The table of local addresses is part of it where loopback is up.
        if std::fs::read_to_string("/sys/class/net/lo/operstate").is_ok() {
            let routed = socket.routed().unwrap();
            assert!(routed.is_empty() || routed.iter().any(|net| net.overlaps(loopback)));
        }
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        Socket::open().unwrap().remove("cowl-none").unwrap();
    }
}
