//! Capabilities by name, and which a container gets.

use crate::sys::capability::CapabilitySet;

/// Names by number, from linux/capability.h, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default capabilities.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// Not a capability.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid capability: unknown capability {0:?}: give a name of capabilities(7), or ALL")]
pub struct Unknown(String);

/// The number of a capability, by its name with or without `CAP_`, in any case.
pub fn number(name: &str) -> Option<u8> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).and_then(|at| u8::try_from(at).ok())
}

/// The name of a capability, with `CAP_`.
pub fn name(number: u8) -> Option<String> {
    NAMES.get(usize::from(number)).map(|name| format!("CAP_{name}"))
}

/// All that there are.
pub fn all() -> CapabilitySet {
    CapabilitySet((1u64 << NAMES.len()) - 1)
}

fn set(names: &[&str]) -> CapabilitySet {
    CapabilitySet(names.iter().filter_map(|name| number(name)).fold(0, |set, bit| set | 1 << bit))
}

/// A name as it is kept: upper case, with `CAP_`, or `ALL`.
pub fn normal(text: &str) -> Result<String, Unknown> {
    if text.eq_ignore_ascii_case("all") || text.eq_ignore_ascii_case("cap_all") {
        return Ok("ALL".to_owned());
    }
    number(text).and_then(name).ok_or_else(|| Unknown(text.to_owned()))
}

/// What a container gets. `ALL` stands for all; what is named beside it wins, as in Docker.
pub fn granted(
    privileged: bool,
    add: &[String],
    drop: &[String],
) -> Result<CapabilitySet, Unknown> {
    let has_all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("all"));
    let named = |list: &[String]| {
        list.iter().filter(|name| !name.eq_ignore_ascii_case("all")).try_fold(0u64, |set, name| {
            number(name).map(|bit| set | 1 << bit).ok_or_else(|| Unknown(name.clone()))
        })
    };
    let (added, dropped) = (named(add)?, named(drop)?);
    if privileged {
        return Ok(all());
    }
    Ok(CapabilitySet(match (has_all(add), has_all(drop)) {
        (true, _) => all().0 & !dropped,
        (false, true) => added,
        (false, false) => (set(&DEFAULT).0 | added) & !dropped,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted_to(add: &[&str], drop: &[&str]) -> u64 {
        let owned = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        granted(false, &owned(add), &owned(drop)).unwrap().0
    }

    #[test]
    fn the_default_set_is_dockers() {
        // What `docker run alpine grep CapBnd /proc/self/status` prints.
        assert_eq!(granted_to(&[], &[]), 0xa804_25fb);
    }

    #[test]
    fn added_and_dropped() {
        assert_eq!(granted_to(&["SYS_ADMIN"], &[]), 0xa804_25fb | 1 << 21);
        assert_eq!(granted_to(&["cap_sys_admin"], &["chown"]), 0xa804_25fa | 1 << 21);
        assert_eq!(granted_to(&[], &["ALL"]), 0);
        assert_eq!(granted_to(&["CHOWN"], &["all"]), 1);
        assert_eq!(granted_to(&["ALL"], &["CHOWN"]), 0x1ff_ffff_fffe);
        assert_eq!(granted(true, &[], &[]).unwrap().0, 0x1ff_ffff_ffff);
        assert!(granted(false, &["NOPE".to_owned()], &[]).is_err());
        assert!(granted(true, &[], &["NOPE".to_owned()]).is_err());
    }

    #[test]
    fn names_are_kept_in_one_form() {
        assert_eq!(normal("net_admin").unwrap(), "CAP_NET_ADMIN");
        assert_eq!(normal("CAP_NET_ADMIN").unwrap(), "CAP_NET_ADMIN");
        assert_eq!(normal("all").unwrap(), "ALL");
        assert!(normal("").is_err());
        assert_eq!(number("CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(name(41), None);
    }
}
