//! Ranges of files: every mode of fallocate, copy_file_range between layers, holes of lower and upper
//! together.

use cowl_tests::mount::Sut;
use cowl_tests::mount::put;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::{both, same};

const BLOCK: i64 = 4096;

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i / 512 + i) as u8 | 1).collect()
}

same!(
    every_mode_on_every_place,
    |d| {
        for mode in 0..5 {
            for place in 0..5 {
                put(&d.join(format!("{mode}.{place}")), pattern(10 * BLOCK as usize + 777));
            }
        }
    },
    |d, log| {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let modes = [
            0,
            keep,
            keep | libc::FALLOC_FL_PUNCH_HOLE,
            libc::FALLOC_FL_ZERO_RANGE,
            keep | libc::FALLOC_FL_ZERO_RANGE,
        ];
        let end = 10 * BLOCK + 777;
        let places = [
            (0, BLOCK),
            (BLOCK, 3 * BLOCK),
            (100, 5000),
            (end - 300, 20_000),
            (end + 3 * BLOCK + 5, 2 * BLOCK),
        ];
        for (m, mode) in modes.into_iter().enumerate() {
            for (p, (at, len)) in places.into_iter().enumerate() {
                let what = format!("mode {mode:x} at {at} for {len}");
                let fd = sys::open(d.join(format!("{m}.{p}")), libc::O_RDWR, 0).unwrap();
                log.r(&what, sys::fallocate(&fd, mode, at, len));
                log.r(&what, sys::fstat(&fd).unwrap().st_size);
                log.r(&what, sys::pread(&fd, 0, 100_000));
                // What was cached before must not come back.
                log.r(&what, sys::pwrite(&fd, at + 10, b"over"));
                log.r(&what, sys::pread(&fd, at - at % BLOCK, 2 * BLOCK as usize));
            }
        }
    }
);

both!(collapse_and_insert_work_or_refuse, |w| {
    for n in ["c", "i"] {
        w.put(1, n, pattern(8 * BLOCK as usize));
    }
    w.mount();
    let old = pattern(8 * BLOCK as usize);
    let two = 2 * BLOCK as usize;
    for (name, mode) in [("c", libc::FALLOC_FL_COLLAPSE_RANGE), ("i", libc::FALLOC_FL_INSERT_RANGE)]
    {
        let fd = sys::open(w.m(name), libc::O_RDWR, 0).unwrap();
        let done = sys::fallocate(&fd, mode, BLOCK, 2 * BLOCK);
        let mut want = old.clone();
        match done {
            Ok(()) if name == "c" => drop(want.drain(BLOCK as usize..BLOCK as usize + two)),
            Ok(()) => {
                want.splice(BLOCK as usize..BLOCK as usize, vec![0; two]);
            }
            Err(e) => assert_eq!(e, Errno::EOPNOTSUPP, "{name}"),
        }
        assert!(std::fs::read(w.m(name)).unwrap() == want, "{name}: {done:?}");
    }
    w.same_after_remount();
});

same!(
    copies_between_layers,
    |d| {
        put(&d.join("a"), pattern(100_000));
        put(&d.join("b"), pattern(50_000).into_iter().rev().collect::<Vec<_>>());
        put(&d.join("same"), pattern(60_000));
    },
    |d, log| {
        std::fs::write(d.join("new"), pattern(30_000)).unwrap();
        let open = |n: &str| sys::open(d.join(n), libc::O_RDWR, 0).unwrap();
        for (from, to) in [("a", "b"), ("b", "new"), ("new", "a"), ("a", "new"), ("a", "made")] {
            if to == "made" {
                std::fs::write(d.join(to), "").unwrap();
            }
            let (f, t) = (open(from), open(to));
            // Data that is only in the page cache on both sides.
            log.r("dirty", sys::pwrite(&f, 5000, b"dirty source"));
            log.r("dirty", sys::pwrite(&t, 9000, b"dirty target"));
            for (at, to_at, len) in
                [(0, 0, 4096), (4000, 8999, 5), (5000, 20_001, 9000), (40_000, 70_000, 30_000)]
            {
                // How much one call copies is up to the filesystem.
                let mut done = 0;
                let end = loop {
                    let left = len - done;
                    match sys::copy_file_range(&f, at + done as i64, &t, to_at + done as i64, left)
                    {
                        Ok(n) if n > 0 && n < left => done += n,
                        other => break other.map(|n| n + done),
                    }
                };
                log.r(&format!("{from} to {to} at {at} {to_at} {len}"), end);
            }
            log.r("source", sys::pread(&f, 0, 120_000));
            log.r("target", sys::pread(&t, 0, 120_000));
        }
        let s = open("same");
        log.r("within one file", sys::copy_file_range(&s, 0, &s, 30_000, 10_000));
        log.r("overlapping", sys::copy_file_range(&s, 0, &s, 100, 1000));
        log.r("beyond the end", sys::copy_file_range(&s, 1 << 20, &s, 0, 10));
        log.r("all", sys::pread(&s, 0, 60_000));
    }
);

