//! Flags about the network.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;

use super::engine;
use crate::cli::Failure;
use crate::container::Containers;
use crate::container::config::{Isolation, Network, Sharing};
use crate::network::hosts;
use crate::network::ports::{self, Port, Published};
use crate::network::record::BRIDGE;
use crate::network::settings::{Mode, Program, Wanted, mac};

/// The environment variable that says what `--network` is when it is not given.
const VARIABLE: &str = "COWL_NETWORK";

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// The network it sees: `none`, `host`, `bridge`, the name of a network (once for each, or as
    /// name=NETWORK,alias=NAME,ip=ADDRESS), `container:NAME`, `pasta` or `slirp4netns` [default:
    /// $COWL_NETWORK, else a bridge for root and user-mode networking for an ordinary user]
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// One more name by which others in its network find it
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Its IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Its hardware address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Publish a port at one of this machine: `ADDRESS:PORT:PORT/tcp` or less of it, or ranges of
    /// ports
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish all exposed ports at free ports of this machine
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Say that a port, or a range, is listened at
    #[arg(long, value_name = "PORT[/tcp|udp]")]
    expose: Vec<String>,
    /// Add a line to its /etc/hosts; `host-gateway` stands for this machine's address
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// A server that it asks about names
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// A domain that it searches for names; `.` for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of its resolver
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// For the configuration.
    pub config: Network,
}

/// One value of `--network`.
enum Choice {
    Mode(Mode),
    Join(Wanted),
}

fn choice(text: &str) -> Result<Choice, Failure> {
    Ok(Choice::Mode(match text {
        "default" | "" => Mode::Default,
        "none" => Mode::None,
        "host" => Mode::Host,
        "pasta" => Mode::User(Some(Program::Pasta)),
        "slirp4netns" => Mode::User(Some(Program::Slirp4netns)),
        _ => match text.strip_prefix("container:") {
            Some(name) => Mode::Container(name.to_owned()),
            None => return wanted(text).map(Choice::Join),
        },
    }))
}

/// Reads `NETWORK`, or `name=NETWORK,alias=NAME,ip=ADDRESS,mac-address=ADDRESS`.
fn wanted(text: &str) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::default();
    if !text.contains('=') {
        text.clone_into(&mut wanted.network);
        return Ok(wanted);
    }
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').ok_or_else(|| engine(format!("invalid field {field}")))?;
        match key {
            "name" => value.clone_into(&mut wanted.network),
            "alias" => wanted.aliases.push(value.to_owned()),
            "ip" => wanted.address = Some(address(value)?),
            "mac-address" => wanted.mac = Some(hardware(value)?),
            _ => return Err(engine(format!("invalid field key {key}"))),
        }
    }
    if wanted.network.is_empty() {
        return Err(engine(format!("--network {text}: network name/id is missing")));
    }
    Ok(wanted)
}

fn address(text: &str) -> Result<Ipv4Addr, Failure> {
    text.parse().map_err(|_| engine(format!("invalid IPv4 address: {text}")))
}

fn hardware(text: &str) -> Result<[u8; 6], Failure> {
    mac(text).ok_or_else(|| engine(format!("{text} is not a valid mac address")))
}

fn read_all<T>(
    texts: &[String],
    read: impl Fn(&str) -> Result<Vec<T>, ports::Error>,
) -> Result<Vec<T>, Failure> {
    let lists = texts.iter().map(|text| read(text)).collect::<Result<Vec<_>, _>>();
    Ok(lists.map_err(engine)?.into_iter().flatten().collect())
}

impl Options {
    /// Reads the flags.
    pub fn read(mut self) -> Result<Read, Failure> {
        if self.network.is_empty() {
            self.network.extend(std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()));
        }
        let mut config = Network {
            ports: read_all::<Published>(&self.publish, ports::published)?,
            publish_all: self.publish_all,
            exposed: read_all::<Port>(&self.expose, ports::exposed)?,
            dns_search: self.dns_search,
            dns_options: self.dns_option,
            ..Network::default()
        };
        for text in &self.add_host {
            let added = hosts::added(text).ok_or_else(|| {
                engine(format!("bad format for add-host: \"{text}\": give NAME:ADDRESS"))
            })?;
            config.hosts.push(added);
        }
        for server in &self.dns {
            if server.parse::<IpAddr>().is_err() {
                return Err(engine(format!("{server} is not an ip address")));
            }
        }
        config.dns = self.dns;

