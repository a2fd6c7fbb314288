//! Names: a file that lacks data finds it under whatever name it gets.

use std::process::Command;

use cowl_tests::mount::sys;
use cowl_tests::{as_root, both};

use super::{ours, own_disk, pattern, poke, records, run};

both!(a_partial_file_can_be_renamed_linked_and_moved_with_its_directory, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(50_000);
    w.put(1, "d/e/f", &want);
    w.put(1, "d/other", "x");
    w.put(0, "plain/x", "x");
    w.mount();
    poke(w.m("d/e/f"), 30_000, b"abc");
    want[30_000..30_003].copy_from_slice(b"abc");
    sys::rename(w.m("d/e/f"), w.m("plain/g"), 0).unwrap();
    sys::link(w.m("plain/g"), w.m("d/h")).unwrap();
    sys::rename(w.m("d"), w.m("plain/d"), 0).unwrap();
    let names = ["plain/g", "plain/d/h"];
    for name in names {
        assert!(std::fs::read(w.m(name)).unwrap() == want, "{name}");
    }
    w.remount();
    for name in names {
        assert!(std::fs::read(w.m(name)).unwrap() == want, "{name} after a remount");
    }
    poke(w.m("plain/d/h"), 10, b"later");
    want[10..15].copy_from_slice(b"later");
    w.crash();
    for name in names {
        assert!(std::fs::read(w.m(name)).unwrap() == want, "{name} after a crash");
    }
});

both!(hard_links_of_a_lower_share_their_blocks, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(50_000);
    w.put(1, "a", &want);
    sys::link(w.l(1, "a"), w.l(1, "b")).unwrap();
    sys::link(w.l(1, "a"), w.l(1, "c")).unwrap();
    w.mount();
    poke(w.m("a"), 30_000, b"abc");
    want[30_000..30_003].copy_from_slice(b"abc");
    assert!(std::fs::read(w.m("b")).unwrap() == want);
    w.remount();
    // By names that are still only the lower's.
    assert!(std::fs::read(w.m("b")).unwrap() == want);
    poke(w.m("c"), 5_000, b"def");
    want[5_000..5_003].copy_from_slice(b"def");
    sys::rename(w.m("b"), w.m("z"), 0).unwrap();
    std::fs::remove_file(w.m("a")).unwrap();
    w.remount();
    for name in ["c", "z"] {
        assert!(std::fs::read(w.m(name)).unwrap() == want, "{name}");
        assert_eq!(sys::lstat(w.m(name)).unwrap().st_nlink, 2);
    }
});

both!(a_file_put_over_a_partial_one_is_its_own, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    w.put(1, "a", pattern(50_000));
    w.put(1, "b", vec![7; 60_000]);
    w.mount();
    poke(w.m("a"), 0, b"A");
    poke(w.m("b"), 0, b"B");
    sys::rename(w.m("b"), w.m("a"), 0).unwrap();
    let mut want = vec![7; 60_000];
    want[0] = b'B';
    assert!(std::fs::read(w.m("a")).unwrap() == want);
    assert_eq!(records(w), 1);
    w.remount();
    assert!(std::fs::read(w.m("a")).unwrap() == want);
    std::fs::write(w.m("a"), "new").unwrap();
    assert_eq!(records(w), 0, "truncated to nothing: nothing is lacking");
});

as_root!(more_deleted_open_files_than_descriptors_leave_their_other_names_alone, |w| {
    const FILES: usize = 60;
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(50_000);
    for i in 0..FILES {
        w.put(1, &format!("f{i}"), &want);
    }
    w.mount();
    for i in 0..FILES {
        poke(w.m(format!("f{i}")), 100, b"new");
        sys::link(w.m(format!("f{i}")), w.m(format!("g{i}"))).unwrap();
    }
    w.unmount();
    let own = std::process::id().to_string();
    run(Command::new("prlimit").args(["--nofile=128:128", "--pid", &own]));
    w.start_again();
    // The other names are not known to this mount.
    let open = |i| std::fs::File::open(w.m(format!("f{i}"))).unwrap();
    let files: Vec<_> = (0..FILES).map(open).collect();
    for i in 0..FILES {
        std::fs::remove_file(w.m(format!("f{i}"))).unwrap();
    }
    drop(files);
    assert_eq!(records(w), FILES);
    w.remount();
    want[100..103].copy_from_slice(b"new");
    for i in 0..FILES {
        assert!(std::fs::read(w.m(format!("g{i}"))).unwrap() == want, "g{i}");
    }
});

as_root!(a_partial_file_goes_nowhere_where_its_mark_would_not_be_seen, |w| {
    if !ours(w) {
        return;
    }
    // Inodes without room for xattrs: each first one takes a block.
    own_disk(w, &["-I", "128", "-b", "1024"]);
    w.options.push("copyup=block:0".into());
    let mut want = pattern(50_000);
    w.put(1, "d/f", &want);
    w.put(1, "d/g", "x");
    w.mount();
    sys::mkdir(w.m("new"), 0o755).unwrap();
    poke(w.m("d/f"), 100, b"new");
    want[100..103].copy_from_slice(b"new");
    sys::rename(w.m("d/f"), w.m("d/h"), 0).unwrap();
    w.unmount();
    w.start_again();
    let filler = w.dir.join("filler");
    for size in [4096, 1] {
        use std::io::Write;
        let mut f = std::fs::File::options().create(true).append(true).open(&filler).unwrap();
        while f.write_all(&vec![1; size]).and_then(|()| f.sync_all()).is_ok() {}
    }
    let moved = sys::rename(w.m("d/h"), w.m("new/f"), 0);
    std::fs::remove_file(&filler).unwrap();
    w.remount();
    let now = if moved.is_ok() { w.m("new/f") } else { w.m("d/h") };
    assert!(std::fs::read(now).unwrap() == want, "{moved:?}");
    if moved.is_err() {
        sys::rename(w.m("d/h"), w.m("new/f"), 0).unwrap();
        w.remount();
        assert!(std::fs::read(w.m("new/f")).unwrap() == want);
    }
});
