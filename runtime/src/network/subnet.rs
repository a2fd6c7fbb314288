//! IPv4 networks: an address and the length of its prefix, as people write them (`10.1.0.0/16`).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

/// Not a network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `ADDRESS/LENGTH`.
    #[error("invalid CIDR address: {0}")]
    Syntax(String),
    /// `10.1.2.3/16`.
    #[error("{given} has host bits set: its network is {network}")]
    HostBits {
        /// As written.
        given: String,
        /// What it should be.
        network: Subnet,
    },
}

impl Subnet {
    /// All addresses.
    pub const ANY: Self = Self { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };

    /// The network of this prefix length that an address is in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self {
            address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)),
            prefix,
        })
    }

    /// Its first address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The length of its prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its last address.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask(self.prefix))
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether any address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The addresses that hosts may have: not the first, which names the network, nor the last,
    /// which is for broadcasts.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = self.address.to_bits().saturating_add(1);
        (first..self.last().to_bits()).map(Ipv4Addr::from_bits)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let syntax = || Error::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        let prefix = prefix.parse().map_err(|_| syntax())?;
        let network = Self::around(address, prefix).ok_or_else(syntax)?;
        if network.address != address {
            return Err(Error::HostBits { given: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_read_as_written() {
        for text in ["10.0.0.0/8", "172.17.0.0/16", "192.168.7.128/25", "1.2.3.4/32", "0.0.0.0/0"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/x", "::/8"] {
            assert!(matches!(bad.parse::<Subnet>(), Err(Error::Syntax(_))), "{bad}");
        }
        assert_eq!(
            "10.1.2.3/16".parse::<Subnet>().unwrap_err().to_string(),
            "10.1.2.3/16 has host bits set: its network is 10.1.0.0/16"
        );
    }

    #[test]
    fn addresses_of_a_network() {
        let small = subnet("10.0.0.0/29");
        let hosts: Vec<String> = small.hosts().map(|address| address.to_string()).collect();
        assert_eq!(hosts.first().unwrap(), "10.0.0.1");
        assert_eq!(hosts.last().unwrap(), "10.0.0.6");
        assert_eq!(hosts.len(), 6);
        assert_eq!(subnet("10.0.0.0/32").hosts().count(), 0);
        assert!(small.contains("10.0.0.7".parse().unwrap()));
        assert!(!small.contains("10.0.0.8".parse().unwrap()));
    }

    #[test]
    fn networks_overlap_where_they_share_an_address() {
        let large = subnet("172.16.0.0/12");
        assert!(large.overlaps(subnet("172.17.0.0/16")));
        assert!(subnet("172.17.0.0/16").overlaps(large));
        assert!(!large.overlaps(subnet("172.32.0.0/16")));
    }
}
