//! Which file is which: open files without a name, hard links, inode numbers (D6–D8, D15, D21,
//! D23, D39, D43).

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{World, cat, put};

fn unlinked_file_works(w: &World, name: &str) {
    let fd = sys::open(w.m(name), libc::O_RDWR, 0).unwrap();
    let ino = sys::fstat(&fd).unwrap().st_ino;
    sys::unlink(w.m(name)).unwrap();
    assert_eq!(sys::lstat(w.m(name)).map(|_| ()), Err(Errno::ENOENT));
    let st = sys::fstat(&fd).unwrap();
    assert_eq!((st.st_ino, st.st_nlink, st.st_size), (ino, 0, 12), "{name}");
    assert_eq!(sys::pread(&fd, 0, 100).unwrap(), b"some content");
    sys::pwrite(&fd, 0, b"SOME").unwrap();
    assert_eq!(sys::pread(&fd, 0, 100).unwrap(), b"SOME content");
    sys::fchmod(&fd, 0o4321).unwrap();
    sys::fchown(&fd, 7, 8).unwrap();
    sys::ftruncate(&fd, 6).unwrap();
    sys::futimens(&fd, (5, 6), (7, 8)).unwrap();
    sys::fsetxattr(&fd, "user.x", b"y", 0).unwrap();
    let st = sys::fstat(&fd).unwrap();
    assert_eq!((st.st_uid, st.st_gid, st.st_size, st.st_mtime), (7, 8, 6, 7), "{name}");
    assert_eq!(st.st_mode & 0o777, 0o321);
    // A new file of the same name is another file.
    std::fs::write(w.m(name), "new").unwrap();
    assert_eq!(sys::pread(&fd, 0, 100).unwrap(), b"SOME c");
    assert_eq!(cat(w.m(name)), "new");
    sys::unlink(w.m(name)).unwrap();
    sys::fsync(&fd).unwrap();
}

both!(d06_unlinked_open_file_works, |w| {
    w.put(1, "lower", "some content");
    w.put(1, "d/lower", "some content");
    put(&w.u("upper"), "some content");
    w.mount();
    put(&w.m("new"), "some content");
    for n in ["lower", "d/lower", "upper", "new"] {
        unlinked_file_works(w, n);
    }
    w.remount();
    assert_eq!(sys::names(w.m("")).unwrap(), ["d"]);
    assert!(sys::names(w.m("d")).unwrap().is_empty());
});

both!(d06_read_only_handle_of_an_unlinked_lower_file, |w| {
    w.put(1, "f", "some content");
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    sys::unlink(w.m("f")).unwrap();
    assert_eq!(sys::fstat(&fd).unwrap().st_nlink, 0);
    sys::fchmod(&fd, 0o600).unwrap();
    assert_eq!(sys::fstat(&fd).unwrap().st_mode & 0o777, 0o600);
    assert_eq!(sys::pread(&fd, 5, 100).unwrap(), b"content");
});

both!(d06_open_file_replaced_by_rename, |w| {
    w.put(1, "f", "old");
    w.put(1, "g", "new");
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    sys::rename(w.m("g"), w.m("f"), 0).unwrap();
    assert_eq!(sys::pread(&fd, 0, 9).unwrap(), b"old");
    sys::pwrite(&fd, 0, b"OLD").unwrap();
    assert_eq!(sys::fstat(&fd).unwrap().st_nlink, 0);
    assert_eq!(cat(w.m("f")), "new");
});

both!(d06_removed_open_directory, |w| {
    w.put(1, "d/f", "");
    w.mount();
    let d = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    sys::unlink(w.m("d/f")).unwrap();
    sys::rmdir(w.m("d")).unwrap();
    sys::fstat(&d).unwrap();
    use std::os::fd::AsRawFd;
    let new = sys::openat(d.as_raw_fd(), "x", libc::O_CREAT | libc::O_WRONLY, 0o600);
    assert_eq!(new.map(drop), Err(Errno::ENOENT));
    // What the kernel says for a dead directory on any filesystem.
    assert_eq!(sys::read_all_dirents(&d).map(|l| l.len()), Err(Errno::ENOENT));
});

