//! Which network a new one gets, and which address a new endpoint.
//!
//! The pools are Docker's: sixteen-bit networks from 172.17.0.0 to 172.31.0.0, then twenty-bit
//! ones in 192.168.0.0. What the machine already routes is not given again.

use std::net::Ipv4Addr;

use super::subnet::Subnet;

/// Docker's `default-address-pools`: start, prefix of the pool's members, how many.
const POOLS: [(Ipv4Addr, u8, u32); 2] =
    [(Ipv4Addr::new(172, 17, 0, 0), 16, 15), (Ipv4Addr::new(192, 168, 0, 0), 20, 16)];

/// The first network of the pools that overlaps none of `taken`.
pub fn free_subnet(taken: &[Subnet]) -> Option<Subnet> {
    POOLS
        .into_iter()
        .flat_map(|(start, prefix, count)| {
            let size = 1u32 << (32 - u32::from(prefix));
            (0..count).filter_map(move |number| {
                Subnet::around(Ipv4Addr::from_bits(start.to_bits() + number * size), prefix)
            })
        })
        .find(|candidate| !taken.iter().any(|other| other.overlaps(*candidate)))
}

/// The lowest address of a network (of `range` inside it, where there is one) that nobody has.
pub fn free_address(
    subnet: Subnet,
    range: Option<Subnet>,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    subnet
        .hosts()
        .filter(|address| range.is_none_or(|range| range.contains(*address)))
        .find(|address| !taken(*address))
}

/// The hardware address that goes with an IPv4 address: locally administered, as Docker makes it.
pub fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_given_in_dockers_order() {
        let mut taken = Vec::new();
        while let Some(next) = free_subnet(&taken) {
            taken.push(next);
        }
        let text: Vec<String> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 31);
        assert_eq!(text[0], "172.17.0.0/16");
        assert_eq!(text[14], "172.31.0.0/16");
        assert_eq!(text[15], "192.168.0.0/20");
        assert_eq!(text[30], "192.168.240.0/20");
        let routed = "172.16.0.0/14".parse().unwrap();
        assert_eq!(free_subnet(&[routed]).unwrap().to_string(), "172.20.0.0/16");
    }

    #[test]
    fn the_lowest_free_address_is_given() {
        let subnet: Subnet = "10.0.0.0/29".parse().unwrap();
        let taken = ["10.0.0.1", "10.0.0.2", "10.0.0.4"].map(|a| a.parse::<Ipv4Addr>().unwrap());
        let free = |range| free_address(subnet, range, |a| taken.contains(&a));
        assert_eq!(free(None), Some("10.0.0.3".parse().unwrap()));
        let range = "10.0.0.4/30".parse().unwrap();
        assert_eq!(free(Some(range)), Some("10.0.0.5".parse().unwrap()));
        assert_eq!(free_address(subnet, None, |_| true), None);
    }

    #[test]
    fn hardware_addresses_follow_the_address() {
        assert_eq!(hardware_address(Ipv4Addr::new(172, 17, 0, 2)), [2, 0x42, 172, 17, 0, 2]);
    }
}
