//! A full disk under the upper: an operation that fails has done nothing, and freeing space helps.
//!
//! The disk is an ext4 with few inodes that are used up to an exact number once the layers stand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::cmp::Ordering;
use std::process::{Command, ExitStatus};

use cowl_tests::as_root;
use cowl_tests::mount::sys::{self, Errno};
use cowl_tests::mount::{World, cat};

/// Inodes of the small disk.
const INODES: &str = "160";

/// Puts the layers on a small disk of their own.
fn small(w: &mut World) {
    let image = w.dir.join("image");
    std::fs::File::create(&image).and_then(|f| f.set_len(8 << 20)).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-N", INODES]).arg(&image));
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&w.dir));
    for dir in ["upper", "work", "mnt", "ref", "fill"] {
        std::fs::create_dir(w.dir.join(dir)).unwrap();
    }
    w.set_lowers(2);
}

fn run(command: &mut Command) {
    let done = command.status();
    assert!(done.as_ref().is_ok_and(ExitStatus::success), "{command:?}: {done:?}");
}

/// Leaves exactly `free` inodes on it, by empty files beside the layers.
fn leave_inodes(w: &World, free: u64) {
    let free_now = || sys::statfs(&w.dir).unwrap().f_ffree;
    for n in 0.. {
        let filler = w.dir.join(format!("fill/{n}"));
        match free_now().cmp(&free) {
            Ordering::Greater => {
                drop(std::fs::File::options().create(true).append(true).open(filler).unwrap())
            }
            Ordering::Less => drop(std::fs::remove_file(filler)),
            Ordering::Equal => return,
        }
    }
}

/// A whiteout was made once, so that later ones cost no inode.
fn make_a_whiteout(w: &World) {
    sys::unlink(w.m("victim")).unwrap();
}

/// Each failing step of an operation is reached by one of these numbers of free inodes.
const FREE: std::ops::Range<u64> = 0..5;

as_root!(unlinking_a_hard_link_is_done_or_not_done, |w| {
    small(w);
    w.put(1, "victim", "");
    for n in FREE {
        w.put(1, &format!("{n}.a"), "same");
        for other in ["b", "c"] {
            sys::link(w.l(1, format!("{n}.a")), w.l(1, format!("{n}.{other}"))).unwrap();
        }
    }
    w.mount();
    make_a_whiteout(w);
    let mut outcomes = Vec::new();
    for n in FREE {
        let (a, b) = (w.m(format!("{n}.a")), w.m(format!("{n}.b")));
        leave_inodes(w, n);
        let done = sys::unlink(&a);
        leave_inodes(w, 50);
        let name = std::ffi::OsString::from(format!("{n}.a"));
        let listed = sys::names(w.m("")).unwrap().contains(&name);
        assert_eq!(listed, done.is_err(), "{n} inodes: unlink said {done:?}");
        assert_eq!(sys::lstat(&a).is_ok(), done.is_err(), "{n} inodes: unlink said {done:?}");
        assert_eq!(cat(&b), "same");
        outcomes.push(done.is_ok());
    }
    assert_eq!(outcomes.last(), Some(&true), "{outcomes:?}");
    // A count that could not be recorded may be too high once the file was forgotten, never too
    // low: too high keeps a file in the index for longer, too low would lose it.
    let mut names = sys::names(w.m("")).unwrap();
    w.remount();
    let mut again = sys::names(w.m("")).unwrap();
    names.sort();
    again.sort();
    assert_eq!(names, again);
    for (n, done) in FREE.zip(outcomes) {
        let count = sys::lstat(w.m(format!("{n}.b"))).unwrap().st_nlink;
        assert!(count == 3 || (done && count == 2), "{n} inodes: {count} links");
    }
});

as_root!(a_rename_that_fails_leaves_source_and_target_usable, |w| {
    small(w);
    w.put(1, "victim", "");
    for n in FREE {
        w.put(1, &format!("a{n}/f"), "content");
        w.put(1, &format!("b{n}/gone"), "");
    }
    w.mount();
    make_a_whiteout(w);
    for n in FREE {
        sys::unlink(w.m(format!("b{n}/gone"))).unwrap();
        std::fs::write(w.m(format!("a{n}/new")), "x").unwrap();
    }
    let mut outcomes = Vec::new();
    for n in FREE {
        let (a, b) = (w.m(format!("a{n}")), w.m(format!("b{n}")));
        leave_inodes(w, n);
        let done = sys::rename(&a, &b, 0);
        leave_inodes(w, 50);
        if done.is_err() {
            assert_eq!(done, Err(Errno::ENOSPC));
            std::fs::write(b.join("works"), "").unwrap();
            sys::unlink(b.join("works")).unwrap();
            assert_eq!(cat(a.join("f")) + &cat(a.join("new")), "contentx");
            sys::rename(&a, &b, 0).unwrap();
        }
        assert_eq!(cat(b.join("f")) + &cat(b.join("new")), "contentx");
        outcomes.push(done.is_ok());
    }
    assert_eq!(outcomes.last(), Some(&true), "{outcomes:?}");
    w.same_after_remount();
});

as_root!(a_full_disk_can_be_mounted_read_and_cleaned, |w| {
    small(w);
    w.put(1, "lower", "below");
    w.mount();
    std::fs::write(w.m("mine"), "above").unwrap();
    leave_inodes(w, 0);
    w.remount();
    assert_eq!(cat(w.m("lower")) + &cat(w.m("mine")), "belowabove");
    assert_eq!(sys::mkdir(w.m("d"), 0o755), Err(Errno::ENOSPC));
    sys::unlink(w.m("mine")).unwrap();
    leave_inodes(w, 50);
    sys::unlink(w.m("lower")).unwrap();
    sys::mkdir(w.m("lower"), 0o755).unwrap();
    w.same_after_remount();
});

as_root!(a_copy_up_without_room_changes_nothing, |w| {
    small(w);
    w.put(1, "d/f", "content");
    w.mount();
    leave_inodes(w, 0);
    for done in [
        sys::chmod(w.m("d/f"), 0o600),
        sys::unlink(w.m("d/f")),
        sys::rename(w.m("d"), w.m("e"), 0),
        sys::truncate(w.m("d/f"), 0),
        sys::setxattr(w.m("d/f"), "user.a", b"1", 0),
        sys::link(w.m("d/f"), w.m("g")),
    ] {
        assert_eq!(done, Err(Errno::ENOSPC));
    }
    assert_eq!(cat(w.m("d/f")), "content");
    assert!(sys::names(w.u("")).unwrap().is_empty(), "the upper holds something");
    leave_inodes(w, 50);
    sys::rename(w.m("d"), w.m("e"), 0).unwrap();
    sys::truncate(w.m("e/f"), 3).unwrap();
    assert_eq!(cat(w.m("e/f")), "con");
    w.same_after_remount();
});
