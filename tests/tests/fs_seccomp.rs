//! Container engines' seccomp profiles are older than the kernel: younger system calls fail with
//! `ENOSYS`, or with `EPERM`, and the filesystem does the same without them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Sut, World, age_all, cat, jail, put};

/// setxattrat, getxattrat, listxattrat, removexattrat: Linux 6.13.
const XATTRAT: [libc::c_long; 4] = [463, 464, 465, 466];
/// Linux 6.6.
const FCHMODAT2: libc::c_long = 452;
/// Calls that a filter may know nothing of.
const YOUNG: [libc::c_long; 7] = [
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_copy_file_range,
    libc::SYS_close_range,
    libc::SYS_faccessat2,
    libc::SYS_renameat2,
    FCHMODAT2,
];

fn mount(w: &World, calls: &[libc::c_long], errno: Errno) {
    let lowers: Vec<_> = w.lowers().iter().map(|l| l.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        w.u("").display(),
        w.dir.join("work").display()
    );
    let mut cmd = Command::new(jail::program_inside());
    cmd.args(["-o", &options]).arg(w.m("")).stdin(Stdio::null());
    sys::forbid_calls(&mut cmd, calls, errno);
    let out = cmd.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn unmount(w: &World) {
    sys::umount(&w.m(""), 0).unwrap();
    // The layers are free once the program has ended.
    let upper = sys::open(w.u(""), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
    for _ in 0..500 {
        if sys::flock(&upper, libc::LOCK_EX | libc::LOCK_NB).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the filesystem goes on after the unmount");
}

fn seed(d: &Path) {
    for n in
        ["f", "gone", "moves", "d/one", "d/two", "e/x", "keep/y", "links/a", "swap", "tree/t/u"]
    {
        put(&d.join(n), n.repeat(100));
    }
    sys::link(d.join("links/a"), d.join("links/b")).unwrap();
    sys::symlink("f", d.join("s")).unwrap();
    for n in ["f", "d", "d/one"] {
        sys::setxattr(d.join(n), "user.mark", n.as_bytes(), 0).unwrap();
    }
    age_all(d);
}

/// What uses the calls that are forbidden, one way or another.
fn change(d: &Path, round: usize) {
    let n = |name: &str| d.join(name);
    std::fs::write(n("f"), format!("changed {round}")).unwrap();
    sys::setxattr(n("f"), "user.more", b"1", 0).unwrap();
    sys::removexattr(n("f"), "user.mark").unwrap_or(());
    std::fs::copy(n("d/two"), n(&format!("copy{round}"))).unwrap();
    sys::chmod(n("d/one"), 0o600).unwrap();
    std::fs::write(n("links/b"), format!("both {round}")).unwrap();
    if round == 0 {
        sys::unlink(n("gone")).unwrap();
        sys::rename(n("moves"), n("e/moved"), 0).unwrap();
        std::fs::remove_dir_all(n("keep")).unwrap();
        std::fs::remove_dir_all(n("tree")).unwrap();
        sys::lchown(n("s"), 3, 4).unwrap();
    } else {
        // Over whiteouts of the round before.
        sys::mkdir(n("keep"), 0o750).unwrap();
        put(&n("keep/new"), "new");
        put(&n("gone"), "again");
        sys::mkdir(n("other"), 0o755).unwrap();
        sys::rename(n("other"), n("tree"), 0).unwrap();
        assert_eq!(sys::rename(n("f"), n("gone"), libc::RENAME_NOREPLACE), Err(Errno::EEXIST));
        sys::rename(n("e"), n("e2"), 0).unwrap();
        sys::rename(n("gone"), n("swap"), 0).unwrap();
    }
    // Something without a name, which changes all the same.
    let fifo = n("fifo");
    sys::mknod(&fifo, libc::S_IFIFO | 0o600, 0).unwrap();
    let held = sys::open(&fifo, libc::O_RDWR, 0).unwrap();
    sys::unlink(&fifo).unwrap();
    sys::fchmod(&held, 0o640).unwrap();
    assert_eq!(sys::fstat(&held).unwrap().st_mode & 0o777, 0o640);
}

fn works(w: &mut World, calls: &[libc::c_long], errno: Errno) {
    if w.sut != Sut::Cowlfs {
        return;
    }
    seed(&w.l(1, ""));
    seed(&w.r(""));
    std::fs::create_dir(w.r("roots")).unwrap();
    std::fs::remove_dir(w.r("roots")).unwrap();
    for round in 0..2 {
        change(&w.r(""), round);
        mount(w, calls, errno);
        change(&w.m(""), round);
        let st = sys::lstat(w.r("")).unwrap();
        let times = (st.st_mtime, st.st_mtime_nsec);
        sys::utimens(w.m(""), times, times).unwrap();
        w.same_as_reference(&format!("{errno} round {round}"));
        unmount(w);
        // Whatever the marks were, the next mount may use all calls, and none may need them again.
        mount(w, &[], errno);
        w.same_as_reference(&format!("{errno} round {round}, mounted without a filter"));
        unmount(w);
    }
}

both!(calls_that_do_not_exist, |w| {
    works(w, &[&YOUNG[..], &XATTRAT].concat(), Errno::ENOSYS);
});

both!(calls_that_are_forbidden, |w| {
    works(w, &[&YOUNG[..], &XATTRAT].concat(), Errno::EPERM);
});

both!(a_working_directory_of_ones_own_is_forbidden_as_well, |w| {
    works(
        w,
        &[&XATTRAT[..], &[libc::SYS_unshare, FCHMODAT2, libc::SYS_statx]].concat(),
        Errno::EPERM,
    );
});

both!(devices_of_an_earlier_mount_stay_whiteouts, |w| {
    if w.sut != Sut::Cowlfs {
        return;
    }
    seed(&w.l(1, ""));
    mount(w, &[], Errno::EPERM);
    sys::unlink(w.m("gone")).unwrap();
    sys::unlink(w.m("f")).unwrap();
    std::fs::remove_dir_all(w.m("d")).unwrap();
    std::fs::remove_dir_all(w.m("tree")).unwrap();
    unmount(w);
    mount(w, &YOUNG, Errno::EPERM);
    for name in ["gone", "f", "d", "tree"] {
        assert_eq!(sys::lstat(w.m(name)).map(drop), Err(Errno::ENOENT), "{name}");
    }
    sys::mkdir(w.m("d"), 0o755).unwrap();
    sys::mkdir(w.m("plain"), 0o755).unwrap();
    sys::rename(w.m("plain"), w.m("tree"), 0).unwrap();
    put(&w.m("f"), "new");
    let check = |w: &World| {
        assert!(
            sys::names(w.m("d")).unwrap().is_empty() && sys::names(w.m("tree")).unwrap().is_empty()
        );
        assert_eq!(
            (cat(w.m("f")), sys::lstat(w.m("gone")).map(drop)),
            ("new".into(), Err(Errno::ENOENT))
        );
    };
    check(w);
    sys::unlink(w.m("swap")).unwrap();
    unmount(w);
    mount(w, &[], Errno::EPERM);
    check(w);
    assert_eq!(sys::lstat(w.m("swap")).map(drop), Err(Errno::ENOENT));
    assert!(!sys::names(w.m("")).unwrap().iter().any(|n| n.to_string_lossy().starts_with(".wh.")));
    unmount(w);
});
