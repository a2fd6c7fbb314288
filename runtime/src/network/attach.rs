//! A container's network while it runs: made between the birth of PID 1, in a network namespace
//! of its own, and the moment it becomes the image's command; gone when it ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bridge;
use super::helper::{self, Duties};
use super::hosts::{self, HOST_GATEWAY, Resolver};
use super::link::End;
use super::netlink::{self, Socket};
use super::pool;
use super::ports::Published;
use super::proxy::Listening;
use super::record::{self, BRIDGE, Endpoint, Guard, Network, Networks, namespace_of};
use super::responder::{self, Responder};
use super::settings::{Mode, Program, Settings, Wanted};
use super::usermode::{self, Passing};
use super::{Error, io_error, random_hex, step};
use crate::sys;
use crate::sys::process::Child;
use crate::userns;

/// Who is attached.
#[derive(Clone, Debug)]
pub struct Who {
    /// The container's id: 64 digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its host name, with the domain where it has one.
    pub hostname: String,
    /// Its directory, where `hosts` and `resolv.conf` are.
    pub dir: PathBuf,
}

impl Who {
    /// The names by which others find it in a network.
    fn names(&self, aliases: &[String]) -> Vec<String> {
        let short = self.id.get(..12).unwrap_or(&self.id).to_owned();
        let mut names = vec![self.name.clone()];
        for name in aliases.iter().chain([&short, &self.hostname]) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Its names in its own hosts file: `web.example web`.
    fn hosts_names(&self) -> String {
        match self.hostname.split_once('.') {
            Some((first, _)) => format!("{} {first}", self.hostname),
            None => self.hostname.clone(),
        }
    }
}

/// What a running container's network is: written beside its state, for `inspect`, `ps`, `port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Present {
    /// Its endpoints, in the order of its interfaces.
    pub endpoints: Vec<Endpoint>,
    /// The ports that lead in.
    pub published: Vec<Published>,
    /// The program that passes the machine's network through, where one does.
    pub program: Option<Program>,
    /// Sentences for the user who starts it.
    pub warnings: Vec<String>,
}

/// The file of [`Present`] in a container's directory.
const PRESENT: &str = "network.json";

/// What a container's network is now; none when it is not running, or has none.
pub fn present(dir: &Path) -> Result<Option<Present>, Error> {
    record::read(&dir.join(PRESENT))
}

fn save_present(dir: &Path, present: &Present) -> Result<(), Error> {
    record::write(&dir.join(PRESENT), present)
}

/// A network that is up.
#[derive(Debug)]
pub struct Attached {
    networks: Networks,
    who: Who,
    helper: Option<Child>,
    passing: Option<Passing>,
    /// What is there.
    pub present: Present,
}

/// Attaches a container whose PID 1 is `process`, and writes its hosts file and resolver's file.
/// The caller has one thread, and kills the process when this fails.
pub fn attach(root: &Path, who: Who, settings: &Settings, process: i32) -> Result<Attached, Error> {
    let networks = Networks::of(root);
    let mut attached =
        Attached { networks, who, helper: None, passing: None, present: Present::default() };
    let done = attached.set_up(settings, process);
    match done {
        Ok(()) => Ok(attached),
        Err(error) => {
            // The first error is the one to report; what stays counts for nothing when the
            // process is gone.
            attached.detach().ok();
            Err(error)
        }
    }
}

impl Attached {
    fn set_up(&mut self, settings: &Settings, process: i32) -> Result<(), Error> {
        match &settings.mode {
            // Docker's name of the default, which for an ordinary user is something else.
            Mode::Networks
                if userns::inside()
                    && settings.networks.iter().all(|one| one.network == BRIDGE) =>
            {
                self.pass_through(None, settings, process)?;
            }
            Mode::Networks => self.join_all(&settings.networks, settings, process)?,
            Mode::Default => self.by_default(settings, process)?,
            Mode::User(program) => self.pass_through(*program, settings, process)?,
            Mode::None => self.write_files(settings, None)?,
            Mode::Host | Mode::Container(_) => return Ok(()),
        }
        save_present(&self.who.dir, &self.present)
    }

