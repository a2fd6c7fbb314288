//! Filesystems in files, for layers on something else than the machine's own disk.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// How an ext4 is made.
pub const EXT4: &[&str] = &["mkfs.ext4", "-q"];
/// How an XFS is made.
pub const XFS: &[&str] = &["mkfs.xfs", "-q"];
/// How a btrfs is made.
pub const BTRFS: &[&str] = &["mkfs.btrfs", "-q"];

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    let done = command.status();
    assert!(done.as_ref().is_ok_and(ExitStatus::success), "{command:?}: {done:?}");
}

/// Makes a filesystem in a file of so many megabytes and mounts it.
pub fn make(image: &Path, megabytes: u64, mkfs: &[&str], at: &Path, options: &str) {
    std::fs::File::create(image).and_then(|f| f.set_len(megabytes << 20)).expect("make an image");
    run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(image).stderr(Stdio::null()));
    mount(image, at, options);
}

/// Mounts one; `options` begins with a comma.
pub fn mount(image: &Path, at: &Path, options: &str) {
    run(Command::new("mount").args(["-o", &format!("loop{options}")]).arg(image).arg(at));
}
