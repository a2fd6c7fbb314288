//! Mounting and unmounting: mount(2) where we may, fusermount3 where we may not.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::sys::{self, Errno};

/// How the filesystem is shown in the table of mounts, and with which flags.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// First column of the table of mounts (`fsname=`).
    pub source: Vec<u8>,
    /// `MS_*` flags.
    pub flags: u64,
    /// Names of those flags, for fusermount3.
    pub flag_names: Vec<String>,
    /// Users other than the one who mounts may look in.
    pub allow_other: bool,
    /// Further options for the kernel, such as `context=`.
    pub extra: Vec<String>,
}

/// Why mounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// /dev/fuse cannot be opened.
    #[error(
        "cannot open /dev/fuse: {why}; load the fuse module, or give this user access to the device", why = .0.desc())]
    Device(Errno),
    /// mount(2) refused.
    #[error("cannot mount on {path}: {why}", path = .0.display(), why = .1.desc())]
    Mount(PathBuf, Errno),
    /// mount(2) refused to change flags.
    #[error("cannot change the mount on {path}: {why}", path = .0.display(), why = .1.desc())]
    Remount(PathBuf, Errno),
    /// fusermount3 is needed but not there.
    #[error(
        "cannot mount on {0}: not permitted here, and fusermount3 cannot be run ({1}); install \
         fuse3, or mount inside a user namespace"
    )]
    NoHelper(PathBuf, std::io::Error),
    /// fusermount3 refused; it has said why.
    #[error("cannot mount on {0}: fusermount3 refused")]
    Helper(PathBuf),
}

/// Type of the mount as `mount` and `/proc/mounts` show it.
const FSTYPE: &str = "fuse.cowlfs";
/// How long unmounting waits for the last users of a busy mount, after it was detached.
const LINGER: Duration = Duration::from_secs(2);

/// A mount that can be taken away again.
#[derive(Clone, Debug)]
pub struct Mount {
    path: PathBuf,
    by_helper: bool,
}

/// Mounts on `path` (absolute) and returns the device to serve.
///
/// # Errors
/// See [`MountError`].
pub fn mount(path: &Path, options: &MountOptions) -> Result<(Mount, OwnedFd), MountError> {
    let (uid, gid) = sys::process::ids();
    let direct = sys::fuse::open_device().map_err(MountError::Device).and_then(|device| {
        let mut data = format!(
            "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
            device.as_raw_fd()
        );
        if options.allow_other {
            data.push_str(",allow_other");
        }
        for extra in &options.extra {
            data.push(',');
            data.push_str(extra);
        }
        sys::fuse::mount(&options.source, path, FSTYPE, options.flags, data.as_bytes())
            .map_err(|e| MountError::Mount(path.into(), e))?;
        Ok((Mount { path: path.into(), by_helper: false }, device))
    });
    match direct {
        Err(MountError::Mount(_, Errno::EPERM) | MountError::Device(Errno::EACCES)) if uid != 0 => {
            by_helper(path, options)
        }
        other => other,
    }
}

/// Mounts an open device on `path` for nobody but ourselves, to see what the kernel says.
pub(super) fn over(device: &OwnedFd, path: &Path, uid: u32, gid: u32) -> sys::Result<()> {
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
    sys::fuse::mount(b"cowlfs", path, FSTYPE, libc::MS_NOSUID | libc::MS_NODEV, data.as_bytes())
}

/// Changes the flags of a mount that is there (`mount -o remount`, which runs us as a helper).
///
/// # Errors
/// What mount(2) says: `EINVAL` when nothing is mounted there, `EPERM`, `EBUSY` for `ro` while files
/// are open for writing.
pub fn remount(path: &Path, flags: u64) -> Result<(), MountError> {
    sys::fuse::mount(b"cowlfs", path, FSTYPE, flags | libc::MS_REMOUNT, b"")
        .map_err(|e| MountError::Remount(path.into(), e))
}

