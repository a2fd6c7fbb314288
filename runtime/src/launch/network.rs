//! A container's network, as its configuration has it.

use std::path::{Path, PathBuf};

use super::Error;
use crate::container::{Container, Containers};
use crate::network::{self, Attached, Mode, Settings, Who};
use crate::sandbox::plan::Namespace;
use crate::sys::process::Child;

/// The store that a container is in.
fn root(container: &Container) -> &Path {
    container.dir.ancestors().nth(2).unwrap_or(Path::new("/"))
}

/// How the network knows a container.
pub fn who(container: &Container) -> Who {
    let config = &container.config;
    let hostname = match config.domainname.as_str() {
        "" => config.hostname.clone(),
        domain => format!("{}.{domain}", config.hostname),
    };
    let (id, name) = (config.id.as_str().to_owned(), config.name.clone());
    Who { id, name, hostname, dir: container.dir.clone() }
}

/// Which network namespace PID 1 gets. That of another container is there while it runs.
pub fn namespace(container: &Container) -> Result<Namespace, Error> {
    match &container.config.network.mode {
        Mode::Host => Ok(Namespace::Host),
        Mode::Container(id) => {
            let not_running = || Error::NoNetwork(id.get(..12).unwrap_or(id).to_owned());
            let others = Containers::open(root(container)).map_err(|_| not_running())?;
            let other = others.find(id).map_err(|_| not_running())?;
            let init = other.state.status.live().map(|live| live.init).ok_or_else(not_running)?;
            Ok(Namespace::Join(format!("/proc/{}/ns/net", init.pid).into()))
        }
        _ => Ok(Namespace::New),
    }
}

/// Where `hosts` and `resolv.conf` of a container are: with the one whose network it shares.
pub fn files_dir(container: &Container, file: &str) -> PathBuf {
    match &container.config.network.mode {
        Mode::Container(id) if file != "hostname" => root(container).join("containers").join(id),
        _ => container.dir.clone(),
    }
}

/// Attaches a container to its networks, when PID 1 has been born and waits. Whoever starts it
/// calls [`Attached::detach`] when PID 1 has ended.
pub fn attach(container: &Container, init: &Child) -> Result<Attached, network::Error> {
    let settings: &Settings = &container.config.network;
    network::attach(root(container), who(container), settings, init.pid.as_raw())
}