fn linked(w: &World) {
    w.put(1, "a", "shared");
    sys::mkdir(w.l(1, "d"), 0o755).unwrap();
    sys::link(w.l(1, "a"), w.l(1, "b")).unwrap();
    sys::link(w.l(1, "a"), w.l(1, "d/c")).unwrap();
}

const NAMES: [&str; 3] = ["a", "b", "d/c"];

#[track_caller]
fn all_show(w: &World, names: &[&str], content: &str, nlink: u64) {
    let stat = |n: &str| sys::lstat(w.m(n)).map(|s| (s.st_ino, s.st_nlink));
    let all: Vec<_> = names.iter().map(|n| stat(n)).collect();
    let want = all[0].map(|(ino, _)| (ino, nlink));
    assert!(
        want.is_ok() && all.iter().all(|a| *a == want),
        "{names:?} with {nlink} links: {all:?}"
    );
    for n in names {
        let st = sys::lstat(w.m(n)).unwrap();
        let ino = st.st_ino;
        assert_eq!((cat(w.m(n)), st.st_nlink, st.st_ino), (content.into(), nlink, ino), "{n}");
    }
}

both!(d07_lower_hard_links_stay_one_file, |w| {
    linked(w);
    w.mount();
    all_show(w, &NAMES, "shared", 3);
    let fd = sys::open(w.m("b"), libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, 0, b"SHA").unwrap();
    drop(fd);
    all_show(w, &NAMES, "SHAred", 3);
    w.remount();
    all_show(w, &NAMES, "SHAred", 3);
    sys::chmod(w.m("d/c"), 0o611).unwrap();
    std::fs::write(w.m("a"), "again").unwrap();
    w.remount();
    all_show(w, &NAMES, "again", 3);
    for n in NAMES {
        assert_eq!(sys::lstat(w.m(n)).unwrap().st_mode & 0o777, 0o611, "{n}");
    }
});

both!(d07_unlinking_one_name_keeps_the_others, |w| {
    linked(w);
    w.mount();
    sys::unlink(w.m("a")).unwrap();
    all_show(w, &["b", "d/c"], "shared", 2);
    w.remount();
    all_show(w, &["b", "d/c"], "shared", 2);
    std::fs::write(w.m("b"), "changed").unwrap();
    all_show(w, &["b", "d/c"], "changed", 2);
    sys::link(w.m("d/c"), w.m("e")).unwrap();
    all_show(w, &["b", "d/c", "e"], "changed", 3);
    w.remount();
    all_show(w, &["b", "d/c", "e"], "changed", 3);
    sys::rename(w.m("b"), w.m("d/b2"), 0).unwrap();
    sys::unlink(w.m("e")).unwrap();
    w.remount();
    all_show(w, &["d/b2", "d/c"], "changed", 2);
});

both!(d07_rename_of_a_linked_name, |w| {
    linked(w);
    w.mount();
    sys::rename(w.m("a"), w.m("d/moved"), 0).unwrap();
    all_show(w, &["d/moved", "b", "d/c"], "shared", 3);
    std::fs::write(w.m("b"), "one").unwrap();
    all_show(w, &["d/moved", "b", "d/c"], "one", 3);
    // Both names are the same file: rename does nothing and succeeds.
    sys::rename(w.m("b"), w.m("d/c"), 0).unwrap();
    all_show(w, &["d/moved", "b", "d/c"], "one", 3);
    w.remount();
    all_show(w, &["d/moved", "b", "d/c"], "one", 3);
});