    /// What is done when the user says nothing: a network if there can be one.
    fn by_default(&mut self, settings: &Settings, process: i32) -> Result<(), Error> {
        let mut reasons = Vec::new();
        if !userns::inside() {
            let wanted = Wanted { network: BRIDGE.to_owned(), ..Wanted::default() };
            match self.join_all(&[wanted], settings, process) {
                Ok(()) => return Ok(()),
                // Not the network's fault, and another kind of network would not help.
                Err(Error::Port(error)) => return Err(Error::Port(error)),
                Err(error) => {
                    self.detach().ok(); // what stays counts for nothing when the process is gone
                    reasons.push(error.to_string());
                }
            }
        }
        match self.pass_through(None, settings, process) {
            Ok(()) => return Ok(()),
            Err(error @ Error::User(usermode::Error::Port(_))) => return Err(error),
            Err(error) => reasons.push(error.to_string()),
        }
        self.present.warnings.push(format!(
            "WARNING: the container has no network but its own loopback: {} (--network none says \
             that it needs none)",
            reasons.join("; and ")
        ));
        self.write_files(settings, None)
    }

    fn pass_through(
        &mut self,
        program: Option<Program>,
        settings: &Settings,
        process: i32,
    ) -> Result<(), Error> {
        let programs = match program {
            Some(program) => vec![program],
            None => usermode::usable()?,
        };
        let published = settings.published();
        let mut outcome = Err(usermode::Error::Missing("neither pasta nor slirp4netns"));
        for program in programs {
            outcome = usermode::start(program, process, &published, &self.who.dir);
            if matches!(outcome, Ok(_) | Err(usermode::Error::Port(_))) {
                break;
            }
        }
        let passing = outcome?;
        self.present.published.clone_from(&passing.published);
        self.present.program = Some(passing.program);
        let machine = passing.machine;
        self.passing = Some(passing);
        self.write_files(settings, machine)
    }

    fn join_all(
        &mut self,
        wanted: &[Wanted],
        settings: &Settings,
        process: i32,
    ) -> Result<(), Error> {
        if userns::inside() {
            let name = wanted.first().map_or("bridge", |wanted| wanted.network.as_str());
            return Err(Error::NotRoot(name.to_owned()));
        }
        let mut listening = Vec::new();
        for wanted in settings.published() {
            let (socket, given) = Listening::bind(wanted)?;
            listening.push(socket);
            self.present.published.push(given);
        }
        let namespace = namespace_file(process)?;
        let inside = Socket::open_in(namespace.as_fd()).map_err(step("enter the network"))?;
        // Needed before names can be answered at an address of it.
        inside.bring_up(LOOPBACK).map_err(step("bring the loopback interface up"))?;
        {
            let (guard, changed) = self.networks.lock()?;
            for network in changed {
                bridge::set_rules(&self.networks, &network, &guard)?;
            }
            for wanted in wanted {
                self.join(wanted, process, &inside, &guard)?;
            }
        }
        if !bridge::forwarding() && self.present.endpoints.iter().any(|one| one.gateway.is_some()) {
            self.present
                .warnings
                .push("WARNING: IPv4 forwarding is disabled. Networking will not work.".to_owned());
        }
        let address = self.present.endpoints.first().map(|endpoint| endpoint.address);
        let machine = self.present.endpoints.iter().find_map(|endpoint| endpoint.gateway);
        let mut duties = Duties::default();
        if let Some(address) = address {
            duties.ports = listening
                .into_iter()
                .zip(&self.present.published)
                .map(|(socket, port)| {
                    (socket, SocketAddr::new(address.into(), port.container.number))
                })
                .collect();
        }
        let machine_file = machines_resolver()?;
        let servers = machine_file
            .overridden(&settings.dns, &settings.dns_search, &settings.dns_options)
            .servers;
        let (datagrams, connections) = netlink::inside(namespace.as_fd(), || {
            let at = (responder::ADDRESS, responder::PORT);
            Ok::<_, std::io::Error>((UdpSocket::bind(at)?, TcpListener::bind(at)?))
        })
        .map_err(step("enter the network"))?
        .map_err(io_error("listen", Path::new("127.0.0.11:53")))?;
        let responder = Responder {
            networks: self.networks.clone(),
            container: self.who.id.clone(),
            servers: servers.iter().filter_map(|server| server.parse().ok()).collect(),
            hosts: resolved(&settings.hosts, machine)?
                .into_iter()
                .filter_map(|(name, address)| Some((name, address.parse().ok()?)))
                .collect(),
        };
        duties.names = Some((responder, datagrams, connections));
        self.helper = Some(helper::start(duties).map_err(step("start the network's helper"))?);
        self.write_files(settings, machine)
    }

