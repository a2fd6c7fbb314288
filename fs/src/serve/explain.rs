//! What was found out about the kernel and the layers, and what was chosen for which reason: a line
//! each, for `cowlfs --probe` and for the log.

use std::os::fd::AsFd;

use super::policy::{Agreed, Policy};
use crate::format::Namespace;
use crate::overlay::Overlay;
use crate::sys::{self, Errno};
use crate::upper::{Upper, WhiteoutForm};

/// Yes or no.
fn word(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// How requests are answered: what `policy` and the kernel agree on.
pub fn serving(policy: &Policy, agreed: &Agreed) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |what: &str, chosen: &str, why: &str| {
        lines.push(format!("{what}: {chosen} ({why})"));
    };
    if agreed.no_open {
        say("opening files", "no request", "the kernel does without after one ENOSYS");
    } else if agreed.passthrough {
        say("opening files", "a request each", "it is answered with the host's file");
    } else {
        say("opening files", "a request each", "the kernel has no FUSE_NO_OPEN_SUPPORT");
    }
    if agreed.no_opendir {
        say("opening directories", "no request", "the kernel does without after one ENOSYS");
    } else {
        say("opening directories", "a request each", "the kernel has no FUSE_NO_OPENDIR_SUPPORT");
    }
    let data = match (agreed.passthrough, agreed.writeback) {
        (true, _) => ("passthrough", "the kernel reads and writes the host's files itself"),
        (false, true) => ("write-back cache", "many small writes become few requests"),
        (false, false) if policy.writeback => {
            ("write-through cache", "the kernel has no FUSE_WRITEBACK_CACHE")
        }
        (false, false) => ("read cache", "the mount is read-only"),
    };
    say("file data", data.0, data.1);
    let ttl = policy.ttl;
    let kept = format!("kept for {} s", ttl.sec as f64 + f64::from(ttl.nsec) / 1e9);
    match policy.limited() {
        false => {
            say("names and attributes", "kept without limit", "nobody else changes the layers")
        }
        true => say("names and attributes", &kept, "timeout="),
    }
    match agreed.killpriv {
        true => say("set-user-ID", "taken away by us", "no request before a write"),
        false => say("set-user-ID", "taken away by the kernel", "it asks before each write"),
    }
    match (policy.acls, agreed.acls) {
        (true, true) => say("POSIX ACLs", "enforced by the kernel", "the upper can hold them"),
        (true, false) => say("POSIX ACLs", "not enforced", "the kernel has no FUSE_POSIX_ACL"),
        (false, _) => say("POSIX ACLs", "not enforced", "noacl, or the upper cannot hold them"),
    }
    lines
}

/// What the filesystem of the upper can do.
pub fn upper(upper: &Upper) -> Vec<String> {
    let f = upper.features();
    let marks = match f.namespace {
        Namespace::Trusted => "trusted.overlay. (it can be written)",
        Namespace::User => "user.overlay. (trusted.overlay. is refused)",
        Namespace::None => "none (the filesystem has no xattrs): marker files",
    };
    let whiteouts = match f.whiteouts {
        WhiteoutForm::Device => "character devices 0:0",
        WhiteoutForm::Aufs => "files .wh.NAME (devices cannot be made)",
    };
    let nameless = || sys::dir::openat(upper.work(), b".", libc::O_TMPFILE | libc::O_RDWR, 0o600);
    let shared = || -> Result<(), Errno> {
        const BLOCK: [u8; 4096] = [1; 4096];
        let (from, to) = (nameless()?, nameless()?);
        sys::file::pwrite_all(from.as_fd(), &BLOCK, 0)?;
        sys::file::clone(from.as_fd(), to.as_fd())
    };
    let tried = |result: Result<(), Errno>| match result {
        Ok(()) => "yes".to_owned(),
        Err(e) => format!("no ({})", e.desc()),
    };
    vec![
        format!("marks: {marks}"),
        format!("whiteouts: {whiteouts}"),
        format!("whiteout by renaming (RENAME_WHITEOUT): {}", word(f.rename_whiteout)),
        format!("POSIX ACLs can be stored: {}", word(f.acls)),
        format!("files without a name (O_TMPFILE): {}", tried(nameless().map(drop))),
        format!("copying by sharing blocks (FICLONE): {}", tried(shared())),
        format!("the host takes set-user-ID away when we write: {}", word(f.drops_privileges)),
    ]
}

/// All of it for an open union.
pub fn all(policy: &Policy, agreed: &Agreed, overlay: &Overlay) -> Vec<String> {
    let mut lines = serving(policy, agreed);
    match overlay.upper() {
        Some(u) => lines.extend(upper(u)),
        None => lines.push("upper: none (read-only)".into()),
    }
    lines
}