both!(d07_open_handle_of_one_name_sees_a_write_by_another, |w| {
    linked(w);
    w.mount();
    let early = sys::open(w.m("a"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::pread(&early, 0, 10).unwrap(), b"shared");
    std::fs::write(w.m("d/c"), "other").unwrap();
    assert_eq!(sys::pread(&early, 0, 10).unwrap(), b"other");
    assert_eq!(sys::fstat(&early).unwrap().st_ino, sys::lstat(w.m("b")).unwrap().st_ino);
});

both!(d08_same_name_in_two_layers_is_two_files, |w| {
    // The lower `x` is linked to `y`; an upper `x` hides it.
    w.put(1, "x", "lower");
    sys::link(w.l(1, "x"), w.l(1, "y")).unwrap();
    put(&w.u("x"), "upper");
    w.mount();
    for _ in 0..2 {
        let (x, y) = (sys::lstat(w.m("x")).unwrap(), sys::lstat(w.m("y")).unwrap());
        assert_ne!(x.st_ino, y.st_ino);
        assert_eq!((cat(w.m("x")), cat(w.m("y"))), ("upper".into(), "lower".into()));
        assert_eq!(x.st_nlink, 1);
        w.remount();
    }
    sys::unlink(w.m("x")).unwrap();
    put(&w.m("x"), "third");
    assert_eq!(cat(w.m("y")), "lower");
    std::fs::write(w.m("y"), "changed").unwrap();
    assert_eq!(cat(w.m("x")), "third");
});

both!(d08_inode_numbers_survive_copy_up_and_remount, |w| {
    for n in ["a", "b", "d/c"] {
        w.put(1, n, "x");
    }
    w.mount();
    let inos = |w: &World| -> Vec<u64> {
        ["a", "b", "d", "d/c"].iter().map(|n| sys::lstat(w.m(n)).unwrap().st_ino).collect()
    };
    let first = inos(w);
    sys::chmod(w.m("a"), 0o600).unwrap();
    std::fs::write(w.m("d/c"), "changed").unwrap();
    assert_eq!(inos(w), first, "over copy-up");
    w.remount();
    assert_eq!(inos(w), first, "over a remount");
    let mut unique = first.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), first.len());
});

both!(d15_link_count_is_real, |w| {
    w.put(1, "a", "x");
    for n in ["b", "c"] {
        sys::link(w.l(1, "a"), w.l(1, n)).unwrap();
    }
    put(&w.u("u1"), "x");
    sys::link(w.u("u1"), w.u("u2")).unwrap();
    w.mount();
    let n = |p: &str| sys::lstat(w.m(p)).unwrap().st_nlink;
    // Only one name of each was ever looked up.
    assert_eq!((n("b"), n("u2")), (3, 2));
    sys::unlink(w.m("u2")).unwrap();
    assert_eq!(n("u1"), 1);
    sys::link(w.m("u1"), w.m("u3")).unwrap();
    assert_eq!((n("u1"), n("u3")), (2, 2));
    put(&w.m("over"), "x");
    sys::rename(w.m("over"), w.m("u3"), 0).unwrap();
    assert_eq!((n("u1"), n("u3")), (1, 1));
});

both!(d21_forgotten_inodes_are_freed, |w| {
    w.in_memory();
    for i in 0..6000 {
        put(&w.l(1, format!("d{}/file-{i}", i % 6)), "");
    }
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    let rss = || -> u64 {
        let s = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = s.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let walk = || drop(w.view());
    walk();
    let first = rss();
    for round in 0..6 {
        // New names every round: a filesystem that keeps forgotten files grows by all of them.
        for i in 0..3000 {
            let p = w.m(format!("d0/new-{round}-{i}"));
            std::fs::write(&p, "").unwrap();
            sys::unlink(&p).unwrap();
        }
    }
    walk();
    let grown = rss().saturating_sub(first);
    assert!(grown < 6_000, "memory grew by {grown} KiB over 18,000 files that came and went");
});

both!(d23_hard_links_cost_constant_time, |w| {
    w.put(1, "a", "x");
    for i in 0..3000 {
        sys::link(w.l(1, "a"), w.l(1, format!("n{i}"))).unwrap();
    }
    w.mount();
    let time = |from: usize, to: usize| {
        let t = std::time::Instant::now();
        for i in from..to {
            sys::lstat(w.m(format!("n{i}"))).unwrap();
        }
        for i in from..to {
            sys::link(w.m("a"), w.m(format!("new{i}"))).unwrap();
        }
        t.elapsed().as_micros().max(1)
    };
    let first = time(0, 500);
    time(500, 2500);
    let last = time(2500, 3000);
    assert!(last < first * 8, "the first 500 links took {first} µs, the last {last} µs");
    assert_eq!(sys::lstat(w.m("a")).unwrap().st_nlink, 6001);
});

fn churn(root: &Path, seed: u64) {
    let mut rng = cowl_tests::model::Rng::new(seed);
    let mut n = 0;
    let pick = |rng: &mut cowl_tests::model::Rng| {
        let depth = rng.below(3);
        let mut p = root.to_path_buf();
        for _ in 0..depth {
            p.push(format!("d{}", rng.below(3)));
        }
        p.join(format!("{}{}", ["d", "f"][rng.below(2)], rng.below(4)))
    };
    for _ in 0..1500 {
        n += 1;
        let (a, b) = (pick(&mut rng), pick(&mut rng));
        let flags = if rng.below(4) == 0 { libc::RENAME_EXCHANGE } else { 0 };
        // Most of these fail, as they should: the names are random.
        let _: sys::R<()> = match rng.below(8) {
            0 => sys::mkdir(&a, 0o755),
            1 => sys::rmdir(&a),
            2 => sys::unlink(&a),
            3 | 4 => sys::rename(&a, &b, flags),
            5 => sys::link(&a, &b),
            6 => sys::symlink(format!("target {n}"), &a),
            _ => std::fs::write(&a, format!("content {n}"))
                .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0))),
        };
    }
}

