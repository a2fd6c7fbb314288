//! Listing directories: complete, without duplicates, while they change, from any position.

use std::collections::BTreeSet;
use std::ffi::OsString;

use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{World, put};
use cowl_tests::{as_root, both, same};

fn entries(w: &World, dir: &str) -> Vec<OsString> {
    sys::names(w.m(dir)).unwrap()
}

both!(layers_merge_once, |w| {
    w.set_lowers(3);
    for i in 0..3 {
        for j in 0..50 {
            w.put(i, &format!("d/f{}", j + i * 25), "");
        }
    }
    put(&w.u("d/f10"), "");
    put(&w.u("d/mine"), "");
    w.mount();
    let names = entries(w, "d");
    assert_eq!(names.len(), 101);
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), 101);
});

both!(small_buffers_and_seeking, |w| {
    for i in 0..300 {
        w.put(i % 2, &format!("d/name-{i:04}"), "");
    }
    w.mount();
    let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    let mut all = Vec::new();
    loop {
        let some = sys::getdents(&dir, 128).unwrap();
        if some.is_empty() {
            break;
        }
        all.extend(some);
    }
    assert_eq!(all.len(), 302);
    // telldir and seekdir: from the position after any entry come exactly the later ones.
    for i in [0, 1, 2, 57, 150, 299, 301] {
        sys::lseek(&dir, all[i].off, libc::SEEK_SET).unwrap();
        let rest = sys::read_all_dirents(&dir).unwrap();
        assert_eq!(rest.len(), 301 - i, "after entry {i}");
        assert!(rest.iter().zip(&all[i + 1..]).all(|(a, b)| a.name == b.name));
    }
    let offs: BTreeSet<_> = all.iter().map(|e| e.off).collect();
    assert_eq!(offs.len(), all.len(), "positions are unique");
});

both!(positions_stay_valid_while_names_go, |w| {
    for i in 0..400 {
        w.put(1, &format!("d/f{i:03}"), "");
    }
    w.mount();
    let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    let mut seen = Vec::new();
    let mut deleted = BTreeSet::new();
    loop {
        let some = sys::getdents(&dir, 512).unwrap();
        if some.is_empty() {
            break;
        }
        for e in some {
            if e.name != "." && e.name != ".." {
                // rm -r: what was just listed is deleted while the listing goes on.
                sys::unlink(w.m("d").join(&e.name)).unwrap();
                deleted.insert(e.name.clone());
                seen.push(e.name);
            }
        }
    }
    assert_eq!(seen.len(), 400, "every name came once although others were deleted");
    assert_eq!(deleted.len(), 400);
    assert!(entries(w, "d").is_empty());
    drop(dir);
    sys::rmdir(w.m("d")).unwrap();
});

both!(a_loop_that_renames_what_it_lists_ends, |w| {
    for i in 0..200 {
        w.put(i % 2, &format!("d/f{i}"), "");
    }
    w.mount();
    let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    let mut renamed = 0;
    loop {
        let some = sys::getdents(&dir, 512).unwrap();
        if some.is_empty() {
            break;
        }
        for e in some.into_iter().filter(|e| e.name != "." && e.name != "..") {
            renamed += 1;
            sys::rename(w.m("d").join(&e.name), w.m(format!("d/new{renamed}")), 0).unwrap();
        }
        assert!(renamed < 20_000, "the listing follows its own renames for ever");
    }
    assert_eq!(entries(w, "d").len(), 200);
});

both!(every_untouched_name_is_listed_while_others_change, |w| {
    for i in 0..500 {
        w.put(i % 2, &format!("d/keep{i}"), "");
        w.put(i % 2, &format!("d/go{i}"), "");
    }
    w.mount();
    let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    let mut seen: Vec<OsString> = Vec::new();
    let mut n = 0;
    loop {
        let some = sys::getdents(&dir, 700).unwrap();
        if some.is_empty() {
            break;
        }
        seen.extend(some.into_iter().map(|e| e.name));
        for _ in 0..15 {
            put(&w.m(format!("d/new{n}")), "");
            if n < 500 {
                sys::unlink(w.m(format!("d/go{}", 499 - n))).unwrap();
            }
            n += 1;
        }
        assert!(n < 20_000, "the listing does not end while names are added");
    }
    for i in 0..500 {
        let name = OsString::from(format!("keep{i}"));
        assert_eq!(seen.iter().filter(|s| **s == name).count(), 1, "{name:?}");
    }
    let unique: BTreeSet<_> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "a name was listed twice");
});

as_root!(two_hundred_thousand_names, |w| {
    w.in_memory();
    let (low, high) = (w.l(1, "d"), w.l(0, "d"));
    for d in [&low, &high] {
        std::fs::create_dir(d).unwrap();
    }
    for i in 0..100_000 {
        std::fs::File::create(low.join(format!("low{i}"))).unwrap();
        std::fs::File::create(high.join(format!("high{i}"))).unwrap();
    }
    w.mount();
    let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    let mut seen = 0;
    let mut n = 0;
    loop {
        let some = sys::getdents(&dir, 1 << 16).unwrap();
        if some.is_empty() {
            break;
        }
        let kept = |e: &&sys::Dirent| {
            let s = e.name.to_string_lossy();
            s.starts_with("low") || (s.starts_with("high") && s.ends_with('7'))
        };
        seen += some.iter().filter(kept).count();
        // A new name for every one that goes, a few between any two calls.
        for _ in 0..5.min(10_000 - n) {
            put(&w.m(format!("d/new{n}")), "");
            sys::unlink(w.m(format!("d/high{}", n * 10))).unwrap();
            n += 1;
        }
    }
    assert_eq!(seen, 110_000);
    drop(dir);
    w.remount();
    assert_eq!(entries(w, "d").len(), 200_000);
    assert_eq!(sys::names(w.u("d")).unwrap().len(), 2 * n);
});

same!(
    dot_and_dotdot,
    |d| {
        put(&d.join("a/b/f"), "");
    },
    |d, log| {
        let dir = sys::open(d.join("a/b"), libc::O_DIRECTORY, 0).unwrap();
        let mut list = sys::read_all_dirents(&dir).unwrap();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        log.r("entries", list.iter().map(|e| (e.name.clone(), e.kind)).collect::<Vec<_>>());
        let here = sys::lstat(d.join("a/b")).unwrap().st_ino;
        log.r(". is itself", list[0].ino == here);
        log.r(".. by path", {
            sys::lstat(d.join("a/b/..")).unwrap().st_ino == sys::lstat(d.join("a")).unwrap().st_ino
        });
        log.r("beyond the end", sys::getdents(&dir, 1024).map(|l| l.len()));
        sys::lseek(&dir, 0, libc::SEEK_SET).unwrap();
        log.r("read of a directory", sys::read(&dir, 10));
    }
);