    /// Attaches to one network more.
    fn join(
        &mut self,
        wanted: &Wanted,
        process: i32,
        inside: &Socket,
        guard: &Guard,
    ) -> Result<(), Error> {
        let number = self.present.endpoints.len();
        let first = number == 0;
        let published = if first { self.present.published.clone() } else { Vec::new() };
        let gateway = !self.present.endpoints.iter().any(|one| one.gateway.is_some());
        let interface = format!("eth{number}");
        let plan = Join { who: &self.who, wanted, process, interface, published, gateway };
        let endpoint = plan.carry_out(&self.networks, inside, guard)?;
        self.present.endpoints.push(endpoint);
        Ok(())
    }

    fn write_files(&self, settings: &Settings, machine: Option<Ipv4Addr>) -> Result<(), Error> {
        let names = self.who.hosts_names();
        let mut own: Vec<(IpAddr, String)> = self
            .present
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.address.into(), names.clone()))
            .collect();
        let passed = self.passing.as_ref();
        own.extend(passed.and_then(|one| one.address).map(|own| (own.into(), names.clone())));
        let text = hosts::hosts(&own, &resolved(&settings.hosts, machine)?);
        rewrite(&self.who.dir.join("hosts"), &text)?;

        let own = machines_resolver()?.overridden(
            &settings.dns,
            &settings.dns_search,
            &settings.dns_options,
        );
        let named = self.present.endpoints.iter().any(|one| one.network_name != BRIDGE);
        let resolver = if named {
            own.through(responder::ADDRESS)
        } else {
            match passed {
                Some(passing) if settings.dns.is_empty() => own.through(passing.resolver),
                Some(_) => own,
                None if settings.mode == Mode::None => own,
                None => own.reachable(),
            }
        };
        rewrite(&self.who.dir.join("resolv.conf"), &resolver.text())
    }

    /// Takes the network down: called when PID 1 has ended. Whatever the kernel or the next
    /// command would remove by itself goes now.
    pub fn detach(&mut self) -> Result<(), Error> {
        if let Some(helper) = self.helper.take() {
            // It may have ended; a child of ours can be waited for.
            sys::process::kill(helper.as_fd(), nix::libc::SIGKILL).ok();
            helper.wait().ok();
        }
        if let Some(mut passing) = self.passing.take() {
            usermode::end(&mut passing.child);
        }
        // What was attached meanwhile (`network connect`) is in the file.
        let endpoints = match present(&self.who.dir) {
            Ok(Some(present)) => present.endpoints,
            Ok(None) | Err(_) => std::mem::take(&mut self.present.endpoints),
        };
        self.present = Present::default();
        match fs::remove_file(self.who.dir.join(PRESENT)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error("remove", &self.who.dir.join(PRESENT))(error));
            }
            _ => {}
        }
        if endpoints.is_empty() {
            return Ok(());
        }
        let (guard, mut changed) = self.networks.lock()?;
        for endpoint in &endpoints {
            if !endpoint.published.is_empty()
                && let Some(network) = self.networks.find(&endpoint.network)?
                && !changed.contains(&network)
            {
                changed.push(network);
            }
        }
        let lives = endpoints.iter().any(Endpoint::live);
        for network in &changed {
            bridge::set_rules(&self.networks, network, &guard)?;
        }
        for endpoint in &endpoints {
            self.networks.remove_endpoint(endpoint)?;
        }
        // Of a container that could not be attached, PID 1 still waits: its endpoints counted.
        for network in changed.iter().filter(|_| lives) {
            bridge::set_rules(&self.networks, network, &guard)?;
        }
        Ok(())
    }
}

/// The number of every namespace's loopback interface.
const LOOPBACK: u32 = 1;

