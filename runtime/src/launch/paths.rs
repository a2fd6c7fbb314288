//! What is hidden and what is read-only below /proc and /sys, as in Docker.

use std::path::PathBuf;

use crate::container::config::Isolation;

/// Hidden: they show or change the machine. A file becomes /dev/null, a directory empty.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Readable only: writing to them would change the machine.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn unless_shown(isolation: &Isolation, paths: &[&str]) -> Vec<PathBuf> {
    if isolation.privileged || isolation.system_paths {
        return Vec::new();
    }
    paths.iter().map(PathBuf::from).collect()
}

/// Paths that are hidden.
pub fn masked(isolation: &Isolation) -> Vec<PathBuf> {
    unless_shown(isolation, &MASKED)
}

/// Paths that are made read-only.
pub fn read_only(isolation: &Isolation) -> Vec<PathBuf> {
    unless_shown(isolation, &READ_ONLY)
}
