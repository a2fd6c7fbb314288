//! What must not cost in proportion to the data (D22, D25–D28, D35, D36): counted, not timed, wherever
//! counting is possible.

use std::path::Path;
use std::time::{Duration, Instant};

use cowl_tests::both;
use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{World, cat, put};

const BIG: u64 = 64 << 20;

/// Allocated bytes of everything below a directory, delayed allocation included.
fn allocated(p: &Path) -> u64 {
    if sys::lstat(p).unwrap().st_mode & libc::S_IFMT == libc::S_IFREG {
        sys::fsync(&sys::open(p, libc::O_RDONLY, 0).unwrap()).unwrap();
    }
    let st = sys::lstat(p).unwrap();
    let mut sum = st.st_blocks as u64 * 512;
    if st.st_mode & libc::S_IFMT == libc::S_IFDIR {
        for n in sys::names(p).unwrap() {
            sum += allocated(&p.join(n));
        }
    }
    sum
}

fn in_upper(w: &World) -> u64 {
    allocated(&w.u("")) + allocated(&w.dir.join("work"))
}

/// A lower file with `BIG` bytes of data that is really there.
fn big(w: &World, name: &str) {
    let p = w.put(1, name, "");
    let fd = sys::open(&p, libc::O_WRONLY, 0).unwrap();
    sys::fallocate(&fd, 0, 0, BIG as i64).unwrap();
    for at in (0..BIG).step_by(1 << 20) {
        sys::pwrite(&fd, at as i64, &[at as u8 | 1; 4096]).unwrap();
    }
}

fn copies_nothing(w: &mut World, act: fn(&World)) {
    w.in_memory();
    big(w, "big");
    big(w, "other/big");
    put(&w.l(0, "small"), "small");
    w.mount();
    let before = in_upper(w);
    let t = Instant::now();
    act(w);
    let took = t.elapsed();
    let grown = in_upper(w) - before;
    assert!(grown < 1 << 20, "{grown} bytes were allocated in the upper ({took:?})");
}

both!(d26_unlink_copies_nothing, |w| {
    copies_nothing(w, |w| {
        sys::unlink(w.m("big")).unwrap();
        std::fs::remove_dir_all(w.m("other")).unwrap();
    });
});

both!(d26_rename_over_copies_nothing, |w| {
    copies_nothing(w, |w| {
        sys::rename(w.m("small"), w.m("big"), 0).unwrap();
        assert_eq!(cat(w.m("big")), "small");
        put(&w.m("new"), "new");
        sys::rename(w.m("new"), w.m("other/big"), 0).unwrap();
    });
});

both!(d26_open_with_o_trunc_copies_nothing, |w| {
    copies_nothing(w, |w| {
        drop(sys::open(w.m("big"), libc::O_WRONLY | libc::O_TRUNC, 0).unwrap());
        std::fs::write(w.m("other/big"), "short").unwrap();
        assert_eq!((cat(w.m("big")), cat(w.m("other/big"))), (String::new(), "short".into()));
    });
});

both!(d26_truncate_to_nothing_copies_nothing, |w| {
    copies_nothing(w, |w| {
        sys::truncate(w.m("big"), 0).unwrap();
        sys::truncate(w.m("other/big"), 100).unwrap();
        assert_eq!(sys::lstat(w.m("other/big")).unwrap().st_size, 100);
    });
});

both!(d26_rename_of_a_directory_copies_nothing, |w| {
    copies_nothing(w, |w| {
        sys::rename(w.m("other"), w.m("another"), 0).unwrap();
        assert_eq!(sys::lstat(w.m("another/big")).unwrap().st_size, BIG as i64);
    });
});

both!(d27_holes_stay_holes_in_copy_up, |w| {
    w.in_memory();
    let p = w.put(1, "holes", "start");
    let fd = sys::open(&p, libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, 16 << 20, b"middle").unwrap();
    sys::ftruncate(&fd, 32 << 20).unwrap();
    drop(fd);
    w.mount();
    let before = in_upper(w);
    let fd = sys::open(w.m("holes"), libc::O_RDWR, 0).unwrap();
    sys::pwrite(&fd, 5, b"ed").unwrap();
    sys::fsync(&fd).unwrap();
    assert_eq!(sys::pread(&fd, 16 << 20, 6).unwrap(), b"middle");
    assert_eq!(sys::fstat(&fd).unwrap().st_size, 32 << 20);
    let grown = in_upper(w) - before;
    assert!(grown < 4 << 20, "{grown} bytes were allocated for a file of holes");
    assert_eq!(sys::pread(&fd, 0, 8).unwrap(), b"started\0");
});