/// The data ranges of a file, as a program that copies holes sees them.
fn ranges(p: &std::path::Path) -> Vec<(i64, i64)> {
    let fd = sys::open(p, libc::O_RDONLY, 0).unwrap();
    let (mut at, mut all) = (0, Vec::new());
    while let Ok(data) = sys::lseek(&fd, at, libc::SEEK_DATA) {
        at = sys::lseek(&fd, data, libc::SEEK_HOLE).unwrap();
        all.push((data, at));
    }
    all
}

both!(holes_of_lower_and_upper_together, |w| {
    const MIB: i64 = 1 << 20;
    let build = |p: &std::path::Path| {
        put(p, "");
        let fd = sys::open(p, libc::O_RDWR, 0).unwrap();
        for at in [1, 3, 5] {
            sys::pwrite(&fd, at * MIB, &[at as u8; 65_536]).unwrap();
        }
        sys::ftruncate(&fd, 8 * MIB).unwrap();
    };
    for p in [w.l(1, "f"), w.r("f")] {
        build(&p);
        cowl_tests::mount::age(&p);
    }
    if w.sut == Sut::Cowlfs {
        w.options.push("writeback=0".into()); // else holes are not shown
    }
    w.mount();
    if w.sut == Sut::Cowlfs {
        assert_eq!(ranges(&w.m("f")), ranges(&w.r("f")), "of the lower");
    }
    for p in [w.m("f"), w.r("f")] {
        let fd = sys::open(&p, libc::O_RDWR, 0).unwrap();
        sys::pwrite(&fd, 6 * MIB, &[6; 65_536]).unwrap();
        sys::pwrite(&fd, 3 * MIB + 100, b"inside").unwrap();
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        sys::fallocate(&fd, punch, 5 * MIB, 65_536).unwrap();
        sys::fsync(&fd).unwrap();
    }
    for _ in 0..2 {
        let (got, want) = (ranges(&w.m("f")), ranges(&w.r("f")));
        assert_eq!(got, want, "of both layers");
        assert!(std::fs::read(w.m("f")).unwrap() == std::fs::read(w.r("f")).unwrap());
        w.remount();
    }
});

both!(a_hole_of_a_tebibyte, |w| {
    // Nothing may walk through what is not there.
    const TIB: i64 = 1 << 40;
    w.put(1, "f", "start");
    w.mount();
    if sys::truncate(w.m("f"), TIB).is_err() {
        return; // more than the host's filesystem takes
    }
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    sys::pwrite(&fd, TIB - 3, b"end").unwrap();
    sys::fsync(&fd).unwrap();
    for _ in 0..2 {
        let fd = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
        assert_eq!(sys::fstat(&fd).unwrap().st_size, TIB);
        assert_eq!(sys::pread(&fd, 0, 6).unwrap(), b"start\0");
        assert_eq!(sys::pread(&fd, TIB - 4, 10).unwrap(), b"\0end");
        assert!(sys::fstat(&fd).unwrap().st_blocks < 100);
        drop(fd);
        drop(sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap());
    }
    drop(fd);
    if w.sut == Sut::Cowlfs {
        w.options.push("writeback=0".into()); // else holes are not shown
    }
    w.remount();
    let fd = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    assert!(sys::lseek(&fd, BLOCK, libc::SEEK_DATA).unwrap() > TIB - (1 << 20));
    drop(fd);
    sys::truncate(w.m("f"), 3).unwrap();
    assert_eq!(std::fs::read(w.m("f")).unwrap(), b"sta");
});
