//! All that is needed to make PID 1: a container's configuration, or an OCI bundle's, put into
//! the terms of the kernel. Nothing here is decided any more; [`super::start()`] does what it says.

use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::tree::For;
use crate::sys::capability::CapabilitySet;

/// Where a namespace of PID 1 comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// It is made.
    #[default]
    New,
    /// The starter's own.
    Host,
    /// Somebody else's: `/proc/PID/ns/KIND`, or a bind mount of one.
    Join(PathBuf),
}

/// One line of a user namespace's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Where the ids of PID 1 come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UserNamespace {
    /// The starter's own.
    #[default]
    Host,
    /// A new one with these maps.
    New {
        /// User ids.
        users: Vec<IdRange>,
        /// Group ids.
        groups: Vec<IdRange>,
    },
    /// Somebody else's.
    Join(PathBuf),
}

/// The namespaces of PID 1; it always has a mount namespace of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Process numbers.
    pub pid: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Message queues, semaphores, shared memory.
    pub ipc: Namespace,
    /// Interfaces, addresses, sockets.
    pub network: Namespace,
    /// The view of control groups.
    pub cgroup: Namespace,
    /// Ids.
    pub user: UserNamespace,
}

/// Where the content of a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A new filesystem of the kernel's. An option without a value is a flag.
    Kernel {
        /// Its type.
        kind: CString,
        /// Its options.
        options: Vec<(CString, Option<CString>)>,
    },
    /// A directory or file of this machine, with what is mounted below it when recursive.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// With submounts.
        recursive: bool,
    },
    /// A volume: the directory that holds its `_data`.
    Volume {
        /// Absolute.
        dir: PathBuf,
        /// Whether a new one gets what the root filesystem has at the target.
        fill: bool,
        /// What of it is shown, from its top; none for all.
        subpath: Option<PathBuf>,
    },
}

/// How mounts made later travel between a mount and what it was copied from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE; 0 leaves it as it is.
    pub kind: u64,
    /// Whether for submounts too.
    pub recursive: bool,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where; absolute, in the container.
    pub target: PathBuf,
    /// What.
    pub source: Source,
    /// Attributes that are set (`crate::sys::mount`).
    pub set: u64,
    /// Attributes that are cleared.
    pub clear: u64,
    /// Whether attributes count for submounts too.
    pub recursive: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// Who wants the mountpoint, when it has to be made.
    pub by: For,
    /// Whether a source that is missing or refused is passed over.
    pub optional: bool,
}

/// What kind of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Character device.
    Character,
    /// Block device.
    Block,
    /// FIFO.
    Fifo,
}

/// A device in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// The machine's own node, shown at a path.
    Shown {
        /// On this machine.
        source: PathBuf,
        /// In the container.
        target: PathBuf,
    },
    /// A node of the container's own; shown from the machine's where the kernel refuses to make
    /// one.
    Made {
        /// In the container, and on this machine.
        target: PathBuf,
        /// What it is.
        kind: NodeKind,
        /// Its number.
        number: (u64, u64),
        /// Permission bits.
        mode: u32,
        /// Its owner.
        owner: (u32, u32),
    },
}

/// The user that PID 1 becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Looked up in the container's own files: `user[:group]`, and more groups.
    Named {
        /// Empty for root.
        user: String,
        /// Names or numbers.
        groups: Vec<String>,
    },
    /// Numbers, as in an OCI configuration.
    Ids {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
}

/// The five sets of capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What programs can ever get.
    pub bounding: CapabilitySet,
    /// What counts.
    pub effective: CapabilitySet,
    /// What may be made to count.
    pub permitted: CapabilitySet,
    /// What goes through exec for files that have them.
    pub inheritable: CapabilitySet,
    /// What goes through exec of any program.
    pub ambient: CapabilitySet,
    /// Whether a user other than root gets none of the effective and permitted ones, as the
    /// kernel has it for a change of the user.
    pub only_for_root: bool,
}

impl Capabilities {
    /// As Docker gives them: a user other than root has none in effect.
    pub fn of(set: CapabilitySet) -> Self {
        let none = CapabilitySet(0);
        Self {
            bounding: set,
            effective: set,
            permitted: set,
            inheritable: none,
            ambient: none,
            only_for_root: true,
        }
    }
}

/// A limit of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// RLIMIT_…
    pub resource: u32,
    /// What counts.
    pub soft: u64,
    /// Up to where it may be raised.
    pub hard: u64,
}

/// What a process of the container becomes, PID 1 or one that `exec` adds.
#[derive(Clone, Debug)]
pub struct Process {
    /// Command line; never empty.
    pub command: Vec<OsString>,
    /// Environment. Without HOME it gets that of the user's passwd entry.
    pub environment: Vec<OsString>,
    /// Who runs it.
    pub user: User,
    /// Where it starts; made when missing.
    pub working_dir: PathBuf,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether set-user-ID programs give nothing.
    pub no_new_privileges: bool,
    /// The system calls that are allowed; none for all.
    pub seccomp: Option<crate::seccomp::Program>,
    /// The AppArmor profile of the command; none for the machine's default.
    pub apparmor: Option<String>,
    /// For the kernel's choice whom to kill when memory ends.
    pub oom_score_adj: Option<i32>,
    /// The file creation mask.
    pub umask: u32,
    /// Whether this is root of a user namespace rather than of the machine.
    pub user_namespace: bool,
    /// A listening socket: ready for exec, the process waits here until somebody connects. It
    /// counts as started for its starter before that, and says there why exec failed.
    pub gate: Option<Arc<OwnedFd>>,
    /// Whether it lives on when who starts it ends.
    pub outlives_starter: bool,
    /// How many descriptors from 3 on it inherits.
    pub inherited: u32,
}

/// A container to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What PID 1 becomes.
    pub process: Process,
    /// The root filesystem, mounted.
    pub rootfs: PathBuf,
    /// Attributes set on the root filesystem's mount before anything else (`NODEV`).
    pub rootfs_set: u64,
    /// Whether the root filesystem is made read-only at the end.
    pub rootfs_read_only: bool,
    /// The host name; none to leave it.
    pub hostname: Option<OsString>,
    /// The NIS domain name; none to leave it.
    pub domainname: Option<OsString>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Whether the loopback interface of a new network namespace is brought up.
    pub loopback: bool,
    /// Mounts, in this order.
    pub mounts: Vec<Mount>,
    /// Devices, in `/dev` when that is a mount of ours.
    pub devices: Vec<Device>,
    /// Paths that are hidden: a file becomes /dev/null, a directory empty.
    pub masked: Vec<PathBuf>,
    /// Paths that are made read-only.
    pub read_only_paths: Vec<PathBuf>,
    /// Kernel settings, as `net.ipv4.ip_forward` and value.
    pub sysctls: Vec<(String, String)>,
}
