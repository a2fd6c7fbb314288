//! What is left after the program was killed, and after the machine itself went down.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;

use cowl_tests::mount::{World, cat, sys};
use cowl_tests::{as_root, both};

use super::{BLOCK, ours, own_disk, pattern, poke, reboot, run};

both!(a_killed_program_loses_no_block_that_was_synced, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(400_000);
    w.put(1, "f", &want);
    w.mount();
    for round in 0..8 {
        let f = OpenOptions::new().write(true).open(w.m("f")).unwrap();
        let at = round * 45_001;
        f.write_all_at(&[round as u8; 9000], at as u64).unwrap();
        f.sync_all().unwrap();
        want[at..at + 9000].fill(round as u8);
        drop(f);
        w.crash();
        assert!(std::fs::read(w.m("f")).unwrap() == want, "round {round}");
    }
});

as_root!(after_a_crash_of_the_machine_synced_blocks_count_and_others_are_the_lowers, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let old = pattern(40 * BLOCK);
    w.put(1, "f", &old);
    reboot(w, 1);
    w.mount();
    let f = OpenOptions::new().write(true).open(w.m("f")).unwrap();
    f.write_all_at(&[1; BLOCK], 0).unwrap();
    f.sync_all().unwrap();
    drop(f);
    // Handed over by closing it, but not synced: the disk may or may not have it.
    poke(w.m("f"), 20 * BLOCK as u64, &[2; BLOCK]);
    reboot(w, 2);
    w.crash();
    let mut want = old.clone();
    want[..BLOCK].fill(1);
    assert!(std::fs::read(w.m("f")).unwrap() == want);
    // And from there it goes on.
    poke(w.m("f"), 30 * BLOCK as u64, &[3; BLOCK]);
    want[30 * BLOCK..31 * BLOCK].fill(3);
    w.remount();
    assert!(std::fs::read(w.m("f")).unwrap() == want);
});

/// A file copied up whole, changed, and never synced.
fn unsynced_copy(w: &mut World) {
    w.put(1, "f", "the lower's");
    w.put(1, "g", "the lower's");
    reboot(w, 1);
    w.mount();
    poke(w.m("f"), 0, b"THE UPPER'S, AND LONGER");
    let g = OpenOptions::new().write(true).open(w.m("g")).unwrap();
    g.write_all_at(b"THE UPPER'S", 0).unwrap();
    g.sync_all().unwrap();
}

as_root!(after_a_crash_of_the_machine_an_unsynced_copy_shows_the_lower, |w| {
    if !ours(w) {
        return;
    }
    unsynced_copy(w);
    // As a disk looks that has got the name, and neither length nor data.
    let before = sys::lstat(w.m("f")).unwrap();
    w.kill();
    std::fs::write(w.u("f"), "").unwrap();
    reboot(w, 2);
    w.start_again();
    assert_eq!(cat(w.m("f")), "the lower's");
    assert_eq!(cat(w.m("g")), "THE UPPER'S");
    assert_eq!(sys::lstat(w.m("f")).unwrap().st_ino, before.st_ino);
    w.remount();
    assert_eq!(cat(w.m("f")), "the lower's");
});

as_root!(a_killed_program_loses_nothing_of_an_unsynced_copy, |w| {
    if !ours(w) {
        return;
    }
    unsynced_copy(w);
    w.crash();
    assert_eq!(cat(w.m("f")), "THE UPPER'S, AND LONGER");
    // A clean unmount settles it for good.
    w.unmount();
    reboot(w, 2);
    w.start_again();
    assert_eq!(cat(w.m("f")), "THE UPPER'S, AND LONGER");
});

as_root!(what_another_tool_has_written_since_is_not_taken_back, |w| {
    if !ours(w) {
        return;
    }
    unsynced_copy(w);
    w.kill();
    crate::complete::overlayfs(w, "").unwrap();
    poke(w.m("f"), 0, b"BY OTHERS");
    sys::umount(&w.m(""), 0).unwrap();
    reboot(w, 2);
    w.start_again();
    assert_eq!(cat(w.m("f")), "BY OTHERS'S, AND LONGER");
    w.remount();
    assert_eq!(cat(w.m("f")), "BY OTHERS'S, AND LONGER");
});

as_root!(a_copy_that_gets_another_name_is_on_the_disk_first, |w| {
    if !ours(w) {
        return;
    }
    unsynced_copy(w);
    sys::rename(w.m("f"), w.m("h"), 0).unwrap();
    reboot(w, 2);
    w.crash();
    assert_eq!(cat(w.m("h")), "THE UPPER'S, AND LONGER");
    assert!(cat(w.m("f")).starts_with("error"));
});

