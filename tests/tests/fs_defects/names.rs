//! Names, paths and layers that are unusual but legal (D24, D37, D38, D41).

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{age_all, cat, put};

both!(d24_names_are_bytes, |w| {
    let names: Vec<Vec<u8>> = vec![
        vec![0xff, 0xfe],
        b"a\nb".to_vec(),
        b" ".to_vec(),
        b"\\x41".to_vec(),
        vec![0xc3],
        vec![0x80; 200],
    ];
    for (i, n) in names.iter().enumerate() {
        put(&w.l(i % 2, OsStr::from_bytes(n)), n);
        put(&w.l(1, "d").join(OsStr::from_bytes(n)), "x");
        sys::symlink(OsStr::from_bytes(n), w.l(1, "d").join(format!("link{i}"))).unwrap();
        sys::setxattr(w.l(1, "d").join(OsStr::from_bytes(n)), "user.x", n, 0).unwrap();
    }
    w.mount();
    let before = w.view();
    assert_eq!(before.len(), 2 + names.len() * 3);
    for n in &names {
        let p = w.m("d").join(OsStr::from_bytes(n));
        assert_eq!(sys::getxattr(&p, "user.x").as_ref(), Ok(n));
        let mut to = n.clone();
        to.push(b'2');
        sys::rename(&p, w.m(OsStr::from_bytes(&to)), 0).unwrap();
        sys::unlink(w.m(OsStr::from_bytes(n))).unwrap();
    }
    w.remount();
    assert_eq!(sys::names(w.m("d")).unwrap().len(), names.len());
    for n in &names {
        let mut to = n.clone();
        to.push(b'2');
        assert_eq!(cat(w.m(OsStr::from_bytes(&to))), "x");
        assert!(sys::lstat(w.m(OsStr::from_bytes(n))).is_err());
    }
});

both!(d24_xattrs_work_without_proc, |w| {
    w.put(1, "f", "x");
    w.put(1, "d/g", "x");
    sys::setxattr(w.l(1, "f"), "user.a", b"1", 0).unwrap();
    w.mount();
    sys::mount("tmpfs", std::path::Path::new("/proc"), "tmpfs", 0, b"").unwrap();
    assert_eq!(sys::getxattr(w.m("f"), "user.a"), Ok(b"1".to_vec()));
    for p in ["f", "d", "d/g"] {
        sys::setxattr(w.m(p), "user.b", b"2", 0).unwrap_or_else(|e| panic!("{p}: {e}"));
        assert_eq!(sys::getxattr(w.m(p), "user.b"), Ok(b"2".to_vec()), "{p}");
        assert!(sys::listxattr(w.m(p)).unwrap().iter().any(|n| n == "user.b"));
        sys::removexattr(w.m(p), "user.b").unwrap();
        sys::chmod(w.m(p), 0o750).unwrap();
    }
    let fd = sys::open(w.m("d/new"), libc::O_CREAT | libc::O_RDWR, 0o600).unwrap();
    sys::fsetxattr(&fd, "user.c", b"3", 0).unwrap();
    sys::pwrite(&fd, 0, b"y").unwrap();
    drop(fd);
    std::fs::write(w.m("f"), "changed").unwrap();
    sys::link(w.m("f"), w.m("f2")).unwrap();
    sys::umount(std::path::Path::new("/proc"), 0).unwrap();
    assert_eq!(cat(w.m("f2")), "changed");
});

both!(d38_layers_without_xattrs_and_acls, |w| {
    // ramfs has neither.
    sys::mount("ramfs", &w.l(1, ""), "ramfs", 0, b"").unwrap();
    w.put(1, "d/f", "private");
    sys::chmod(w.l(1, "d/f"), 0o600).unwrap();
    sys::lchown(w.l(1, "d/f"), 1500, 1500).unwrap();
    sys::symlink("f", w.l(1, "d/l")).unwrap();
    age_all(&w.l(1, "d"));
    w.put(0, "d/g", "top");
    w.mount();
    assert_eq!(cat(w.m("d/f")), "private");
    assert_eq!(sys::names(w.m("d")).unwrap(), ["f", "g", "l"]);
    assert_eq!(sys::listxattr(w.m("d/f")), Ok(vec![]));
    let none = sys::getxattr(w.m("d/f"), "user.x");
    assert!(none == Err(Errno::ENODATA) || none == Err(Errno::EOPNOTSUPP), "{none:?}");
    let before = w.view();
    sys::chmod(w.m("d/f"), 0o600).unwrap();
    sys::rename(w.m("d/l"), w.m("d/l2"), 0).unwrap();
    sys::rename(w.m("d/l2"), w.m("d/l"), 0).unwrap();
    let after = w.view();
    assert_eq!(before[b"d/f".as_slice()], after[b"d/f".as_slice()]);
    std::fs::write(w.m("d/f"), "changed").unwrap();
    sys::setxattr(w.m("d/f"), "user.x", b"y", 0).unwrap();
    w.remount();
    assert_eq!(cat(w.m("d/f")), "changed");
    assert_eq!(sys::getxattr(w.m("d/f"), "user.x"), Ok(b"y".to_vec()));
});

