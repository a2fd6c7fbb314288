//! What a container's user wants of the network: written down with the container, so that every
//! start finds it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::ports::{Port, Published};

/// Which network namespace a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The network `bridge` for root, user-mode networking for an ordinary user, and none, with a
    /// warning, where neither works.
    #[default]
    Default,
    /// Its own, with nothing but a loopback interface.
    None,
    /// This machine's.
    Host,
    /// That of another container, by its id.
    Container(String),
    /// Its own, attached to the networks that are listed.
    Networks,
    /// Its own, with this machine's network passed through by a process.
    User(Option<Program>),
}

/// A program for user-mode networking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// passt's `pasta`.
    Pasta,
    /// `slirp4netns`.
    Slirp4netns,
}

/// One network that a container is to be attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The network's name.
    pub network: String,
    /// The address it shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// The hardware address it shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<[u8; 6]>,
    /// More names by which others find it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// Everything about the network in a container's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Which namespace.
    pub mode: Mode,
    /// The networks; only with [`Mode::Networks`].
    pub networks: Vec<Wanted>,
    /// Ports that are published.
    pub ports: Vec<Published>,
    /// Whether all exposed ports are published, at free ports of this machine.
    pub publish_all: bool,
    /// Ports that the image or the user exposes.
    pub exposed: Vec<Port>,
    /// Lines for the hosts file: name, address or `host-gateway`.
    pub hosts: Vec<(String, String)>,
    /// Servers that answer about names.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
}

impl Settings {
    /// Whether the container has a network namespace of its own.
    pub fn own_namespace(&self) -> bool {
        !matches!(self.mode, Mode::Host | Mode::Container(_))
    }

    /// A machine's file about names, with what the user gave in place of parts of it.
    pub fn resolver(&self, machines: &[u8]) -> Vec<u8> {
        if self.dns.is_empty() && self.dns_search.is_empty() && self.dns_options.is_empty() {
            return machines.to_vec();
        }
        super::hosts::Resolver::parse(&String::from_utf8_lossy(machines))
            .overridden(&self.dns, &self.dns_search, &self.dns_options)
            .text()
            .into_bytes()
    }

    /// How Docker calls the mode, for `inspect`.
    pub fn mode_name(&self) -> String {
        match &self.mode {
            Mode::Default => "default".to_owned(),
            Mode::None => "none".to_owned(),
            Mode::Host => "host".to_owned(),
            Mode::Container(id) => format!("container:{id}"),
            Mode::Networks => {
                self.networks.first().map_or_else(String::new, |one| one.network.clone())
            }
            Mode::User(None) => "private".to_owned(),
            Mode::User(Some(program)) => program.name().to_owned(),
        }
    }

    /// The ports to publish: those given, and with `-P` the exposed ones that are not among them.
    pub fn published(&self) -> Vec<Published> {
        let mut all = self.ports.clone();
        if self.publish_all {
            let address = Ipv4Addr::UNSPECIFIED.into();
            for port in &self.exposed {
                if !all.iter().any(|published| published.container == *port) {
                    all.push(Published { container: *port, address, host: 0 });
                }
            }
        }
        all
    }
}

/// Reads a hardware address.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut found = [0u8; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut found {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Writes a hardware address.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_written_and_lack_nothing() {
        let settings = Settings {
            mode: Mode::Container("0123".into()),
            ports: super::super::ports::published("8080:80").unwrap(),
            ..Settings::default()
        };
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), Settings::default());
    }

    #[test]
    fn exposed_ports_are_published_once() {
        let settings = Settings {
            publish_all: true,
            ports: super::super::ports::published("8080:80").unwrap(),
            exposed: super::super::ports::exposed("80-81").unwrap(),
            ..Settings::default()
        };
        let published: Vec<u16> = settings.published().iter().map(|p| p.host).collect();
        assert_eq!(published, [8080, 0]);
    }

    #[test]
    fn hardware_addresses_are_read() {
        assert_eq!(mac("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(mac_text([2, 0x42, 0xac, 0x11, 0, 2]), "02:42:ac:11:00:02");
        for bad in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02", "zz:42:ac:11:00:02"]
        {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
