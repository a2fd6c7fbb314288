//! Extended attributes: sizes, flags, namespaces, and none of the filesystem's own showing.

use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Sut, age_all, jail::Mode, put};
use cowl_tests::{both, same};

same!(
    set_get_list_remove,
    |d| {
        put(&d.join("f"), "x");
        put(&d.join("d/g"), "x");
        sys::setxattr(d.join("f"), "user.a", b"one", 0).unwrap();
        sys::setxattr(d.join("d"), "user.a", b"\0\xff\n", 0).unwrap();
        age_all(d);
    },
    |d, log| {
        for n in ["f", "d", "d/g"] {
            let p = d.join(n);
            log.r("get", sys::getxattr(&p, "user.a"));
            log.r("length", sys::getxattr_sized(&p, "user.a", 0));
            log.r("too small", sys::getxattr_sized(&p, "user.a", 1));
            log.r("create", sys::setxattr(&p, "user.a", b"two", libc::XATTR_CREATE));
            log.r("replace", sys::setxattr(&p, "user.a", b"three", libc::XATTR_REPLACE));
            log.r("replace none", sys::setxattr(&p, "user.no", b"x", libc::XATTR_REPLACE));
            log.r("empty", sys::setxattr(&p, "user.empty", b"", 0));
            log.r("get empty", sys::getxattr(&p, "user.empty"));
            log.r("list", sys::listxattr(&p));
            log.r("remove", sys::removexattr(&p, "user.a"));
            log.r("remove again", sys::removexattr(&p, "user.a"));
            log.r("get removed", sys::getxattr(&p, "user.a"));
            log.r("2 KiB", sys::setxattr(&p, "user.big", &[7; 2048], 0));
            log.r("get 2 KiB", sys::getxattr(&p, "user.big"));
            log.r("bad namespace", sys::setxattr(&p, "nonsense.a", b"x", 0));
            log.r("no namespace", sys::setxattr(&p, "plain", b"x", 0));
            log.r(
                "name too long",
                sys::setxattr(&p, &format!("user.{}", "n".repeat(251)), b"x", 0),
            );
            log.r("longest name", sys::setxattr(&p, &format!("user.{}", "n".repeat(250)), b"x", 0));
            log.r(
                "by user",
                sys::as_user(3000, 3000, || {
                    (sys::setxattr(&p, "user.x", b"x", 0), sys::setxattr(&p, "trusted.x", b"x", 0))
                }),
            );
        }
        log.r("too large", sys::setxattr(d.join("f"), "user.huge", &[1; 65_537], 0));
    }
);

same!(
    sizes_and_limits,
    |d| {
        put(&d.join("f"), "x");
        put(&d.join("many"), "x");
        for i in 0..20 {
            sys::setxattr(d.join("many"), &format!("user.{i}.{}", "n".repeat(60)), b"v", 0)
                .unwrap();
        }
        age_all(d);
    },
    |d, log| {
        let f = d.join("f");
        for size in [0, 1, 255, 256, 1000, 3000, 4000, 4096, 20_000, 65_535, 65_536, 65_537] {
            let value: Vec<u8> = (0..size).map(|i| (i / 3) as u8).collect();
            log.r(&format!("set {size}"), sys::setxattr(&f, "user.v", &value, 0));
            log.r("length", sys::getxattr_sized(&f, "user.v", 0).map(|v| v.len()));
            log.r("get", sys::getxattr(&f, "user.v"));
            log.r("one byte short", sys::getxattr_sized(&f, "user.v", size.max(2) - 1));
        }
        let many = d.join("many");
        log.r("names", sys::listxattr(&many));
        log.r("length of the list", sys::listxattr_sized(&many, 0));
        log.r("room for a part", sys::listxattr_sized(&many, 100));
        for i in 0..20 {
            log.r("set", sys::setxattr(&many, &format!("user.{i}.{}", "n".repeat(60)), b"w", 0));
        }
        for i in 0..200 {
            // Until the host's filesystem has no room.
            let name = format!("user.more{i}.{}", "m".repeat(90));
            log.r("set more", sys::setxattr(&many, &name, &[b'v'; 30], 0));
        }
        log.r("names", sys::listxattr(&many));
        log.r("set once more", sys::setxattr(&many, "user.0.x", b"", libc::XATTR_CREATE));
        for i in (0..20).step_by(3) {
            log.r("remove", sys::removexattr(&many, &format!("user.{i}.{}", "n".repeat(60))));
        }
        log.r("names", sys::listxattr(&many));
    }
);

