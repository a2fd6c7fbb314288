//! Flags about the walls between container and machine.

mod device;
mod security;

use std::collections::BTreeMap;

use clap::Args;

use super::engine;
use crate::cli::Failure;
use crate::container::config::{Isolation, Sharing};
use crate::spec::capability;

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Give it everything that you may do, and the machine's devices
    #[arg(long)]
    privileged: bool,
    /// Give it a capability more than usual, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined or a profile's file, systempaths=unconfined,
    /// apparmor=PROFILE, label=disable
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Whose processes it sees: its own, `host`, or `container:NAME`
    #[arg(long, value_name = "NAMESPACE")]
    pid: Option<String>,
    /// Whose shared memory it sees: `private`, `shareable`, `none`, `host`, or `container:NAME`
    #[arg(long, value_name = "NAMESPACE")]
    ipc: Option<String>,
    /// Whose host name it has: its own, or `host`
    #[arg(long, value_name = "NAMESPACE")]
    uts: Option<String>,
    /// Whose view of control groups it has: `private` or `host`
    #[arg(long, value_name = "NAMESPACE")]
    cgroupns: Option<String>,
    /// Whose users it has: `host`, which is what there is
    #[arg(long, value_name = "NAMESPACE")]
    userns: Option<String>,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// Show a device of this machine
    #[arg(long, value_name = "DEVICE[:TARGET][:rwm]")]
    device: Vec<String>,
    /// Allow device numbers, as in `c 10:200 rwm`
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Set a kernel setting of the container's own
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
}

/// Settings that belong to a namespace, as in Docker: exact names, and beginnings.
const SYSCTLS: [&str; 11] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.domainname",
    "fs.mqueue.",
    "net.",
];

impl Options {
    /// Reads the flags.
    pub fn read(self) -> Result<Isolation, Failure> {
        let names = |list: &[String]| {
            list.iter()
                .flat_map(|text| text.split(','))
                .map(capability::normal)
                .collect::<Result<Vec<_>, _>>()
                .map_err(engine)
        };
        let mut isolation = Isolation {
            privileged: self.privileged,
            cap_add: names(&self.cap_add)?,
            cap_drop: names(&self.cap_drop)?,
            read_only: self.read_only,
            pid: sharing(self.pid.as_deref(), "--pid: invalid PID mode", &["container"])?,
            ipc: sharing(
                self.ipc.as_deref(),
                "--ipc: invalid IPC mode",
                &["container", "private", "shareable", "none"],
            )?,
            uts: sharing(self.uts.as_deref(), "--uts: invalid UTS mode", &[])?,
            cgroup: sharing(
                self.cgroupns.as_deref(),
                "--cgroupns: invalid CGROUP mode",
                &["private"],
            )?,
            user: sharing(self.userns.as_deref(), "--userns: invalid USER mode", &[])?,
            sysctls: sysctls(&self.sysctl)?,
            ..Isolation::default()
        };
        for text in &self.device {
            isolation.devices.extend(device::parse(text)?);
        }
        for text in &self.device_cgroup_rule {
            isolation.device_rules.push(device::rule(text)?);
        }
        security::read(&self.security_opt, &mut isolation)?;
        let shares_ipc = matches!(isolation.ipc, Sharing::Host | Sharing::Container(_));
        if let Some(name) = isolation.sysctls.keys().find(|name| !name.starts_with("net."))
            && shares_ipc
        {
            return Err(engine(format!(
                "sysctl '{name}' is not allowed where the IPC namespace is not the container's own"
            )));
        }
        Ok(isolation)
    }
}

/// Reads `host`, `container:NAME`, and what else `allowed` names.
fn sharing(text: Option<&str>, invalid: &str, allowed: &[&str]) -> Result<Sharing, Failure> {
    let text = text.unwrap_or_default();
    let known = |word: &str| allowed.contains(&word);
    Ok(match text.split_once(':') {
        None if text.is_empty() => Sharing::Private,
        None if text == "host" => Sharing::Host,
        None if text == "private" && known("private") => Sharing::Private,
        None if text == "shareable" && known("shareable") => Sharing::Shareable,
        None if text == "none" && known("none") => Sharing::None,
        Some(("container", name)) if known("container") && !name.is_empty() => {
            Sharing::Container(name.to_owned())
        }
        _ => return Err(engine(invalid)),
    })
}

fn sysctls(list: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut all = BTreeMap::new();
    for text in list {
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(engine(format!("invalid sysctl '{text}': give NAME=VALUE")));
        };
        let own = SYSCTLS.iter().any(|known| match known.strip_suffix('.') {
            Some(_) => name.starts_with(known),
            None => name == *known,
        });
        // The name becomes a path below /proc/sys.
        if !own || name.contains('/') || name.contains("..") {
            return Err(engine(format!(
                "sysctl '{name}' is not allowed: it is not the container's own"
            )));
        }
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharing_reads_as_in_docker() {
        let pid = |text| sharing(Some(text), "bad", &["container"]).ok();
        assert_eq!(pid("host"), Some(Sharing::Host));
        assert_eq!(pid(""), Some(Sharing::Private));
        assert_eq!(pid("container:x"), Some(Sharing::Container("x".into())));
        for bad in ["container:", "container", "private", "x", "host:x"] {
            assert_eq!(pid(bad), None, "{bad}");
        }
    }

    #[test]
    fn sysctls_are_the_containers_own() {
        for good in ["net.ipv4.ip_forward=1", "kernel.shmmax=5", "fs.mqueue.msg_max=7"] {
            assert!(sysctls(&[good.to_owned()]).is_ok(), "{good}");
        }
        for bad in [
            "kernel.panic=1",
            "net.x",
            "=1",
            "vm.swappiness=0",
            "net.../../kernel=1",
            "net.a/b=1",
            "kernel.shmmaxx=1",
        ] {
            assert!(sysctls(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
