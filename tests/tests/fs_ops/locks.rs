//! flock and open-file-description locks hold between descriptors, over copy-up and rename.

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};

const TRY: i32 = libc::LOCK_NB;

both!(flock_over_copy_up, |w| {
    w.put(1, "f", "x");
    w.mount();
    let a = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    sys::flock(&a, libc::LOCK_EX | TRY).unwrap();
    std::fs::write(w.m("f"), "copied up").unwrap();
    let b = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::flock(&b, libc::LOCK_EX | TRY), Err(Errno::EWOULDBLOCK));
    assert_eq!(sys::flock(&b, libc::LOCK_SH | TRY), Err(Errno::EWOULDBLOCK));
    sys::rename(w.m("f"), w.m("g"), 0).unwrap();
    let c = sys::open(w.m("g"), libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::flock(&c, libc::LOCK_EX | TRY), Err(Errno::EWOULDBLOCK));
    drop(a);
    sys::flock(&c, libc::LOCK_EX | TRY).unwrap();
});

both!(range_locks_over_copy_up, |w| {
    w.put(1, "f", vec![b'x'; 1000]);
    w.mount();
    let a = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    sys::ofd_lock(&a, libc::F_RDLCK, 0, 100).unwrap();
    let b = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    sys::pwrite(&b, 500, b"copied up").unwrap();
    assert_eq!(sys::ofd_lock(&b, libc::F_WRLCK, 50, 10), Err(Errno::EAGAIN));
    sys::ofd_lock(&b, libc::F_RDLCK, 50, 10).unwrap();
    sys::ofd_lock(&b, libc::F_WRLCK, 100, 10).unwrap();
    let c = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::ofd_lock(&c, libc::F_RDLCK, 105, 1), Err(Errno::EAGAIN));
    drop(b);
    sys::ofd_lock(&c, libc::F_WRLCK, 100, 10).unwrap();
    sys::ofd_lock(&a, libc::F_UNLCK, 0, 0).unwrap();
    sys::ofd_lock(&c, libc::F_WRLCK, 0, 0).unwrap();
});
