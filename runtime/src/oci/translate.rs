//! From a bundle's configuration to a plan: what the kernel is to be told.

use std::ffi::CString;
use std::path::{Component, Path, PathBuf};

use super::Error;
use super::config::{self, Config};
use crate::sandbox::For;
use crate::sandbox::plan::{
    Capabilities, Device, IdRange, Mount, Namespace, Namespaces, NodeKind, Plan, Process,
    Propagation, Rlimit, Source, User, UserNamespace,
};
use crate::seccomp::{self, Program};
use crate::spec::capability;
use crate::sys::capability::CapabilitySet;
use crate::sys::mount::{
    ATIME_FIELD, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, PRIVATE, RDONLY, SHARED,
    SLAVE, STRICTATIME,
};
use crate::userns;

/// The nodes that every container has, as the specification lists them.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The resources of setrlimit(2) on Linux, in the order of their numbers.
const RLIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

fn unsupported(what: impl Into<String>) -> Error {
    Error::Unsupported(what.into())
}

fn invalid(what: impl Into<String>) -> Error {
    Error::Invalid(what.into())
}

/// The plan of a bundle whose root filesystem lies at `rootfs`.
pub fn plan(config: &Config, rootfs: PathBuf) -> Result<Plan, Error> {
    let wanted = config.process.as_ref().ok_or_else(|| invalid("process is missing"))?;
    let linux = &config.linux;
    match linux.rootfs_propagation.as_str() {
        "" | "private" | "rprivate" | "slave" | "rslave" => {}
        other => return Err(unsupported(format!("rootfsPropagation {other}"))),
    }
    if !linux.mount_label.is_empty() && Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(unsupported("linux.mountLabel"));
    }
    let namespaces = namespaces(linux)?;
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    if !config.hostname.is_empty() && namespaces.uts == Namespace::Host {
        return Err(invalid("hostname needs a UTS namespace"));
    }
    let mut process = process(wanted)?;
    process.seccomp = calls(linux, &process)?;
    Ok(Plan {
        process,
        rootfs,
        rootfs_set: 0,
        rootfs_read_only: config.root.as_ref().is_some_and(|root| root.readonly),
        hostname: text(&config.hostname),
        domainname: text(&config.domainname),
        loopback: namespaces.network == Namespace::New,
        namespaces,
        mounts: config.mounts.iter().map(mount).collect::<Result<Vec<_>, _>>()?,
        devices: devices(linux)?,
        masked: linux.masked_paths.clone(),
        read_only_paths: linux.readonly_paths.clone(),
        sysctls: linux.sysctl.clone().into_iter().collect(),
    })
}

/// The filter for a process's system calls: the format is the one that Docker's profiles extend.
pub fn calls(linux: &config::Linux, process: &Process) -> Result<Option<Program>, Error> {
    let Some(profile) = &linux.seccomp else { return Ok(None) };
    let failed = |error: seccomp::Error| invalid(format!("linux.seccomp: {error}"));
    let profile = seccomp::Profile::parse(&profile.to_string()).map_err(failed)?;
    profile.compile(process.capabilities.permitted).map(Some).map_err(failed)
}

/// What a process becomes.
pub fn process(wanted: &config::Process) -> Result<Process, Error> {
    if wanted.args.is_empty() {
        return Err(invalid("process.args is empty"));
    }
    if !wanted.cwd.is_absolute() {
        return Err(invalid("process.cwd is not absolute"));
    }
    if !wanted.selinux_label.is_empty() && Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(unsupported("process.selinuxLabel"));
    }
    let empty = config::Capabilities::default();
    let sets = wanted.capabilities.as_ref().unwrap_or(&empty);
    Ok(Process {
        command: wanted.args.iter().map(Into::into).collect(),
        environment: wanted.env.iter().map(Into::into).collect(),
        user: User::Ids {
            uid: wanted.user.uid,
            gid: wanted.user.gid,
            groups: wanted.user.additional_gids.clone(),
        },
        working_dir: wanted.cwd.clone(),
        capabilities: Capabilities {
            bounding: capabilities(&sets.bounding),
            effective: capabilities(&sets.effective),
            permitted: capabilities(&sets.permitted),
            inheritable: capabilities(&sets.inheritable),
            ambient: capabilities(&sets.ambient),
            only_for_root: false,
        },
        rlimits: wanted.rlimits.iter().map(rlimit).collect::<Result<Vec<_>, _>>()?,
        no_new_privileges: wanted.no_new_privileges,
        seccomp: None,
        apparmor: Some(wanted.apparmor_profile.clone()).filter(|profile| !profile.is_empty()),
        oom_score_adj: wanted.oom_score_adj,
        umask: wanted.user.umask.unwrap_or(0o022),
        user_namespace: userns::inside(),
        gate: None,
        outlives_starter: true,
        inherited: 0,
    })
}

/// Capabilities that this kernel does not know are left out, as the specification says.
fn capabilities(names: &[String]) -> CapabilitySet {
    let bit = |name: &String| capability::number(name.strip_prefix("CAP_").unwrap_or(name));
    let bits = names.iter().filter_map(bit).fold(0u64, |set, number| set | (1u64 << number));
    CapabilitySet(bits)
}

