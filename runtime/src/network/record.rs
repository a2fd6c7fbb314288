//! Networks and endpoints on disk.
//!
//! ```text
//! <root>/networks/.lock                     held while anything here is read to be changed
//! <root>/networks/<64 hex digits>/
//!     network.json                          what the network is
//!     endpoints/<container's id>.json       who is attached, with which address
//! ```
//!
//! An endpoint counts while the process that it names has the network namespace that it names:
//! what a killed monitor leaves behind counts for nothing, and is removed by whoever takes the
//! lock next.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ports::Published;
use super::subnet::Subnet;
use super::{Error, io_error};
use crate::sys::descriptor::{LockKind, lock};

/// The name of the network that root's containers are attached to when nothing is said.
pub const BRIDGE: &str = "bridge";

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Addresses.
    pub subnet: Subnet,
    /// Whether the addresses were chosen here, and may be chosen anew when they collide.
    #[serde(default)]
    pub automatic: bool,
    /// The part of them that is given to endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Subnet>,
    /// The bridge's own address: the way out.
    pub gateway: Ipv4Addr,
    /// Whether it has no way out.
    #[serde(default)]
    pub internal: bool,
    /// The bridge's interface.
    pub bridge: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The driver's options, as given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
}

/// The option that sets the size of packets, as Docker calls it, and in short.
const MTU_OPTIONS: [&str; 2] = ["com.docker.network.driver.mtu", "mtu"];

impl Network {
    /// The first digits of its id.
    pub fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Whether containers find each other by name in it: not in the default one, as in Docker.
    pub fn resolves(&self) -> bool {
        self.name != BRIDGE
    }

    /// The size of its packets, where an option says.
    pub fn mtu(&self) -> Option<u32> {
        MTU_OPTIONS.iter().find_map(|name| self.options.get(*name)?.parse().ok())
    }
}

/// A container in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's id and name.
    pub network: String,
    /// The network's name.
    pub network_name: String,
    /// Its own id.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// All names by which others find it.
    pub names: Vec<String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix.
    pub prefix: u8,
    /// The way out; none in an internal network.
    pub gateway: Option<Ipv4Addr>,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The interface inside.
    pub interface: String,
    /// The interface outside.
    pub outside: String,
    /// Its published ports; with those of the container's first network only.
    #[serde(default)]
    pub published: Vec<Published>,
    /// A process in its network namespace, and the namespace's number.
    pub process: i32,
    /// See `process`.
    pub namespace: u64,
}

/// The number of a process's network namespace, while it lives.
pub fn namespace_of(process: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/net")).ok().map(|found| found.ino())
}

impl Endpoint {
    /// Whether the container still has it.
    pub fn live(&self) -> bool {
        namespace_of(self.process) == Some(self.namespace)
    }
}

/// All networks of one store.
#[derive(Clone, Debug)]
pub struct Networks {
    dir: PathBuf,
}

