//! Renames over layers (D14, D29).

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{cat, put};

both!(d14_noreplace_onto_a_deleted_name, |w| {
    w.put(1, "a", "a");
    w.put(1, "gone", "gone");
    w.put(1, "there", "there");
    w.put(1, "dir/x", "x");
    w.mount();
    sys::unlink(w.m("gone")).unwrap();
    let flag = libc::RENAME_NOREPLACE;
    assert_eq!(sys::rename(w.m("a"), w.m("there"), flag), Err(Errno::EEXIST));
    sys::rename(w.m("a"), w.m("gone"), flag).unwrap();
    assert_eq!(cat(w.m("gone")), "a");
    put(&w.m("new"), "new");
    sys::unlink(w.m("there")).unwrap();
    sys::rename(w.m("new"), w.m("there"), flag).unwrap();
    std::fs::remove_dir_all(w.m("dir")).unwrap();
    sys::mkdir(w.m("dir2"), 0o755).unwrap();
    sys::rename(w.m("dir2"), w.m("dir"), flag).unwrap();
    w.remount();
    assert_eq!((cat(w.m("gone")), cat(w.m("there"))), ("a".into(), "new".into()));
    assert_eq!(sys::names(w.m("")).unwrap(), ["dir", "gone", "there"]);
    assert!(sys::names(w.m("dir")).unwrap().is_empty());
});

both!(d14_exchange_with_lower_names, |w| {
    w.put(1, "a", "a");
    w.put(0, "b", "b");
    w.put(1, "d/f", "f");
    w.mount();
    put(&w.m("new"), "new");
    let flag = libc::RENAME_EXCHANGE;
    sys::rename(w.m("new"), w.m("a"), flag).unwrap();
    sys::rename(w.m("a"), w.m("b"), flag).unwrap();
    assert_eq!(sys::rename(w.m("a"), w.m("none"), flag), Err(Errno::ENOENT));
    sys::rename(w.m("d/f"), w.m("b"), flag).unwrap();
    for _ in 0..2 {
        let all: Vec<_> = ["new", "a", "b", "d/f"].iter().map(|n| cat(w.m(n))).collect();
        assert_eq!(all, ["a", "b", "f", "new"]);
        w.remount();
    }
    assert_eq!(sys::rename(w.m("a"), w.m("b"), flag | libc::RENAME_NOREPLACE), Err(Errno::EINVAL));
});

both!(d14_exchange_of_a_lower_directory_and_a_file, |w| {
    w.put(1, "d/f", "inside");
    w.put(1, "d/s/g", "deep");
    w.put(1, "file", "file");
    w.mount();
    sys::rename(w.m("d"), w.m("file"), libc::RENAME_EXCHANGE).unwrap();
    for _ in 0..2 {
        assert_eq!(cat(w.m("d")), "file");
        assert_eq!(cat(w.m("file/f")), "inside");
        assert_eq!(cat(w.m("file/s/g")), "deep");
        w.remount();
    }
});

both!(d29_rename_of_a_lower_directory, |w| {
    w.put(1, "pkg/a", "a");
    w.put(1, "pkg/s/b", "b");
    w.put(0, "pkg/s/c", "c");
    w.put(1, "other/x", "x");
    w.mount();
    sys::rename(w.m("pkg"), w.m("pkg.old"), 0).unwrap();
    for _ in 0..2 {
        assert_eq!(cat(w.m("pkg.old/a")), "a");
        assert_eq!(sys::names(w.m("pkg.old/s")).unwrap(), ["b", "c"]);
        assert_eq!(sys::lstat(w.m("pkg")).map(|_| ()), Err(Errno::ENOENT));
        w.remount();
    }
    // Into another lower directory, then a new one in the old place, then back over it.
    sys::rename(w.m("pkg.old"), w.m("other/pkg"), 0).unwrap();
    sys::mkdir(w.m("pkg"), 0o755).unwrap();
    assert!(sys::names(w.m("pkg")).unwrap().is_empty());
    put(&w.m("other/pkg/s/new"), "new");
    sys::unlink(w.m("other/pkg/a")).unwrap();
    w.remount();
    assert!(sys::names(w.m("pkg")).unwrap().is_empty());
    assert_eq!(sys::names(w.m("other/pkg")).unwrap(), ["s"]);
    assert_eq!(sys::names(w.m("other/pkg/s")).unwrap(), ["b", "c", "new"]);
    sys::rename(w.m("other/pkg"), w.m("pkg"), 0).unwrap();
    w.remount();
    assert_eq!(sys::names(w.m("pkg/s")).unwrap(), ["b", "c", "new"]);
    assert_eq!(sys::names(w.m("other")).unwrap(), ["x"]);
    assert_eq!(cat(w.m("pkg/s/c")), "c");
});

both!(d29_children_of_a_renamed_directory_rename_too, |w| {
    w.put(1, "a/b/c/f", "f");
    w.put(0, "a/b/g", "g");
    w.mount();
    sys::rename(w.m("a"), w.m("z"), 0).unwrap();
    sys::rename(w.m("z/b/c"), w.m("c"), 0).unwrap();
    sys::rename(w.m("z/b"), w.m("c/b"), 0).unwrap();
    for _ in 0..2 {
        assert_eq!(cat(w.m("c/f")), "f");
        assert_eq!(cat(w.m("c/b/g")), "g");
        assert_eq!(sys::names(w.m("c/b")).unwrap(), ["g"]);
        assert!(sys::names(w.m("z")).unwrap().is_empty());
        w.remount();
    }
    assert_eq!(sys::rename(w.m("c"), w.m("c/b/inside"), 0), Err(Errno::EINVAL));
    assert_eq!(sys::rename(w.m("z"), w.m("c"), 0), Err(Errno::ENOTEMPTY));
    sys::rename(w.m("c"), w.m("z"), 0).unwrap();
    w.remount();
    assert_eq!(cat(w.m("z/b/g")), "g");
});

both!(d29_two_lower_directories_swap_places, |w| {
    w.put(1, "a/in-a", "1");
    w.put(1, "b/in-b", "2");
    w.mount();
    sys::rename(w.m("a"), w.m("t"), 0).unwrap();
    sys::rename(w.m("b"), w.m("a"), 0).unwrap();
    sys::rename(w.m("t"), w.m("b"), 0).unwrap();
    for _ in 0..2 {
        assert_eq!(sys::names(w.m("a")).unwrap(), ["in-b"]);
        assert_eq!(sys::names(w.m("b")).unwrap(), ["in-a"]);
        w.remount();
    }
});

both!(d29_open_handles_follow_a_renamed_directory, |w| {
    use std::os::fd::AsRawFd;
    w.put(1, "a/f", "old");
    w.mount();
    let dir = sys::open(w.m("a"), libc::O_DIRECTORY, 0).unwrap();
    let file = sys::open(w.m("a/f"), libc::O_RDWR, 0).unwrap();
    sys::rename(w.m("a"), w.m("b"), 0).unwrap();
    sys::pwrite(&file, 0, b"NEW").unwrap();
    drop(sys::openat(dir.as_raw_fd(), "g", libc::O_CREAT | libc::O_WRONLY, 0o644).unwrap());
    assert_eq!(cat(w.m("b/f")), "NEW");
    assert_eq!(sys::names(w.m("b")).unwrap(), ["f", "g"]);
});
