//! Hard links and symlinks.

use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{age_all, cat, put};
use cowl_tests::same;

same!(
    links_of_every_kind,
    |d| {
        put(&d.join("f"), "x");
        put(&d.join("dir/g"), "y");
        sys::symlink("f", d.join("s")).unwrap();
        sys::mknod(d.join("p"), libc::S_IFIFO | 0o600, 0).unwrap();
        age_all(d);
    },
    |d, log| {
        for n in ["f", "dir/g", "s", "p", "dir", "none"] {
            log.r(
                n,
                sys::link(d.join(n), d.join("dir").join(format!("to-{}", n.replace('/', "-")))),
            );
        }
        log.r("onto a name", sys::link(d.join("f"), d.join("s")));
        log.r("onto itself", sys::link(d.join("f"), d.join("f")));
        for n in ["f", "dir/to-f", "s", "dir/to-s", "p", "dir/to-p"] {
            let st = sys::lstat(d.join(n)).unwrap();
            log.r(n, (st.st_nlink, st.st_mode));
        }
        log.r("same inode", {
            sys::lstat(d.join("f")).unwrap().st_ino
                == sys::lstat(d.join("dir/to-f")).unwrap().st_ino
        });
        std::fs::write(d.join("dir/to-f"), "changed").unwrap();
        log.r("content", cat(d.join("f")));
        log.r("unlink", sys::unlink(d.join("f")));
        log.r("left", (cat(d.join("dir/to-f")), sys::lstat(d.join("dir/to-f")).unwrap().st_nlink));
    }
);

same!(
    a_link_keeps_attributes,
    |d| {
        put(&d.join("f"), "content");
        sys::chmod(d.join("f"), 0o4750).unwrap();
        sys::setxattr(d.join("f"), "user.a", b"b", 0).unwrap();
        put(&d.join("g"), "content");
        sys::link(d.join("g"), d.join("g2")).unwrap();
        sys::link(d.join("g"), d.join("g3")).unwrap();
        age_all(d);
    },
    |d, log| {
        log.r("link", sys::link(d.join("f"), d.join("f2")));
        log.r("link a linked", sys::link(d.join("g2"), d.join("g4")));
        log.r("chmod one", sys::chmod(d.join("g3"), 0o600));
        log.r("xattr another", sys::setxattr(d.join("g4"), "user.x", b"y", 0));
        log.r("times", sys::utimens(d.join("g"), (1, 2), (3, 4)));
        log.r("append", {
            let fd = sys::open(d.join("g2"), libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
            sys::write(&fd, b"+")
        });
        for n in ["g", "g2", "g3", "g4"] {
            log.r(n, (cat(d.join(n)), sys::lstat(d.join(n)).unwrap().st_nlink));
        }
        log.r("replace one", {
            put(&d.join("new"), "new");
            sys::rename(d.join("new"), d.join("g3"), 0)
        });
        log.r("nlink", sys::lstat(d.join("g")).unwrap().st_nlink);
    }
);

same!(
    symlink_targets,
    |d| {
        sys::symlink("a".repeat(4000), d.join("long")).unwrap();
        sys::symlink("/absolute/../path//", d.join("abs")).unwrap();
    },
    |d, log| {
        for n in ["long", "abs", "none", "."] {
            log.r(n, sys::readlinkat(libc::AT_FDCWD, d.join(n)));
        }
        log.r("empty", sys::symlink("", d.join("empty")));
        log.r("4095", sys::symlink("b".repeat(4095), d.join("b")));
        log.r("4096", sys::symlink("b".repeat(4096), d.join("c")));
        log.r("size", sys::lstat(d.join("b")).unwrap().st_size);
        log.r("chown", sys::lchown(d.join("long"), 5, 6));
        log.r("rename", sys::rename(d.join("abs"), d.join("abs2"), 0));
        log.r("link", sys::link(d.join("long"), d.join("long2")));
        log.r("both", sys::lstat(d.join("long2")).unwrap().st_nlink);
    }
);
