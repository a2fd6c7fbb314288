//! Deletion over layers (D10–D13, D17, D31): nothing deleted ever returns, nothing is hidden that
//! should show, and the upper holds no marks it does not need.

use std::ffi::OsString;
use std::path::Path;

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{World, cat, jail::Mode, put};
use cowl_tests::tree::{self, Depth};

fn whiteout(p: &Path) {
    std::fs::create_dir_all(p.parent().unwrap()).unwrap();
    sys::mknod(p, libc::S_IFCHR, 0).unwrap();
}

fn opaque(w: &World, p: &Path) {
    std::fs::create_dir_all(p).unwrap();
    let name = match w.mode {
        Mode::Root => "trusted.overlay.opaque",
        Mode::UserNs => "user.overlay.opaque",
    };
    sys::setxattr(p, name, b"y", 0).unwrap();
}

/// Every mark of a deletion in the upper, in whatever form.
fn marks(w: &World) -> Vec<String> {
    let mut v = Vec::new();
    for (p, e) in tree::read(&w.u(""), Depth::Digest) {
        let name = String::from_utf8_lossy(&p).into_owned();
        let base = name.rsplit('/').next().unwrap_or_default();
        let device = e.mode & libc::S_IFMT == libc::S_IFCHR && e.rdev == 0;
        let by_xattr = e.xattrs.keys().any(|k| k.to_string_lossy().contains("overlay.whiteout"));
        if device || by_xattr || base.starts_with(".wh.") {
            v.push(name);
        }
    }
    v
}

fn names(p: impl AsRef<Path>) -> Vec<OsString> {
    sys::names(p).unwrap()
}

both!(d10_leftovers_in_workdir_do_no_harm, |w| {
    w.put(1, "d/f", "x");
    w.mount();
    sys::mkdir(w.m("one"), 0o755).unwrap();
    w.unmount();
    // What a killed filesystem may leave, at the top of workdir and one below.
    for sub in ["", "work"] {
        let dir = w.dir.join("work").join(sub);
        std::fs::create_dir_all(&dir).unwrap();
        for i in 0..30 {
            put(&dir.join(i.to_string()), "left");
            put(&dir.join(format!("#{i:x}")), "left");
            put(&dir.join(format!("dir{i}/x")), "left");
        }
    }
    w.mount();
    for n in ["two", "d/three"] {
        sys::mkdir(w.m(n), 0o755).unwrap();
        put(&w.m(n).join("f"), "x");
    }
    sys::chmod(w.m("d/f"), 0o600).unwrap();
    sys::unlink(w.m("d/f")).unwrap();
    for i in 0..40 {
        put(&w.m(format!("d/{i}")), "x");
        sys::mkdir(w.m(format!("dir{i}")), 0o755).unwrap();
    }
});

both!(d11_moved_directory_shows_nothing_of_its_new_place, |w| {
    w.put(1, "target/deleted", "lower");
    w.put(1, "target/sub/deep", "lower");
    w.mount();
    sys::mkdir(w.m("new"), 0o755).unwrap();
    put(&w.m("new/mine"), "x");
    std::fs::remove_dir_all(w.m("target")).unwrap();
    sys::rename(w.m("new"), w.m("target"), 0).unwrap();
    assert_eq!(names(w.m("target")), ["mine"]);
    w.remount();
    assert_eq!(names(w.m("target")), ["mine"]);
    assert_eq!(sys::lstat(w.m("target/sub")).map(|_| ()), Err(Errno::ENOENT));
});

both!(d11_recreated_directory_is_empty, |w| {
    w.put(1, "d/a", "lower");
    w.put(0, "d/b", "lower");
    w.put(1, "d/s/c", "lower");
    w.mount();
    std::fs::remove_dir_all(w.m("d")).unwrap();
    sys::mkdir(w.m("d"), 0o755).unwrap();
    assert!(names(w.m("d")).is_empty());
    sys::mkdir(w.m("d/s"), 0o755).unwrap();
    w.remount();
    assert_eq!(names(w.m("d")), ["s"]);
    assert!(names(w.m("d/s")).is_empty());
    assert_eq!(sys::lstat(w.m("d/a")).map(|_| ()), Err(Errno::ENOENT));
});