/// Read-like system calls of the filesystem process: at least one for each request.
fn requests(pid: i32) -> u64 {
    let s = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = s.lines().find(|l| l.starts_with("syscr")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

both!(d22_small_writes_are_gathered, |w| {
    w.put(1, "d/x", "");
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    let fd = sys::open(w.m("d/new"), libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    let before = requests(pid);
    for i in 0..256 {
        sys::pwrite(&fd, i * 4096, &[7; 4096]).unwrap();
    }
    let n = requests(pid) - before;
    assert!(n < 64, "256 writes of 4 KiB took {n} requests");
    sys::fsync(&fd).unwrap();
    assert_eq!(sys::lstat(w.u("d/new")).unwrap().st_size, 1 << 20);
});

both!(d25_negative_lookups_are_cached, |w| {
    w.set_lowers(21);
    for i in 0..21 {
        w.put(i, &format!("d/f{i}"), "x");
    }
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    sys::unlink(w.m("d/f20")).unwrap();
    let look = || {
        for i in 0..200 {
            assert!(sys::lstat(w.m(format!("d/none{i}"))).is_err());
        }
    };
    look();
    let before = requests(pid);
    look();
    look();
    let n = requests(pid) - before;
    assert!(n < 40, "400 repeated negative lookups took {n} requests");
});

both!(d28_a_big_copy_up_does_not_stop_others, |w| {
    w.in_memory();
    for n in ["big", "big2", "big3"] {
        let p = w.put(1, n, "");
        let chunk = vec![1_u8; 1 << 20];
        let fd = sys::open(&p, libc::O_WRONLY, 0).unwrap();
        for i in 0..96 {
            sys::pwrite(&fd, i << 20, &chunk).unwrap();
        }
    }
    for i in 0..3000 {
        put(&w.l(1, format!("d/f{i}")), "");
    }
    w.mount();
    let mut most = Duration::ZERO;
    let mut done = 0;
    let mut took = Duration::ZERO;
    std::thread::scope(|s| {
        let copier = s.spawn(|| {
            let t = Instant::now();
            for n in ["big", "big2", "big3"] {
                let fd = sys::open(w.m(n), libc::O_WRONLY, 0).unwrap();
                sys::pwrite(&fd, 5, b"x").unwrap();
            }
            t.elapsed()
        });
        while !copier.is_finished() && done < 3000 {
            let t = Instant::now();
            // A name never looked up before, so the filesystem has to answer.
            sys::lstat(w.m(format!("d/f{done}"))).unwrap();
            most = most.max(t.elapsed());
            done += 1;
        }
        took = copier.join().unwrap();
    });
    assert!(
        most < Duration::from_millis(30) || most < took / 4,
        "a stat took {most:?} during copy-ups of {took:?} ({done} stats done)"
    );
});

both!(d36_five_hundred_layers, |w| {
    w.set_lowers(500);
    for i in 0..500 {
        w.put(i, &format!("d/f{i}"), i.to_string());
        w.put(i, "same", i.to_string());
    }
    w.mount();
    assert_eq!(sys::names(w.m("d")).unwrap().len(), 500);
    assert_eq!((cat(w.m("same")), cat(w.m("d/f499"))), ("0".into(), "499".into()));
    sys::unlink(w.m("same")).unwrap();
    sys::rename(w.m("d"), w.m("e"), 0).unwrap();
    w.remount();
    assert_eq!(sys::names(w.m("")).unwrap(), ["e"]);
    assert_eq!(cat(w.m("e/f250")), "250");
});

both!(d35_the_upper_holds_the_changes_and_nothing_else, |w| {
    for dir in ["etc", "usr/bin", "usr/share/doc", "var/lib"] {
        for n in 0..50 {
            w.put(1, &format!("{dir}/f{n}"), "x");
        }
    }
    w.mount();
    // Looking at all of it leaves nothing behind: a diff is a scan of the upper, not of the image.
    drop(w.view());
    std::fs::write(w.m("etc/f7"), "changed").unwrap();
    sys::unlink(w.m("usr/share/doc/f9")).unwrap();
    put(&w.m("var/lib/new"), "new");
    w.remount();
    drop(w.view());
    w.unmount();
    let mut found = Vec::new();
    let mut todo = vec![w.u("")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                todo.push(path.clone());
            }
            found.push(path.strip_prefix(w.u("")).unwrap().display().to_string());
        }
    }
    found.sort();
    let want = [
        "etc",
        "etc/f7",
        "usr",
        "usr/share",
        "usr/share/doc",
        "usr/share/doc/f9",
        "var",
        "var/lib",
        "var/lib/new",
    ];
    assert_eq!(found, want);
});
