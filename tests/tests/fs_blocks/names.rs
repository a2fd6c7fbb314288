//! Names: a file that lacks data finds it under whatever name it gets.

use cowl_tests::both;
use cowl_tests::mount::sys;

use super::{ours, pattern, poke, records};

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
