//! Limits, written into the files of each version; and which devices may be opened.

use std::path::Path;

use super::{Group, write};
use crate::container::config::{Isolation, Limits};

/// Docker's period of the processor quota, in microseconds.
const PERIOD: u64 = 100_000;

/// Writes a limit where a hierarchy has the controller; a sentence where it cannot be.
struct Writer<'a> {
    group: &'a Group,
    warnings: Vec<String>,
}

impl Writer<'_> {
    /// `unified` and `old` are the file and the value in version 2 and version 1; Docker's words
    /// for what cannot be limited.
    fn limit(
        &mut self,
        controller: &str,
        unified: Option<(&str, String)>,
        old: Option<(&str, String)>,
        words: &str,
    ) {
        let written = self.group.with(controller).is_some_and(|(is_unified, place)| {
            let file = if is_unified { unified } else { old };
            file.is_some_and(|(name, value)| write(&place.join(name), &value).is_ok())
        });
        if !written {
            self.warnings.push(format!(
                "Your kernel does not support {words} or the cgroup is not mounted. Limitation \
                 discarded."
            ));
        }
    }
}

/// A number of processes or bytes in version 2; nothing below zero is no limit.
fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Applies all limits that are given.
pub fn apply(group: &Group, limits: &Limits) -> Vec<String> {
    let mut to = Writer { group, warnings: Vec::new() };
    memory(&mut to, limits);
    if let Some(shares) = limits.cpu_shares {
        // The kernel's own translation of 2..262144 to 1..10000.
        let weight = 1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142;
        to.limit(
            "cpu",
            Some(("cpu.weight", weight.to_string())),
            Some(("cpu.shares", shares.to_string())),
            "CPU shares",
        );
    }
    quota(&mut to, limits);
    for (list, file, words) in [
        (&limits.cpuset_cpus, "cpuset.cpus", "cpuset"),
        (&limits.cpuset_mems, "cpuset.mems", "cpuset"),
    ] {
        if let Some(list) = list {
            to.limit("cpuset", Some((file, list.clone())), Some((file, list.clone())), words);
        }
    }
    if let Some(pids) = limits.pids {
        // 0 is no limit, as in Docker.
        let value = or_max(if pids == 0 { -1 } else { pids });
        let file = ("pids.max", value);
        to.limit("pids", Some(file.clone()), Some(file), "pids limit capabilities");
    }
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        let controller = if group.with("io").is_some() { "io" } else { "blkio" };
        to.limit(
            controller,
            Some(("io.bfq.weight", weight.to_string())),
            Some(("blkio.weight", weight.to_string())),
            "Block I/O weight",
        );
    }
    to.warnings
}

fn memory(to: &mut Writer<'_>, limits: &Limits) {
    let words = "memory limit capabilities";
    // Raising both, memory may not pass memory and swap; lowering both, the other way round: one
    // of the two orders goes through, so the first is tried twice.
    if let (Some(memory), Some((false, place))) = (limits.memory, to.group.with("memory")) {
        write(&place.join("memory.limit_in_bytes"), &memory.to_string()).ok();
    }
    if let Some(memory) = limits.memory {
        // Docker gives as much swap as memory when nothing is said.
        let both = limits
            .memory_swap
            .unwrap_or_else(|| i64::try_from(memory.saturating_mul(2)).unwrap_or(i64::MAX));
        let swap = if both < 0 { -1 } else { both.saturating_sub(memory.cast_signed()) };
        if let Some((unified, place)) = to.group.with("memory") {
            // Swap may be off, which is no failure unless somebody named a limit of it.
            let done = if unified {
                write(&place.join("memory.swap.max"), &or_max(swap))
            } else {
                write(&place.join("memory.memsw.limit_in_bytes"), &both.to_string())
            };
            if done.is_err() && limits.memory_swap.is_some_and(|swap| swap >= 0) {
                to.warnings.push(
                    "Your kernel does not support swap limit capabilities or the cgroup is not \
                     mounted. Memory limited without swap."
                        .to_owned(),
                );
            }
        }
        to.limit(
            "memory",
            Some(("memory.max", memory.to_string())),
            Some(("memory.limit_in_bytes", memory.to_string())),
            words,
        );
    }
    if let Some(reservation) = limits.memory_reservation {
        to.limit(
            "memory",
            Some(("memory.low", reservation.to_string())),
            Some(("memory.soft_limit_in_bytes", reservation.to_string())),
            "memory soft limit capabilities",
        );
    }
    if limits.oom_kill_disable {
        to.limit("memory", None, Some(("memory.oom_control", "1".to_owned())), "OomKillDisable");
    }
}

fn quota(to: &mut Writer<'_>, limits: &Limits) {
    let (period, quota) = match limits.nano_cpus {
        Some(nanos) => {
            let quota = nanos.saturating_mul(PERIOD) / 1_000_000_000;
            (Some(PERIOD), i64::try_from(quota).ok())
        }
        None => (limits.cpu_period.filter(|period| *period > 0), limits.cpu_quota),
    };
    if period.is_none() && quota.is_none() {
        return;
    }
    let words = "CPU CFS quota";
    if to.group.with("cpu").is_some_and(|(unified, _)| unified) {
        let quota = or_max(quota.filter(|quota| *quota != 0).unwrap_or(-1));
        let value = format!("{quota} {}", period.unwrap_or(PERIOD));
        to.limit("cpu", Some(("cpu.max", value)), None, words);
        return;
    }
    if let Some(period) = period {
        to.limit("cpu", None, Some(("cpu.cfs_period_us", period.to_string())), "CPU CFS period");
    }
    if let Some(quota) = quota {
        to.limit("cpu", None, Some(("cpu.cfs_quota_us", quota.to_string())), words);
    }
}

/// Devices that every container may use, and nodes that it may make; Docker's list.
const DEVICES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Forbids all devices but the usual and those that were given. Version 1 only: without it, or
/// where this process may not change it, nodes do not open because the mounts are `nodev`.
pub fn devices(group: &Group, isolation: &Isolation) {
    let Some((false, place)) = group.with("devices") else { return };
    if write(&place.join("devices.deny"), "a").is_err() {
        return;
    }
    let allow = |rule: &str| write(&place.join("devices.allow"), rule).ok();
    for rule in DEVICES {
        allow(rule);
    }
    for device in &isolation.devices {
        if let Some(rule) = rule_of(&device.source.path(), &device.permissions) {
            allow(&rule);
        }
    }
    for rule in &isolation.device_rules {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(rule.major), number(rule.minor));
        allow(&format!("{} {major}:{minor} {}", rule.kind, rule.permissions));
    }
}

fn rule_of(device: &Path, permissions: &str) -> Option<String> {
    let stat = nix::sys::stat::stat(device).ok()?;
    let kind = match stat.st_mode & nix::libc::S_IFMT {
        nix::libc::S_IFBLK => 'b',
        nix::libc::S_IFCHR => 'c',
        _ => return None,
    };
    let (major, minor) = (nix::sys::stat::major(stat.st_rdev), nix::sys::stat::minor(stat.st_rdev));
    Some(format!("{kind} {major}:{minor} {permissions}"))
}
