//! Operations written down: the lines of a failing case's script.

use super::op::{Op, Step};
use crate::mount::sys::libc;

impl Step {
    /// As a line of a script.
    pub fn line(&self) -> String {
        let who = if self.who == 0 { String::new() } else { format!("process {}: ", self.who + 1) };
        let user = if self.uid == 0 { String::new() } else { format!("as user {}: ", self.uid) };
        format!("{who}{user}{}", self.op.line())
    }
}

impl Op {
    /// The handle an operation uses.
    pub fn slot(&self) -> Option<usize> {
        match self {
            Op::Open { slot, .. }
            | Op::Tmpfile { slot, .. }
            | Op::LinkFd { slot, .. }
            | Op::Close { slot }
            | Op::FdRead { slot, .. }
            | Op::FdWrite { slot, .. }
            | Op::FdAppend { slot, .. }
            | Op::FdTruncate { slot, .. }
            | Op::FdStat { slot }
            | Op::FdChmod { slot, .. }
            | Op::FdChown { slot, .. }
            | Op::FdTimes { slot, .. }
            | Op::FdSync { slot }
            | Op::FdFallocate { slot, .. }
            | Op::FdMap { slot, .. }
            | Op::FdSeek { slot, .. }
            | Op::FdCopy { slot, .. }
            | Op::FdSetXattr { slot, .. }
            | Op::FdLock { slot, .. } => Some(*slot),
            _ => None,
        }
    }

    /// As a line of a script.
    pub fn line(&self) -> String {
        match self {
            Op::Open { slot, path, flags, mode } => {
                format!("fd{slot}=$(open {path} {} mode={mode:o})", flag_names(*flags))
            }
            Op::Mkdir { path, mode } => format!("mkdir -m {mode:o} {path}"),
            Op::Rmdir { path } => format!("rmdir {path}"),
            Op::Unlink { path } => format!("unlink {path}"),
            Op::Rename { from, to, flags: 0 } => format!("rename {from} {to}"),
            Op::Rename { from, to, flags: libc::RENAME_NOREPLACE } => {
                format!("rename --noreplace {from} {to}")
            }
            Op::Rename { from, to, .. } => format!("rename --exchange {from} {to}"),
            Op::Link { from, to } => format!("ln -P {from} {to}"),
            Op::Symlink { target, path } => format!("ln -s {target} {path}"),
            Op::Chmod { path, mode } => format!("chmod {mode:o} {path}"),
            Op::Chown { path, uid, gid } => format!("chown -h {uid}:{gid} {path}"),
            Op::Truncate { path, len } => format!("truncate -s {len} {path}"),
            Op::List { path } => format!("ls -a {path}"),
            Op::Stat { path } => format!("stat {path}"),
            Op::Read { path } => format!("cat {path}"),
            Op::Mksock { path, mode } => format!("mksock -m {mode:o} {path}"),
            Op::Mkfifo { path, mode } => format!("mkfifo -m {mode:o} {path}"),
            Op::Umask { mask } => format!("umask {mask:o}"),
            Op::Remount => "remount".into(),
            Op::Restack => "remount with the upper as the topmost lower".into(),
            other => format!("{other:?}"),
        }
    }
}

fn flag_names(f: i32) -> String {
    let mut v = vec![match f & libc::O_ACCMODE {
        libc::O_RDONLY => "O_RDONLY",
        libc::O_WRONLY => "O_WRONLY",
        _ => "O_RDWR",
    }];
    for (bit, name) in [
        (libc::O_CREAT, "O_CREAT"),
        (libc::O_EXCL, "O_EXCL"),
        (libc::O_TRUNC, "O_TRUNC"),
        (libc::O_APPEND, "O_APPEND"),
        (libc::O_DIRECTORY, "O_DIRECTORY"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
    ] {
        if f & bit == bit {
            v.push(name);
        }
    }
    v.join("|")
}
