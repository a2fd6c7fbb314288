//! `chattr(1)` flags by ioctl: those of the upper's filesystem, with their effects.

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Sut, World};

// FS_*_FL of linux/fs.h.
const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;
const NODUMP: u32 = 0x40;

both!(flags_are_set_on_the_copy_only, |w| {
    w.put(1, "f", "content");
    w.put(1, "d/x", "content");
    w.mount();
    for n in ["f", "d"] {
        let open = || sys::open(w.m(n), libc::O_RDONLY, 0).unwrap();
        let Ok(before) = sys::get_flags(&open()) else {
            assert_ne!(w.sut, Sut::Cowlfs, "a filesystem with flags shows them");
            return;
        };
        assert_eq!(before & NODUMP, 0);
        let set = sys::set_flags(&open(), before | NODUMP);
        assert_eq!(set, Ok(()), "{n}");
        assert_eq!(sys::get_flags(&open()).unwrap() & NODUMP, NODUMP, "{n}");
    }
    w.remount();
    for n in ["f", "d"] {
        let fd = sys::open(w.m(n), libc::O_RDONLY, 0).unwrap();
        assert_eq!(sys::get_flags(&fd).unwrap() & NODUMP, NODUMP, "{n} after a remount");
    }
    assert_eq!(std::fs::read(w.m("f")).unwrap(), b"content");
    // Flags by the other request, as `chattr -p` uses it.
    let fd = sys::open(w.m("d/x"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::project(&fd), Ok(0));
    assert_eq!(sys::set_project(&fd, 0), Ok(()));
    // An ioctl that nobody knows.
    let fd = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::unknown_ioctl(&fd), Err(Errno::ENOTTY));
});

fn set(w: &World, name: &str, flags: u32) -> sys::R<()> {
    sys::set_flags(&sys::open(w.m(name), libc::O_RDONLY, 0)?, flags)
}

both!(append_only_and_immutable_bind, |w| {
    w.put(1, "log", "start\n");
    w.put(1, "fixed", "fixed");
    w.mount();
    match (set(w, "log", APPEND), set(w, "fixed", IMMUTABLE)) {
        (Ok(()), Ok(())) => {}
        // Only root of the machine may.
        (a, b) => {
            assert_eq!((a, b), (Err(Errno::EPERM), Err(Errno::EPERM)));
            return;
        }
    }
    // Whatever refuses, the layer below or the kernel above: nothing may have changed.
    let tried = sys::open(w.m("fixed"), libc::O_WRONLY, 0)
        .and_then(|fd| sys::write(&fd, b"X").and_then(|_| sys::fsync(&fd)));
    assert!(tried.is_err());
    assert!(sys::unlink(w.m("fixed")).is_err());
    assert!(sys::rename(w.m("fixed"), w.m("new"), 0).is_err());
    assert!(sys::chmod(w.m("fixed"), 0o600).is_err());
    assert!(sys::unlink(w.m("log")).is_err());
    assert!(sys::truncate(w.m("log"), 0).is_err());
    let fd = sys::open(w.m("log"), libc::O_WRONLY | libc::O_APPEND, 0);
    let _either = fd.map(|fd| sys::write(&fd, b"more\n").and_then(|_| sys::fsync(&fd)));
    w.remount();
    assert_eq!(std::fs::read(w.m("fixed")).unwrap(), b"fixed");
    assert!(std::fs::read(w.m("log")).unwrap().starts_with(b"start\n"));
    assert_eq!((set(w, "log", 0), set(w, "fixed", 0)), (Ok(()), Ok(())));
    sys::unlink(w.m("log")).unwrap();
    sys::unlink(w.m("fixed")).unwrap();
});
