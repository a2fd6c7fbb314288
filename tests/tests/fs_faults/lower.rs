//! `EIO` from a lower layer: passed on, never taken for an absent name, an empty directory, a short
//! file or a file without xattrs.

use cowl_tests::both;
use cowl_tests::mount::stub::{self, Contents, Fault, LATE, Switch};
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Sut, World, cat};

const EIO: Errno = Errno::EIO;

fn content() -> Vec<u8> {
    (0..2 * LATE as u32).map(|i| (i / 100) as u8).collect()
}

/// A union over a stub (bottom) and a plain layer.
fn union(w: &mut World) -> Switch {
    let mut c = Contents::default();
    for name in ["f", "g", "h", "i"] {
        c.file(1, name, content());
        c.xattr("user.kept", b"value");
    }
    c.link(1, "link", "target");
    let d = c.dir(1, "d");
    c.file(d, "in", b"inside".to_vec());
    let sub = c.dir(d, "sub");
    c.file(sub, "deep", b"deep".to_vec());
    let e = c.dir(1, "e");
    c.file(e, "hidden", b"hidden".to_vec());
    c.dir(1, "empty");
    let switch = stub::mount(&w.l(1, ""), c);
    w.put(0, "d/above", "above");
    w.mount();
    switch
}

/// Names in the upper, and in the workdir whatever an operation may have begun there.
fn left_in_upper(w: &World) -> Vec<String> {
    let mut left: Vec<_> =
        sys::names(w.u("")).unwrap().into_iter().map(|n| format!("{n:?}")).collect();
    // The index names its layers by tags, and the work directory the time it is from.
    let ours = |p: &String| p.ends_with(".tag") || p.contains("/epoch-");
    left.extend(walk(&w.dir.join("work")).into_iter().filter(|p| !ours(p)));
    left
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut all = Vec::new();
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        if e.file_type().unwrap().is_dir() {
            all.extend(walk(&e.path()));
        } else {
            all.push(format!("{}", e.path().display()));
        }
    }
    all
}

/// For tests of what happens when all of a file has to be copied and cannot.
pub fn whole_copies(w: &mut World) {
    if w.sut == Sut::Cowlfs {
        w.options.push("copyup=whole".into());
    }
}

both!(a_file_that_cannot_be_read_to_its_end, |w| {
    whole_copies(w);
    let lower = union(w);
    lower.fail(&[Fault::ReadLate]);
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::pread(&fd, 1000, 3000).unwrap(), content()[1000..4000]);
    assert_eq!(sys::pread(&fd, LATE as i64, 10), Err(EIO));
    assert_eq!(std::fs::read(w.m("f")).unwrap_err().raw_os_error(), Some(libc::EIO));
    drop(fd);
    // What needs all of the data fails; what does not, works.
    for (name, done) in [
        ("truncate to more", sys::truncate(w.m("f"), 3 * LATE as i64)),
        ("truncate into the bad part", sys::truncate(w.m("f"), LATE as i64 + 4097)),
        ("fallocate", {
            let fd = sys::open(w.m("f"), libc::O_WRONLY, 0).unwrap();
            sys::fallocate(&fd, 0, 0, 3 * LATE as i64)
        }),
    ] {
        assert_eq!(done, Err(EIO), "{name}");
    }
    assert_eq!(left_in_upper(w), [""; 0], "half a copy was left");
    sys::truncate(w.m("g"), 5000).unwrap();
    assert_eq!(std::fs::read(w.m("g")).unwrap(), content()[..5000]);
    sys::unlink(w.m("h")).unwrap();
    lower.heal();
    assert_eq!(std::fs::read(w.m("f")).unwrap(), content());
    sys::truncate(w.m("f"), 3 * LATE as i64).unwrap();
    assert_eq!(std::fs::read(w.m("f")).unwrap()[..2 * LATE], content());
    w.same_after_remount();
    assert_eq!(sys::lstat(w.m("h")).err(), Some(Errno::ENOENT));
});

both!(a_write_that_cannot_copy_up_is_reported, |w| {
    whole_copies(w);
    let lower = union(w);
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    lower.fail(&[Fault::Read]);
    // Whole pages: nothing has to be read to take them.
    let done = sys::pwrite(&fd, 8192, &[b'x'; 4096]).map(drop).and_then(|()| sys::fsync(&fd));
    assert_eq!(done, Err(EIO));
    drop(fd);
    assert_eq!(left_in_upper(w), [""; 0], "half a copy was left");
    lower.heal();
    // Once the fault is over, what could not be stored is gone, at the latest by a remount.
    w.remount();
    assert_eq!(std::fs::read(w.m("f")).unwrap(), content());
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    sys::pwrite(&fd, 8192, &[b'x'; 4096]).unwrap();
    sys::fsync(&fd).unwrap();
    drop(fd);
    w.remount();
    let mut want = content();
    want[8192..12_288].fill(b'x');
    assert!(std::fs::read(w.m("f")).unwrap() == want, "the write got lost");
});

