//! `/etc/hosts` and `/etc/resolv.conf` of a container, as Docker writes them.

use std::net::{IpAddr, Ipv4Addr};

/// Docker's lines at the beginning of every hosts file.
const BEGINNING: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// What `--add-host NAME:host-gateway` calls the machine.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Asked where the machine names no server that a container could reach, as in Docker.
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The hosts file of a container with these addresses and names, and `--add-host`'s lines.
pub fn hosts(own: &[(IpAddr, String)], added: &[(String, String)]) -> String {
    let mut text = BEGINNING.to_owned();
    append(&mut text, added);
    for (address, names) in own {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    text
}

/// Adds lines of `--add-host`: name, address.
pub fn append(text: &mut String, added: &[(String, String)]) {
    for (name, address) in added {
        text.push_str(&format!("{address}\t{name}\n"));
    }
}

/// What a container asks about names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers, in order.
    pub servers: Vec<String>,
    /// Domains that names without a dot are tried in.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a machine's file.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => found.servers.extend(words.next()),
                Some("search" | "domain") => found.search = words.collect(),
                Some("options") => found.options.extend(words),
                _ => {}
            }
        }
        found
    }

    /// What the user gave replaces what the machine has, part by part; a single `.` as search
    /// domain stands for none.
    pub fn overridden(mut self, servers: &[String], search: &[String], options: &[String]) -> Self {
        if !servers.is_empty() {
            self.servers = servers.to_vec();
        }
        if !search.is_empty() {
            self.search = search.to_vec();
        }
        if self.search == ["."] {
            self.search.clear();
        }
        if !options.is_empty() {
            self.options = options.to_vec();
        }
        self
    }

    /// For a container with a loopback interface of its own: the machine's servers on loopback
    /// are out of its reach.
    pub fn reachable(mut self) -> Self {
        self.servers.retain(|server| {
            // A zone (`fe80::1%eth0`) names an interface of this machine.
            server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback())
        });
        if self.servers.is_empty() {
            self.servers = PUBLIC_SERVERS.map(str::to_owned).to_vec();
        }
        self
    }

    /// Asks this one server instead, which asks the others.
    pub fn through(mut self, server: Ipv4Addr) -> Self {
        self.servers = vec![server.to_string()];
        self
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Reads an argument of `--add-host`: `NAME:ADDRESS` or `NAME=ADDRESS`; the address may be
/// IPv6, with or without brackets, or `host-gateway`.
pub fn added(text: &str) -> Option<(String, String)> {
    let at = text.find(['=', ':'])?;
    let (name, rest) = text.split_at_checked(at)?;
    let address = rest.get(1..)?;
    let address =
        address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    let good = !name.is_empty() && !name.contains(char::is_whitespace);
    let known = address == HOST_GATEWAY || address.parse::<IpAddr>().is_ok();
    (good && known).then(|| (name.to_owned(), address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn own_addresses_come_last() {
        let own = [("172.17.0.2".parse().unwrap(), "0123456789ab".to_owned())];
        let text = hosts(&own, &[("db".to_owned(), "10.0.0.9".to_owned())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("ff02::2\tip6-allrouters\n10.0.0.9\tdb\n172.17.0.2\t0123456789ab\n")
        );
    }

    #[test]
    fn resolvers_are_read_and_written() {
        let text =
            "# c\nnameserver 10.0.0.1\nnameserver 127.0.0.53 # x\nsearch a b\noptions ndots:2\n";
        let machine = Resolver::parse(text);
        assert_eq!(machine.servers, ["10.0.0.1", "127.0.0.53"]);
        assert_eq!(
            machine.clone().reachable().text(),
            "nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n"
        );
        let own =
            machine.clone().overridden(&words(&["1.1.1.1"]), &words(&["."]), &words(&["rotate"]));
        assert_eq!(own.text(), "nameserver 1.1.1.1\noptions rotate\n");
        let local = Resolver::parse("nameserver 127.0.0.1\nnameserver fe80::1%eth0\n").reachable();
        assert_eq!(local.servers, ["8.8.8.8", "8.8.4.4"]);
        let through = machine.through(Ipv4Addr::new(127, 0, 0, 11));
        assert!(through.text().starts_with("nameserver 127.0.0.11\nsearch"));
    }

    #[test]
    fn hosts_are_added_as_docker_reads_them() {
        let pair = |name: &str, address: &str| Some((name.to_owned(), address.to_owned()));
        assert_eq!(added("db:10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(added("db=10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(added("six:::1"), pair("six", "::1"));
        assert_eq!(added("six:[::1]"), pair("six", "::1"));
        assert_eq!(added("me:host-gateway"), pair("me", "host-gateway"));
        for bad in ["db", "db:", ":1.2.3.4", "db:1.2.3", "a b:1.2.3.4"] {
            assert_eq!(added(bad), None, "{bad}");
        }
    }
}
