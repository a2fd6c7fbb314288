//! Permissions: who may do what, decided as on a local disk.

use cowl_tests::mount::put;
use cowl_tests::mount::sys::{self, libc};
use cowl_tests::same;

fn seed_modes(d: &std::path::Path) {
    for mode in [0o000, 0o400, 0o200, 0o600, 0o644, 0o666, 0o755, 0o711, 0o070, 0o007] {
        let f = d.join(format!("f{mode:03o}"));
        put(&f, "x");
        sys::lchown(&f, 1234, 2345).unwrap();
        sys::chmod(&f, mode).unwrap();
        let dir = d.join(format!("d{mode:03o}"));
        put(&dir.join("x"), "x");
        sys::lchown(&dir, 1234, 2345).unwrap();
        sys::chmod(&dir, mode).unwrap();
    }
}

same!(
    open_and_search_by_user,
    |d| {
        seed_modes(d);
    },
    |d, log| {
        for (uid, gid) in [(1234, 9), (9, 2345), (9, 9), (0, 0)] {
            let mut seen = Vec::new();
            for n in sys::names(d).unwrap() {
                let p = d.join(&n);
                let answers = sys::as_user(uid, gid, || {
                    (
                        sys::open(&p, libc::O_RDONLY, 0).map(drop),
                        sys::open(&p, libc::O_WRONLY, 0).map(drop),
                        sys::access(&p, libc::X_OK),
                        sys::lstat(p.join("x")).map(|_| ()),
                        sys::open(p.join("new"), libc::O_CREAT | libc::O_WRONLY, 0o600).map(drop),
                        sys::unlink(p.join("new")),
                    )
                });
                seen.push((n, answers));
            }
            for (n, a) in seen {
                log.r(&format!("{uid}:{gid} {}", n.to_string_lossy()), a);
            }
        }
    }
);

same!(
    changing_attributes_by_user,
    |d| {
        seed_modes(d);
    },
    |d, log| {
        for (uid, gid) in [(1234, 2345), (1234, 9), (9, 2345)] {
            let p = d.join("f666");
            let answers = sys::as_user(uid, gid, || {
                (
                    sys::chmod(&p, 0o2666),
                    sys::lstat(&p).unwrap().st_mode,
                    sys::lchown(&p, 77, u32::MAX),
                    sys::lchown(&p, u32::MAX, 2345),
                    sys::lchown(&p, u32::MAX, 5),
                    sys::utimens(&p, (1, 1), (1, 1)),
                    sys::utimens(&p, (0, libc::UTIME_NOW), (0, libc::UTIME_NOW)),
                    sys::setxattr(&p, "user.a", b"", 0),
                    sys::truncate(&p, 1),
                    sys::chmod(&p, 0o666),
                )
            });
            log.r(&format!("{uid}:{gid}"), answers);
        }
    }
);

same!(
    making_and_moving_by_user,
    |d| {
        put(&d.join("closed/f"), "x");
        put(&d.join("open/f"), "x");
        sys::chmod(d.join("open"), 0o777).unwrap();
        put(&d.join("group/f"), "x");
        sys::lchown(d.join("group"), 0, 2345).unwrap();
        sys::chmod(d.join("group"), 0o2770).unwrap();
    },
    |d, log| {
        let answers = sys::as_user(1234, 2345, || {
            let mut v = Vec::new();
            for at in ["closed", "open", "group"] {
                let a = d.join(at);
                v.push(sys::mkdir(a.join("dir"), 0o777));
                v.push(sys::symlink("t", a.join("link")));
                v.push(sys::mknod(a.join("fifo"), libc::S_IFIFO | 0o666, 0));
                v.push(sys::mknod(a.join("dev"), libc::S_IFCHR | 0o666, libc::makedev(1, 3)));
                v.push(sys::link(d.join("open/f"), a.join("hard")));
                v.push(sys::rename(a.join("f"), a.join("moved"), 0));
                v.push(sys::rename(d.join("open/dir"), a.join("dir2"), 0));
                v.push(sys::unlink(a.join("moved")));
            }
            v
        });
        for (i, a) in answers.into_iter().enumerate() {
            log.r(&format!("step {i}"), a);
        }
    }
);
