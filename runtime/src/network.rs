//! Networks of containers.
//!
//! For root, Docker's: each network is a bridge with an address from a pool, each container a pair
//! of virtual interfaces; the packet filter translates addresses, and a small process per
//! container answers about names and passes on connections from the machine itself. For an
//! ordinary user, who may change nothing of the machine's network, a process passes it through.
//!
//! What is promised: addresses and names are given under a lock, and written down before they are
//! used; nothing that a killed process leaves behind counts, and the next command removes it. All
//! network objects of the kernel hang on the container's namespace and go with it; the rules of
//! the packet filter are replaced as a whole, from what is written down.
//!
//! ```text
//! settings ── what the user wants        subnet, pool, ports ── addresses and ports as such
//! record ── networks, endpoints on disk  netlink, link ── interfaces; rules ── packet filter
//! catalog ── make and remove networks    bridge ── one network up on the machine
//! attach ── one container's network ──► helper (responder ─ dns, proxy), usermode, hosts
//! ```

pub mod attach;
pub mod bridge;
pub mod catalog;
pub mod dns;
pub mod helper;
pub mod hosts;
pub mod link;
pub mod netlink;
pub mod pool;
pub mod ports;
pub mod proxy;
pub mod record;
pub mod responder;
pub mod rules;
pub mod settings;
pub mod subnet;
pub mod usermode;

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use attach::{Attached, Present, Who, attach, present};
pub use record::{Endpoint, Network, Networks};
pub use settings::{Mode, Settings, Wanted};
use subnet::Subnet;

/// Why something about networks could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `network {0} not found`
    #[error("network {0} not found")]
    Unknown(String),
    /// Several networks' ids begin so.
    #[error("more than one network's id begins with {0}: give more digits")]
    Ambiguous(String),
    /// Not a name.
    #[error("invalid network name ({0}): only [a-zA-Z0-9][a-zA-Z0-9_.-]* is allowed")]
    BadName(String),
    /// Another network has the name.
    #[error("network with name {0} already exists")]
    NameTaken(String),
    /// A name with a meaning of its own.
    #[error("operation is not permitted on predefined {0} network")]
    Reserved(String),
    /// The default network stays.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// Somebody is attached.
    #[error("error while removing network: network {0} id {1} has active endpoints")]
    InUse(String, String),
    /// Every pool is used up.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to \
         assign to the network: give one with --subnet"
    )]
    PoolEmpty,
    /// Addresses of another network.
    #[error("Pool overlaps with other one on this address space: {0} and network {1}")]
    Collides(Subnet, String),
    /// Addresses that the machine uses.
    #[error("cannot use {0}: this machine has a route that overlaps with it")]
    Routed(Subnet),
    /// No room for a gateway.
    #[error("{0} is too small: it has no address for the gateway")]
    TooSmall(Subnet),
    /// A gateway or a range without a network.
    #[error("--gateway and --ip-range need --subnet")]
    NoSubnet,
    /// An address elsewhere.
    #[error("invalid address {0}: network {1} has the addresses {2}")]
    Outside(Ipv4Addr, String, Subnet),
    /// Somebody has the address.
    #[error("Address already in use")]
    AddressTaken,
    /// No address left.
    #[error("network {0} has no free address")]
    Full(String),
    /// A container that is not there.
    #[error("container {0} is not connected to network {1}")]
    NotAttached(String, String),
    /// No privileges over the machine's network.
    #[error(
        "cannot join network {0}: networks of containers need root: as an ordinary user use the \
         default network, or --network pasta, slirp4netns, host, none or container:NAME"
    )]
    NotRoot(String),
    /// `host-gateway` where the machine cannot be reached.
    #[error("--add-host {0}:host-gateway: this network has no address of the machine")]
    NoGateway(String),
    /// The packet filter.
    #[error(transparent)]
    Rules(#[from] rules::Error),
    /// A port.
    #[error(transparent)]
    Port(#[from] proxy::Error),
    /// User-mode networking.
    #[error(transparent)]
    User(#[from] usermode::Error),
    /// A system call.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    Step(String, Errno),
    /// The disk.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file of ours that does not read.
    #[error("{path} is damaged ({source}): remove it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
}

fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Step(what.into(), errno)
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}

/// Hexadecimal digits of so many random bytes.
fn random_hex(bytes: usize) -> Result<String, Error> {
    let path = Path::new("/dev/urandom");
    let mut buffer = vec![0; bytes];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut buffer))
        .map_err(io_error("read", path))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