fn by_helper(path: &Path, options: &MountOptions) -> Result<(Mount, OwnedFd), MountError> {
    let failed = |e| MountError::NoHelper(path.into(), e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    sys::fuse::keep_over_exec(theirs.as_fd())
        .map_err(|e| failed(std::io::Error::from_raw_os_error(e as i32)))?;
    let mut list = b"fsname=".to_vec();
    for &byte in &options.source {
        if byte == b',' || byte == b'\\' {
            list.push(b'\\');
        }
        list.push(byte);
    }
    list.extend_from_slice(b",subtype=cowlfs,default_permissions");
    if options.allow_other {
        list.extend_from_slice(b",allow_other");
    }
    for name in options.flag_names.iter().chain(&options.extra) {
        list.push(b',');
        list.extend_from_slice(name.as_bytes());
    }
    let status = Command::new("fusermount3")
        .arg("-o")
        .arg(OsString::from_vec(list))
        .arg("--")
        .arg(path)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .status()
        .map_err(failed)?;
    drop(theirs);
    if !status.success() {
        return Err(MountError::Helper(path.into()));
    }
    let device = sys::fuse::receive_fd(&ours).map_err(|_| MountError::Helper(path.into()))?;
    Ok((Mount { path: path.into(), by_helper: true }, device))
}

/// Read-ahead of a mount, KiB: a cold sequential read of 1 GiB takes half the time that it takes with
/// the kernel's 128 KiB, and with more than this no less.
const READ_AHEAD: &str = "1024";
/// How much of the memory for dirty pages one mount may fill, per cent. The kernel's 1 for FUSE, held
/// strictly, makes programs wait for the disk from a few megabytes on; at half of it storing to a
/// mapping costs a fifth, and there is as much left for the filesystem of the upper.
const DIRTY_SHARE: &str = "50";
/// The part of the machine's memory that there must be room for in the upper: more than can be dirty
/// (a fifth, by default), so that programs are told of a full disk early, not by lost pages.
const PART_OF_MEMORY: u64 = 4;

impl Mount {
    /// Lets the kernel read further ahead and, where the upper has `room` (bytes), keep more of what
    /// is written, where we may (the machine's administrator may).
    pub fn tune(&self, room: u64) {
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let Some(device) = device_of(&table, self.path.as_os_str().as_bytes()) else { return };
        let set = |name: &str, value: &str| {
            let _only_slower_without =
                std::fs::write(format!("/sys/class/bdi/{device}/{name}"), value);
        };
        set("read_ahead_kb", READ_AHEAD);
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        if memory_of(&memory).is_some_and(|memory| room > memory / PART_OF_MEMORY) {
            set("max_ratio", DIRTY_SHARE);
            set("strict_limit", "0");
        }
    }

    /// Takes the mount away while it is being served: cleanly if nobody uses it, otherwise after
    /// writing back what is dirty it is detached, and its last users have a moment to finish. False
    /// when some may still be left.
    ///
    /// A process must not wait for its own filesystem: killed meanwhile, it would never end, since
    /// its own wait keeps the device open. So all this is done by a child without the device.
    pub fn unmount(&self) -> bool {
        match sys::process::in_child(|| self.unmount_cleanly()) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(_) => return false,
        }
        let detached = sys::process::in_child(|| self.detach());
        if detached == Ok(true) {
            std::thread::sleep(LINGER);
        }
        false
    }

    fn unmount_cleanly(&self) -> bool {
        if let Ok(root) = sys::dir::open_dir_path(&self.path) {
            let _best_effort = sys::file::syncfs(root.as_fd());
        }
        if self.by_helper {
            return self.helper(&["-u", "-q"]);
        }
        sys::fuse::umount(&self.path, libc::UMOUNT_NOFOLLOW).is_ok()
    }

    fn detach(&self) -> bool {
        if self.by_helper {
            return self.helper(&["-u", "-q", "-z"]);
        }
        sys::fuse::umount(&self.path, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW).is_ok()
    }

    fn helper(&self, arguments: &[&str]) -> bool {
        Command::new("fusermount3")
            .args(arguments)
            .arg("--")
            .arg(&self.path)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// The device number (`MAJOR:MINOR`) of what is mounted last on `path`, from the text of
/// `/proc/self/mountinfo` (proc_pid_mountinfo(5)), where some characters are written in octal.
fn device_of(table: &[u8], path: &[u8]) -> Option<String> {
    let mut written = Vec::new();
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => written.extend(format!("\\{byte:03o}").bytes()),
            _ => written.push(byte),
        }
    }
    let mut found = None;
    for line in table.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ').skip(2);
        let (device, at) = (fields.next(), fields.nth(1));
        if at == Some(&written) {
            found = device.and_then(|d| std::str::from_utf8(d).ok());
        }
    }
    found.map(Into::into)
}

/// The machine's memory, bytes, from the text of `/proc/meminfo` (proc_meminfo(5)).
fn memory_of(table: &str) -> Option<u64> {
    let total = table.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_its_table() {
        let table = "MemTotal:       24576 kB\nMemFree:        100 kB\n";
        assert_eq!(memory_of(table), Some(24 << 20));
        assert_eq!(memory_of("MemFree:        100 kB\n"), None);
        assert_eq!(memory_of("MemTotal: much\n"), None);
    }

    #[test]
    fn the_topmost_mount_is_found_by_its_path() {
        let table = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      2 1 0:40 / /m\\040x rw - fuse.cowlfs a rw\n\
                      3 1 0:41 / /m\\040x rw shared:3 - fuse.cowlfs b rw\n\
                      4 1 0:42 / /m\\040xy rw - fuse.cowlfs c rw\n";
        assert_eq!(device_of(table, b"/m x").as_deref(), Some("0:41"));
        assert_eq!(device_of(table, b"/").as_deref(), Some("8:1"));
        assert_eq!(device_of(table, b"/m"), None);
        assert_eq!(device_of(b"", b"/"), None);
    }
}
