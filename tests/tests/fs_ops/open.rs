//! open(2): every combination of flags on every kind of name, and what it does to the content.

use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{age_all, cat, put};
use cowl_tests::{both, same};

fn kinds(d: &std::path::Path) {
    put(&d.join("file"), "content");
    put(&d.join("dir/inside"), "inside");
    sys::symlink("file", d.join("link")).unwrap();
    sys::symlink("nowhere", d.join("dangling")).unwrap();
    sys::symlink("loop", d.join("loop")).unwrap();
    sys::symlink("dir", d.join("dirlink")).unwrap();
    sys::mknod(d.join("sock"), libc::S_IFSOCK | 0o644, 0).unwrap();
    age_all(d);
}

same!(
    flags_by_kind,
    |d| {
        kinds(d);
    },
    |d, log| {
        let names = ["file", "dir", "link", "dirlink", "loop", "sock", "none", "file/x", "none/x"];
        for name in names {
            for access in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
                for more in [
                    0,
                    libc::O_DIRECTORY,
                    libc::O_NOFOLLOW,
                    libc::O_CREAT | libc::O_EXCL,
                    libc::O_APPEND,
                    libc::O_TRUNC,
                    libc::O_PATH,
                    libc::O_DIRECTORY | libc::O_CREAT,
                ] {
                    let what = format!("open {name} {access:o} {more:o}");
                    log.ok(&what, sys::open(d.join(name), access | more, 0o640));
                    if name == "none" {
                        let _: sys::R<()> = sys::unlink(d.join(name));
                    }
                    if name == "file" && more == libc::O_TRUNC {
                        log.r("content", cat(d.join(name)));
                        std::fs::write(d.join(name), "content").unwrap();
                    }
                }
            }
        }
    }
);

same!(
    create_through_symlinks,
    |d| {
        kinds(d);
    },
    |d, log| {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        log.ok("O_EXCL on a dangling link", sys::open(d.join("dangling"), flags, 0o600));
        log.ok(
            "O_CREAT through a dangling link",
            sys::open(d.join("dangling"), libc::O_CREAT | libc::O_WRONLY, 0o600),
        );
        log.r("names", sys::names(d));
        log.ok("O_TRUNC through a link", {
            sys::open(d.join("link"), libc::O_TRUNC | libc::O_WRONLY, 0)
        });
        log.r("content", cat(d.join("file")));
        std::fs::write(d.join("dirlink/new"), "new").unwrap();
        log.r("names", sys::names(d.join("dir")));
    }
);

same!(
    create_modes_and_umask,
    |d| {
        put(&d.join("dir/x"), "");
    },
    |d, log| {
        for mask in [0, 0o022, 0o077, 0o777] {
            let old = sys::umask(mask);
            for mode in [0o777, 0o666, 0o4755, 0o2711, 0o1644, 0] {
                let f = d.join(format!("dir/f{mask:o}-{mode:o}"));
                let fd = log.ok("create", sys::open(&f, libc::O_CREAT | libc::O_RDWR, mode));
                // The new descriptor works whatever the mode.
                log.r("write", fd.map(|fd| sys::pwrite(&fd, 0, b"x")));
                log.r("mkdir", sys::mkdir(d.join(format!("dir/d{mask:o}-{mode:o}")), mode));
                let n = d.join(format!("dir/n{mask:o}-{mode:o}"));
                log.r("mknod", sys::mknod(n, libc::S_IFIFO | mode, 0));
            }
            sys::umask(old);
        }
    }
);

same!(
    writing_keeps_and_changes_what_it_should,
    |d| {
        put(&d.join("f"), vec![b'a'; 10_000]);
        put(&d.join("g"), vec![b'b'; 10_000]);
        put(&d.join("h"), "");
        sys::setxattr(d.join("f"), "user.kept", b"1", 0).unwrap();
        sys::lchown(d.join("f"), 5, 6).unwrap();
    },
    |d, log| {
        let fd = sys::open(d.join("f"), libc::O_RDWR, 0).unwrap();
        log.r("write inside", sys::pwrite(&fd, 4090, b"0123456789"));
        log.r("write beyond", sys::pwrite(&fd, 20_000, b"end"));
        log.r("read", sys::pread(&fd, 4085, 20));
        log.r("read the gap", sys::pread(&fd, 9_990, 30));
        log.r("nothing", sys::pwrite(&fd, 50_000, b""));
        log.r("size", sys::fstat(&fd).unwrap().st_size);
        log.r("bad offset", sys::pwrite(&fd, -1, b"x"));
        log.r("truncate below zero", sys::ftruncate(&fd, -1));
        let g = sys::open(d.join("g"), libc::O_RDONLY, 0).unwrap();
        log.r("write to O_RDONLY", sys::pwrite(&g, 0, b"x"));
        log.r("ftruncate of O_RDONLY", sys::ftruncate(&g, 0));
        log.r("copy_file_range", sys::copy_file_range(&g, 100, &fd, 200, 500));
        log.r("after it", sys::pread(&fd, 190, 20));
        let h = sys::open(d.join("h"), libc::O_WRONLY, 0).unwrap();
        log.r("read from O_WRONLY", sys::pread(&h, 0, 1));
        log.r("truncate up", sys::ftruncate(&h, 12_345));
        log.r("truncate a directory", sys::truncate(d, 0));
    }
);

same!(
    large_writes,
    |d| {
        put(&d.join("f"), vec![b'x'; 300_000]);
    },
    |d, log| {
        let fd = sys::open(d.join("f"), libc::O_RDWR, 0).unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7) as u8).collect();
        log.r("write", sys::pwrite(&fd, 1234, &data));
        log.r("read", sys::pread(&fd, 1_000_000, 64));
        log.r("sync", sys::fsync(&fd));
    }
);

both!(o_direct_reads_and_writes, |w| {
    w.put(1, "f", vec![b'a'; 16_384]);
    w.mount();
    let fd = match sys::open(w.m("f"), libc::O_RDWR | libc::O_DIRECT, 0) {
        Ok(fd) => fd,
        Err(e) => {
            assert_eq!(e, Errno::EINVAL, "only EINVAL says that there is no O_DIRECT");
            return;
        }
    };
    // Aligned memory comes from a mapping-sized vector.
    let mut v = vec![b'z'; 3 * 4096];
    let at = v.as_ptr().align_offset(4096);
    v[at..at + 4096].fill(b'b');
    assert_eq!(sys::pwrite(&fd, 4096, &v[at..at + 4096]), Ok(4096));
    let got = std::fs::read(w.m("f")).unwrap();
    assert_eq!(
        (got.len(), got[4095], got[4096], got[8191], got[8192]),
        (16_384, b'a', b'b', b'b', b'a')
    );
    std::fs::write(w.m("f"), vec![b'c'; 8192]).unwrap();
    drop(fd);
    w.remount();
    assert_eq!(std::fs::read(w.m("f")).unwrap(), vec![b'c'; 8192]);
});
