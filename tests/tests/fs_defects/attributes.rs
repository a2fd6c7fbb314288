//! Modes, owners, times, xattrs and ACLs (D2–D5, D9, D16, D18, D20, D34).

use cowl_tests::both;
use cowl_tests::mount::jail::Mode;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{OLD, World, age, age_all};

fn mode(p: impl AsRef<std::path::Path>) -> u32 {
    sys::lstat(p).unwrap().st_mode & 0o7777
}

fn octal(modes: &[u32]) -> Vec<String> {
    modes.iter().map(|m| format!("{m:o}")).collect()
}

/// An ACL as the kernel stores it: user::rwx, user:1234:rw-, group::r-x, mask::rwx, other::---.
pub fn acl() -> Vec<u8> {
    let mut v = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, perm, id) in
        [(1_u16, 7_u16, none), (2, 6, 1234), (4, 5, none), (16, 7, none), (32, 0, none)]
    {
        v.extend_from_slice(&tag.to_le_bytes());
        v.extend_from_slice(&perm.to_le_bytes());
        v.extend_from_slice(&id.to_le_bytes());
    }
    v
}

both!(d02_copied_up_directories_keep_everything, |w| {
    for (name, m) in [("private", 0o700), ("sticky", 0o1777), ("setgid", 0o2755), ("odd", 0o4501)] {
        w.put(1, &format!("{name}/inner/f"), "x");
        for d in [name.to_owned(), format!("{name}/inner")] {
            let p = w.l(1, d);
            sys::lchown(&p, 1001, 1002).unwrap();
            sys::chmod(&p, m).unwrap();
            sys::setxattr(&p, "user.kept", b"\x00value", 0).unwrap();
            sys::setxattr(&p, "user.empty", b"", 0).unwrap();
            sys::setxattr(&p, "system.posix_acl_default", &acl(), 0).unwrap();
            age(&p);
        }
    }
    w.mount();
    let before = w.view();
    for name in ["private", "sticky", "setgid", "odd"] {
        sys::chmod(w.m(format!("{name}/inner/f")), 0o604).unwrap();
    }
    for _ in 0..2 {
        for name in ["private", "sticky", "setgid", "odd"] {
            for d in [name.to_owned(), format!("{name}/inner")] {
                let key = d.as_bytes().to_vec();
                assert_eq!(w.view()[&key], before[&key], "{d} after copy-up");
                let st = sys::lstat(w.u(&d)).unwrap();
                assert_eq!((st.st_mtime, st.st_mtime_nsec), OLD, "{d} in the upper");
            }
        }
        w.remount();
    }
});

both!(d02_copied_up_files_keep_everything, |w| {
    for (i, m) in [0o4755_u32, 0o2711, 0o6777, 0o1600, 0o000].iter().enumerate() {
        let p = w.put(1, &format!("f{i}"), "some content");
        sys::lchown(&p, 1001, 1002).unwrap();
        sys::chmod(&p, *m).unwrap();
        sys::setxattr(&p, "user.kept", b"v", 0).unwrap();
        sys::setxattr(&p, "user.empty", b"", 0).unwrap();
        age(&p);
    }
    w.mount();
    let before = w.view();
    for i in 0..5 {
        // A change that touches nothing but one xattr.
        sys::setxattr(w.m(format!("f{i}")), "user.new", b"", 0).unwrap();
        sys::removexattr(w.m(format!("f{i}")), "user.new").unwrap();
    }
    for _ in 0..2 {
        let d = cowl_tests::tree::diff(&before, &w.view(), cowl_tests::tree::Depth::View);
        assert!(d.is_empty(), "copy-up changed:\n{d}");
        w.remount();
    }
});

fn create_all_kinds(w: &World, dir: &str) -> Vec<u32> {
    let at = |n: &str| w.m(format!("{dir}/{n}"));
    drop(sys::open(at("f"), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o666).unwrap());
    sys::mkdir(at("d"), 0o777).unwrap();
    sys::mknod(at("p"), libc::S_IFIFO | 0o666, 0).unwrap();
    sys::mknod(at("s"), libc::S_IFSOCK | 0o777, 0).unwrap();
    sys::mknod(at("r"), libc::S_IFREG | 0o666, 0).unwrap();
    let modes = ["f", "d", "p", "s", "r"].iter().map(|n| mode(at(n))).collect();
    for n in ["f", "p", "s", "r"] {
        sys::unlink(at(n)).unwrap();
    }
    sys::rmdir(at("d")).unwrap();
    modes
}

