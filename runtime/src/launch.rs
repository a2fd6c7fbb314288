//! From a container on disk to what its PID 1 needs: Docker's usual mounts, devices and walls, and
//! what its configuration adds or takes away.
//!
//! Reads the configuration and a few facts about this machine; changes nothing.

mod mounts;
pub mod network;
mod paths;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::container::config::{Isolation, Sharing};
use crate::container::{Container, Containers};
use crate::sandbox::plan::{
    Capabilities, Device, Namespace, Namespaces, Plan, Process, Rlimit, User, UserNamespace,
};
use crate::spec::{capability, quantity};
use crate::sys::capability::CapabilitySet;
use crate::sys::mount::NODEV;
use crate::{seccomp, userns};

/// Why a configuration cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a capability.
    #[error(transparent)]
    Capability(#[from] capability::Unknown),
    /// Not a profile that can be carried out.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// The other containers.
    #[error(transparent)]
    Container(#[from] crate::container::Error),
    /// A namespace of a container that has none.
    #[error("cannot join the namespaces of container {0}: it is not running")]
    NotRunning(String),
    /// The container whose network is to be shared is not there.
    #[error("cannot join network of a non running container: {0}")]
    NoNetwork(String),
    /// Shared memory that is not to be shared.
    #[error(
        "cannot join IPC of container {0}: non-shareable IPC (hint: use IpcMode:shareable for the \
         donor container)"
    )]
    NotShareable(String),
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
    let partners = Partners::find(container)?;
    Ok(Plan {
        process: process(container)?,
        rootfs: container.dir.join("rootfs"),
        // See `sandbox::device`: nodes in the image, or made in the container, do not open.
        rootfs_set: if isolation.privileged { 0 } else { NODEV },
        rootfs_read_only: isolation.read_only,
        hostname: (!host_uts).then(|| config.hostname.clone().into()),
        domainname: (!config.domainname.is_empty()).then(|| config.domainname.clone().into()),
        namespaces: namespaces(isolation, network::namespace(container)?, &partners),
        loopback: config.network.own_namespace(),
        mounts: mounts::all(container, &partners)?,
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
    let rlimits = config.limits.ulimits.iter().filter_map(|(name, limit)| {
        let resource = quantity::limit_number(name)?;
        Some(Rlimit { resource, soft: limit.soft, hard: limit.hard })
    });
    Ok(Process {
        command: config.process.command().map(OsString::from).collect(),
        environment: config.process.environment.iter().map(OsString::from).collect(),
        user: User::Named {
            user: config.process.user.clone(),
            groups: config.process.groups.clone(),
        },
        working_dir: config.process.working_dir.path(),
        capabilities: Capabilities::of(granted),
        rlimits: rlimits.collect(),
        no_new_privileges: isolation.no_new_privileges,
        seccomp: calls(isolation, granted)?,
        apparmor: isolation.apparmor.clone(),
        oom_score_adj: config.limits.oom_score_adj,
        umask: 0o022,
        user_namespace: userns::inside(),
        gate: None,
        outlives_starter: false,
        inherited: 0,
    })
}

/// The filter for system calls; none where everything is allowed.
fn calls(isolation: &Isolation, granted: CapabilitySet) -> Result<Option<seccomp::Program>, Error> {
    let profile = match isolation.seccomp.as_deref() {
        Some("unconfined") => return Ok(None),
        None if isolation.privileged => return Ok(None),
        None => seccomp::default()?,
        Some(text) => seccomp::Profile::parse(text)?,
    };
    Ok(Some(profile.compile(granted)?))
}

/// The first processes of the containers whose namespaces are shared, by their numbers.
struct Partners {
    pid: Option<i32>,
    ipc: Option<i32>,
}

impl Partners {
    fn find(container: &Container) -> Result<Self, Error> {
        let isolation = &container.config.isolation;
        let first = |sharing: &Sharing| match sharing {
            Sharing::Container(name) => init_of(container, name).map(Some),
            _ => Ok(None),
        };
        let ipc = first(&isolation.ipc)?;
        if let Sharing::Container(name) = &isolation.ipc {
            let other = neighbours(container)?.find(name)?;
            if !matches!(other.config.isolation.ipc, Sharing::Shareable | Sharing::Host) {
                return Err(Error::NotShareable(name.clone()));
            }
        }
        Ok(Self { pid: first(&isolation.pid)?, ipc })
    }
}

fn neighbours(container: &Container) -> Result<Containers, Error> {
    let root = container.dir.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    Ok(Containers::open(root)?)
}

fn init_of(container: &Container, name: &str) -> Result<i32, Error> {
    let other = neighbours(container)?.find(name)?;
    match other.state.status.live() {
        Some(live) if other.alive()? => Ok(live.init.pid),
        _ => Err(Error::NotRunning(name.to_owned())),
    }
}

fn namespaces(isolation: &Isolation, network: Namespace, partners: &Partners) -> Namespaces {
    let of = |sharing: &Sharing, partner: Option<i32>, kind: &str| match (sharing, partner) {
        (Sharing::Host, _) => Namespace::Host,
        (_, Some(pid)) => Namespace::Join(PathBuf::from(format!("/proc/{pid}/ns/{kind}"))),
        _ => Namespace::New,
    };
    Namespaces {
        pid: of(&isolation.pid, partners.pid, "pid"),
        uts: of(&isolation.uts, None, "uts"),
        ipc: of(&isolation.ipc, partners.ipc, "ipc"),
        network,
        cgroup: of(&isolation.cgroup, None, "cgroup"),
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
    let mut all: Vec<Device> = usual.chain(more).collect();
    if isolation.privileged {
        all.extend(
            paths::machines_devices()
                .into_iter()
                .map(|path| Device::Shown { source: path.clone(), target: path }),
        );
        all.sort_by(|a, b| target_of(a).cmp(target_of(b)));
        all.dedup_by(|a, b| target_of(a) == target_of(b));
    }
    all
}

fn target_of(device: &Device) -> &Path {
    match device {
        Device::Shown { target, .. } | Device::Made { target, .. } => target,
    }
}
