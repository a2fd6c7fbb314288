//! inotify: the same events as on a plain directory, whether or not something is copied up, and on
//! watches set before it was.

use cowl_tests::mount::sys::{self, Watches, libc};
use cowl_tests::mount::{age_all, put};
use cowl_tests::same;

same!(
    events_over_copy_up,
    |d| {
        put(&d.join("dir/f"), "content");
        put(&d.join("dir/g"), "content");
        put(&d.join("dir/sub/x"), "content");
        put(&d.join("other/y"), "content");
        sys::link(d.join("dir/g"), d.join("dir/h")).unwrap();
        age_all(d);
    },
    |d, log| {
        let w = Watches::new().unwrap();
        for n in ["dir", "dir/f", "dir/g", "dir/sub", "other"] {
            log.r(n, w.add(d.join(n)));
        }
        let mut step = |what: &str, done: sys::R<()>| {
            log.r(what, done);
            log.r(what, w.events());
        };
        let fd = sys::open(d.join("dir/f"), libc::O_RDWR, 0).unwrap();
        step("write", sys::pwrite(&fd, 3, b"xyz").map(drop));
        step("write again", sys::pwrite(&fd, 3, b"xyz").map(drop));
        step("truncate", sys::ftruncate(&fd, 2));
        drop(fd);
        step("close", Ok(()));
        step("chmod", sys::chmod(d.join("dir/g"), 0o600));
        step("chmod of the other name", sys::chmod(d.join("dir/h"), 0o640));
        step("xattr", sys::setxattr(d.join("dir/sub"), "user.a", b"x", 0));
        step("times", sys::utimens(d.join("dir/f"), (1, 0), (2, 0)));
        step("create", sys::open(d.join("dir/new"), libc::O_CREAT, 0o644).map(drop));
        step("link", sys::link(d.join("dir/f"), d.join("other/f")));
        step("mkdir", sys::mkdir(d.join("dir/sub/made"), 0o755));
        step("rename", sys::rename(d.join("dir/f"), d.join("other/moved"), 0));
        step("rename over", sys::rename(d.join("dir/g"), d.join("other/y"), 0));
        step("rename a directory", sys::rename(d.join("dir/sub"), d.join("other/sub"), 0));
        step("create in it", sys::mkdir(d.join("other/sub/more"), 0o755));
        step("unlink", sys::unlink(d.join("dir/h")));
        step("unlink the last name", sys::unlink(d.join("other/y")));
        step("rmdir", sys::rmdir(d.join("other/sub/made")));
        step("fallocate", {
            let fd = sys::open(d.join("other/moved"), libc::O_RDWR, 0).unwrap();
            sys::fallocate(&fd, 0, 0, 10_000)
        });
    }
);
