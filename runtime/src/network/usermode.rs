//! The network of an ordinary user's container: a process outside passes the machine's network
//! through a tap interface inside. `pasta` is preferred, for it is faster and keeps addresses;
//! `slirp4netns` is as good for what most containers do.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

use super::ports::{Protocol, Published};
use super::proxy::{self, Listening};
use super::settings::Program;
use crate::sys;

/// What both need.
const TUN: &str = "/dev/net/tun";
/// How long one may take until the container's network works.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where pasta answers about names, and passes the question to the machine's server.
const PASTA_RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Where slirp4netns does, and its other fixed addresses.
const SLIRP_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const SLIRP_OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
const SLIRP_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Why an ordinary user's container has no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No program.
    #[error("{0} is not installed (Debian: packages passt, slirp4netns)")]
    Missing(&'static str),
    /// The device cannot be opened.
    #[error("{TUN} cannot be opened ({0}): make it readable and writable for every user")]
    Device(io::Error),
    /// It ended, or did not get ready.
    #[error("{program} did not start: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// Its last line.
        said: String,
    },
    /// A port is taken.
    #[error(transparent)]
    Port(#[from] proxy::Error),
}

impl Program {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }

    /// Where it is installed.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/bin", "/usr/local/bin"].map(PathBuf::from))
            .map(|dir| dir.join(self.name()))
            .find(|file| file.is_file())
    }
}

/// The programs that could be used here, the better one first.
pub fn usable() -> Result<Vec<Program>, Error> {
    let found: Vec<Program> = [Program::Pasta, Program::Slirp4netns]
        .into_iter()
        .filter(|program| program.find().is_some())
        .collect();
    if found.is_empty() {
        return Err(Error::Missing("neither pasta nor slirp4netns"));
    }
    OpenOptions::new().read(true).write(true).open(TUN).map_err(Error::Device)?;
    Ok(found)
}

/// A network that is passed through.
#[derive(Debug)]
pub struct Passing {
    /// The process.
    pub child: Child,
    /// Which program it is.
    pub program: Program,
    /// Who answers about names.
    pub resolver: Ipv4Addr,
    /// The container's address, where it is known.
    pub address: Option<Ipv4Addr>,
    /// The machine's address as the container sees it, where there is one.
    pub machine: Option<Ipv4Addr>,
    /// The ports that lead in.
    pub published: Vec<Published>,
}

/// Passes the machine's network into the network namespace of a process.
///
/// `dir` is the container's directory, for files that the program needs while it starts.
pub fn start(
    program: Program,
    process: i32,
    wanted: &[Published],
    dir: &Path,
) -> Result<Passing, Error> {
    let place = program.find().ok_or(Error::Missing(program.name()))?;
    OpenOptions::new().read(true).write(true).open(TUN).map_err(Error::Device)?;
    // The programs are bad at saying which port is taken: it is tried before.
    let published = wanted
        .iter()
        .map(|wanted| Listening::bind(*wanted).map(|(_, given)| given))
        .collect::<Result<Vec<_>, _>>()?;
    match program {
        Program::Pasta => pasta(&place, process, published, dir),
        Program::Slirp4netns => slirp(&place, process, published, dir),
    }
}

/// A port as pasta's `-t` and `-u` take it.
fn pasta_port(port: &Published) -> String {
    let (host, inside) = (port.host, port.container.number);
    if port.address.is_unspecified() && port.address.is_ipv4() {
        format!("{host}:{inside}")
    } else {
        format!("{}/{host}:{inside}", port.address)
    }
}

fn pasta_arguments(namespace: &Path, published: &[Published], pid_file: &Path) -> Vec<String> {
    let mut words: Vec<String> =
        ["--config-net", "--foreground", "--quiet", "--no-map-gw", "--no-netns-quit"]
            .map(str::to_owned)
            .to_vec();
    words.extend(["--dns-forward".to_owned(), PASTA_RESOLVER.to_string()]);
    words.extend(["--pid".to_owned(), pid_file.display().to_string()]);
    // Nothing on the machine's loopback is the container's, nor the other way round.
    for (option, protocol) in [("-t", Protocol::Tcp), ("-u", Protocol::Udp)] {
        let ports: Vec<_> =
            published.iter().filter(|port| port.container.protocol == protocol).collect();
        for port in &ports {
            words.extend([option.to_owned(), pasta_port(port)]);
        }
        if ports.is_empty() {
            words.extend([option.to_owned(), "none".to_owned()]);
        }
    }
    words.extend(["-T", "none", "-U", "none", "--netns"].map(str::to_owned));
    words.push(namespace.display().to_string());
    words
}

fn pasta(
    place: &Path,
    process: i32,
    published: Vec<Published>,
    dir: &Path,
) -> Result<Passing, Error> {
    let pid_file = dir.join("pasta.pid");
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(Program::Pasta)(error));
        }
        _ => {}
    }
    // It gives up the privileges by which it could open another process's namespace: it gets a
    // name of the namespace, in this process's own view of the filesystems.
    let namespace = dir.join("netns");
    name_namespace(process, &namespace)?;
    let mut command = Command::new(place);
    command.args(pasta_arguments(&namespace, &published, &pid_file));
    // It writes its number down when everything is set up.
    let ready = spawn(Program::Pasta, command, &[]).and_then(|mut child| {
        wait(Program::Pasta, &mut child, || {
            fs::read_to_string(&pid_file).is_ok_and(|text| !text.trim().is_empty())
        })?;
        Ok(child)
    });
    fs::remove_file(&pid_file).ok(); // there only when it got so far
    umount2(&namespace, MntFlags::MNT_DETACH)
        .map_err(|errno| failed(Program::Pasta)(errno.into()))?;
    fs::remove_file(&namespace).map_err(failed(Program::Pasta))?;
    let child = ready?;
    let (program, resolver) = (Program::Pasta, PASTA_RESOLVER);
    Ok(Passing { child, program, resolver, address: None, machine: None, published })
}

