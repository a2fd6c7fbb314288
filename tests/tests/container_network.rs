//! Networks of containers: names, addresses, published ports, what is left when all is killed.
//!
//! Bridges need root; each test has a store of its own, and so bridges and addresses of its own.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cowl_tests::container::{Caller, Machine, check, left};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod root {
    use super::{Caller, check};

    macro_rules! tests {
        ($($name:ident),+ $(,)?) => {
            $( #[test] fn $name() { check(Caller::Root, super::$name); } )+
        };
    }
    tests!(
        a_bridge_gives_an_address_and_files,
        containers_find_each_other_by_name,
        published_ports_are_reached_and_had_once,
        networks_are_listed_shown_and_removed,
        addresses_can_be_chosen,
        an_internal_network_has_no_way_out,
        a_running_container_is_connected_and_disconnected,
        a_network_is_shared_with_another_container,
        nothing_of_the_killed_counts,
        what_cannot_be_is_refused,
    );
}

mod user {
    use super::{Caller, check};

    #[test]
    fn pasta_passes_the_network_through() {
        check(Caller::User, |machine| super::passes_through(machine, "pasta"));
    }

    #[test]
    fn slirp4netns_passes_the_network_through() {
        check(Caller::User, |machine| super::passes_through(machine, "slirp4netns"));
    }

    #[test]
    fn networks_need_root() {
        check(Caller::User, |machine| {
            let words = ["run", "--rm", "--network", "nope", "busybox", "true"];
            machine.cowl(words).fails(125, "need root");
        });
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a container in the background that serves a page; back when it listens.
fn serve(machine: &Machine, name: &str, options: &[&str]) -> Child {
    // The shell's word comes before the server listens: connections are tried until they succeed.
    let script = "echo \"I am $0\" > /tmp/index.html; echo ready; exec httpd -f -p 80 -h /tmp";
    let words = [&["run", "--name", name], options, &["busybox", "sh", "-c", script, name]];
    let mut child =
        machine.command(words.concat()).stdout(Stdio::piped()).spawn().expect("start cowl");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n", "{name} did not start");
    child
}

fn end(machine: &Machine, name: &str, mut child: Child) {
    machine.cowl(["rm", "-f", name]).ok();
    child.wait().expect("wait for cowl");
}

fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
}

/// The page at an address of this machine.
fn page(address: &str) -> String {
    until(&format!("a page at {address}"), || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("200 OK").then_some(text)
    })
}

/// The page of a container, asked from another one: retried until it listens.
fn fetch(address: &str) -> String {
    format!(
        "for n in $(seq 200); do printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | \
         grep 'I am' && exit 0; usleep 100000; done; exit 1"
    )
}

/// A container's address in a network.
fn address(machine: &Machine, network: &str, name: &str) -> String {
    let format = "{{range .Containers}}{{.Name}} {{.IPv4Address}}\n{{end}}";
    let all = machine.cowl(["network", "inspect", "-f", format, network]).ok();
    let line = all.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    let with_prefix = line.unwrap_or_else(|| panic!("{name} is not in {network}: {all}"));
    with_prefix.split('/').next().expect("an address").to_owned()
}