fn namespace_file(process: i32) -> Result<fs::File, Error> {
    let path = PathBuf::from(format!("/proc/{process}/ns/net"));
    fs::File::open(&path).map_err(io_error("open", &path))
}

/// One container joining one network.
struct Join<'a> {
    who: &'a Who,
    wanted: &'a Wanted,
    process: i32,
    interface: String,
    published: Vec<Published>,
    /// Whether the default route leads through this network, if it has a way out.
    gateway: bool,
}

impl Join<'_> {
    fn carry_out(
        self,
        networks: &Networks,
        inside: &Socket,
        guard: &Guard,
    ) -> Result<Endpoint, Error> {
        let Wanted { network: name, .. } = self.wanted;
        let mut network = match networks.find(name)? {
            Some(network) => network,
            None if name == BRIDGE => super::catalog::make_default(networks, guard)?,
            None => return Err(Error::Unknown(name.clone())),
        };
        let outside = Socket::open().map_err(step("open a routing socket"))?;
        let master = bridge::bring_up(networks, &mut network, &outside, guard)?;
        let address = self.address(networks, &network)?;
        let namespace =
            namespace_of(self.process).ok_or(step("find PID 1")(nix::errno::Errno::ESRCH))?;
        let endpoint = Endpoint {
            network: network.id.clone(),
            network_name: network.name.clone(),
            id: random_hex(32)?,
            container: self.who.id.clone(),
            name: self.who.name.clone(),
            names: self.who.names(&self.wanted.aliases),
            address,
            prefix: network.subnet.prefix(),
            gateway: (!network.internal).then_some(network.gateway),
            mac: self.wanted.mac.unwrap_or_else(|| pool::hardware_address(address)),
            interface: self.interface,
            outside: format!("veth{}", random_hex(4)?.get(..7).unwrap_or("0")),
            published: self.published,
            process: self.process,
            namespace,
        };
        networks.save_endpoint(&endpoint, guard)?;
        let made = (|| {
            if !endpoint.published.is_empty() {
                bridge::set_rules(networks, &network, guard)?;
            }
            let file = namespace_file(self.process)?;
            let there = End { name: &endpoint.interface, mac: Some(endpoint.mac) };
            let mtu = network.mtu();
            outside
                .make_pair(&endpoint.outside, master, there, file.as_fd(), mtu)
                .map_err(step("make the container's interface"))?;
            let index = inside
                .index(&endpoint.interface)
                .and_then(|found| found.ok_or(nix::errno::Errno::ENODEV))
                .map_err(step("find the container's interface"))?;
            inside
                .add_address(index, address, network.subnet)
                .and_then(|()| inside.bring_up(index))
                .map_err(step("set the container's interface up"))?;
            if let (true, Some(gateway)) = (self.gateway, endpoint.gateway) {
                inside.add_default_route(index, gateway).map_err(step("set the default route"))?;
            }
            Ok(())
        })();
        if let Err(error) = made {
            // The first error is the one to report.
            outside.remove(&endpoint.outside).ok();
            networks.remove_endpoint(&endpoint).ok();
            return Err(error);
        }
        Ok(endpoint)
    }

    fn address(&self, networks: &Networks, network: &Network) -> Result<Ipv4Addr, Error> {
        let endpoints = networks.live_endpoints(&network.id)?;
        let taken = |address: Ipv4Addr| {
            address == network.gateway || endpoints.iter().any(|one| one.address == address)
        };
        match self.wanted.address {
            Some(address) if !network.subnet.contains(address) => {
                Err(Error::Outside(address, network.name.clone(), network.subnet))
            }
            Some(address) if taken(address) => Err(Error::AddressTaken),
            Some(address) => Ok(address),
            None => pool::free_address(network.subnet, network.range, taken)
                .ok_or_else(|| Error::Full(network.name.clone())),
        }
    }
}

