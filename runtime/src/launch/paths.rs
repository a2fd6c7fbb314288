//! What is hidden and what is read-only below /proc and /sys, as in Docker.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

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

/// Directories of `/dev` that are filesystems of the container's own.
const OWN: [&str; 5] = ["pts", "shm", "mqueue", "fd", "console"];

/// All device nodes of this machine, for a privileged container.
pub fn machines_devices() -> Vec<PathBuf> {
    fn gather(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        // What cannot be listed is not shown.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let own = OWN.iter().any(|name| entry.file_name() == *name) && depth == 0;
            if kind.is_char_device() || kind.is_block_device() {
                if !own {
                    found.push(entry.path());
                }
            } else if kind.is_dir() && !own && depth < 8 {
                gather(&entry.path(), depth.saturating_add(1), found);
            }
        }
    }
    let mut found = Vec::new();
    gather(Path::new("/dev"), 0, &mut found);
    found.retain(|path| path != Path::new("/dev/ptmx"));
    found
}

/// Paths that are hidden.
pub fn masked(isolation: &Isolation) -> Vec<PathBuf> {
    unless_shown(isolation, &MASKED)
}

/// Paths that are made read-only.
pub fn read_only(isolation: &Isolation) -> Vec<PathBuf> {
    unless_shown(isolation, &READ_ONLY)
}
