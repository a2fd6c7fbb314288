//! Disks that fail: the right errno, nothing half done, nothing lost that was acknowledged, no hang,
//! and everything as before once the fault is over. A full disk is in `fs_space`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod lower;
mod power;
mod quota;
mod readonly;
mod slow;
mod writeback;

use std::path::{Path, PathBuf};
use std::process::Command;

use cowl_tests::mount::disk::{self, run};
use cowl_tests::mount::{World, sys};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Unmounts a disk; the filesystem's process may let go of it a moment after its own unmount.
fn unmount(at: &Path) {
    for _ in 0..100 {
        if sys::umount(at, 0) != Err(sys::Errno::EBUSY) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} stays busy", at.display());
}

/// Upper and workdir on a disk of their own, which is returned.
fn upper_on_disk(w: &World, megabytes: u64, mkfs: &[&str], options: &str) -> PathBuf {
    let at = w.dir.join("disk");
    std::fs::create_dir(&at).unwrap();
    disk::make(&w.dir.join("image"), megabytes, mkfs, &at, options);
    upper_in(w, &at);
    at
}

/// Upper and workdir in a directory, by symlinks.
fn upper_in(w: &World, at: &Path) {
    for d in ["upper", "work"] {
        std::fs::create_dir(at.join(d)).unwrap();
        std::fs::remove_dir(w.dir.join(d)).unwrap();
        std::os::unix::fs::symlink(at.join(d), w.dir.join(d)).unwrap();
    }
}

/// The power is back: the disk is mounted again, in what says that it is another run of the machine,
/// and the union over it.
fn power_on(w: &mut World, at: &Path, options: &str) {
    w.unmount_broken();
    unmount(at);
    disk::mount(&w.dir.join("image"), at, options);
    let id = std::fs::read_to_string(BOOT_ID).unwrap();
    let first = if id.starts_with('0') { "1" } else { "0" };
    // Kept: nothing can be mounted over a file that is mounted but deleted.
    let (_, file) = tempfile::NamedTempFile::new_in(&w.dir).unwrap().keep().unwrap();
    std::fs::write(&file, [first, &id[1..]].concat()).unwrap();
    run(Command::new("mount").arg("--bind").arg(&file).arg(BOOT_ID));
    w.remount();
}
