//! The upper's filesystem turns read-only under the union, by hand or because it is broken.

use cowl_tests::as_root;
use cowl_tests::mount::disk::{EXT4, run};
use cowl_tests::mount::sys::{self, Cut, Errno, libc};
use cowl_tests::mount::{World, cat};

use crate::{power_on, upper_on_disk};

/// Every kind of change, each on names of its own.
fn changes(w: &World) -> Vec<(&'static str, sys::R<()>)> {
    let synced = |name: &str| {
        let fd = sys::open(w.m(name), libc::O_WRONLY | libc::O_APPEND, 0)?;
        sys::write(&fd, b"more")?;
        sys::fsync(&fd)
    };
    vec![
        ("write to a lower file", synced("a/lower")),
        ("write to an upper file", synced("upper")),
        ("create", sys::open(w.m("new"), libc::O_CREAT | libc::O_WRONLY, 0o644).map(drop)),
        ("mkdir", sys::mkdir(w.m("a/new"), 0o755)),
        ("symlink", sys::symlink("x", w.m("a/link"))),
        ("unlink lower", sys::unlink(w.m("a/gone"))),
        ("unlink upper", sys::unlink(w.m("upper2"))),
        ("rename", sys::rename(w.m("a"), w.m("b"), 0)),
        ("rename upper", sys::rename(w.m("upper"), w.m("upper3"), 0)),
        ("chmod", sys::chmod(w.m("a/lower"), 0o600)),
        ("chmod upper", sys::chmod(w.m("upper"), 0o600)),
        ("truncate", sys::truncate(w.m("a/lower"), 0)),
        ("xattr", sys::setxattr(w.m("upper"), "user.a", b"x", 0)),
        ("link", sys::link(w.m("upper"), w.m("upper4"))),
        ("times", sys::utimens(w.m("a/lower"), (1, 1), (2, 2))),
        ("rmdir", sys::rmdir(w.m("empty"))),
    ]
}

fn seed(w: &mut World) {
    w.put(1, "a/lower", "below");
    w.put(1, "a/gone", "below");
    w.put(1, "cold", "below");
    std::fs::create_dir(w.l(1, "empty")).unwrap();
    w.mount();
    for name in ["upper", "upper2"] {
        std::fs::write(w.m(name), "above").unwrap();
        sys::fsync(&sys::open(w.m(name), libc::O_RDONLY, 0).unwrap()).unwrap();
    }
}

as_root!(remounted_read_only_and_back, |w| {
    let disk = upper_on_disk(w, 32, EXT4, "");
    seed(w);
    // The program keeps files open that were written; a new one has written nothing.
    w.remount();
    assert_eq!(cat(w.m("upper")) + &cat(w.m("a/lower")), "abovebelow");
    let remount = |how: &str| {
        run(std::process::Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&disk));
    };
    remount("ro");
    for (what, done) in changes(w) {
        assert_eq!(done, Err(Errno::EROFS), "{what}");
    }
    assert_eq!(cat(w.m("upper2")) + &cat(w.m("cold")), "abovebelow");
    // The kernel keeps the size that a refused append would have given.
    assert_eq!(cat(w.m("a/lower")).trim_end_matches('\0'), "below");
    remount("rw");
    assert_eq!(sys::mkdir(w.m("works again"), 0o755), Ok(()));
    sys::rmdir(w.m("works again")).unwrap();
    w.remount();
    assert_eq!(cat(w.m("upper")) + &cat(w.m("a/lower")), "abovebelow");
    for (what, done) in changes(w) {
        // The renames before them took their files away.
        let gone = ["chmod", "chmod upper", "truncate", "xattr", "link", "times"].contains(&what);
        assert_eq!(done, if gone { Err(Errno::ENOENT) } else { Ok(()) }, "{what}");
    }
    w.same_after_remount();
    assert_eq!(cat(w.m("b/lower")) + &cat(w.m("upper3")), "belowmoreabovemore");
});

as_root!(a_broken_disk, |w| {
    let disk = upper_on_disk(w, 32, EXT4, "");
    seed(w);
    let held = sys::open(w.m("upper"), libc::O_RDWR, 0).unwrap();
    sys::shut_down(&sys::open(&disk, libc::O_RDONLY, 0).unwrap(), Cut::Power).unwrap();
    for (what, done) in changes(w) {
        assert!(matches!(done, Err(Errno::EIO | Errno::EROFS)), "{what}: {done:?}");
    }
    let done = sys::pwrite(&held, 0, b"x").and_then(|_| sys::fsync(&held));
    assert!(matches!(done, Err(Errno::EIO | Errno::EROFS)), "{done:?}");
    drop(held);
    // Lower files do not need the disk.
    assert_eq!(cat(w.m("cold")), "below");
    power_on(w, &disk, "");
    assert_eq!(cat(w.m("upper")) + &cat(w.m("upper2")), "aboveabove");
    assert_eq!(cat(w.m("a/lower")) + &cat(w.m("a/gone")), "belowbelow");
    assert_eq!(sys::names(w.m("")).unwrap(), ["a", "cold", "empty", "upper", "upper2"]);
    std::fs::write(w.m("a/lower"), "works").unwrap();
    w.same_after_remount();
});