/// Attaches a running container to one network more. `process` is its PID 1.
pub fn connect(root: &Path, who: &Who, wanted: &Wanted, process: i32) -> Result<(), Error> {
    let networks = Networks::of(root);
    let mut present = present(&who.dir)?.unwrap_or_default();
    if present.program.is_some() {
        return Err(Error::NotRoot(wanted.network.clone()));
    }
    let namespace = namespace_file(process)?;
    let inside = Socket::open_in(namespace.as_fd()).map_err(step("enter the network"))?;
    let (guard, _) = networks.lock()?;
    let number = (0..)
        .find(|number| {
            let name = format!("eth{number}");
            present.endpoints.iter().all(|one| one.interface != name)
        })
        .unwrap_or(0u32);
    let gateway = !present.endpoints.iter().any(|one| one.gateway.is_some());
    let interface = format!("eth{number}");
    let plan = Join { who, wanted, process, interface, published: Vec::new(), gateway };
    let endpoint = plan.carry_out(&networks, &inside, &guard)?;
    let hosts_file = who.dir.join("hosts");
    let mut text = fs::read_to_string(&hosts_file).map_err(io_error("read", &hosts_file))?;
    text.push_str(&format!("{}\t{}\n", endpoint.address, who.hosts_names()));
    rewrite(&hosts_file, &text)?;
    if endpoint.network_name != BRIDGE {
        let file = who.dir.join("resolv.conf");
        let now = fs::read_to_string(&file).map_err(io_error("read", &file))?;
        rewrite(&file, &Resolver::parse(&now).through(responder::ADDRESS).text())?;
    }
    present.endpoints.push(endpoint);
    save_present(&who.dir, &present)
}

/// Takes a running container out of a network.
pub fn disconnect(root: &Path, who: &Who, network: &Network, process: i32) -> Result<(), Error> {
    let networks = Networks::of(root);
    let mut present = present(&who.dir)?.unwrap_or_default();
    let (guard, _) = networks.lock()?;
    let Some(endpoint) = networks.endpoint(&network.id, &who.id)? else {
        return Err(Error::NotAttached(who.name.clone(), network.name.clone()));
    };
    let outside = Socket::open().map_err(step("open a routing socket"))?;
    outside.remove(&endpoint.outside).map_err(step("remove the container's interface"))?;
    networks.remove_endpoint(&endpoint)?;
    if !endpoint.published.is_empty() {
        bridge::set_rules(&networks, network, &guard)?;
    }
    present.endpoints.retain(|one| one.network != network.id);
    // The default route went with its interface: another network with a way out takes over.
    if let Some(next) = present.endpoints.iter().find(|one| one.gateway.is_some())
        && let Some(gateway) = next.gateway
    {
        let namespace = namespace_file(process)?;
        let inside = Socket::open_in(namespace.as_fd()).map_err(step("enter the network"))?;
        if let Some(index) = inside.index(&next.interface).map_err(step("list interfaces"))? {
            match inside.add_default_route(index, gateway) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(step("set the default route")(errno)),
            }
        }
    }
    let hosts_file = who.dir.join("hosts");
    let text = fs::read_to_string(&hosts_file).map_err(io_error("read", &hosts_file))?;
    let gone = format!("{}\t", endpoint.address);
    let kept: String = text.split_inclusive('\n').filter(|line| !line.starts_with(&gone)).collect();
    rewrite(&hosts_file, &kept)?;
    save_present(&who.dir, &present)
}

/// `--add-host` with `host-gateway` replaced by the machine's address.
pub fn resolved(
    hosts: &[(String, String)],
    machine: Option<Ipv4Addr>,
) -> Result<Vec<(String, String)>, Error> {
    hosts
        .iter()
        .map(|(name, address)| match (address == HOST_GATEWAY, machine) {
            (false, _) => Ok((name.clone(), address.clone())),
            (true, Some(machine)) => Ok((name.clone(), machine.to_string())),
            (true, None) => Err(Error::NoGateway(name.clone())),
        })
        .collect()
}

/// Writes into a file that may be mounted in the container: its place stays, its content changes.
fn rewrite(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(io_error("write", path))
}

/// What this machine asks about names; nothing where it does not say.
pub fn machines_resolver() -> Result<Resolver, Error> {
    let path = Path::new("/etc/resolv.conf");
    match fs::read(path) {
        Ok(bytes) => Ok(Resolver::parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Resolver::default()),
        Err(error) => Err(io_error("read", path)(error)),
    }
}
