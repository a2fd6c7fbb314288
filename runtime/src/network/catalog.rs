//! Making and removing networks: what `network create` and `network rm` check.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::bridge;
use super::netlink::Socket;
use super::record::{BRIDGE, Guard, Network, Networks};
use super::subnet::Subnet;
use super::{Error, random_hex, rules, step};

/// Names that stand for something else than a network.
const RESERVED: [&str; 7] =
    ["host", "none", "default", "container", "pasta", "slirp4netns", "private"];

/// The default network's bridge, in the store that a machine's root uses.
const DEFAULT_BRIDGE: &str = "cowl0";
/// Digits of the id in the name of every other bridge: names of interfaces have 15 characters.
const BRIDGE_DIGITS: usize = 10;

/// A network that is to be made.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// Addresses; else chosen here.
    pub subnet: Option<Subnet>,
    /// The part of them for endpoints.
    pub range: Option<Subnet>,
    /// The bridge's address; else the first.
    pub gateway: Option<Ipv4Addr>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a network may have this name.
pub fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn routed() -> Result<Vec<Subnet>, Error> {
    Socket::open().and_then(|socket| socket.routed()).map_err(step("list routes"))
}

/// Makes a network: writes it down. Its bridge comes with the first container.
pub fn create(networks: &Networks, wish: Wish) -> Result<Network, Error> {
    if !valid_name(&wish.name) {
        return Err(Error::BadName(wish.name));
    }
    let (guard, _) = networks.lock()?;
    if RESERVED.contains(&wish.name.as_str()) || wish.name == BRIDGE {
        return Err(Error::Reserved(wish.name));
    }
    if networks.list()?.iter().any(|other| other.name == wish.name) {
        return Err(Error::NameTaken(wish.name));
    }
    make(networks, wish, None, &guard)
}

/// Makes the default network where there is none.
pub fn ensure_default(networks: &Networks) -> Result<(), Error> {
    if networks.list()?.iter().any(|network| network.name == BRIDGE) {
        return Ok(());
    }
    let (guard, _) = networks.lock()?;
    if !networks.list()?.iter().any(|network| network.name == BRIDGE) {
        make_default(networks, &guard)?;
    }
    Ok(())
}

/// Makes the default network.
pub fn make_default(networks: &Networks, guard: &Guard) -> Result<Network, Error> {
    let usual = networks.dir().starts_with("/var/lib/cowl");
    let bridge = usual.then(|| DEFAULT_BRIDGE.to_owned());
    let wish = Wish { name: BRIDGE.to_owned(), ..Wish::default() };
    make(networks, wish, bridge, guard)
}

/// A network whose every field is still to be filled in.
fn placeholder() -> Network {
    Network {
        id: String::new(),
        name: String::new(),
        subnet: Subnet::ANY,
        automatic: true,
        range: None,
        gateway: Ipv4Addr::UNSPECIFIED,
        internal: false,
        bridge: String::new(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        created: 0,
    }
}

fn make(
    networks: &Networks,
    wish: Wish,
    bridge: Option<String>,
    guard: &Guard,
) -> Result<Network, Error> {
    let id = random_hex(32)?;
    let digits = id.get(..BRIDGE_DIGITS).unwrap_or(&id);
    let bridge = bridge.unwrap_or_else(|| format!("{}-{digits}", rules::PREFIX));
    let mut network = Network {
        id,
        name: wish.name,
        automatic: wish.subnet.is_none(),
        range: wish.range,
        internal: wish.internal,
        bridge,
        labels: wish.labels,
        options: wish.options,
        created: now(),
        ..placeholder()
    };
    match wish.subnet {
        None if wish.gateway.is_some() || wish.range.is_some() => return Err(Error::NoSubnet),
        None => bridge::choose(networks, &mut network, &routed()?)?,
        Some(subnet) => {
            let mut taken = networks.list()?.into_iter();
            if let Some(other) = taken.find(|other| other.subnet.overlaps(subnet)) {
                return Err(Error::Collides(subnet, other.name));
            }
            if routed()?.iter().any(|other| other.overlaps(subnet)) {
                return Err(Error::Routed(subnet));
            }
            let gateway = wish.gateway.or_else(|| subnet.hosts().next());
            network.subnet = subnet;
            network.gateway = gateway.ok_or(Error::TooSmall(subnet))?;
            let outside = |address| !subnet.contains(address);
            if outside(network.gateway) {
                return Err(Error::Outside(network.gateway, network.name, subnet));
            }
            if let Some(range) = wish.range
                && (outside(range.address()) || outside(range.last()))
            {
                return Err(Error::Outside(range.address(), network.name, subnet));
            }
        }
    }
    networks.save(&network, guard)?;
    Ok(network)
}

/// Removes a network that nobody is attached to.
pub fn remove(networks: &Networks, wanted: &str) -> Result<Network, Error> {
    let (guard, _) = networks.lock()?;
    let network = networks.find(wanted)?.ok_or_else(|| Error::Unknown(wanted.to_owned()))?;
    if network.name == BRIDGE {
        return Err(Error::Predefined(network.name));
    }
    discard(networks, &network, &guard)?;
    Ok(network)
}

fn discard(networks: &Networks, network: &Network, guard: &Guard) -> Result<(), Error> {
    if !networks.live_endpoints(&network.id)?.is_empty() {
        return Err(Error::InUse(network.name.clone(), network.id.clone()));
    }
    let socket = Socket::open().map_err(step("open a routing socket"))?;
    bridge::take_down(network, &socket)?;
    networks.delete(network, guard)
}

/// Removes networks that nobody is attached to and `chosen` takes; the names of those removed.
pub fn prune(
    networks: &Networks,
    mut chosen: impl FnMut(&Network) -> bool,
) -> Result<Vec<String>, Error> {
    let (guard, _) = networks.lock()?;
    let mut removed = Vec::new();
    for network in networks.list()? {
        let used = !networks.live_endpoints(&network.id)?.is_empty();
        if network.name != BRIDGE && !used && chosen(&network) {
            discard(networks, &network, &guard)?;
            removed.push(network.name);
        }
    }
    Ok(removed)
}