both!(d03_umask_is_honoured, |w| {
    w.put(1, "lower/x", "");
    w.mount();
    sys::mkdir(w.m("upper"), 0o755).unwrap();
    for dir in ["lower", "upper"] {
        for mask in [0, 0o022, 0o027, 0o077, 0o777] {
            let old = sys::umask(mask);
            let got = create_all_kinds(w, dir);
            sys::umask(old);
            let want: Vec<_> =
                [0o666, 0o777, 0o666, 0o777, 0o666].iter().map(|m| m & !mask).collect();
            assert_eq!(got, want, "in {dir} with umask {mask:o}");
        }
    }
});

both!(d04_mknod_mode_is_exact, |w| {
    w.mount();
    sys::umask(0);
    for m in [0, 0o1, 0o600, 0o640, 0o4711, 0o7777] {
        for kind in [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFREG] {
            let name = w.m(format!("n{m:o}{kind:o}"));
            sys::mknod(&name, kind | m, 0).unwrap();
            assert_eq!(sys::lstat(&name).unwrap().st_mode, kind | m);
        }
    }
    let before = w.view();
    w.remount();
    assert_eq!(before, w.view());
});

both!(d04_mknod_devices, |w| {
    w.mount();
    let made = sys::mknod(w.m("null"), libc::S_IFCHR | 0o666, libc::makedev(1, 3));
    if w.mode == Mode::UserNs {
        assert_eq!(made, Err(Errno::EPERM));
        return;
    }
    made.unwrap();
    sys::mknod(w.m("blk"), libc::S_IFBLK | 0o600, libc::makedev(7, 300)).unwrap();
    for _ in 0..2 {
        assert_eq!(sys::lstat(w.m("null")).unwrap().st_rdev, libc::makedev(1, 3));
        assert_eq!(sys::lstat(w.m("blk")).unwrap().st_rdev, libc::makedev(7, 300));
        w.remount();
    }
});

fn suid_after(w: &mut World, layer: &str, act: impl FnOnce(&World) + Copy) -> Vec<u32> {
    let mut got = Vec::new();
    for (i, m) in [0o4777_u32, 0o2777, 0o6777, 0o2767].iter().enumerate() {
        let name = format!("{layer}{i}");
        let p = if layer == "lower" { w.l(1, &name) } else { w.u(&name) };
        std::fs::write(&p, "content").unwrap();
        sys::lchown(&p, 1001, 1001).unwrap();
        sys::chmod(&p, *m).unwrap();
        let r = w.r(&name);
        std::fs::write(&r, "content").unwrap();
        sys::lchown(&r, 1001, 1001).unwrap();
        sys::chmod(&r, *m).unwrap();
        got.push(*m);
    }
    w.mount();
    act(w);
    (0..got.len()).map(|i| mode(w.m(format!("{layer}{i}")))).collect()
}

fn suid_is_dropped(w: &mut World, layer: &'static str, how: fn(&std::path::Path)) {
    let act = move |w: &World| {
        for dir in [w.m(""), w.r("")] {
            for i in 0..4 {
                let p = dir.join(format!("{layer}{i}"));
                sys::as_user(2000, 2000, || how(&p));
            }
        }
    };
    let got = suid_after(w, layer, act);
    let want: Vec<_> = (0..4).map(|i| mode(w.r(format!("{layer}{i}")))).collect();
    assert_eq!(octal(&got), octal(&want), "as on a plain directory");
    let after: Vec<_> = {
        w.remount();
        (0..4).map(|i| mode(w.m(format!("{layer}{i}")))).collect()
    };
    assert_eq!(octal(&after), octal(&want), "after a remount");
}

fn write_it(p: &std::path::Path) {
    let fd = sys::open(p, libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, 1, b"new").unwrap();
}

