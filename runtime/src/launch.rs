//! From a container on disk to what its PID 1 needs: Docker's usual mounts, devices and walls, and
//! what its configuration adds or takes away.
//!
//! Reads the configuration and a few facts about this machine; changes nothing.

mod mounts;
mod paths;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::container::Container;
use crate::container::config::{Isolation, Sharing};
use crate::sandbox::plan::{
    Capabilities, Device, Namespace, Namespaces, Plan, Process, User, UserNamespace,
};
use crate::spec::{Network, capability};
use crate::sys::mount::NODEV;
use crate::userns;

/// Why a configuration cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a capability.
    #[error(transparent)]
    Capability(#[from] capability::Unknown),
    /// The kernel takes no NUL in names.
    #[error("cannot mount on {0}: there is a NUL byte in its options")]
    Nul(String),
}

/// The nodes that every container has.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// All that PID 1 of a container needs.
pub fn plan(container: &Container) -> Result<Plan, Error> {
    let config = &container.config;
    let isolation = &config.isolation;
    let host_uts = isolation.uts == Sharing::Host;
    Ok(Plan {
        process: process(container)?,
        rootfs: container.dir.join("rootfs"),
        // See `sandbox::device`: nodes in the image, or made in the container, do not open.
        rootfs_set: if isolation.privileged { 0 } else { NODEV },
        rootfs_read_only: isolation.read_only,
        hostname: (!host_uts).then(|| config.hostname.clone().into()),
        domainname: (!config.domainname.is_empty()).then(|| config.domainname.clone().into()),
        namespaces: namespaces(isolation, config.network.mode),
        loopback: config.network.mode == Network::None,
        mounts: mounts::all(container)?,
        devices: devices(isolation),
        masked: paths::masked(isolation),
        read_only_paths: paths::read_only(isolation),
        sysctls: isolation.sysctls.clone().into_iter().collect(),
    })
}

/// What the command of a container becomes; also the model for what `exec` adds.
pub fn process(container: &Container) -> Result<Process, Error> {
    let config = &container.config;
    let isolation = &config.isolation;
    let granted =
        capability::granted(isolation.privileged, &isolation.cap_add, &isolation.cap_drop)?;
    Ok(Process {
        command: config.process.command().map(OsString::from).collect(),
        environment: config.process.environment.iter().map(OsString::from).collect(),
        user: User::Named {
            user: config.process.user.clone(),
            groups: config.process.groups.clone(),
        },
        working_dir: config.process.working_dir.path(),
        capabilities: Capabilities::of(granted),
        rlimits: Vec::new(),
        no_new_privileges: isolation.no_new_privileges,
        oom_score_adj: config.limits.oom_score_adj,
        umask: 0o022,
        user_namespace: userns::inside(),
    })
}

fn namespaces(isolation: &Isolation, network: Network) -> Namespaces {
    let own_or_host = |sharing: &Sharing| match sharing {
        Sharing::Host => Namespace::Host,
        _ => Namespace::New,
    };
    Namespaces {
        pid: own_or_host(&isolation.pid),
        uts: own_or_host(&isolation.uts),
        ipc: own_or_host(&isolation.ipc),
        network: match network {
            Network::None => Namespace::New,
            Network::Host => Namespace::Host,
        },
        cgroup: own_or_host(&isolation.cgroup),
        user: UserNamespace::Host,
    }
}

fn devices(isolation: &Isolation) -> Vec<Device> {
    let usual = NODES
        .iter()
        .map(|name| PathBuf::from("/dev").join(name))
        .map(|path| Device::Shown { source: path.clone(), target: path });
    let more = isolation
        .devices
        .iter()
        .map(|device| Device::Shown { source: device.source.path(), target: device.target.path() });
    usual.chain(more).collect()
}
