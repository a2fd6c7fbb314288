//! Timestamps: exact, kept over copy-up, changed by exactly the operations that should.

use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{age_all, put};
use cowl_tests::{both, same};

same!(
    exact_to_the_nanosecond_and_far_away,
    |d| {
        put(&d.join("f"), "x");
        put(&d.join("dir/g"), "x");
        sys::symlink("f", d.join("l")).unwrap();
        age_all(d);
    },
    |d, log| {
        for n in ["f", "dir", "l"] {
            for t in [(0, 0), (-1, 999_999_999), (-2_000_000_000, 1), (1_234_567_890, 987_654_321)]
            {
                log.r("set", sys::utimens(d.join(n), t, t));
                let st = sys::lstat(d.join(n)).unwrap();
                log.r(n, (st.st_atime, st.st_atime_nsec, st.st_mtime, st.st_mtime_nsec));
            }
        }
        let omit = (0, libc::UTIME_OMIT);
        log.r("only mtime", sys::utimens(d.join("f"), omit, (77, 7)));
        log.r("only atime", sys::utimens(d.join("f"), (88, 8), omit));
        let st = sys::lstat(d.join("f")).unwrap();
        log.r("both", (st.st_atime, st.st_atime_nsec, st.st_mtime, st.st_mtime_nsec));
        log.r("bad nanoseconds", sys::utimens(d.join("f"), (0, 1_000_000_000), (0, 0)));
        log.r("now", sys::utimens(d.join("dir/g"), (0, libc::UTIME_NOW), (0, libc::UTIME_NOW)));
    }
);

same!(
    a_time_set_after_a_write_stays,
    |d| {
        put(&d.join("f"), vec![b'x'; 100_000]);
        put(&d.join("g"), vec![b'x'; 100_000]);
    },
    |d, log| {
        // As tar and rsync do: write, set the time, close; nothing written back later may move it.
        for n in ["f", "g", "new"] {
            let fd = sys::open(d.join(n), libc::O_RDWR | libc::O_CREAT, 0o644).unwrap();
            log.r("write", sys::pwrite(&fd, 10, &vec![b'y'; 50_000]));
            log.r("set", sys::futimens(&fd, (5, 5), (6, 6)));
            drop(fd);
            log.r("mtime", sys::lstat(d.join(n)).unwrap().st_mtime);
            let fd = sys::open(d.join(n), libc::O_RDONLY, 0).unwrap();
            log.r("sync", sys::fsync(&fd));
            log.r("mtime after fsync", sys::lstat(d.join(n)).unwrap().st_mtime);
        }
    }
);

both!(who_changes_what, |w| {
    for n in ["f", "g", "dir/h"] {
        w.put(1, n, "content");
    }
    w.mount();
    let times = |n: &str| {
        let st = sys::lstat(w.m(n)).unwrap();
        ((st.st_mtime, st.st_mtime_nsec), (st.st_ctime, st.st_ctime_nsec))
    };
    let step = |n: &str, act: &dyn Fn()| {
        let before = times(n);
        std::thread::sleep(std::time::Duration::from_millis(12));
        act();
        let after = times(n);
        (after.0 != before.0, after.1 > before.1)
    };
    let meta = (false, true);
    let data = (true, true);
    assert_eq!(step("f", &|| sys::chmod(w.m("f"), 0o600).unwrap()), meta, "chmod");
    assert_eq!(step("f", &|| sys::lchown(w.m("f"), 1, 1).unwrap()), meta, "chown");
    assert_eq!(step("f", &|| sys::link(w.m("f"), w.m("f2")).unwrap()), meta, "link");
    assert_eq!(step("f", &|| sys::unlink(w.m("f2")).unwrap()), meta, "unlink of a twin");
    assert_eq!(step("f", &|| sys::setxattr(w.m("f"), "user.a", b"", 0).unwrap()), meta, "setxattr");
    assert_eq!(step("f", &|| std::fs::write(w.m("f"), "new").unwrap()), data, "write");
    assert_eq!(step("g", &|| sys::truncate(w.m("g"), 3).unwrap()), data, "truncate");
    assert_eq!(step("dir", &|| put(&w.m("dir/new"), "")), data, "create in a directory");
    assert_eq!(step("dir", &|| sys::unlink(w.m("dir/new")).unwrap()), data, "unlink in it");
    assert_eq!(step("dir", &|| sys::unlink(w.m("dir/h")).unwrap()), data, "unlink of a lower file");
    let fd = sys::open(w.m("g"), libc::O_RDWR, 0).unwrap();
    assert_eq!(step("g", &|| assert_eq!(sys::pwrite(&fd, 0, b"zz"), Ok(2))), data, "pwrite");
    assert_eq!(step("g", &|| drop(sys::pread(&fd, 0, 2).unwrap())), (false, false), "read");
});

both!(copy_up_of_a_child_does_not_touch_the_parent, |w| {
    w.put(1, "a/b/f", "x");
    w.put(1, "a/b/g", "x");
    w.mount();
    let before = (sys::lstat(w.m("a")).unwrap(), sys::lstat(w.m("a/b")).unwrap());
    sys::chmod(w.m("a/b/f"), 0o600).unwrap();
    std::fs::write(w.m("a/b/g"), "y").unwrap();
    for _ in 0..2 {
        for (n, b) in [("a", before.0), ("a/b", before.1)] {
            let st = sys::lstat(w.m(n)).unwrap();
            assert_eq!((st.st_mtime, st.st_mtime_nsec), (b.st_mtime, b.st_mtime_nsec), "{n}");
        }
        w.remount();
    }
});

both!(truncation_to_the_same_size, |w| {
    for n in ["by-fd", "by-name"] {
        w.put(1, n, "12345");
    }
    w.mount();
    let mtime = |n: &str| sys::lstat(w.m(n)).unwrap().st_mtime;
    let fd = sys::open(w.m("by-fd"), libc::O_WRONLY, 0).unwrap();
    sys::ftruncate(&fd, 5).unwrap();
    drop(fd);
    assert!(mtime("by-fd") > cowl_tests::tree::EXPLICIT_BEFORE, "ftruncate sets the time");
    // With the writeback cache Linux's FUSE keeps the time of a file whose size stays, as POSIX
    // once had it. What is shown must be what is kept.
    sys::truncate(w.m("by-name"), 5).unwrap();
    w.same_after_remount();
});
