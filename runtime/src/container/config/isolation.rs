//! What keeps a container apart from the machine, and how much of that was asked away.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::record::Bytes;

/// Whose namespace of one kind a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Its own.
    #[default]
    Private,
    /// Its own, which others may join (`--ipc shareable`).
    Shareable,
    /// The machine's.
    Host,
    /// Another container's, by id.
    Container(String),
    /// None of its own kind: `--ipc none`, own namespace without /dev/shm.
    None,
}

/// A device of the machine that the container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the machine.
    pub source: Bytes,
    /// In the container.
    pub target: Bytes,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// A rule for device numbers, as in the devices control group (`c 1:3 rwm`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// Major number; none for all.
    pub major: Option<u32>,
    /// Minor number; none for all.
    pub minor: Option<u32>,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// The walls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// Everything that root of the caller's user namespace may do.
    pub privileged: bool,
    /// Process numbers.
    pub pid: Sharing,
    /// System V and POSIX message queues, semaphores, shared memory.
    pub ipc: Sharing,
    /// Host name.
    pub uts: Sharing,
    /// The view of control groups.
    pub cgroup: Sharing,
    /// Users: the machine's (which is all there is beside the caller's own namespace).
    pub user: Sharing,
    /// `--cap-add`, upper case without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`, likewise.
    pub cap_drop: Vec<String>,
    /// Whether set-user-ID programs give nothing.
    pub no_new_privileges: bool,
    /// The system calls that are allowed: none for the default, `unconfined`, or the text of a
    /// profile.
    pub seccomp: Option<String>,
    /// The AppArmor profile, where the machine has AppArmor.
    pub apparmor: Option<String>,
    /// SELinux options (`--security-opt label=…`), where the machine has SELinux.
    pub labels: Vec<String>,
    /// Whether what Docker hides below /proc and /sys is shown (`systempaths=unconfined`).
    pub system_paths: bool,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// More devices.
    pub devices: Vec<Device>,
    /// Rules for device numbers.
    pub device_rules: Vec<DeviceRule>,
    /// Kernel settings of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
}
