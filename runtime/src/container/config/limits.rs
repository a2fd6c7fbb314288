//! How much of the machine a container may use. Nothing means no limit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A limit of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What counts; `u64::MAX` for no limit.
    pub soft: u64,
    /// Up to where it may be raised.
    pub hard: u64,
}

/// The limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, in bytes; -1 for no limit of swap.
    pub memory_swap: Option<i64>,
    /// What it is pressed back to when the machine is short, in bytes.
    pub memory_reservation: Option<u64>,
    /// Processors, in billionths.
    pub nano_cpus: Option<u64>,
    /// Length of a period of the processor quota, in microseconds.
    pub cpu_period: Option<u64>,
    /// The share of a period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// Weight of its processor time; the usual is 1024.
    pub cpu_shares: Option<u64>,
    /// Which processors, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit.
    pub pids: Option<i64>,
    /// Weight of its disk traffic, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// The control group below which the container's is made.
    pub cgroup_parent: Option<String>,
    /// Size of /dev/shm in bytes; 64 MiB when not given.
    pub shm_size: Option<u64>,
    /// Limits of its processes, by Docker's names.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// How likely its processes are killed when memory ends, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Whether they are not killed when the container's own limit is reached.
    pub oom_kill_disable: bool,
}
