//! Paths as long and trees as deep as the kernel lets, in a lower, copied up, and moved.

use std::path::{Path, PathBuf};

use cowl_tests::mount::sys::{self, Errno};
use cowl_tests::mount::{age_all, cat, put};
use cowl_tests::{both, same};

/// The longest path that can be named from `at`, `PATH_MAX` being 4,096 with the final NUL.
fn longest(at: &Path) -> PathBuf {
    let mut p = at.to_path_buf();
    let left = |p: &Path| 4095 - p.as_os_str().len();
    while left(&p) > 220 {
        p.push("d".repeat(200));
    }
    let n = left(&p) - 1;
    p.push("f".repeat(n));
    assert_eq!(p.as_os_str().len(), 4095);
    p
}

both!(the_longest_path, |w| {
    // The name in the mount is the longest; in the layers, whose paths are longer, it is reached
    // from a directory inside.
    let name = longest(&w.m("")).strip_prefix(w.m("")).unwrap().to_path_buf();
    w.mount();
    std::fs::create_dir_all(w.m("").join(name.parent().unwrap())).unwrap();
    let p = w.m("").join(&name);
    std::fs::write(&p, "deep").unwrap();
    let over = PathBuf::from(format!("{}x", p.display()));
    assert_eq!(sys::lstat(&over).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(sys::mkdir(&over, 0o755), Err(Errno::ENAMETOOLONG));
    for _ in 0..2 {
        assert_eq!(cat(&p), "deep");
        w.remount();
    }
    sys::setxattr(&p, "user.a", b"x", 0).unwrap();
    let shorter = p.with_file_name("short");
    sys::rename(&p, &shorter, 0).unwrap();
    sys::link(&shorter, &p).unwrap();
    sys::unlink(&shorter).unwrap();
    assert_eq!(sys::getxattr(&p, "user.a"), Ok(b"x".to_vec()));
    w.same_after_remount();
});

/// Sixty directories in each other.
fn deep(at: &Path) -> PathBuf {
    (0..60).fold(at.to_path_buf(), |p, i| p.join(format!("level{i}")))
}

same!(
    sixty_levels,
    |d| {
        put(&deep(d).join("f"), "deep");
        put(&deep(&d.join("two")).join("g"), "deep");
        age_all(d);
    },
    |d, log| {
        log.r("write", std::fs::write(deep(d).join("f"), "changed").is_ok());
        log.r("mkdir", sys::mkdir(deep(d).join("new"), 0o750));
        log.r("move a part", sys::rename(d.join("level0/level1"), d.join("moved"), 0));
        log.r("read", cat(deep(d).join("f")));
        let now = (2..60).fold(d.join("moved"), |p, i| p.join(format!("level{i}")));
        log.r("read there", cat(now.join("f")));
        log.r("move up", sys::rename(now.join("f"), d.join("f"), 0));
        log.r("move down", sys::rename(d.join("two/level0"), now.join("two"), 0));
        let below = (1..60).fold(now.join("two"), |p, i| p.join(format!("level{i}")));
        log.r("read below", cat(below.join("g")));
        log.r("unlink below", sys::unlink(below.join("g")));
        log.r("rmdir below", sys::rmdir(&below));
        log.r("into itself", sys::rename(d.join("moved"), now.join("x"), 0));
        log.r("remove all", std::fs::remove_dir_all(d.join("moved/level2/level3")).is_ok());
        log.r("names", sys::names(d.join("moved/level2")));
    }
);