        let mut modes = Vec::new();
        for text in &self.network {
            match choice(text)? {
                Choice::Mode(mode) => modes.push(mode),
                Choice::Join(wanted) => config.networks.push(wanted),
            }
        }
        config.mode = match (modes.pop(), modes.is_empty(), config.networks.is_empty()) {
            (None, _, true) => Mode::Default,
            (None, ..) => Mode::Networks,
            (Some(mode), true, true) => mode,
            _ => {
                return Err(engine(
                    "conflicting options: only networks with names can be given several times",
                ));
            }
        };
        let shares = matches!(config.mode, Mode::Host | Mode::Container(_));
        if matches!(config.mode, Mode::Container(_))
            && (!config.ports.is_empty() || config.publish_all)
        {
            return Err(engine(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
        if self.ip.is_some() || self.mac_address.is_some() {
            if config.mode == Mode::Default {
                config.mode = Mode::Networks;
                config.networks.push(Wanted { network: BRIDGE.to_owned(), ..Wanted::default() });
            }
            let [one] = config.networks.as_mut_slice() else {
                return Err(engine(
                    "conflicting options: --ip and --mac-address need one network with a name",
                ));
            };
            if let Some(text) = &self.ip {
                one.address = Some(address(text)?);
            }
            if let Some(text) = &self.mac_address {
                one.mac = Some(hardware(text)?);
            }
        }
        if !self.network_alias.is_empty() {
            let named = config.networks.first_mut().filter(|one| one.network != BRIDGE);
            let one = named.ok_or_else(|| {
                engine(
                    "network-scoped aliases are only supported for user-defined networks: give \
                     --network NAME",
                )
            })?;
            one.aliases.extend(self.network_alias);
        }
        if shares {
            config.ports.clear();
            config.publish_all = false;
        }
        Ok(Read { config })
    }
}

impl Read {
    /// The host name of a container for which none was asked: its id, or the machine's where it
    /// shares the machine's network or host name.
    pub fn default_hostname(&self, isolation: &Isolation, id: &str) -> String {
        if self.config.mode != Mode::Host && isolation.uts != Sharing::Host {
            return id.to_owned();
        }
        nix::unistd::gethostname()
            .map_or_else(|_| id.to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Adds what the image exposes, and finds the container whose network is shared.
    pub fn complete(&mut self, image: &[String], containers: &Containers) -> Result<(), Failure> {
        for port in read_all::<Port>(image, ports::exposed)? {
            if !self.config.exposed.contains(&port) {
                self.config.exposed.push(port);
            }
        }
        if let Mode::Container(name) = &mut self.config.mode {
            let other = containers.find(name).map_err(engine)?;
            other.config.id.as_str().clone_into(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn read(words: &[&str]) -> Result<Network, String> {
        let line = Line::try_parse_from([&["x"], words].concat()).map_err(|e| e.to_string())?;
        line.options.read().map(|read| read.config).map_err(|failure| failure.message)
    }

    #[test]
    fn networks_are_chosen() {
        assert_eq!(read(&["--network", "none"]).unwrap().mode, Mode::None);
        assert_eq!(read(&["--net=host", "-p", "80:80"]).unwrap().ports, []);
        assert_eq!(
            read(&["--network", "container:web"]).unwrap().mode,
            Mode::Container("web".into())
        );
        let two = read(&["--network", "a", "--network", "name=b,alias=x,ip=10.0.0.3"]).unwrap();
        assert_eq!(two.mode, Mode::Networks);
        assert_eq!(two.networks[1].network, "b");
        assert_eq!(two.networks[1].aliases, ["x"]);
        assert_eq!(two.networks[1].address, Some(Ipv4Addr::new(10, 0, 0, 3)));
        let fixed = read(&["--network", "a", "--ip", "10.0.0.9", "--network-alias", "db"]).unwrap();
        assert_eq!(fixed.networks[0].address, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert_eq!(fixed.networks[0].aliases, ["db"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (words, said) in [
            (&["--network", "host", "--network", "a"][..], "conflicting options"),
            (&["--network", "container:a", "-p", "80"], "conflicting options: port publishing"),
            (&["--network", "none", "--ip", "10.0.0.2"], "need one network"),
            (&["--network", "bridge", "--network-alias", "x"], "user-defined networks"),
            (&["--network", "a", "--ip", "10.0.0"], "invalid IPv4 address: 10.0.0"),
            (&["--network", "a", "--mac-address", "x"], "not a valid mac address"),
            (&["--add-host", "x"], "bad format for add-host"),
            (&["--dns", "x"], "x is not an ip address"),
            (&["-p", "80:x"], "Invalid containerPort: x"),
            (&["--network", "alias=x"], "network name/id is missing"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }
}
