//! Written data that the disk refuses later, when the kernel hands it over: nobody is shown what is
//! not stored, and a program that goes on to write is told.

use std::time::{Duration, Instant};

use cowl_tests::both;
use cowl_tests::mount::stub::{self, Contents, Fault};
use cowl_tests::mount::sys::{self, Errno, libc};

use crate::lower::whole_copies;
use crate::upper_in;

/// The pages are dropped beside the answer to fsync.
fn soon(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

both!(what_could_not_be_stored_is_not_shown, |w| {
    whole_copies(w);
    let old = vec![b'a'; 300_000];
    let mut c = Contents::default();
    c.file(1, "f", old.clone());
    let lower = stub::mount(&w.l(1, ""), c);
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    assert!(std::fs::read(w.m("f")).unwrap() == old);
    lower.fail(&[Fault::Read]);
    let done = sys::pwrite(&fd, 8192, &[b'x'; 20_000]).map(drop).and_then(|()| sys::fsync(&fd));
    assert_eq!(done, Err(Errno::EIO));
    lower.heal();
    soon("what was not stored is shown", || std::fs::read(w.m("f")).unwrap() == old);
    // The next write is told, once.
    let _told = sys::pwrite(&fd, 8192, b"y");
    assert_eq!(sys::pwrite(&fd, 8192, b"z"), Ok(1));
    sys::fsync(&fd).unwrap();
    drop(fd);
    let mut new = old;
    new[8192] = b'z';
    assert!(std::fs::read(w.m("f")).unwrap() == new);
    w.remount();
    assert!(std::fs::read(w.m("f")).unwrap() == new);
});

both!(a_program_that_fills_the_disk_is_told, |w| {
    const PIECE: usize = 64 << 10;
    /// More than the kernel keeps back for one filesystem.
    const ENOUGH: usize = 1 << 30;
    let at = w.dir.join("disk");
    std::fs::create_dir(&at).unwrap();
    sys::mount("tmpfs", &at, "tmpfs", 0, b"size=12m,mode=755").unwrap();
    upper_in(w, &at);
    w.put(1, "log", "start\n");
    w.mount();
    std::fs::write(w.m("mine"), "kept").unwrap();
    for name in ["new", "log"] {
        let fd = sys::open(w.m(name), libc::O_CREAT | libc::O_WRONLY | libc::O_APPEND, 0o644);
        let fd = fd.unwrap();
        let mut n = 0;
        let error = loop {
            match sys::write(&fd, &[b'x'; PIECE]) {
                Ok(wrote) => n += wrote,
                Err(e) => break e,
            }
            assert!(n < ENOUGH, "{name}: {n} bytes were taken by a disk of 12 MiB");
        };
        assert_eq!(error, Errno::ENOSPC, "{name}, after {n} bytes");
        assert_eq!(sys::fsync(&fd), Err(Errno::ENOSPC), "{name}");
        drop(fd);
        // Room again: the same name takes data again.
        sys::truncate(w.m(name), 0).unwrap_or_else(|e| panic!("truncate {name}: {e}"));
        let fd = sys::open(w.m(name), libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
        // The end of the failed writes may still be told.
        let _told = sys::write(&fd, b"");
        let again = sys::write(&fd, b"again").or_else(|_| sys::write(&fd, b"again"));
        assert_eq!(again, Ok(5), "{name}");
        sys::fsync(&fd).unwrap();
    }
    drop(std::fs::read(w.m("mine")).unwrap());
    w.same_after_remount();
    for (name, want) in [("mine", "kept"), ("new", "again"), ("log", "again")] {
        assert_eq!(cowl_tests::mount::cat(w.m(name)), want);
    }
});