fn rlimit(limit: &config::Rlimit) -> Result<Rlimit, Error> {
    let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind);
    let resource = RLIMITS
        .iter()
        .position(|known| *known == name)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| invalid(format!("unknown rlimit {}", limit.kind)))?;
    Ok(Rlimit { resource, soft: limit.soft, hard: limit.hard })
}

fn namespaces(linux: &config::Linux) -> Result<Namespaces, Error> {
    let host = || Namespace::Host;
    let mut found = Namespaces {
        pid: host(),
        uts: host(),
        ipc: host(),
        network: host(),
        cgroup: host(),
        user: UserNamespace::Host,
    };
    let mut mounts = false;
    for (number, one) in linux.namespaces.iter().enumerate() {
        if linux.namespaces.iter().take(number).any(|other| other.kind == one.kind) {
            return Err(invalid(format!("namespace {} is listed twice", one.kind)));
        }
        let path = one.path.clone().filter(|path| !path.as_os_str().is_empty());
        let place = path.clone().map_or(Namespace::New, Namespace::Join);
        match one.kind.as_str() {
            "pid" => found.pid = place,
            "uts" => found.uts = place,
            "ipc" => found.ipc = place,
            "network" => found.network = place,
            "cgroup" => found.cgroup = place,
            "mount" if path.is_none() => mounts = true,
            "mount" => return Err(unsupported("a mount namespace that is there already")),
            "user" => {
                let ranges = |list: &[config::IdMapping]| {
                    let range = |one: &config::IdMapping| IdRange {
                        inside: one.container_id,
                        outside: one.host_id,
                        count: one.size,
                    };
                    list.iter().map(range).collect::<Vec<_>>()
                };
                found.user = match path {
                    Some(path) => UserNamespace::Join(path),
                    None => UserNamespace::New {
                        users: ranges(&linux.uid_mappings),
                        groups: ranges(&linux.gid_mappings),
                    },
                };
            }
            "time" => return Err(unsupported("a time namespace")),
            other => return Err(invalid(format!("unknown namespace {other}"))),
        }
    }
    if mounts { Ok(found) } else { Err(unsupported("a container without a mount namespace")) }
}

fn devices(linux: &config::Linux) -> Result<Vec<Device>, Error> {
    let usual = NODES.iter().map(|name| Path::new("/dev").join(name));
    let mut all: Vec<Device> = usual
        .filter(|path| !linux.devices.iter().any(|device| device.path == *path))
        .map(|path| Device::Shown { source: path.clone(), target: path })
        .collect();
    for device in &linux.devices {
        let kind = match device.kind.as_str() {
            "c" | "u" => NodeKind::Character,
            "b" => NodeKind::Block,
            "p" => NodeKind::Fifo,
            other => return Err(invalid(format!("unknown type of device {other}"))),
        };
        all.push(Device::Made {
            target: device.path.clone(),
            kind,
            number: (device.major, device.minor),
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            owner: (device.uid, device.gid),
        });
    }
    Ok(all)
}

/// What an option of mount(8) means.
enum Meaning {
    Set(u64),
    Clear(u64),
    Propagation(u64, bool),
    Bind(bool),
    Nothing,
    Unsupported,
    Data,
}

fn meaning(option: &str) -> Meaning {
    use Meaning::{Bind, Clear, Data, Nothing, Propagation, Set, Unsupported};
    match option {
        "ro" => Set(RDONLY),
        "rw" => Clear(RDONLY),
        "nosuid" => Set(NOSUID),
        "suid" => Clear(NOSUID),
        "nodev" => Set(NODEV),
        "dev" => Clear(NODEV),
        "noexec" => Set(NOEXEC),
        "exec" => Clear(NOEXEC),
        "noatime" => Set(NOATIME),
        "strictatime" => Set(STRICTATIME),
        "nodiratime" => Set(NODIRATIME),
        "diratime" => Clear(NODIRATIME),
        "nosymfollow" => Set(NOSYMFOLLOW),
        "symfollow" => Clear(NOSYMFOLLOW),
        // `relatime` is what there is without another word.
        "atime" | "relatime" | "norelatime" | "nostrictatime" | "defaults" | "async"
        | "noiversion" | "loud" | "nomand" | "nolazytime" => Nothing,
        "private" => Propagation(PRIVATE, false),
        "rprivate" => Propagation(PRIVATE, true),
        "slave" => Propagation(SLAVE, false),
        "rslave" => Propagation(SLAVE, true),
        "shared" => Propagation(SHARED, false),
        "rshared" => Propagation(SHARED, true),
        "bind" => Bind(false),
        "rbind" => Bind(true),
        "idmap" | "ridmap" | "tmpcopyup" | "remount" | "unbindable" | "runbindable" | "rro"
        | "sync" | "dirsync" | "mand" | "lazytime" | "iversion" => Unsupported,
        _ => Data,
    }
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| invalid("a mount option has a NUL byte"))
}