both!(a_directory_that_cannot_be_listed_is_not_empty, |w| {
    let lower = union(w);
    lower.fail(&[Fault::ReadDir]);
    assert_eq!(sys::names(w.m("d")).err(), Some(EIO));
    assert_eq!(sys::names(w.m("e")).err(), Some(EIO));
    assert_eq!(sys::rmdir(w.m("e")), Err(EIO));
    let renamed = sys::rename(w.m("empty"), w.m("e"), 0);
    assert!(renamed.is_err(), "a directory nobody could list was replaced");
    lower.heal();
    assert_eq!(sys::names(w.m("d")).unwrap(), ["above", "in", "sub"]);
    assert_eq!(sys::names(w.m("e")).unwrap(), ["hidden"]);
    assert_eq!(sys::rmdir(w.m("e")), Err(Errno::ENOTEMPTY));
    w.same_after_remount();
});

both!(a_name_that_cannot_be_looked_at_is_not_absent, |w| {
    let lower = union(w);
    lower.fail(&[Fault::Lookup, Fault::ReadDir, Fault::GetAttr]);
    for name in ["f", "d/in", "e/hidden", "link"] {
        assert_eq!(sys::lstat(w.m(name)).err(), Some(EIO), "{name}");
        let made = sys::open(w.m(name), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o644);
        assert_eq!(made.err(), Some(EIO), "create {name}");
        assert_eq!(sys::mkdir(w.m(name), 0o755), Err(EIO), "mkdir {name}");
        assert_eq!(sys::symlink("x", w.m(name)), Err(EIO), "symlink {name}");
        assert_eq!(sys::unlink(w.m(name)), Err(EIO), "unlink {name}");
    }
    lower.heal();
    assert_eq!(cat(w.m("d/in")), "inside");
    assert_eq!(cat(w.m("e/hidden")), "hidden");
    assert_eq!(std::fs::read(w.m("f")).unwrap(), content());
    sys::unlink(w.m("e/hidden")).unwrap();
    std::fs::write(w.m("e/hidden"), "new").unwrap();
    w.same_after_remount();
    assert_eq!(cat(w.m("e/hidden")), "new");
});

both!(xattrs_that_cannot_be_read_are_not_dropped, |w| {
    let lower = union(w);
    for fault in [Fault::ListXattr, Fault::GetXattr] {
        lower.fail(&[fault]);
        assert_eq!(sys::chmod(w.m("f"), 0o600), Err(EIO), "{fault:?}");
        assert_eq!(sys::truncate(w.m("f"), 0), Err(EIO), "{fault:?}");
        assert_eq!(sys::rename(w.m("f"), w.m("new"), 0), Err(EIO), "{fault:?}");
        assert_eq!(left_in_upper(w), [""; 0], "{fault:?} left half a copy");
    }
    lower.heal();
    sys::chmod(w.m("f"), 0o600).unwrap();
    sys::rename(w.m("g"), w.m("new"), 0).unwrap();
    for _ in 0..2 {
        for name in ["f", "new", "i"] {
            assert_eq!(sys::getxattr(w.m(name), "user.kept"), Ok(b"value".to_vec()), "{name}");
        }
        w.remount();
    }
});

both!(a_link_that_cannot_be_read, |w| {
    let lower = union(w);
    lower.fail(&[Fault::ReadLink]);
    assert_eq!(sys::readlinkat(libc::AT_FDCWD, w.m("link")).err(), Some(EIO));
    assert_eq!(sys::lchown(w.m("link"), 5, 5), Err(EIO));
    assert_eq!(left_in_upper(w), [""; 0], "half a copy was left");
    lower.heal();
    sys::lchown(w.m("link"), 5, 5).unwrap();
    w.same_after_remount();
    assert_eq!(sys::readlinkat(libc::AT_FDCWD, w.m("link")).unwrap(), "target");
});

both!(everything_fails_at_once_and_unmounts, |w| {
    let lower = union(w);
    std::fs::write(w.m("mine"), "above").unwrap();
    assert_eq!(sys::names(w.m("d")).unwrap(), ["above", "in", "sub"]);
    lower.fail(&[
        Fault::Lookup,
        Fault::GetAttr,
        Fault::ReadDir,
        Fault::Read,
        Fault::Open,
        Fault::GetXattr,
        Fault::ListXattr,
        Fault::ReadLink,
    ]);
    assert_eq!(cat(w.m("mine")), "above");
    std::fs::write(w.m("mine"), "still").unwrap();
    assert_eq!(cat(w.m("d/above")), "above");
    for name in ["f", "d/in", "d/sub/deep"] {
        let read = sys::open(w.m(name), libc::O_RDONLY, 0).and_then(|fd| sys::read(&fd, 10));
        assert_eq!(read, Err(EIO), "{name}");
        let fd = sys::open(w.m(name), libc::O_WRONLY | libc::O_APPEND, 0);
        let done = fd.and_then(|fd| {
            sys::write(&fd, b"more")?;
            sys::fsync(&fd)
        });
        assert_eq!(done, Err(EIO), "{name}");
    }
    w.unmount();
    lower.heal();
    w.remount();
    assert_eq!(cat(w.m("mine")) + &cat(w.m("d/sub/deep")), "stilldeep");
});