/// The right to change networks; released when dropped.
#[derive(Debug)]
pub struct Guard(#[expect(dead_code, reason = "held for its lock")] Vec<File>);

/// Read by everybody's bridges: two stores must not choose the same addresses at once.
const MACHINE_LOCK: &str = "/run/cowl-network.lock";

impl Networks {
    /// The networks of the store at `root`. Makes nothing.
    pub fn of(root: &Path) -> Self {
        Self { dir: root.join("networks") }
    }

    /// Takes the lock, and removes endpoints that count no more. Those to which rules lead stay
    /// until the rules are gone ([`super::bridge::set_rules`]), so that whoever is killed in between
    /// leaves word of them; their networks are given back.
    pub fn lock(&self) -> Result<(Guard, Vec<Network>), Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.dir)
            .map_err(io_error("create", &self.dir))?;
        let mut held = vec![take(&self.dir.join(".lock"))?];
        if nix::unistd::geteuid().is_root() && !crate::userns::inside() {
            held.push(take(Path::new(MACHINE_LOCK))?);
        }
        let mut changed = Vec::new();
        for network in self.list()? {
            let mut lost = false;
            for endpoint in self.endpoints(&network.id)? {
                if endpoint.live() {
                    continue;
                }
                if endpoint.published.is_empty() {
                    self.remove_endpoint(&endpoint)?;
                } else {
                    lost = true;
                }
            }
            if lost {
                changed.push(network);
            }
        }
        Ok((Guard(held), changed))
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn network_dir(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// The file that says what a network is.
    pub fn record_of(&self, network: &Network) -> PathBuf {
        self.network_dir(&network.id).join("network.json")
    }

    fn endpoint_file(&self, network: &str, container: &str) -> PathBuf {
        self.network_dir(network).join("endpoints").join(format!("{container}.json"))
    }

    /// Every network, oldest first.
    pub fn list(&self) -> Result<Vec<Network>, Error> {
        let mut all: Vec<Network> = Vec::new();
        for path in entries(&self.dir)? {
            // One that is being made or removed has no record.
            all.extend(read::<Network>(&path.join("network.json"))?);
        }
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(all)
    }

    /// The network with this name, id, or unique beginning of an id.
    pub fn find(&self, wanted: &str) -> Result<Option<Network>, Error> {
        let all = self.list()?;
        if let Some(exact) = all.iter().find(|net| net.name == wanted || net.id == wanted) {
            return Ok(Some(exact.clone()));
        }
        let mut matches =
            all.into_iter().filter(|net| !wanted.is_empty() && net.id.starts_with(wanted));
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(Error::Ambiguous(wanted.to_owned())),
            (one, _) => Ok(one),
        }
    }

    /// Writes a network down, new or changed.
    pub fn save(&self, network: &Network, _guard: &Guard) -> Result<(), Error> {
        let dir = self.network_dir(&network.id);
        let endpoints = dir.join("endpoints");
        fs::create_dir_all(&endpoints).map_err(io_error("create", &endpoints))?;
        write(&self.record_of(network), network)
    }

    /// Removes a network.
    pub fn delete(&self, network: &Network, _guard: &Guard) -> Result<(), Error> {
        let dir = self.network_dir(&network.id);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Who is attached to a network; in no order.
    pub fn endpoints(&self, network: &str) -> Result<Vec<Endpoint>, Error> {
        let mut all = Vec::new();
        for path in entries(&self.network_dir(network).join("endpoints"))? {
            all.extend(read::<Endpoint>(&path)?);
        }
        Ok(all)
    }

    /// Those of them that count.
    pub fn live_endpoints(&self, network: &str) -> Result<Vec<Endpoint>, Error> {
        let mut all = self.endpoints(network)?;
        all.retain(Endpoint::live);
        Ok(all)
    }

    /// Where a container is attached: the network's endpoint of it.
    pub fn endpoint(&self, network: &str, container: &str) -> Result<Option<Endpoint>, Error> {
        read(&self.endpoint_file(network, container))
    }

    /// Writes an endpoint down.
    pub fn save_endpoint(&self, endpoint: &Endpoint, _guard: &Guard) -> Result<(), Error> {
        write(&self.endpoint_file(&endpoint.network, &endpoint.container), endpoint)
    }

    /// Removes an endpoint; one that is gone is no error.
    pub fn remove_endpoint(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let path = self.endpoint_file(&endpoint.network, &endpoint.container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

fn take(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))?;
    lock(file.as_fd(), LockKind::Exclusive)
        .map_err(|errno| io_error("lock", path)(errno.into()))?;
    Ok(file)
}

/// What is in a directory; nothing where there is none. Hidden names are not ours.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = match fs::read_dir(dir) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(io_error("list", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !name.ends_with(".new") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Reads a record; none where there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Writes a record beside its place and renames it into it.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    text.push(b'\n');
    fs::write(&beside, text).map_err(io_error("write", &beside))?;
    fs::rename(&beside, path).map_err(io_error("replace", path))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn network(id: &str, name: &str) -> Network {
        Network {
            id: id.to_owned(),
            name: name.to_owned(),
            subnet: "10.9.0.0/24".parse().unwrap(),
            automatic: false,
            range: None,
            gateway: Ipv4Addr::new(10, 9, 0, 1),
            internal: false,
            bridge: format!("cowl-{id}"),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            created: 1,
        }
    }

    pub(in super::super) fn endpoint(network: &Network, container: &str, last: u8) -> Endpoint {
        let process = i32::try_from(std::process::id()).unwrap();
        Endpoint {
            network: network.id.clone(),
            network_name: network.name.clone(),
            id: "e".into(),
            container: container.into(),
            name: format!("name-of-{container}"),
            names: vec![format!("name-of-{container}"), "alias".into()],
            address: Ipv4Addr::new(10, 9, 0, last),
            prefix: 24,
            gateway: Some(network.gateway),
            mac: [2, 0x42, 10, 9, 0, last],
            interface: "eth0".into(),
            outside: "veth0".into(),
            published: Vec::new(),
            process,
            namespace: namespace_of(process).unwrap(),
        }
    }

    #[test]
    fn networks_are_found_by_name_and_id() {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::of(dir.path());
        assert!(networks.list().unwrap().is_empty());
        let (guard, changed) = networks.lock().unwrap();
        assert!(changed.is_empty());
        let (one, two) = (network("abc1", "one"), network("abc2", "two"));
        networks.save(&one, &guard).unwrap();
        networks.save(&two, &guard).unwrap();
        assert_eq!(networks.find("one").unwrap(), Some(one.clone()));
        assert_eq!(networks.find("abc2").unwrap(), Some(two));
        assert!(matches!(networks.find("abc"), Err(Error::Ambiguous(_))));
        assert_eq!(networks.find("none").unwrap(), None);
        networks.delete(&one, &guard).unwrap();
        assert_eq!(networks.list().unwrap().len(), 1);
    }

    #[test]
    fn endpoints_of_the_dead_are_removed_by_the_next_who_locks() {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::of(dir.path());
        let (guard, _) = networks.lock().unwrap();
        let net = network("abc1", "one");
        networks.save(&net, &guard).unwrap();
        let live = endpoint(&net, "c1", 2);
        let mut dead = endpoint(&net, "c2", 3);
        dead.namespace += 1;
        dead.published = super::super::ports::published("80:80").unwrap();
        networks.save_endpoint(&live, &guard).unwrap();
        networks.save_endpoint(&dead, &guard).unwrap();
        assert_eq!(networks.endpoints("abc1").unwrap().len(), 2);
        drop(guard);
        let (guard, changed) = networks.lock().unwrap();
        assert_eq!(changed, [net]);
        // Rules lead to it: it stays until they are gone, and counts for nothing.
        assert_eq!(networks.endpoints("abc1").unwrap().len(), 2);
        assert_eq!(networks.live_endpoints("abc1").unwrap(), std::slice::from_ref(&live));
        dead.published.clear();
        networks.save_endpoint(&dead, &guard).unwrap();
        drop(guard);
        let (_guard, changed) = networks.lock().unwrap();
        assert!(changed.is_empty());
        assert_eq!(networks.endpoints("abc1").unwrap(), [live]);
    }
}