fn append_it(p: &std::path::Path) {
    let fd = sys::open(p, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
    sys::write(&fd, b"new").unwrap();
}

fn truncate_it(p: &std::path::Path) {
    sys::truncate(p, 3).unwrap();
}

fn open_trunc_it(p: &std::path::Path) {
    drop(sys::open(p, libc::O_WRONLY | libc::O_TRUNC, 0).unwrap());
}

both!(d05_suid_dropped_by_write_to_a_lower_file, |w| {
    suid_is_dropped(w, "lower", write_it);
});
both!(d05_suid_dropped_by_write_to_an_upper_file, |w| {
    suid_is_dropped(w, "upper", write_it);
});
both!(d05_suid_dropped_by_append, |w| {
    suid_is_dropped(w, "upper", append_it);
});
both!(d05_suid_dropped_by_truncate_of_a_lower_file, |w| {
    suid_is_dropped(w, "lower", truncate_it);
});
both!(d05_suid_dropped_by_truncate_of_an_upper_file, |w| {
    suid_is_dropped(w, "upper", truncate_it);
});
both!(d05_suid_dropped_by_o_trunc, |w| {
    suid_is_dropped(w, "lower", open_trunc_it);
});

both!(d05_suid_dropped_by_chown, |w| {
    let act = |w: &World| {
        for dir in [w.m(""), w.r("")] {
            for i in 0..4 {
                sys::lchown(dir.join(format!("lower{i}")), 1005, 1006).unwrap();
            }
        }
    };
    let got = suid_after(w, "lower", act);
    let want: Vec<_> = (0..4).map(|i| mode(w.r(format!("lower{i}")))).collect();
    assert_eq!(octal(&got), octal(&want));
});

both!(d05_suid_dropped_by_chown_of_neither_owner_nor_group, |w| {
    let act = |w: &World| {
        for dir in [w.m(""), w.r("")] {
            for i in 0..4 {
                sys::lchown(dir.join(format!("lower{i}")), u32::MAX, u32::MAX).unwrap();
            }
        }
    };
    let got = suid_after(w, "lower", act);
    let want: Vec<_> = (0..4).map(|i| mode(w.r(format!("lower{i}")))).collect();
    assert_eq!(octal(&got), octal(&want));
});

both!(d05_capability_dropped_by_write_and_chown, |w| {
    // VFS_CAP_REVISION_2, effective, CAP_NET_RAW; the kernel turns it into revision 3 in a
    // user namespace.
    let mut cap = 0x0200_0001_u32.to_le_bytes().to_vec();
    cap.extend_from_slice(&(1_u32 << 13).to_le_bytes());
    cap.extend_from_slice(&[0; 12]);
    for n in ["a", "b", "c"] {
        let p = w.put(1, n, "content");
        sys::setxattr(&p, "security.capability", &cap, 0).unwrap();
    }
    w.mount();
    assert!(sys::getxattr(w.m("a"), "security.capability").is_ok());
    write_it(&w.m("a"));
    sys::lchown(w.m("b"), 1001, 1001).unwrap();
    sys::truncate(w.m("c"), 2).unwrap();
    for _ in 0..2 {
        for n in ["a", "b", "c"] {
            let got = sys::getxattr(w.m(n), "security.capability");
            assert_eq!(got, Err(Errno::ENODATA), "{n} keeps its capability");
        }
        w.remount();
    }
});

both!(d09_ids_are_the_same_in_every_reply, |w| {
    w.put(1, "d/x", "");
    sys::lchown(w.l(1, "d"), 33, 44).unwrap();
    w.mount();
    let fd = sys::open(w.m("d/new"), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    let by_fd = sys::fstat(&fd).unwrap();
    let by_name = sys::lstat(w.m("d/new")).unwrap();
    assert_eq!((by_fd.st_uid, by_fd.st_gid), (0, 0));
    assert_eq!((by_name.st_uid, by_name.st_gid), (0, 0));
    sys::fchown(&fd, 77, 88).unwrap();
    for st in [sys::fstat(&fd).unwrap(), sys::lstat(w.m("d/new")).unwrap()] {
        assert_eq!((st.st_uid, st.st_gid), (77, 88));
    }
    sys::link(w.m("d/new"), w.m("d/again")).unwrap();
    drop(fd);
    for _ in 0..2 {
        for (n, ids) in [("d", (33, 44)), ("d/new", (77, 88)), ("d/again", (77, 88))] {
            let st = sys::lstat(w.m(n)).unwrap();
            assert_eq!((st.st_uid, st.st_gid), ids, "{n}");
        }
        w.remount();
    }
});

both!(d09_new_files_belong_to_the_caller, |w| {
    w.put(1, "d/x", "");
    sys::chmod(w.l(1, "d"), 0o777).unwrap();
    w.mount();
    let p = w.m("d/by-user");
    sys::as_user(1234, 2345, || std::fs::write(&p, "x").unwrap());
    let st = sys::lstat(&p).unwrap();
    assert_eq!((st.st_uid, st.st_gid), (1234, 2345));
    let st = sys::lstat(w.u("d/by-user")).unwrap();
    assert_eq!((st.st_uid, st.st_gid), (1234, 2345), "in the upper");
});

both!(d16_setgid_directories_are_inherited, |w| {
    w.put(1, "d/x", "");
    sys::lchown(w.l(1, "d"), 0, 55).unwrap();
    sys::chmod(w.l(1, "d"), 0o2777).unwrap();
    w.mount();
    let at = w.m("d");
    sys::as_user(1234, 2345, || {
        std::fs::write(at.join("f"), "").unwrap();
        sys::mkdir(at.join("sub"), 0o755).unwrap();
        sys::symlink("x", at.join("l")).unwrap();
        std::fs::write(at.join("sub/f"), "").unwrap();
    });
    for n in ["f", "sub", "l", "sub/f"] {
        assert_eq!(sys::lstat(at.join(n)).unwrap().st_gid, 55, "{n}");
    }
    assert_eq!(mode(at.join("sub")), 0o2755);
    assert_eq!(mode(at.join("f")), 0o644);
});

both!(d18_default_acls_are_inherited, |w| {
    w.put(1, "d/x", "");
    sys::setxattr(w.l(1, "d"), "system.posix_acl_default", &acl(), 0).unwrap();
    std::fs::create_dir(w.r("d")).unwrap();
    sys::setxattr(w.r("d"), "system.posix_acl_default", &acl(), 0).unwrap();
    w.mount();
    for mask in [0o022, 0o077] {
        let old = sys::umask(mask);
        for dir in [w.m("d"), w.r("d")] {
            std::fs::write(dir.join(format!("f{mask}")), "").unwrap();
            sys::mkdir(dir.join(format!("s{mask}")), 0o770).unwrap();
        }
        sys::umask(old);
        for n in [format!("f{mask}"), format!("s{mask}")] {
            let (m, r) = (w.m("d").join(&n), w.r("d").join(&n));
            assert_eq!(format!("{:o}", mode(&m)), format!("{:o}", mode(&r)), "{n}");
            for x in ["system.posix_acl_access", "system.posix_acl_default"] {
                assert_eq!(sys::getxattr(&m, x), sys::getxattr(&r, x), "{x} of {n}");
            }
        }
    }
});

both!(d18_acl_decides_access, |w| {
    w.put(1, "f", "secret");
    sys::chmod(w.l(1, "f"), 0o600).unwrap();
    w.mount();
    let p = w.m("f");
    let read = |uid| sys::as_user(uid, 4321, || sys::open(&p, libc::O_RDONLY, 0).map(drop));
    assert_eq!(read(1234), Err(Errno::EACCES));
    sys::setxattr(&p, "system.posix_acl_access", &acl(), 0).unwrap();
    assert_eq!(read(1234), Ok(()));
    assert_eq!(read(1235), Err(Errno::EACCES));
});

both!(d20_birth_time_and_tmpfile_work_or_refuse, |w| {
    w.put(1, "d/x", "");
    w.mount();
    let st = sys::statx(w.m("d/x")).unwrap();
    if st.stx_mask & libc::STATX_BTIME != 0 {
        assert!(st.stx_btime.tv_sec > 0, "a birth time that is claimed must be one");
    }
    match sys::open(w.m("d"), libc::O_TMPFILE | libc::O_RDWR, 0o600) {
        Err(e) => assert_eq!(e, Errno::EOPNOTSUPP),
        Ok(fd) => {
            sys::pwrite(&fd, 0, b"nameless").unwrap();
            assert_eq!(sys::names(w.m("d")).unwrap(), ["x"]);
            sys::link_fd(&fd, w.m("d/named")).unwrap();
            drop(fd);
            w.remount();
            assert_eq!(cowl_tests::mount::cat(w.m("d/named")), "nameless");
        }
    }
});

both!(d34_chown_of_a_tree_is_exact, |w| {
    for i in 0..30 {
        let p = w.put(1, &format!("d{}/f{i}", i % 3), vec![b'x'; 10_000]);
        sys::chmod(&p, 0o640).unwrap();
    }
    age_all(&w.l(1, ""));
    w.mount();
    let before = w.view();
    for i in 0..30 {
        sys::lchown(w.m(format!("d{}/f{i}", i % 3)), 1500, 1600).unwrap();
    }
    for (path, mut want) in before {
        let name = String::from_utf8(path.clone()).unwrap();
        if name.contains("/f") {
            (want.uid, want.gid) = (1500, 1600);
        }
        assert_eq!(w.view()[&path], want, "{name}");
    }
});
