//! fallocate, holes, and lseek with SEEK_DATA and SEEK_HOLE.

use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{Sut, World, put};
use cowl_tests::{both, same};

same!(
    fallocate_modes,
    |d| {
        put(&d.join("f"), vec![b'a'; 40_000]);
        put(&d.join("empty"), "");
    },
    |d, log| {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        for n in ["f", "empty"] {
            let fd = sys::open(d.join(n), libc::O_RDWR, 0).unwrap();
            let size =
                |l: &mut cowl_tests::mount::Log| l.r("size", sys::fstat(&fd).unwrap().st_size);
            log.r("plain", sys::fallocate(&fd, 0, 30_000, 20_000));
            size(log);
            log.r("keep size", sys::fallocate(&fd, keep, 40_000, 60_000));
            size(log);
            log.r("punch", sys::fallocate(&fd, keep | libc::FALLOC_FL_PUNCH_HOLE, 5_000, 10_000));
            log.r("punched", sys::pread(&fd, 4_990, 20));
            log.r("zero", sys::fallocate(&fd, libc::FALLOC_FL_ZERO_RANGE, 20_000, 5_000));
            log.r("zeroed", sys::pread(&fd, 19_990, 20));
            size(log);
            log.r("punch without keep", sys::fallocate(&fd, libc::FALLOC_FL_PUNCH_HOLE, 0, 10));
            log.r("length 0", sys::fallocate(&fd, 0, 0, 0));
            log.r("negative", sys::fallocate(&fd, 0, -1, 10));
        }
        let ro = sys::open(d.join("f"), libc::O_RDONLY, 0).unwrap();
        log.r("read-only", sys::fallocate(&ro, 0, 0, 10));
    }
);

/// Data at 1 MiB of 3, looked for before and after a change; what was found each time.
fn look_for_holes(w: &mut World) -> Vec<(i64, i64)> {
    let p = w.put(1, "f", "");
    let fd = sys::open(&p, libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, 1 << 20, &[1; 4096]).unwrap();
    sys::ftruncate(&fd, 3 << 20).unwrap();
    drop(fd);
    w.mount();
    let mut found = Vec::new();
    for round in 0..3 {
        let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
        // A filesystem may show no holes at all, but never data as a hole.
        let data = sys::lseek(&fd, 0, libc::SEEK_DATA).unwrap();
        assert!(data <= 1 << 20, "round {round}: data at {data}");
        let hole = sys::lseek(&fd, 1 << 20, libc::SEEK_HOLE).unwrap();
        assert!(hole >= (1 << 20) + 4096, "round {round}: hole at {hole}");
        found.push((data, hole));
        assert_eq!(sys::lseek(&fd, 3 << 20, libc::SEEK_DATA), Err(sys::Errno::ENXIO));
        if round == 0 {
            sys::pwrite(&fd, (1 << 20) + 5, b"x").unwrap();
            sys::fsync(&fd).unwrap();
        } else {
            drop(fd);
            w.remount();
        }
    }
    found
}

both!(data_is_never_shown_as_a_hole, |w| {
    look_for_holes(w);
});

both!(holes_are_found, |w| {
    if w.sut == Sut::Cowlfs {
        w.options.push("writeback=0".into());
    }
    let found = look_for_holes(w);
    if w.sut == Sut::Cowlfs {
        assert_eq!(found, [(1 << 20, (1 << 20) + 4096); 3]);
    }
});

both!(data_not_written_back_yet_is_found, |w| {
    w.put(1, "lower", vec![b'a'; 10]);
    w.mount();
    for n in ["new", "lower"] {
        let fd = sys::open(w.m(n), libc::O_RDWR | libc::O_CREAT, 0o644).unwrap();
        sys::pwrite(&fd, 0, &[b'x'; 100]).unwrap();
        sys::pwrite(&fd, 1 << 20, b"far").unwrap();
        let other = sys::open(w.m(n), libc::O_RDONLY, 0).unwrap();
        for fd in [&fd, &other] {
            assert_eq!(sys::lseek(fd, 50, libc::SEEK_DATA), Ok(50), "{n}");
            let hole = sys::lseek(fd, 0, libc::SEEK_HOLE).unwrap();
            assert!(hole >= 100, "{n}: data up to 100 shown as a hole at {hole}");
            assert_eq!(sys::lseek(fd, 1 << 20, libc::SEEK_DATA), Ok(1 << 20), "{n}");
            assert_eq!(sys::lseek(fd, (1 << 20) + 3, libc::SEEK_DATA), Err(sys::Errno::ENXIO));
        }
    }
});