both!(d41_names_too_long, |w| {
    w.put(1, "d/f", "x");
    w.mount();
    let long = "n".repeat(256);
    let e = Err(Errno::ENAMETOOLONG);
    assert_eq!(sys::lstat(w.m(&long)).map(|_| ()), e);
    assert_eq!(sys::open(w.m(&long), libc::O_CREAT | libc::O_WRONLY, 0o600).map(drop), e);
    assert_eq!(sys::mkdir(w.m(&long), 0o700), e);
    assert_eq!(sys::symlink("x", w.m(&long)), e);
    assert_eq!(sys::link(w.m("d/f"), w.m(&long)), e);
    assert_eq!(sys::rename(w.m("d"), w.m(&long), 0), e);
    assert_eq!(sys::unlink(w.m(&long)), e);
    assert_eq!(sys::rmdir(w.m(&long)), e);
    let path: String = "d/".repeat(2048);
    assert_eq!(sys::lstat(w.m(path)).map(|_| ()), e);
});

/// Makes a chain of directories by descriptors, and a file at its end.
fn deep(root: &std::path::Path, levels: usize, name: &str) -> sys::R<()> {
    let mut dir = sys::open(root, libc::O_DIRECTORY, 0)?;
    for _ in 0..levels {
        sys::mkdirat(dir.as_raw_fd(), name, 0o755)?;
        dir = sys::openat(dir.as_raw_fd(), name, libc::O_DIRECTORY, 0)?;
    }
    let fd = sys::openat(dir.as_raw_fd(), "end", libc::O_CREAT | libc::O_WRONLY, 0o644)?;
    sys::write(&fd, b"deep").map(drop)
}

both!(d41_deep_trees_in_a_lower, |w| {
    let name = "d".repeat(200);
    deep(&w.l(1, ""), 40, &name).unwrap();
    w.mount();
    let walk = |w: &cowl_tests::mount::World| {
        let mut dir = sys::open(w.m(""), libc::O_DIRECTORY, 0).unwrap();
        for _ in 0..40 {
            dir = sys::openat(dir.as_raw_fd(), &name, libc::O_DIRECTORY, 0).unwrap();
        }
        dir
    };
    let end = walk(w);
    let fd = sys::openat(end.as_raw_fd(), "end", libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::pread(&fd, 0, 10).unwrap(), b"deep");
    sys::pwrite(&fd, 0, b"DEEP").unwrap();
    sys::mkdirat(end.as_raw_fd(), "more", 0o755).unwrap();
    drop((fd, end));
    w.same_after_remount();
    let end = walk(w);
    let fd = sys::openat(end.as_raw_fd(), "end", libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::pread(&fd, 0, 10).unwrap(), b"DEEP");
    sys::unlinkat(end.as_raw_fd(), "end", 0).unwrap();
    sys::unlinkat(end.as_raw_fd(), "more", libc::AT_REMOVEDIR).unwrap();
    assert_eq!(sys::read_all_dirents(&end).unwrap().len(), 2);
    drop((fd, end));
    // The topmost directory is a lower one with all of that below it.
    sys::rename(w.m(&name), w.m("short"), 0).unwrap();
    w.same_after_remount();
    std::fs::remove_dir_all(w.m("short")).unwrap();
    w.remount();
    assert!(sys::names(w.m("")).unwrap().is_empty());
});

both!(d41_deep_trees_made_on_the_mount, |w| {
    w.mount();
    deep(&w.m(""), 600, "level").unwrap();
    w.same_after_remount();
    std::fs::remove_dir_all(w.m("level")).unwrap();
});
