//! Copy-up in blocks (`copyup=block`), of attributes only (`metacopy=on`), and without waiting for the
//! disk: what is in the upper, what the mount shows, and what is left after a crash of the program or
//! of the machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use cowl_tests::mount::sys::libc;
use cowl_tests::mount::{Sut, World, sys};

mod complete;
mod crash;
mod data;
mod names;

/// Bytes of a block.
const BLOCK: usize = 4096;

/// Content in which every place can be told from every other.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i / 251) ^ (i % 251)) as u8).collect()
}

/// Whether this run is about cowlfs: peers have no such options.
fn ours(w: &World) -> bool {
    w.sut == Sut::Cowlfs
}

/// Space that a file takes, bytes.
fn space(p: impl AsRef<Path>) -> u64 {
    sys::lstat(p).unwrap().st_blocks as u64 * 512
}

/// Writes at an offset of an existing file, and closes it.
fn poke(p: impl AsRef<Path>, at: u64, bytes: &[u8]) {
    let f = std::fs::OpenOptions::new().write(true).open(p).unwrap();
    f.write_all_at(bytes, at).unwrap();
}

/// Records of partial files.
fn records(w: &World) -> usize {
    std::fs::read_dir(w.dir.join("work/cowl-blocks")).unwrap().count()
}

/// Makes the machine look restarted: another boot id, in this test's mount namespace.
fn reboot(w: &World, to: u8) {
    let id = w.dir.join(format!("boot-{to}"));
    let hex = format!("{to:02x}").repeat(16);
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    std::fs::write(&id, uuid + "\n").unwrap();
    let at = Path::new("/proc/sys/kernel/random/boot_id");
    sys::mount(id.to_str().unwrap(), at, "", libc::MS_BIND, b"").unwrap();
}

fn run(command: &mut Command) {
    let done = command.status();
    assert!(done.as_ref().is_ok_and(ExitStatus::success), "{command:?}: {done:?}");
}

/// Puts the layers on a small ext4 of their own, made with the additional arguments `args`.
fn own_disk(w: &mut World, args: &[&str]) {
    let image = w.dir.join("image");
    std::fs::File::create(&image).and_then(|f| f.set_len(8 << 20)).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").args(args).arg(&image));
    // Equal xattrs are not to share a block.
    run(Command::new("mount").args(["-o", "loop,no_mbcache"]).arg(&image).arg(&w.dir));
    for dir in ["upper", "work", "mnt", "ref"] {
        std::fs::create_dir(w.dir.join(dir)).unwrap();
    }
    w.set_lowers(2);
}
