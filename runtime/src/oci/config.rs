//! An OCI bundle's `config.json` (runtime-spec 1.x), as far as Linux is concerned. What is not
//! known is left out, as the specification asks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The version of the specification that it follows.
    pub oci_version: String,
    /// What runs.
    pub process: Option<Process>,
    /// Its root filesystem.
    pub root: Option<Root>,
    /// Its host name.
    pub hostname: String,
    /// Its NIS domain name.
    pub domainname: String,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// Programs that run at moments of its life.
    pub hooks: Hooks,
    /// Anybody's notes.
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    pub linux: Linux,
}

/// `process`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The terminal's size.
    pub console_size: Option<ConsoleSize>,
    /// Who runs it.
    pub user: User,
    /// The command line.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// What it may do; nothing when there is none.
    pub capabilities: Option<Capabilities>,
    /// Limits.
    pub rlimits: Vec<Rlimit>,
    /// Whether set-user-ID programs give nothing.
    pub no_new_privileges: bool,
    /// For the kernel's choice whom to kill.
    pub oom_score_adj: Option<i32>,
    /// AppArmor's profile.
    pub apparmor_profile: String,
    /// SELinux's label.
    pub selinux_label: String,
}

/// `process.consoleSize`
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Lines.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// `process.user`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The file creation mask.
    pub umask: Option<u32>,
    /// More groups.
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Capabilities {
    /// Bounding set.
    pub bounding: Vec<String>,
    /// Effective set.
    pub effective: Vec<String>,
    /// Permitted set.
    pub permitted: Vec<String>,
    /// Inheritable set.
    pub inheritable: Vec<String>,
    /// Ambient set.
    pub ambient: Vec<String>,
}

/// One of `process.rlimits`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rlimit {
    /// `RLIMIT_…`
    #[serde(rename = "type")]
    pub kind: String,
    /// What counts.
    pub soft: u64,
    /// Up to where it may be raised.
    pub hard: u64,
}

/// `root`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Root {
    /// Absolute, or in the bundle.
    pub path: PathBuf,
    /// Whether it is made read-only.
    pub readonly: bool,
}

/// One of `mounts`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Mount {
    /// Where.
    pub destination: PathBuf,
    /// The filesystem's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What.
    pub source: PathBuf,
    /// As mount(8) takes them.
    pub options: Vec<String>,
}

/// `hooks`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Outside, when the namespaces are there; the old name.
    pub prestart: Vec<Hook>,
    /// Outside, when the namespaces are there.
    pub create_runtime: Vec<Hook>,
    /// Inside the namespaces, before the root changes.
    pub create_container: Vec<Hook>,
    /// Inside, before the command.
    pub start_container: Vec<Hook>,
    /// Outside, after the command has started.
    pub poststart: Vec<Hook>,
    /// Outside, after the container has been deleted.
    pub poststop: Vec<Hook>,
}

/// A program.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// Its command line, its own name first.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    /// How many seconds it may take.
    pub timeout: Option<u64>,
}

/// `linux`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Namespaces that are made or joined.
    pub namespaces: Vec<Namespace>,
    /// Users of a user namespace that is made.
    pub uid_mappings: Vec<IdMapping>,
    /// Its groups.
    pub gid_mappings: Vec<IdMapping>,
    /// Devices beside the usual ones.
    pub devices: Vec<Device>,
    /// Where in the hierarchies of control groups.
    pub cgroups_path: Option<PathBuf>,
    /// Limits.
    pub resources: Option<serde_json::Value>,
    /// How mounts travel.
    pub rootfs_propagation: String,
    /// Filter of system calls.
    pub seccomp: Option<serde_json::Value>,
    /// Kernel settings.
    pub sysctl: BTreeMap<String, String>,
    /// Paths that are hidden.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that are read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// SELinux's label of mounts.
    pub mount_label: String,
}

/// One of `linux.namespaces`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Namespace {
    /// Which kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Somebody's; else a new one.
    pub path: Option<PathBuf>,
}

/// A line of a user namespace's map.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// One of `linux.devices`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Where.
    pub path: PathBuf,
    /// `c`, `u`, `b` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Number.
    pub major: u64,
    /// Number.
    pub minor: u64,
    /// Permissions.
    pub file_mode: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Owner.
    pub gid: u32,
}