as_root!(a_lost_or_damaged_record_is_an_error_not_wrong_data, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    w.put(1, "f", pattern(100_000));
    w.put(1, "g", pattern(100_000));
    w.mount();
    poke(w.m("f"), 0, b"x");
    w.unmount();
    let dir = w.dir.join("work/cowl-blocks");
    for e in std::fs::read_dir(&dir).unwrap().flatten() {
        std::fs::write(e.path(), [b'?'; 8192]).unwrap();
    }
    w.start_again();
    assert_eq!(sys::lstat(w.m("f")).unwrap_err(), sys::Errno::EIO);
    assert!(std::fs::read(w.m("g")).unwrap() == pattern(100_000));
    w.unmount();
    for e in std::fs::read_dir(&dir).unwrap().flatten() {
        std::fs::remove_file(e.path()).unwrap();
    }
    w.start_again();
    assert_eq!(sys::lstat(w.m("f")).unwrap_err(), sys::Errno::EIO);
});

/// Two names of one lower file, of which one was written to and not synced.
fn unsynced_hard_link(w: &mut World) {
    w.put(1, "a", "the lower's");
    sys::link(w.l(1, "a"), w.l(1, "b")).unwrap();
    reboot(w, 1);
    w.mount();
    poke(w.m("a"), 0, b"THE UPPER'S");
    w.kill();
}

as_root!(after_a_crash_of_the_machine_all_names_of_an_unsynced_copy_show_the_lower, |w| {
    if !ours(w) {
        return;
    }
    unsynced_hard_link(w);
    std::fs::write(w.u("a"), "").unwrap();
    reboot(w, 2);
    w.start_again();
    // First by the name that is still the lower's.
    assert_eq!(cat(w.m("b")), "the lower's");
    assert_eq!(cat(w.m("a")), "the lower's");
});

as_root!(what_was_synced_by_another_name_of_an_unsynced_copy_stays, |w| {
    if !ours(w) {
        return;
    }
    unsynced_hard_link(w);
    w.start_again();
    let b = OpenOptions::new().write(true).open(w.m("b")).unwrap();
    b.write_all_at(b"SYNCED DATA", 0).unwrap();
    b.sync_all().unwrap();
    drop(b);
    w.kill();
    reboot(w, 2);
    w.start_again();
    assert_eq!(cat(w.m("a")), "SYNCED DATA");
});

as_root!(a_cut_that_was_killed_half_way_is_remembered, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(100_000);
    w.put(1, "f", &want);
    w.mount();
    poke(w.m("f"), 0, b"x");
    w.unmount();
    // Between the cut and the mark that says so.
    sys::truncate(w.u("f"), 40_000).unwrap();
    w.start_again();
    sys::truncate(w.m("f"), 80_000).unwrap();
    want[0] = b'x';
    want[40_000..].fill(0);
    want.truncate(80_000);
    assert!(std::fs::read(w.m("f")).unwrap() == want);
    w.remount();
    assert!(std::fs::read(w.m("f")).unwrap() == want, "the lower's data came back");
});

/// Thaws a filesystem, whatever happens.
struct Frozen(std::path::PathBuf);

impl Frozen {
    fn new(at: &std::path::Path) -> Frozen {
        run(Command::new("fsfreeze").arg("-f").arg(at));
        Frozen(at.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").arg("-u").arg(&self.0));
    }
}

as_root!(fsync_waits_for_whoever_brings_the_file_to_the_disk, |w| {
    if !ours(w) {
        return;
    }
    own_disk(w, &[]);
    reboot(w, 1);
    w.put(1, "f", "the lower's");
    w.mount();
    poke(w.m("f"), 0, b"THE UPPER'S");
    let frozen = Frozen::new(&w.dir);
    // Meanwhile the mount has begun by itself, and waits for the disk with the mark in its hands.
    std::thread::sleep(std::time::Duration::from_secs(7));
    let f = std::fs::File::open(w.m("f")).unwrap();
    let (done, finished) = std::sync::mpsc::channel();
    let syncing = std::thread::spawn(move || {
        f.sync_all().unwrap();
        let _listening = done.send(());
    });
    let early = finished.recv_timeout(std::time::Duration::from_secs(1)).is_ok();
    drop(frozen);
    syncing.join().unwrap();
    assert!(!early, "fsync returned although the mark was not on the disk");
    w.kill();
    reboot(w, 2);
    w.start_again();
    assert_eq!(cat(w.m("f")), "THE UPPER'S");
});
