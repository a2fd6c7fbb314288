//! The mounts of a container: Docker's, with Docker's options and in Docker's order, then its own.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use super::Error;
use crate::container::Container;
use crate::container::config::{self, MountKind};
use crate::sandbox::For;
use crate::sandbox::plan::{Mount, Propagation, Source};
use crate::spec::Network;
use crate::sys::mount::{NODEV, NOEXEC, NOSUID, PRIVATE, RDONLY, STRICTATIME};
use crate::userns;

/// The group that owns terminals on every distribution.
const TTY_GROUP: u32 = 5;

/// The files Docker writes for each container.
const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// Docker's size of /dev/shm.
const SHM_SIZE: u64 = 64 << 20;

fn c_string(text: &str, target: &Path) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul(target.display().to_string()))
}

/// A new filesystem of the kernel's; options as `name` or `name=value`.
fn kernel(target: &str, kind: &str, options: &[&str], set: u64) -> Result<Mount, Error> {
    let target = PathBuf::from(target);
    let split = options
        .iter()
        .map(|option| match option.split_once('=') {
            Some((name, value)) => Ok((c_string(name, &target)?, Some(c_string(value, &target)?))),
            None => Ok((c_string(option, &target)?, None)),
        })
        .collect::<Result<_, Error>>()?;
    let source = Source::Kernel { kind: c_string(kind, &target)?, options: split };
    Ok(Mount {
        target,
        source,
        set,
        clear: 0,
        recursive: false,
        propagation: Propagation::default(),
        by: For::Engine,
        optional: false,
    })
}

fn bind(source: PathBuf, target: PathBuf, set: u64, recursive: bool, by: For) -> Mount {
    Mount {
        target,
        source: Source::Bind { path: source, recursive },
        set,
        clear: 0,
        recursive,
        propagation: Propagation { kind: PRIVATE, recursive },
        by,
        optional: false,
    }
}

/// Whether a group exists in this user namespace (devpts refuses one that does not).
fn group_is_mapped(group: u32) -> bool {
    let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(first), Some(_), Some(count)) => {
                (first..first.saturating_add(count)).contains(&u64::from(group))
            }
            _ => false,
        }
    })
}

/// All mounts of a container.
pub fn all(container: &Container) -> Result<Vec<Mount>, Error> {
    let config = &container.config;
    let hardened = NOSUID | NODEV | NOEXEC;
    let mut all = vec![kernel("/proc", "proc", &[], hardened)?];
    let dev = ["mode=755", "size=65536k"];
    all.push(kernel("/dev", "tmpfs", &dev, NOSUID | NODEV | STRICTATIME)?);
    let group = format!("gid={TTY_GROUP}");
    let mut pts = vec!["newinstance", "ptmxmode=0666", "mode=0620"];
    if group_is_mapped(TTY_GROUP) {
        pts.push(&group);
    }
    all.push(kernel("/dev/pts", "devpts", &pts, NOSUID | NOEXEC)?);
    let size = format!("size={}", config.limits.shm_size.unwrap_or(SHM_SIZE));
    all.push(kernel("/dev/shm", "tmpfs", &["mode=1777", &size], hardened)?);
    all.push(kernel("/dev/mqueue", "mqueue", &[], hardened)?);
    let sys = if config.isolation.privileged { hardened } else { RDONLY | hardened };
    all.push(if userns::inside() && config.network.mode == Network::Host {
        // A new sysfs needs privileges over the network namespace that it shows.
        bind("/sys".into(), "/sys".into(), sys, true, For::Engine)
    } else {
        kernel("/sys", "sysfs", &[], sys)?
    });
    let own: Vec<Mount> = config.mounts.iter().map(asked_for).collect::<Result<_, _>>()?;
    for (file, target) in FILES {
        // A volume on the same place replaces ours, as in Docker.
        if !own.iter().any(|mount| mount.target == Path::new(target)) {
            all.push(bind(container.dir.join(file), target.into(), 0, false, For::Engine));
        }
    }
    all.extend(own);
    Ok(all)
}

fn asked_for(mount: &config::Mount) -> Result<Mount, Error> {
    let target = mount.target.path();
    let mut set = if mount.read_only { RDONLY } else { 0 };
    let made = match &mount.kind {
        MountKind::Bind { source } => {
            let source = source.path();
            // Devices open only where the user gave some; a container may make nodes elsewhere.
            if source.is_dir() && !source.starts_with("/dev") {
                set |= NODEV;
            }
            bind(source, target, set, !mount.non_recursive, For::User)
        }
        MountKind::Volume { .. } | MountKind::Tmpfs { .. } => {
            return Err(Error::Nul(target.display().to_string()));
        }
    };
    Ok(made)
}