fn a_bridge_gives_an_address_and_files(machine: &Machine) {
    let script = "ip -4 -o addr show eth0 | grep -o 'inet [0-9.]*/[0-9]*'; \
                  ip route | grep -c ^default; cat /etc/hosts /etc/resolv.conf";
    let words = [
        "run",
        "--rm",
        "--network",
        "bridge",
        "--hostname",
        "web.example",
        "--add-host",
        "db:10.0.0.9",
        "--add-host",
        "me:host-gateway",
        "--dns",
        "10.9.9.9",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:2",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let said = machine.cowl(words).ok();
    let mut lines = said.lines();
    let own = lines.next().and_then(|line| line.strip_prefix("inet ")).expect("an address");
    let own = own.strip_suffix("/16").or(own.strip_suffix("/20")).expect("a pool's prefix");
    assert_eq!(lines.next(), Some("1"), "{said}");
    for line in [
        "127.0.0.1\tlocalhost",
        "10.0.0.9\tdb",
        &format!("{own}\tweb.example web"),
        "nameserver 10.9.9.9",
        "search example.org",
        "options ndots:2",
    ] {
        assert!(said.lines().any(|l| l == line), "{line} not in {said}");
    }
    let gateway = machine
        .cowl(["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"])
        .ok();
    assert!(said.contains(&format!("{}\tme\n", gateway.trim())), "{said}");
    // The machine without a word about networks: the same kind of network.
    let mut plain = machine.command(["run", "--rm", "busybox", "ip", "-4", "addr", "show", "eth0"]);
    plain.env_remove("COWL_NETWORK");
    let output = plain.output().expect("run cowl");
    assert!(String::from_utf8_lossy(&output.stdout).contains("inet "), "{output:?}");
}

fn containers_find_each_other_by_name(machine: &Machine) {
    machine.cowl(["network", "create", "mine"]).ok();
    let web = serve(machine, "web", &["--network", "mine", "--network-alias", "www"]);
    let at = address(machine, "mine", "web");
    let ask = |words: &[&str]| {
        // Other names are asked for at a server that is not there: at once nobody knows them.
        let options = ["run", "--rm", "--network", "mine", "--dns", "127.0.0.1", "busybox"];
        machine.cowl([&options[..], words].concat())
    };
    for name in ["web", "www", "WEB", "web.mine"] {
        let said = ask(&["nslookup", "-type=a", name]).ok();
        assert!(said.contains(&format!("Address: {at}")), "{name}: {said}");
    }
    let back = ask(&["nslookup", &at]).ok();
    assert!(back.contains("name = web.mine"), "{back}");
    assert_eq!(ask(&["sh", "-c", &fetch(&at)]).ok(), "I am web\n");
    // Another network neither knows the name nor reaches the address.
    machine.cowl(["network", "create", "other"]).ok();
    let script = format!("nslookup -type=a web; nc -w 2 {at} 80 </dev/null && echo reached");
    let options = ["run", "--rm", "--network", "other", "--dns", "127.0.0.1"];
    let apart = machine.cowl([&options[..], &["busybox", "sh", "-c", &script]].concat()).out();
    assert!(!apart.contains(&at) && !apart.contains("reached"), "{apart}");
    end(machine, "web", web);
}

fn published_ports_are_reached_and_had_once(machine: &Machine) {
    let options = ["--network", "bridge", "-p", "127.0.0.1::80", "-p", "0.0.0.0::80"];
    let web = serve(machine, "web", &options);
    let listed = machine.cowl(["port", "web", "80"]).ok();
    let local = listed.lines().find(|line| line.starts_with("127.0.0.1:")).expect("a port");
    let any = listed.lines().find_map(|line| line.strip_prefix("0.0.0.0:")).expect("a port");
    assert!(machine.cowl(["port", "web"]).ok().contains(&format!("80/tcp -> {local}\n")));
    assert!(page(local).contains("I am web"));
    assert!(page(&format!("127.0.0.1:{any}")).contains("I am web"));
    machine.cowl(["port", "web", "81"]).fails(1, "no public port '81/tcp'");
    let twice = format!("{any}:80");
    let words = ["run", "--rm", "--network", "bridge", "-p", &twice, "busybox", "true"];
    machine.cowl(words).fails(125, "port is already allocated");
    // The rule that leads in from other machines is there, and goes with the container.
    let bridge = left::bridges(&machine.store()).pop().expect("a bridge").replace('-', "_");
    let rules = || {
        let mut nft = std::process::Command::new("nft");
        nft.args(["list", "table", "ip", &bridge]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let output = nft.output().expect("run nft");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(rules().contains(&format!("tcp dport {any} dnat to")), "{}", rules());
    end(machine, "web", web);
    assert!(!rules().contains("dnat to"), "{}", rules());
    let words = ["run", "--rm", "--network", "bridge", "-p", &twice, "busybox", "true"];
    machine.cowl(words).ok();
}

fn networks_are_listed_shown_and_removed(machine: &Machine) {
    let id = machine.cowl(["network", "create", "--label", "kind=test", "mine"]).ok();
    machine.cowl(["network", "create", "mine"]).fails(1, "network with name mine already exists");
    let listed = machine.cowl(["network", "ls"]).ok();
    assert_eq!(listed.lines().next(), Some("NETWORK ID     NAME      DRIVER    SCOPE"));
    for (name, driver) in
        [("bridge", "bridge"), ("host", "host"), ("mine", "bridge"), ("none", "null")]
    {
        let named = |line: &&str| line.split_whitespace().nth(1) == Some(name);
        let line = listed.lines().find(named).unwrap_or_else(|| panic!("{name}: {listed}"));
        assert_eq!(line.split_whitespace().nth(2), Some(driver), "{listed}");
    }
    let short = machine.cowl(["network", "ls", "-q", "--filter", "label=kind"]).ok();
    assert_eq!(short.trim(), &id[..12]);
    let shown = machine.cowl(["network", "inspect", "mine"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown[0]["Id"], id.trim());
    assert_eq!(shown[0]["Labels"]["kind"], "test");
    machine.cowl(["network", "inspect", "nope"]).fails(1, "network nope not found");

    let web = serve(machine, "web", &["--network", "mine"]);
    machine.cowl(["network", "rm", "mine"]).fails(1, "has active endpoints");
    assert_eq!(machine.cowl(["network", "prune", "-f"]).ok(), "");
    end(machine, "web", web);
    assert_eq!(machine.cowl(["network", "rm", "mine"]).ok(), "mine\n");
    machine.cowl(["network", "create", "again"]).ok();
    let pruned = machine.cowl(["network", "prune", "-f"]).ok();
    assert_eq!(pruned, "Deleted Networks:\nagain\n\n");
    machine.cowl(["network", "rm", "bridge"]).fails(1, "pre-defined network");
}

fn addresses_can_be_chosen(machine: &Machine) {
    // Out of reach of what networks of other tests get by themselves.
    let subnet = &format!("10.211.{}.0/24", std::process::id() % 256);
    machine.cowl(["network", "create", "--subnet", subnet, "mine"]).ok();
    machine.cowl(["network", "create", "--subnet", subnet, "other"]).fails(1, "Pool overlaps");
    let base = subnet.rsplit_once('.').expect("an address").0;
    let ip = format!("{base}.77");
    let options = ["--network", "mine", "--ip", &ip, "--mac-address", "02:00:00:00:00:77"];
    let words = [&["run", "--rm"], &options[..], &["busybox", "ip", "addr", "show", "eth0"]];
    let said = machine.cowl(words.concat()).ok();
    assert!(said.contains(&format!("inet {ip}/")) && said.contains("02:00:00:00:00:77"), "{said}");
    let words = ["run", "--rm", "--network", "mine", "--ip", "1.2.3.4", "busybox", "true"];
    machine.cowl(words).fails(125, "invalid address 1.2.3.4");
}

fn an_internal_network_has_no_way_out(machine: &Machine) {
    machine.cowl(["network", "create", "--internal", "mine"]).ok();
    let words = ["run", "--rm", "--network", "mine", "busybox", "ip", "route"];
    let routes = machine.cowl(words).ok();
    assert!(!routes.contains("default") && routes.contains("dev eth0"), "{routes}");
}

fn a_running_container_is_connected_and_disconnected(machine: &Machine) {
    machine.cowl(["network", "create", "one"]).ok();
    machine.cowl(["network", "create", "two"]).ok();
    let web = serve(machine, "web", &["--network", "one"]);
    machine.cowl(["network", "connect", "--alias", "www", "two", "web"]).ok();
    let at = address(machine, "two", "web");
    let ask = |words: &[&str]| {
        let options = ["run", "--rm", "--network", "two", "--dns", "127.0.0.1", "busybox"];
        machine.cowl([&options[..], words].concat())
    };
    assert!(ask(&["nslookup", "-type=a", "www"]).ok().contains(&format!("Address: {at}")));
    assert_eq!(ask(&["sh", "-c", &fetch(&at)]).ok(), "I am web\n");
    machine.cowl(["network", "connect", "two", "web"]).fails(1, "already exists in network two");
    machine.cowl(["network", "disconnect", "two", "web"]).ok();
    machine.cowl(["network", "disconnect", "two", "web"]).fails(1, "not connected to network two");
    assert!(!ask(&["nslookup", "-type=a", "www"]).out().contains(&at));
    end(machine, "web", web);
}

fn a_network_is_shared_with_another_container(machine: &Machine) {
    let web = serve(machine, "web", &["--network", "none"]);
    let script = format!("ip -o link | wc -l; {}", fetch("127.0.0.1"));
    let words = ["run", "--rm", "--network", "container:web", "busybox", "sh", "-c", &script];
    assert_eq!(machine.cowl(words).ok(), "1\nI am web\n");
    end(machine, "web", web);
    let words = ["run", "--rm", "--network", "container:web", "busybox", "true"];
    machine.cowl(words).fails(125, "No such container: web");
}

fn nothing_of_the_killed_counts(machine: &Machine) {
    machine.cowl(["network", "create", "mine"]).ok();
    let mut web = serve(machine, "web", &["--network", "mine", "-p", "127.0.0.1::80"]);
    let at = address(machine, "mine", "web");
    let port = machine.cowl(["port", "web", "80"]).ok();
    for (pid, _) in left::processes(machine.dir()) {
        // Whoever of them has gone with another one is gone.
        let _ignored = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    web.wait().expect("wait for cowl");
    until("the end of everything that was killed", || {
        left::processes(machine.dir()).is_empty().then_some(())
    });
    let again = format!("{}:80", port.trim());
    let words = ["run", "--rm", "--network", "mine", "--ip", &at, "-p", &again, "busybox", "true"];
    machine.cowl(words).ok();
    machine.cowl(["network", "rm", "mine"]).ok();
    machine.cowl(["rm", "web"]).ok();
}

fn what_cannot_be_is_refused(machine: &Machine) {
    for (words, said) in [
        (&["--network", "nope"][..], "network nope not found"),
        (&["--network", "container:nope"], "No such container: nope"),
        (&["--network", "bridge", "-p", "80:80:80:80"], "Invalid ip address: 80:80"),
        (&["--network", "host", "--network", "bridge"], "conflicting options"),
    ] {
        let words = [&["run", "--rm"], words, &["busybox", "true"]].concat();
        machine.cowl(words).fails(125, said);
    }
    for (words, said) in [
        (&["--subnet", "10.1.2.3/16", "x"][..], "10.1.2.3/16 has host bits set"),
        (&["--driver", "overlay", "x"], "could not find plugin overlay"),
        (&["a b"], "invalid network name"),
        (&["host"], "operation is not permitted on predefined host network"),
        (&["--gateway", "10.0.0.1", "x"], "need --subnet"),
    ] {
        let words = [&["network", "create"], words].concat();
        machine.cowl(words).fails(1, said);
    }
}

fn passes_through(machine: &Machine, program: &str) {
    // udev leaves it closed on no distribution; machines without udev do.
    let tun = Path::new("/dev/net/tun");
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(tun, fs::Permissions::from_mode(0o666)).expect("chmod /dev/net/tun");
    }
    let web = serve(machine, "web", &["--network", program, "-p", "127.0.0.1::80"]);
    let at = machine.cowl(["port", "web", "80"]).ok();
    assert!(page(at.trim()).contains("I am web"));
    let words = ["run", "--rm", "--network", program, "busybox", "ip", "route"];
    assert!(machine.cowl(words).ok().contains("default via"));
    end(machine, "web", web);
}
