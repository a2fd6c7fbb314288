//! What this runtime can do, in the specification's shape: `features`.

use serde_json::{Value, json};

use super::VERSION;
use crate::spec::capability;

/// The document.
pub fn features() -> Value {
    let capabilities: Vec<String> = (0..64).map_while(capability::name).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
        ],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "exec", "noatime", "nodev",
            "nodiratime", "noexec", "nosuid", "nosymfollow", "private", "rbind", "relatime", "ro",
            "rprivate", "rshared", "rslave", "rw", "shared", "slave", "strictatime", "suid",
            "symfollow"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": false, "v2": false, "systemd": false, "systemdUser": false },
            "seccomp": { "enabled": true },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } }
        },
        "annotations": {}
    })
}
