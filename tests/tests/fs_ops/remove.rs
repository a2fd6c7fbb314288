//! unlink, rmdir, and names that come back.

use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{age_all, cat, put};
use cowl_tests::same;

same!(
    every_kind,
    |d| {
        put(&d.join("f"), "x");
        put(&d.join("full/g"), "x");
        std::fs::create_dir(d.join("empty")).unwrap();
        sys::symlink("full", d.join("link")).unwrap();
        sys::mknod(d.join("p"), libc::S_IFIFO | 0o644, 0).unwrap();
        age_all(d);
    },
    |d, log| {
        for n in ["full", "f", "link", "p", "none", "f/x"] {
            log.r(&format!("rmdir {n}"), sys::rmdir(d.join(n)));
        }
        for n in ["full", "empty", "none", "f/x"] {
            log.r(&format!("unlink {n}"), sys::unlink(d.join(n)));
        }
        log.r("rmdir dot", sys::rmdir(d.join("empty/.")));
        log.r("rmdir dotdot", sys::rmdir(d.join("full/..")));
        log.r("rmdir the root", sys::rmdir(d).is_err());
        for n in ["f", "link", "p", "full/g"] {
            log.r(n, sys::unlink(d.join(n)));
            log.r("again", sys::unlink(d.join(n)));
            log.r("stat", sys::lstat(d.join(n)).map(|_| ()));
        }
        for n in ["empty", "full"] {
            log.r(n, sys::rmdir(d.join(n)));
            log.r("again", sys::rmdir(d.join(n)));
        }
        log.r("left", sys::names(d));
    }
);

same!(
    names_come_back_as_something_else,
    |d| {
        put(&d.join("file"), "old");
        put(&d.join("dir/a"), "old");
        put(&d.join("dir/sub/b"), "old");
        age_all(d);
    },
    |d, log| {
        for round in 0..4 {
            log.r("file goes", sys::unlink(d.join("file")));
            log.r("as a directory", sys::mkdir(d.join("file"), 0o700));
            log.r("empty", sys::names(d.join("file")));
            put(&d.join("file/x"), "x");
            log.r("dir goes", std::fs::remove_dir_all(d.join("dir")).map_err(|e| e.kind()));
            put(&d.join("dir"), format!("file {round}"));
            log.r("content", cat(d.join("dir")));
            log.r("x", sys::unlink(d.join("file/x")));
            log.r("back", (sys::rmdir(d.join("file")), sys::unlink(d.join("dir"))));
            put(&d.join("file"), "again");
            std::fs::create_dir_all(d.join("dir/sub")).unwrap();
            log.r("dir", (sys::names(d.join("dir")), sys::names(d.join("dir/sub"))));
        }
    }
);

same!(
    sticky_directories,
    |d| {
        put(&d.join("tmp/root"), "x");
        put(&d.join("tmp/user"), "x");
        sys::lchown(d.join("tmp/user"), 1234, 1234).unwrap();
        sys::chmod(d.join("tmp"), 0o1777).unwrap();
    },
    |d, log| {
        let t = d.join("tmp");
        log.r(
            "as the owner of one",
            sys::as_user(1234, 1234, || {
                (
                    sys::unlink(t.join("root")),
                    sys::rename(t.join("root"), t.join("x"), 0),
                    sys::rename(t.join("user"), t.join("mine"), 0),
                    sys::rename(t.join("mine"), t.join("root"), 0),
                    sys::unlink(t.join("mine")),
                )
            }),
        );
        log.r("left", sys::names(&t));
    }
);
