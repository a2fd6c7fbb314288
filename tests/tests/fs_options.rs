//! Every option that changes what the filesystem does, by its effect.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use cowl_tests::as_root;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{cat, put};

as_root!(readers_do_not_keep_the_host_from_remounting_read_only, |w| {
    // The log of the filesystem under test is written beside the usual upper.
    let dir = w.dir.join("disk");
    for name in ["", "upper", "work"] {
        sys::mkdir(dir.join(name), 0o755).unwrap();
        if name.is_empty() {
            sys::mount("tmpfs", &dir, "tmpfs", 0, b"").unwrap();
        } else {
            w.options.push(format!("{name}dir={}", dir.join(name).display()));
        }
    }
    put(&dir.join("upper/f"), "upper");
    w.put(1, "l", "lower");
    w.mount();
    assert_eq!(cat(w.m("f")) + &cat(w.m("l")), "upperlower");
    let host = |flags: u64| sys::mount("", &dir, "", libc::MS_REMOUNT | flags, b"");
    host(libc::MS_RDONLY).expect("remount the upper's filesystem read-only");
    assert_eq!(cat(w.m("f")), "upper");
    let write = || std::fs::write(w.m("l"), "changed").map_err(|e| e.raw_os_error());
    assert_eq!(write(), Err(Some(Errno::EROFS as i32)));
    assert_eq!(cat(w.m("l")), "lower");
    host(0).unwrap();
    assert_eq!(write(), Ok(()));
    w.remount();
    assert_eq!(cat(w.m("l")), "changed");
});