/// `/` joined with a path, without `..`.
fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn mount(wanted: &config::Mount) -> Result<Mount, Error> {
    let (mut set, mut clear) = (0, 0);
    let mut propagation = Propagation::default();
    let mut bind = (wanted.kind == "bind").then_some(false);
    let mut data = Vec::new();
    for option in &wanted.options {
        match meaning(option) {
            Meaning::Set(bits) => {
                set |= bits;
                clear &= !bits;
                if bits & ATIME_FIELD != 0 {
                    clear |= ATIME_FIELD;
                }
            }
            Meaning::Clear(bits) => {
                clear |= bits;
                set &= !bits;
            }
            Meaning::Propagation(kind, recursive) => propagation = Propagation { kind, recursive },
            Meaning::Bind(recursive) => bind = Some(recursive || bind == Some(true)),
            Meaning::Nothing => {}
            Meaning::Unsupported => {
                let target = wanted.destination.display();
                return Err(unsupported(format!("mount option {option} of {target}")));
            }
            Meaning::Data => data.push(match option.split_once('=') {
                Some((name, value)) => (c_string(name)?, Some(c_string(value)?)),
                None => (c_string(option)?, None),
            }),
        }
    }
    let source = match bind {
        Some(recursive) => Source::Bind { path: wanted.source.clone(), recursive },
        None if wanted.kind == "cgroup" => cgroups(&mut set),
        None => Source::Kernel { kind: c_string(&wanted.kind)?, options: data },
    };
    let target = absolute(&wanted.destination);
    // For /proc and /sys an empty directory is as good as a failure for who made the bundle.
    let (by, optional, recursive) = (For::Engine, false, false);
    Ok(Mount { target, source, set, clear, recursive, propagation, by, optional })
}

/// The control groups: the one hierarchy of version 2, else the machine's view, to be read.
fn cgroups(set: &mut u64) -> Source {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Source::Kernel { kind: c"cgroup2".to_owned(), options: Vec::new() };
    }
    *set |= RDONLY;
    Source::Bind { path: "/sys/fs/cgroup".into(), recursive: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(kind: &str, options: &[&str]) -> Result<Mount, Error> {
        mount(&config::Mount {
            destination: "/a/../b".into(),
            kind: kind.into(),
            source: "/src".into(),
            options: options.iter().map(|text| (*text).to_owned()).collect(),
        })
    }

    #[test]
    fn mount_options_are_sorted() {
        let tmpfs = options("tmpfs", &["nosuid", "strictatime", "mode=755", "ro", "rw"]).unwrap();
        assert_eq!(tmpfs.target, Path::new("/b"));
        assert_eq!(tmpfs.set, NOSUID | STRICTATIME);
        let Source::Kernel { options: data, .. } = tmpfs.source else { panic!("a bind") };
        assert_eq!(data, [(c"mode".to_owned(), Some(c"755".to_owned()))]);
        let bound = options("", &["rbind", "ro", "rslave"]).unwrap();
        assert_eq!(bound.source, Source::Bind { path: "/src".into(), recursive: true });
        assert_eq!(bound.propagation, Propagation { kind: SLAVE, recursive: true });
        assert_eq!(bound.set, RDONLY);
        let error = options("tmpfs", &["tmpcopyup"]).unwrap_err().to_string();
        assert!(error.contains("tmpcopyup of /a/../b"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let minimal = r#"{"process":{"args":["sh"],"cwd":"/"},
            "linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#;
        let config: Config = serde_json::from_str(minimal).unwrap();
        let plan = plan(&config, "/r".into()).unwrap();
        assert_eq!(plan.namespaces.pid, Namespace::New);
        assert_eq!(plan.namespaces.network, Namespace::Host);
        assert_eq!(plan.process.capabilities.bounding, CapabilitySet(0));
        for (from, to, said) in [
            (r#"["sh"]"#, "[]", "process.args is empty"),
            (r#""cwd":"/""#, r#""cwd":"x""#, "process.cwd is not absolute"),
            (r#"{"type":"mount"},"#, "", "without a mount namespace"),
            (r#"{"type":"pid"}"#, r#"{"type":"mount"}"#, "listed twice"),
            (r#"{"type":"pid"}"#, r#"{"type":"x"}"#, "unknown namespace x"),
            (r#""cwd":"/""#, r#""cwd":"/","rlimits":[{"type":"X","soft":1,"hard":1}]"#, "rlimit X"),
        ] {
            let config: Config = serde_json::from_str(&minimal.replace(from, to)).unwrap();
            let error = super::plan(&config, "/r".into()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn limits_and_capabilities_have_their_numbers() {
        let limit = config::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1, hard: 2 };
        assert_eq!(rlimit(&limit).unwrap().resource, nix::libc::RLIMIT_NOFILE);
        let names = ["CAP_CHOWN", "CAP_KILL", "CAP_NO_SUCH"].map(str::to_owned);
        assert_eq!(capabilities(&names), CapabilitySet(1 | 1 << 5));
    }
}
