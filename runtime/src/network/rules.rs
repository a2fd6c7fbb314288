//! What the kernel's packet filter does for a network: addresses are translated on the way out,
//! published ports lead in, networks do not reach each other.
//!
//! Each bridge has one nftables table of its own. Its text follows from what is written down
//! about the network and its endpoints, and is replaced as a whole, in one transaction, whenever
//! that changes: nothing can be left over from an endpoint whose processes were killed.
//!
//! Connections from this machine itself go through the proxy (`proxy`), not through rules.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use super::ports::Published;
use super::subnet::Subnet;

/// The beginning of every bridge's name.
pub const PREFIX: &str = "cowl";

/// Why the rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No nft.
    #[error("cannot run nft ({0}): install it (Debian: package nftables)")]
    Missing(io::Error),
    /// It said no.
    #[error("nft refused the rules of {table}: {said}")]
    Refused {
        /// Whose rules.
        table: String,
        /// Its first line.
        said: String,
    },
}

/// A network, as far as rules are concerned.
#[derive(Debug)]
pub struct Bridge<'a> {
    /// The name of its interface.
    pub name: &'a str,
    /// Its addresses.
    pub subnet: Subnet,
    /// Whether it reaches nothing but itself.
    pub internal: bool,
    /// Ports that lead to addresses in it.
    pub published: &'a [(Published, Ipv4Addr)],
}

/// The name of a bridge's table; nft's words have no hyphens at some places.
fn table(bridge: &str) -> String {
    bridge.replace('-', "_")
}

/// The script that makes the table what it shall be.
pub fn script(bridge: &Bridge<'_>) -> String {
    let (name, subnet, table) = (bridge.name, bridge.subnet, table(bridge.name));
    let mut text =
        format!("table ip {table} {{ }}\ndelete table ip {table}\ntable ip {table} {{\n");
    let mut line = |words: &str| writeln!(text, "  {words}").is_ok();
    line("chain forward {");
    line(" type filter hook forward priority filter; policy accept;");
    if bridge.internal {
        line(&format!(" iifname \"{name}\" oifname != \"{name}\" drop"));
        line(&format!(" oifname \"{name}\" iifname != \"{name}\" drop"));
    } else {
        line(&format!(" oifname \"{name}\" ct state established,related accept"));
        line(&format!(" oifname \"{name}\" iifname \"{name}\" accept"));
        line(&format!(" oifname \"{name}\" iifname \"{PREFIX}*\" drop"));
        line(&format!(" oifname \"{name}\" ct status dnat accept"));
        line(&format!(" oifname \"{name}\" drop"));
    }
    line("}");
    if !bridge.internal {
        line("chain postrouting {");
        line(" type nat hook postrouting priority srcnat; policy accept;");
        line(&format!(" ip saddr {subnet} oifname != \"{name}\" masquerade"));
        line("}");
        line("chain prerouting {");
        line(" type nat hook prerouting priority dstnat; policy accept;");
        // A container's own connections go to the proxy: translated here, the answer would come
        // back by another way than the question went.
        line(&format!(" iifname \"{PREFIX}*\" return"));
        for (published, address) in bridge.published {
            let to = match published.address {
                IpAddr::V4(host) if host.is_unspecified() => "fib daddr type local".to_owned(),
                IpAddr::V4(host) => format!("ip daddr {host}"),
                IpAddr::V6(_) => continue, // the proxy's
            };
            let (protocol, host) = (published.container.protocol, published.host);
            let inside = published.container.number;
            line(&format!(" {to} {protocol} dport {host} dnat to {address}:{inside}"));
        }
        line("}");
    }
    text.push_str("}\n");
    text
}

/// Sets the rules of a bridge.
pub fn apply(bridge: &Bridge<'_>) -> Result<(), Error> {
    run(bridge.name, &script(bridge))
}

/// Removes the rules of a bridge; none there is no error.
pub fn remove(bridge: &str) -> Result<(), Error> {
    let table = table(bridge);
    run(bridge, &format!("table ip {table} {{ }}\ndelete table ip {table}\n"))
}

fn run(bridge: &str, script: &str) -> Result<(), Error> {
    let path = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Missing)?;
    if let Some(mut input) = child.stdin.take() {
        // One that ended early says why below.
        input.write_all(script.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(Error::Missing)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it did not say why").to_owned();
    Err(Error::Refused { table: bridge.to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge<'a>(internal: bool, published: &'a [(Published, Ipv4Addr)]) -> Bridge<'a> {
        let subnet = "172.18.0.0/16".parse().unwrap();
        Bridge { name: "cowl-0123456789", subnet, internal, published }
    }

    #[test]
    fn a_network_goes_out_and_its_ports_lead_in() {
        let address: Ipv4Addr = "172.18.0.2".parse().unwrap();
        let published: Vec<(Published, Ipv4Addr)> = ["8080:80", "10.0.0.1:53:53/udp", "[::1]:1:1"]
            .into_iter()
            .flat_map(|text| super::super::ports::published(text).unwrap())
            .map(|published| (published, address))
            .collect();
        let text = script(&bridge(false, &published));
        assert!(text.starts_with(
            "table ip cowl_0123456789 { }\ndelete table ip cowl_0123456789\ntable ip"
        ));
        for line in [
            "ip saddr 172.18.0.0/16 oifname != \"cowl-0123456789\" masquerade",
            "fib daddr type local tcp dport 8080 dnat to 172.18.0.2:80",
            "ip daddr 10.0.0.1 udp dport 53 dnat to 172.18.0.2:53",
        ] {
            assert!(text.lines().any(|l| l.trim() == line), "{line} not in {text}");
        }
        assert_eq!(text.matches("dnat to").count(), 2);
    }

    #[test]
    fn an_internal_network_reaches_nothing() {
        let text = script(&bridge(true, &[]));
        assert!(text.contains("iifname \"cowl-0123456789\" oifname != \"cowl-0123456789\" drop"));
        assert!(!text.contains("masquerade") && !text.contains("accept\n"));
    }

    #[test]
    fn what_nft_says_is_passed_on() {
        match run("x", "nonsense\n") {
            Err(Error::Refused { said, .. }) => assert!(!said.is_empty()),
            Err(Error::Missing(_)) => {} // where it is not installed
            Ok(()) => panic!("nft took nonsense"),
        }
    }
}
