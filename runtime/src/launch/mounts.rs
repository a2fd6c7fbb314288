//! The mounts of a container: Docker's, with Docker's options and in Docker's order, then its own.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, Partners};
use crate::container::Container;
use crate::container::config::{self, MountKind, Sharing};
use crate::sandbox::For;
use crate::sandbox::plan::{Mount, Propagation, Source};
use crate::sys::mount::{NODEV, NOEXEC, NOSUID, PRIVATE, RDONLY, SHARED, SLAVE, STRICTATIME};
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
pub(super) fn all(container: &Container, partners: &Partners) -> Result<Vec<Mount>, Error> {
    let config = &container.config;
    let isolation = &config.isolation;
    let hardened = NOSUID | NODEV | NOEXEC;
    let mut all = Vec::new();
    all.push(if userns::inside() && isolation.pid == Sharing::Host {
        // A new procfs needs privileges over the processes that it shows.
        bind("/proc".into(), "/proc".into(), hardened, true, For::Engine)
    } else {
        kernel("/proc", "proc", &[], hardened)?
    });
    let dev = ["mode=755", "size=65536k"];
    all.push(kernel("/dev", "tmpfs", &dev, NOSUID | NODEV | STRICTATIME)?);
    let group = format!("gid={TTY_GROUP}");
    let mut pts = vec!["newinstance", "ptmxmode=0666", "mode=0620"];
    if group_is_mapped(TTY_GROUP) {
        pts.push(&group);
    }
    all.push(kernel("/dev/pts", "devpts", &pts, NOSUID | NOEXEC)?);
    all.extend(shared_memory(container, partners)?);
    let sys = if isolation.privileged { hardened } else { RDONLY | hardened };
    all.push(if userns::inside() && !config.network.own_namespace() {
        // A new sysfs needs privileges over the network namespace that it shows.
        bind("/sys".into(), "/sys".into(), sys, true, For::Engine)
    } else {
        kernel("/sys", "sysfs", &[], sys)?
    });
    let root = container.dir.ancestors().nth(2).unwrap_or(Path::new("/"));
    let volumes = root.join("volumes");
    let own: Vec<Mount> =
        config.mounts.iter().map(|mount| asked_for(mount, &volumes)).collect::<Result<_, _>>()?;
    // What was asked for replaces what is usual at that place, as in Docker.
    let targets: Vec<PathBuf> = own.iter().map(|mount| mount.target.clone()).collect();
    all.retain(|mount| !targets.contains(&mount.target));
    let files =
        FILES.iter().filter(|(_, target)| !targets.iter().any(|own| own == Path::new(target)));
    let mut rest: Vec<Mount> = files
        .map(|(file, target)| {
            let source = super::network::files_dir(container, file).join(file);
            bind(source, target.into(), 0, false, For::Engine)
        })
        .chain(own)
        .collect();
    // Outer ones first: a volume on /etc is not to cover the files in it.
    rest.sort_by_key(|mount| mount.target.components().count());
    all.extend(rest);
    Ok(all)
}

/// /dev/shm and /dev/mqueue.
fn shared_memory(container: &Container, partners: &Partners) -> Result<Vec<Mount>, Error> {
    let hardened = NOSUID | NODEV | NOEXEC;
    let ipc = &container.config.isolation.ipc;
    let mut all = Vec::new();
    match (ipc, partners.ipc) {
        (Sharing::None, _) => {}
        (Sharing::Host, _) => {
            all.push(bind("/dev/shm".into(), "/dev/shm".into(), 0, true, For::Engine));
        }
        (_, Some(pid)) => {
            let theirs = PathBuf::from(format!("/proc/{pid}/root/dev/shm"));
            all.push(bind(theirs, "/dev/shm".into(), 0, false, For::Engine));
        }
        _ => {
            let size = container.config.limits.shm_size.unwrap_or(SHM_SIZE);
            let size = format!("size={size}");
            all.push(kernel("/dev/shm", "tmpfs", &["mode=1777", &size], hardened)?);
        }
    }
    let mut queues = kernel("/dev/mqueue", "mqueue", &[], hardened)?;
    // A new one needs privileges over the queues that it shows.
    queues.optional = *ipc == Sharing::Host;
    all.push(queues);
    Ok(all)
}

/// The options of a tmpfs, apart into those of the mount and those of the filesystem. Docker's
/// are noexec, nosuid and nodev unless the opposite is said.
fn tmpfs(target: &str, options: &[String], read_only: bool) -> Result<Mount, Error> {
    let mut set = NOSUID | NODEV | NOEXEC;
    if read_only {
        set |= RDONLY;
    }
    let mut rest = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => set |= RDONLY,
            "rw" => set &= !RDONLY,
            "exec" => set &= !NOEXEC,
            "noexec" => set |= NOEXEC,
            "suid" => set &= !NOSUID,
            "nosuid" => set |= NOSUID,
            "dev" => set &= !NODEV,
            "nodev" => set |= NODEV,
            other => rest.push(other),
        }
    }
    let mut mount = kernel(target, "tmpfs", &rest, set)?;
    mount.by = For::User;
    Ok(mount)
}

fn asked_for(mount: &config::Mount, volumes: &Path) -> Result<Mount, Error> {
    let target = mount.target.path();
    let mut set = if mount.read_only { RDONLY } else { 0 };
    let source = match &mount.kind {
        MountKind::Bind { source } => source.path(),
        MountKind::Tmpfs { options } => {
            return tmpfs(&target.to_string_lossy(), options, mount.read_only);
        }
        MountKind::Volume { name, nocopy, subpath, .. } => {
            let subpath = subpath.as_ref().map(|path| path.path());
            let dir = volumes.join(name);
            let mut made = bind(PathBuf::new(), target, set | NODEV, false, For::User);
            made.source = Source::Volume { dir, fill: !nocopy, subpath };
            return Ok(made);
        }
    };
    // Devices open only where the user gave some; a container may make nodes elsewhere.
    if source.is_dir() && !source.starts_with("/dev") {
        set |= NODEV;
    }
    let mut made = bind(source, target, set, !mount.non_recursive, For::User);
    made.propagation = match mount.propagation {
        config::Propagation::Rprivate => Propagation { kind: PRIVATE, recursive: true },
        config::Propagation::Private => Propagation { kind: PRIVATE, recursive: false },
        config::Propagation::Rslave => Propagation { kind: SLAVE, recursive: true },
        config::Propagation::Slave => Propagation { kind: SLAVE, recursive: false },
        config::Propagation::Rshared => Propagation { kind: SHARED, recursive: true },
        config::Propagation::Shared => Propagation { kind: SHARED, recursive: false },
    };
    Ok(made)
}