/// Mounts a process's network namespace on a file.
fn name_namespace(process: i32, file: &Path) -> Result<(), Error> {
    fs::File::create(file).map_err(failed(Program::Pasta))?;
    let namespace = format!("/proc/{process}/ns/net");
    mount(Some(namespace.as_str()), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| failed(Program::Pasta)(errno.into()))
}

fn slirp(
    place: &Path,
    process: i32,
    published: Vec<Published>,
    dir: &Path,
) -> Result<Passing, Error> {
    let program = Program::Slirp4netns;
    let (ready, writer) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(program)(io::Error::from(errno)))?;
    let mut command = Command::new(place);
    command
        .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd"])
        .arg(writer.as_raw_fd().to_string())
        .current_dir(dir); // the socket's path has no room for a long one
    if !published.is_empty() {
        command.args(["--api-socket", "slirp.sock"]);
    }
    command.arg(process.to_string()).arg("tap0");
    let mut child = spawn(program, command, &[writer.as_fd()])?;
    drop(writer);
    let said_so = || {
        let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
            && fds
                .iter()
                .all(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)))
    };
    let socket = dir.join("slirp.sock");
    let set = wait(program, &mut child, said_so)
        .and_then(|()| published.iter().try_for_each(|port| forward(dir, port)));
    fs::remove_file(&socket).ok(); // there only when ports were to be published
    if let Err(error) = set {
        end(&mut child);
        return Err(error);
    }
    Ok(Passing {
        child,
        program,
        resolver: SLIRP_RESOLVER,
        address: Some(SLIRP_OWN),
        machine: Some(SLIRP_GATEWAY),
        published,
    })
}

/// Asks slirp4netns for a port, on its socket.
fn forward(dir: &Path, port: &Published) -> Result<(), Error> {
    let program = Program::Slirp4netns;
    let refused = |said: String| Error::Failed { program: program.name(), said };
    let IpAddr::V4(address) = port.address else {
        return Err(refused(format!("it cannot publish at {}, which is IPv6", port.address)));
    };
    let request = serde_json::json!({
        "execute": "add_hostfwd",
        "arguments": {
            "proto": port.container.protocol.to_string(),
            "host_addr": address.to_string(),
            "host_port": port.host,
            "guest_port": port.container.number,
        },
    });
    let here = fs::File::open(dir).map_err(failed(program))?;
    let path = format!("/proc/self/fd/{}/slirp.sock", here.as_raw_fd());
    let mut answer = String::new();
    UnixStream::connect(path)
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(request.to_string().as_bytes())?;
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_to_string(&mut answer)
        })
        .map_err(failed(program))?;
    if answer.contains("\"error\"") { Err(refused(answer.trim().to_owned())) } else { Ok(()) }
}

fn failed(program: Program) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Failed { program: program.name(), said: error.to_string() }
}

fn spawn(
    program: Program,
    mut command: Command,
    fds: &[std::os::fd::BorrowedFd<'_>],
) -> Result<Child, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    sys::descriptor::attend(&mut command, fds, Signal::SIGKILL);
    command.spawn().map_err(failed(program))
}

/// Ends a process of ours.
pub fn end(child: &mut Child) {
    // One that has ended needs no signal; waiting for a child of ours does not fail.
    child.kill().ok();
    child.wait().ok();
}

/// Waits until it is ready; when it ends instead, or never gets there, it is killed and what it
/// said is the error.
fn wait(program: Program, child: &mut Child, ready: impl Fn() -> bool) -> Result<(), Error> {
    let start = Instant::now();
    let ended = loop {
        if ready() {
            // From here on nobody listens to what it says.
            drop(child.stderr.take());
            return Ok(());
        }
        if !matches!(child.try_wait(), Ok(None)) {
            break true;
        }
        if start.elapsed() > PATIENCE {
            break false;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    end(child);
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).ok(); // what is no text is not shown
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
    let said = match (last, ended) {
        (Some(line), _) => line,
        (None, true) => "it ended without a word".to_owned(),
        (None, false) => format!("it was not ready after {} seconds", PATIENCE.as_secs()),
    };
    Err(Error::Failed { program: program.name(), said })
}

#[cfg(test)]
mod tests {
    use super::super::ports;
    use super::*;

    #[test]
    fn pasta_is_told_every_port() {
        let published: Vec<_> = ["8080:80", "127.0.0.1:53:53/udp"]
            .into_iter()
            .flat_map(|text| ports::published(text).unwrap())
            .collect();
        let words = pasta_arguments(Path::new("/n"), &published, Path::new("/p")).join(" ");
        for part in ["-t 8080:80", "-u 127.0.0.1/53:53", "-T none -U none", "--netns /n"] {
            assert!(words.contains(part), "{part} not in {words}");
        }
        let none = pasta_arguments(Path::new("/n"), &[], Path::new("/p")).join(" ");
        assert!(none.contains("-t none -u none"), "{none}");
    }

    #[test]
    fn what_a_program_says_at_its_end_is_the_error() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo first >&2; echo it hurts >&2; exit 3"]);
        let mut child = spawn(Program::Pasta, command, &[]).unwrap();
        let error = wait(Program::Pasta, &mut child, || false).unwrap_err();
        assert_eq!(error.to_string(), "pasta did not start: it hurts");
    }
}