/// The first directory that shows nothing and still cannot be removed.
fn stuck(root: &Path) -> String {
    let tree = cowl_tests::tree::read(root, cowl_tests::tree::Depth::View);
    for name in tree.keys().rev() {
        let p = root.join(std::ffi::OsStr::from_bytes(name));
        let shows = sys::names(&p).unwrap_or_default();
        if let (true, Err(e)) = (shows.is_empty(), sys::rmdir(&p))
            && e != Errno::ENOTDIR
        {
            return format!("{} is empty, but rmdir says {e}", p.display());
        }
    }
    String::from("what is left can be removed")
}

both!(d39_live_tree_is_the_remounted_tree, |w| {
    for layer in 0..2 {
        churn(&w.l(layer, ""), layer as u64 + 1);
    }
    w.mount();
    for round in 0..4 {
        churn(&w.m(""), 100 + round);
        w.same_after_remount();
    }
    std::fs::read_dir(w.m("")).unwrap().flatten().for_each(|e| {
        let p = e.path();
        let done = if e.file_type().unwrap().is_dir() {
            std::fs::remove_dir_all(&p)
        } else {
            std::fs::remove_file(&p)
        };
        done.unwrap_or_else(|e| panic!("rm -r {:?}: {e}; {}", p.file_name(), stuck(&p)));
    });
    assert!(sys::names(w.m("")).unwrap().is_empty());
    w.remount();
    assert!(sys::names(w.m("")).unwrap().is_empty());
});

both!(d39_dotdot_is_the_real_parent, |w| {
    w.put(1, "a/b/c/f", "");
    w.put(0, "z/x", "");
    w.mount();
    use std::os::fd::AsRawFd;
    let c = sys::open(w.m("a/b/c"), libc::O_DIRECTORY, 0).unwrap();
    sys::mkdir(w.m("new"), 0o755).unwrap();
    sys::rename(w.m("a/b/c"), w.m("new/c"), 0).unwrap();
    let up = sys::openat(c.as_raw_fd(), "..", libc::O_DIRECTORY, 0).unwrap();
    let names: Vec<_> = sys::read_all_dirents(&up).unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.iter().any(|n| n == "c"), "{names:?}");
    assert_eq!(sys::fstat(&up).unwrap().st_ino, sys::lstat(w.m("new")).unwrap().st_ino);
});

both!(d43_file_handles_work_or_refuse, |w| {
    w.put(1, "f", "content");
    w.mount();
    let (named, opened) = sys::open_by_own_handle(w.m("f"));
    if named.is_err() || opened.as_ref().err() == Some(&Errno::EPERM) {
        return; // refused, or this user may not open by handle at all
    }
    let fd = opened.expect("name_to_handle_at worked, so open_by_handle_at has to");
    assert_eq!(sys::pread(&fd, 0, 10).unwrap(), b"content");
});
