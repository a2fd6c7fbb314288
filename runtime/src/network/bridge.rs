//! Bringing a network up on this machine: its rules, then its bridge with its address.
//!
//! A bridge that is there has its rules; it stays when nobody is attached, as Docker's do, and
//! goes with its network. Where a whole store was deleted, whoever brings the next bridge up
//! removes those of the store.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::netlink::Socket;
use super::ports::Published;
use super::record::{Guard, Network, Networks};
use super::subnet::Subnet;
use super::{Error, io_error, pool, rules, step};

/// For each bridge, the record of its network: tells bridges whose store is gone.
const OWNERS: &str = "/run/cowl-bridges";

/// Switches forwarding between interfaces.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The ports published in a network, and where they lead.
fn published(networks: &Networks, network: &Network) -> Result<Vec<(Published, Ipv4Addr)>, Error> {
    let endpoints = networks.live_endpoints(&network.id)?;
    let mut all: Vec<_> = endpoints
        .iter()
        .flat_map(|one| one.published.iter().map(|port| (*port, one.address)))
        .collect();
    all.sort();
    Ok(all)
}

/// Makes a network's rules what they must be for those who are attached; then removes those who
/// count no more.
pub fn set_rules(networks: &Networks, network: &Network, _guard: &Guard) -> Result<(), Error> {
    let published = published(networks, network)?;
    let (name, subnet, internal) = (network.bridge.as_str(), network.subnet, network.internal);
    rules::apply(&rules::Bridge { name, subnet, internal, published: &published })?;
    let mut gone = networks.endpoints(&network.id)?;
    gone.retain(|endpoint| !endpoint.live());
    gone.iter().try_for_each(|endpoint| networks.remove_endpoint(endpoint))
}

/// Removes endpoints that count no more, and rules that lead to them.
pub fn reclaim(networks: &Networks) -> Result<(), Error> {
    let mut lost = false;
    for network in networks.list()? {
        lost |= networks.endpoints(&network.id)?.iter().any(|endpoint| !endpoint.live());
    }
    if lost {
        let (guard, changed) = networks.lock()?;
        for network in changed {
            set_rules(networks, &network, &guard)?;
        }
    }
    Ok(())
}

/// Whether the machine forwards between interfaces; switches it on where that is allowed, as
/// Docker does.
pub fn forwarding() -> bool {
    let on = || fs::read_to_string(FORWARDING).is_ok_and(|text| text.trim() == "1");
    on() || (fs::write(FORWARDING, "1").is_ok() && on())
}

/// Brings a network up, and gives the number of its bridge. The addresses of one that nobody has
/// chosen are chosen anew when the machine has come to use them for something else.
pub fn bring_up(
    networks: &Networks,
    network: &mut Network,
    socket: &Socket,
    guard: &Guard,
) -> Result<u32, Error> {
    if let Some(index) = socket.index(&network.bridge).map_err(step("list interfaces"))? {
        return Ok(index);
    }
    sweep(socket);
    let routed = socket.routed().map_err(step("list routes"))?;
    if routed.iter().any(|other| other.overlaps(network.subnet)) {
        if !network.automatic || !networks.live_endpoints(&network.id)?.is_empty() {
            return Err(Error::Collides(network.subnet, network.name.clone()));
        }
        choose(networks, network, &routed)?;
        networks.save(network, guard)?;
    }
    set_rules(networks, network, guard)?;
    own(networks, network)?;
    let mac = pool::hardware_address(network.gateway);
    let made = socket.make_bridge(&network.bridge, mac, network.mtu());
    let index = made.map_err(step(format!("make the bridge {}", network.bridge)))?;
    let addressed = socket.add_address(index, network.gateway, network.subnet);
    if let Err(errno) = addressed {
        // The first error is the one to report.
        take_down(network, socket).ok();
        return Err(step(format!("give the bridge {} its address", network.bridge))(errno));
    }
    Ok(index)
}

/// Gives a network addresses that nobody has: neither the machine nor another network.
pub fn choose(networks: &Networks, network: &mut Network, routed: &[Subnet]) -> Result<(), Error> {
    let mut taken = routed.to_vec();
    let others = networks.list()?.into_iter().filter(|other| other.id != network.id);
    taken.extend(others.map(|other| other.subnet));
    network.subnet = pool::free_subnet(&taken).ok_or(Error::PoolEmpty)?;
    network.gateway = network.subnet.hosts().next().ok_or(Error::PoolEmpty)?;
    Ok(())
}

/// Removes a network's bridge and rules.
pub fn take_down(network: &Network, socket: &Socket) -> Result<(), Error> {
    remove(&network.bridge, socket)
}

fn remove(bridge: &str, socket: &Socket) -> Result<(), Error> {
    if socket.index(bridge).map_err(step("list interfaces"))?.is_some() {
        socket.remove(bridge).map_err(step(format!("remove the bridge {bridge}")))?;
        rules::remove(bridge)?;
    }
    match fs::remove_file(Path::new(OWNERS).join(bridge)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", &Path::new(OWNERS).join(bridge))(error))
        }
        _ => Ok(()),
    }
}

/// Writes down whose bridge it is.
fn own(networks: &Networks, network: &Network) -> Result<(), Error> {
    let dir = Path::new(OWNERS);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error("create", dir))?;
    let path = dir.join(&network.bridge);
    let record = networks.record_of(network);
    let record = record.as_os_str().as_encoded_bytes();
    fs::write(&path, record).map_err(io_error("write", &path))
}

/// Removes bridges whose store is gone. What cannot be removed is left to the next.
fn sweep(socket: &Socket) {
    let Ok(entries) = fs::read_dir(OWNERS) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(record) = fs::read_to_string(entry.path()) else { continue };
        if name.starts_with(rules::PREFIX) && !PathBuf::from(record).exists() {
            remove(&name, socket).ok();
        }
    }
}