same!(
    on_symlinks_and_special_files,
    |d| {
        sys::symlink("f", d.join("l")).unwrap();
        sys::mknod(d.join("p"), libc::S_IFIFO | 0o644, 0).unwrap();
        put(&d.join("f"), "x");
    },
    |d, log| {
        for n in ["l", "p"] {
            log.r(n, sys::setxattr(d.join(n), "user.a", b"x", 0));
            log.r(n, sys::getxattr(d.join(n), "user.a"));
            log.r(n, sys::listxattr(d.join(n)));
        }
    }
);

both!(trusted_and_security, |w| {
    w.put(1, "f", "x");
    if w.mode == Mode::Root {
        sys::setxattr(w.l(1, "f"), "trusted.mine", b"1", 0).unwrap();
    }
    w.mount();
    let got = sys::getxattr(w.m("f"), "trusted.mine");
    if w.mode == Mode::UserNs {
        assert_eq!(sys::setxattr(w.m("f"), "trusted.new", b"2", 0), Err(Errno::EPERM));
        return;
    }
    assert_eq!(got, Ok(b"1".to_vec()));
    sys::setxattr(w.m("f"), "trusted.new", b"2", 0).unwrap();
    sys::setxattr(w.m("f"), "security.test", b"3", 0).unwrap();
    for _ in 0..2 {
        let names = ["security.test", "trusted.mine", "trusted.new"];
        assert_eq!(sys::listxattr(w.m("f")).unwrap(), names);
        w.remount();
    }
    // Another user does not even see the trusted ones.
    let p = w.m("f");
    let names = sys::as_user(3000, 3000, || sys::listxattr(&p)).unwrap();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with("trusted.")), "{names:?}");
});

both!(the_filesystems_own_marks_do_not_show, |w| {
    w.put(1, "d/f", "x");
    w.put(1, "gone/f", "x");
    w.put(1, "a", "x");
    sys::link(w.l(1, "a"), w.l(1, "b")).unwrap();
    w.mount();
    sys::rename(w.m("d"), w.m("e"), 0).unwrap_or_else(|e| assert_eq!(e, Errno::EXDEV));
    std::fs::remove_dir_all(w.m("gone")).unwrap();
    sys::mkdir(w.m("gone"), 0o755).unwrap();
    std::fs::write(w.m("a"), "y").unwrap();
    for (p, e) in w.view() {
        assert!(e.xattrs.is_empty(), "{}: {:?}", String::from_utf8_lossy(&p), e.xattrs);
    }
});

both!(marks_cannot_be_forged, |w| {
    w.put(1, "d/f", "x");
    w.mount();
    // Whatever the filesystem answers, the directory must not become opaque by it.
    for n in ["user.overlay.opaque", "trusted.overlay.opaque", "user.fuseoverlayfs.opaque"] {
        for at in ["d", ""] {
            let _: sys::R<()> = sys::setxattr(w.m(at), n, b"y", 0);
        }
    }
    std::fs::write(w.m("d/g"), "y").unwrap();
    w.remount();
    assert_eq!(sys::names(w.m("d")).unwrap(), ["f", "g"]);
});

/// An ACL that lets user 777 read what its group may not change.
fn acl_for_777() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 777),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

both!(noacl_neither_shows_nor_takes_acls, |w| {
    if w.sut != Sut::Cowlfs {
        return; // the option is fuse-overlayfs's and ours
    }
    let name = "system.posix_acl_access";
    w.put(1, "f", "x");
    sys::setxattr(w.l(1, "f"), name, &acl_for_777(), 0).unwrap();
    w.options = vec!["noacl".into()];
    w.mount();
    assert_eq!(sys::getxattr(w.m("f"), name), Err(Errno::EOPNOTSUPP));
    assert_eq!(sys::setxattr(w.m("f"), name, &acl_for_777(), 0), Err(Errno::EOPNOTSUPP));
    assert!(!sys::listxattr(w.m("f")).unwrap().iter().any(|n| n == name));
});

both!(acl_survives_copy_up, |w| {
    let acl = acl_for_777();
    w.put(1, "f", "x");
    sys::setxattr(w.l(1, "f"), "system.posix_acl_access", &acl, 0).unwrap();
    w.mount();
    std::fs::write(w.m("f"), "y").unwrap();
    for _ in 0..2 {
        assert_eq!(sys::getxattr(w.m("f"), "system.posix_acl_access"), Ok(acl.clone()));
        assert_eq!(sys::lstat(w.m("f")).unwrap().st_mode & 0o777, 0o640);
        w.remount();
    }
    sys::chmod(w.m("f"), 0o600).unwrap();
    let now = sys::getxattr(w.m("f"), "system.posix_acl_access").unwrap();
    // chmod sets the mask: the fourth entry's permissions.
    assert_eq!(now[4 + 3 * 8 + 2], 0, "the mask after chmod 600");
    sys::removexattr(w.m("f"), "system.posix_acl_access").unwrap();
    assert!(sys::getxattr(w.m("f"), "system.posix_acl_access").is_err());
});
