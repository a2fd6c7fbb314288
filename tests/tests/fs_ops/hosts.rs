//! Layers on other filesystems than the machine's own: what each can and cannot store, and what can be
//! shared between layers (reflinks).

use std::path::Path;
use std::process::{Command, Stdio};

use cowl_tests::as_root;
use cowl_tests::mount::disk::{self, BTRFS, XFS, run};
use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{Log, World, age_all, put};

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i / 700 + i) as u8).collect()
}

/// An ACL with a named user, for `uid`.
fn acl(uid: u32) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, perm, id) in
        [(1_u16, 7_u16, none), (2, 5, uid), (4, 5, none), (16, 5, none), (32, 0, none)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

/// One of everything that every one of these filesystems can hold.
fn build(d: &Path) {
    put(&d.join("small"), "small");
    put(&d.join("big"), pattern(600_000));
    put(&d.join("empty"), "");
    put(&d.join("dir/sub/f"), "inside");
    put(&d.join("dir/g"), pattern(5000));
    put(&d.join("old"), "old");
    put(&d.join("gone/x"), "x");
    let fd = sys::open(d.join("sparse"), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    sys::pwrite(&fd, 1 << 20, b"middle").unwrap();
    sys::ftruncate(&fd, 3 << 20).unwrap();
    sys::link(d.join("small"), d.join("dir/hard")).unwrap();
    sys::symlink("dir/sub/f", d.join("link")).unwrap();
    sys::mknod(d.join("fifo"), libc::S_IFIFO | 0o640, 0).unwrap();
    sys::mknod(d.join("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)).unwrap();
    sys::setxattr(d.join("dir/g"), "user.a", b"value", 0).unwrap();
    sys::setxattr(d.join("dir"), "trusted.t", b"\0\xff", 0).unwrap();
    sys::setxattr(d.join("big"), "security.test", b"s", 0).unwrap();
    sys::chmod(d.join("old"), 0o6755).unwrap();
    sys::lchown(d.join("dir"), 5, 6).unwrap();
    sys::lchown(d.join("big"), 70_000, 80_000).unwrap();
    std::fs::write(d.join("dir/odd\n\u{fffd} name"), "odd").unwrap();
    age_all(d);
}

/// Changes of everything.
fn change(d: &Path, log: &mut Log) {
    let open = |n: &str| sys::open(d.join(n), libc::O_RDWR, 0).unwrap();
    log.r("write", sys::pwrite(&open("big"), 300_000, b"changed"));
    log.r("append", std::fs::write(d.join("small"), "small and more").is_ok());
    log.r("truncate", sys::truncate(d.join("dir/g"), 1234));
    log.r("sparse", sys::pwrite(&open("sparse"), 2 << 20, b"later"));
    log.r("chmod", sys::chmod(d.join("fifo"), 0o600));
    log.r("chown", sys::lchown(d.join("link"), 7, 8));
    log.r("suid", sys::lchown(d.join("old"), 9, 9));
    log.r("xattr", sys::setxattr(d.join("dir/g"), "user.b", b"new", 0));
    log.r("trusted", sys::setxattr(d.join("dir"), "trusted.t", b"changed", 0));
    log.r("removed", sys::removexattr(d.join("big"), "security.test"));
    log.r("acl", sys::setxattr(d.join("dir"), "system.posix_acl_default", &acl(77), 0));
    log.r("inherits", std::fs::write(d.join("dir/heir"), "x").is_ok());
    log.r("read the acl", sys::getxattr(d.join("dir/heir"), "system.posix_acl_access"));
    log.r("rename", sys::rename(d.join("dir/sub"), d.join("moved"), 0));
    log.r("exchange", sys::rename(d.join("empty"), d.join("old"), libc::RENAME_EXCHANGE));
    log.r("link", sys::link(d.join("big"), d.join("moved/big")));
    log.r("remove", std::fs::remove_dir_all(d.join("gone")).is_ok());
    log.r("again", sys::mkdir(d.join("gone"), 0o700));
    log.r("device", sys::mknod(d.join("gone/zero"), libc::S_IFCHR | 0o600, libc::makedev(1, 5)));
    log.r("symlink", sys::symlink("x".repeat(1000), d.join("long link")));
    let (from, to) = (open("big"), sys::open(d.join("copy"), libc::O_CREAT | libc::O_RDWR, 0o644));
    let to = to.unwrap();
    // How much one call copies is up to the filesystem.
    let mut done = 0;
    while done < 200_000 {
        let at = done as i64;
        done += sys::copy_file_range(&from, 4096 + at, &to, at, 200_000 - done).unwrap();
    }
    log.r("read", std::fs::read(d.join("copy")).map(|v| v.len()).ok());
}

/// Puts all layers, the reference too, on a disk of their own.
fn all_on(w: &mut World, megabytes: u64, mkfs: &[&str]) {
    let image = w.dir.join("image");
    disk::make(&image, megabytes, mkfs, &w.dir, "");
    for dir in ["upper", "work", "mnt", "ref"] {
        std::fs::create_dir(w.dir.join(dir)).unwrap();
    }
    w.set_lowers(2);
}

fn exercise(w: &mut World) {
    w.mount();
    w.same_as_reference("before anything");
    w.same(&change);
}

as_root!(lower_on_squashfs, |w| {
    build(&w.r(""));
    let (image, at) = (w.dir.join("squashfs"), w.l(1, ""));
    let mut make = Command::new("mksquashfs");
    run(make.arg(w.r("")).arg(&image).args(["-quiet", "-no-progress"]).stdout(Stdio::null()));
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
    // The merged root takes its attributes from the topmost layers; squashfs keeps whole seconds.
    for top in [w.r(""), w.u(""), w.l(0, "")] {
        cowl_tests::mount::age(&top);
    }
    whole_seconds(&w.r(""));
    whole_seconds(&w.u(""));
    exercise(w);
});

/// Takes the fractions off all times.
fn whole_seconds(d: &Path) {
    let st = sys::lstat(d).unwrap();
    if st.st_mode & libc::S_IFMT == libc::S_IFDIR {
        for n in sys::names(d).unwrap() {
            whole_seconds(&d.join(n));
        }
    }
    sys::utimens(d, (st.st_mtime, 0), (st.st_mtime, 0)).unwrap();
}

fn layers_and_reference(w: &mut World) {
    build(&w.r(""));
    build(&w.l(1, ""));
    let st = sys::lstat(w.r("")).unwrap();
    let time = (st.st_mtime, st.st_mtime_nsec);
    sys::utimens(w.u(""), time, time).unwrap();
}

as_root!(all_on_btrfs, |w| {
    all_on(w, 256, BTRFS);
    layers_and_reference(w);
    exercise(w);
});

as_root!(all_on_xfs, |w| {
    all_on(w, 320, XFS);
    layers_and_reference(w);
    exercise(w);
});

as_root!(upper_on_xfs_and_lower_elsewhere, |w| {
    let at = w.dir.join("disk");
    std::fs::create_dir(&at).unwrap();
    disk::make(&w.dir.join("image"), 320, XFS, &at, "");
    // The reference too: XFS shows how it keeps ACLs, in xattrs of its own.
    for d in ["upper", "work", "ref"] {
        std::fs::create_dir(at.join(d)).unwrap();
        std::fs::remove_dir(w.dir.join(d)).unwrap();
        std::os::unix::fs::symlink(at.join(d), w.dir.join(d)).unwrap();
    }
    build(&at.join("ref"));
    build(&w.l(1, ""));
    cowl_tests::mount::age(&at.join("upper"));
    exercise(w);
});

as_root!(the_largest_xattrs_on_xfs, |w| {
    all_on(w, 320, XFS);
    const MOST: usize = 65_536;
    let value = pattern(MOST);
    put(&w.l(1, "f"), "content");
    sys::setxattr(w.l(1, "f"), "user.lower", &value, 0).unwrap();
    for i in 0..400 {
        let name = format!("user.{i:03}.{}", "n".repeat(130));
        sys::setxattr(w.l(1, "f"), &name, b"v", 0).unwrap();
    }
    w.mount();
    let names = sys::listxattr(w.l(1, "f")).unwrap();
    assert_eq!(names.len(), 401);
    for _ in 0..2 {
        assert_eq!(sys::listxattr(w.m("f")).unwrap(), names);
        assert!(sys::getxattr(w.m("f"), "user.lower").unwrap() == value);
        w.remount();
    }
    sys::setxattr(w.m("f"), "user.upper", &value, 0).unwrap();
    assert_eq!(sys::setxattr(w.m("f"), "user.more", &[0; MOST + 1], 0), Err(sys::Errno::E2BIG));
    std::fs::write(w.m("f"), "changed").unwrap();
    for _ in 0..2 {
        assert_eq!(sys::listxattr(w.m("f")).unwrap().len(), 402);
        assert!(sys::getxattr(w.m("f"), "user.lower").unwrap() == value);
        assert!(sys::getxattr(w.m("f"), "user.upper").unwrap() == value);
        w.remount();
    }
});