both!(d12_opaque_middle_layer_is_remembered, |w| {
    w.set_lowers(3);
    w.put(2, "d/bottom", "x");
    w.put(2, "d/both", "bottom");
    opaque(w, &w.l(1, "d"));
    w.put(1, "d/middle", "x");
    w.put(1, "d/both", "middle");
    w.put(0, "d/top", "x");
    w.mount();
    let all = ["both", "middle", "top"];
    assert_eq!(names(w.m("d")), all);
    sys::unlink(w.m("d/both")).unwrap();
    assert_eq!(names(w.m("d")), ["middle", "top"]);
    assert_eq!(sys::lstat(w.m("d/bottom")).map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(cat(w.m("d/both")), "error: entity not found");
    w.remount();
    assert_eq!(names(w.m("d")), ["middle", "top"]);
    sys::chmod(w.m("d"), 0o700).unwrap();
    put(&w.m("d/bottom"), "mine");
    w.remount();
    assert_eq!(cat(w.m("d/bottom")), "mine");
    sys::unlink(w.m("d/bottom")).unwrap();
    w.remount();
    assert_eq!(names(w.m("d")), ["middle", "top"]);
});

both!(d12_whiteouts_of_lower_layers_hide, |w| {
    w.set_lowers(3);
    for n in ["gone", "back", "dir/x", "dir2/x"] {
        w.put(2, n, "bottom");
    }
    for n in ["gone", "back", "dir"] {
        whiteout(&w.l(1, n));
    }
    w.put(0, "back", "again");
    w.put(0, "dir/new", "top");
    w.mount();
    for _ in 0..2 {
        assert_eq!(names(w.m("")), ["back", "dir", "dir2"]);
        assert_eq!(cat(w.m("back")), "again");
        assert_eq!(names(w.m("dir")), ["new"]);
        assert_eq!(sys::lstat(w.m("gone")).map(|_| ()), Err(Errno::ENOENT));
        w.remount();
    }
    sys::unlink(w.m("back")).unwrap();
    put(&w.m("gone"), "mine");
    w.remount();
    assert_eq!(names(w.m("")), ["dir", "dir2", "gone"]);
});

both!(d13_no_whiteout_for_a_name_no_lower_has, |w| {
    w.put(1, "d/lower", "x");
    w.mount();
    put(&w.m("mine"), "x");
    sys::unlink(w.m("mine")).unwrap();
    sys::mkdir(w.m("mydir"), 0o755).unwrap();
    put(&w.m("mydir/f"), "x");
    std::fs::remove_dir_all(w.m("mydir")).unwrap();
    put(&w.m("d/mine"), "x");
    sys::rename(w.m("d/mine"), w.m("d/mine2"), 0).unwrap();
    sys::unlink(w.m("d/mine2")).unwrap();
    sys::symlink("t", w.m("d/link")).unwrap();
    sys::unlink(w.m("d/link")).unwrap();
    assert_eq!(marks(w), Vec::<String>::new());
});

both!(d13_no_whiteout_where_nothing_shows_through, |w| {
    w.set_lowers(3);
    w.put(2, "d/bottom", "x");
    opaque(w, &w.l(1, "d"));
    w.put(2, "gone", "x");
    whiteout(&w.l(1, "gone"));
    w.put(1, "e/x", "x");
    w.mount();
    // Hidden by the opaque middle layer, or by its whiteout: no mark of our own is needed.
    put(&w.m("d/bottom"), "mine");
    sys::unlink(w.m("d/bottom")).unwrap();
    put(&w.m("gone"), "mine");
    sys::unlink(w.m("gone")).unwrap();
    assert_eq!(marks(w), Vec::<String>::new());
    // Inside a directory that was made anew over a deleted one.
    std::fs::remove_dir_all(w.m("e")).unwrap();
    sys::mkdir(w.m("e"), 0o755).unwrap();
    put(&w.m("e/x"), "mine");
    sys::unlink(w.m("e/x")).unwrap();
    assert_eq!(marks(w), Vec::<String>::new());
    w.remount();
    assert!(names(w.m("d")).is_empty());
    assert!(names(w.m("e")).is_empty());
});

both!(d13_a_whiteout_where_one_is_needed, |w| {
    w.put(1, "a", "x");
    w.put(1, "d/b", "x");
    w.put(1, "e/c", "x");
    w.mount();
    sys::unlink(w.m("a")).unwrap();
    sys::unlink(w.m("d/b")).unwrap();
    std::fs::remove_dir_all(w.m("e")).unwrap();
    let marks = marks(w);
    for n in ["a", "d/b", "e"] {
        assert!(marks.iter().any(|m| m == n), "no whiteout for {n} in the upper: {marks:?}");
    }
    assert_eq!(marks.len(), 3, "{marks:?}");
});

both!(d17_a_renamed_source_stays_gone_after_a_crash, |w| {
    for i in 0..20 {
        w.put(1, &format!("d/f{i}"), format!("content {i}"));
    }
    w.mount();
    for i in 0..20 {
        sys::rename(w.m(format!("d/f{i}")), w.m(format!("d/g{i}")), 0).unwrap();
        if i % 5 == 4 {
            w.crash();
        }
        assert_eq!(sys::lstat(w.m(format!("d/f{i}"))).map(|_| ()), Err(Errno::ENOENT));
        assert_eq!(cat(w.m(format!("d/g{i}"))), format!("content {i}"));
        assert_eq!(names(w.m("d")).len(), 20);
    }
});

both!(d31_user_files_named_like_whiteouts, |w| {
    w.put(1, "x", "lower x");
    w.put(1, "d/y", "lower y");
    w.mount();
    put(&w.m(".wh.x"), "mine");
    put(&w.m("d/.wh.y"), "mine too");
    sys::mkdir(w.m("e"), 0o755).unwrap();
    put(&w.m("e/.wh..wh..opq"), "opq");
    put(&w.m("d/.wh..wh..opq"), "opq");
    for _ in 0..2 {
        assert_eq!(cat(w.m("x")), "lower x");
        assert_eq!(cat(w.m("d/y")), "lower y");
        assert_eq!(cat(w.m(".wh.x")), "mine");
        assert_eq!(cat(w.m("d/.wh.y")), "mine too");
        assert_eq!(cat(w.m("e/.wh..wh..opq")), "opq");
        assert_eq!(names(w.m("d")), [".wh..wh..opq", ".wh.y", "y"]);
        w.remount();
    }
    sys::unlink(w.m(".wh.x")).unwrap();
    sys::unlink(w.m("x")).unwrap();
    w.remount();
    assert_eq!(names(w.m("")), ["d", "e"]);
});

both!(d31_longest_names, |w| {
    let long: String = "n".repeat(255);
    let utf: String = format!("{}x", "é".repeat(127));
    w.put(1, &long, "lower");
    w.put(1, &format!("d/{utf}"), "lower");
    w.mount();
    assert_eq!(cat(w.m(&long)), "lower");
    sys::unlink(w.m(&long)).unwrap();
    sys::rename(w.m("d").join(&utf), w.m(&utf), 0).unwrap();
    put(&w.m("d").join("m".repeat(255)), "mine");
    std::fs::write(w.m(&utf), "changed").unwrap();
    w.remount();
    assert_eq!(sys::lstat(w.m(&long)).map(|_| ()), Err(Errno::ENOENT));
    assert_eq!(cat(w.m(&utf)), "changed");
    assert_eq!(names(w.m("d")), [OsString::from("m".repeat(255))]);
    put(&w.m(&long), "again");
    assert_eq!(cat(w.m(&long)), "again");
});
