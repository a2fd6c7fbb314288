//! A slow disk under a layer: who waits for it holds up nobody else.

use std::time::{Duration, Instant};

use cowl_tests::both;
use cowl_tests::mount::cat;
use cowl_tests::mount::stub::{self, Contents, Fault};
use cowl_tests::mount::sys::{self, Errno, libc};

/// More than cowlfs has threads.
const MANY: usize = 48;
/// Fewer than that.
const SOME: usize = 8;

fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

both!(who_waits_for_a_slow_disk_holds_up_nobody, |w| {
    w.put(0, "d/quick", "quick");
    let mut c = Contents::default();
    let names: Vec<&'static str> =
        (0..MANY).map(|i| &*Box::leak(format!("slow{i}").into_boxed_str())).collect();
    for name in &names {
        c.file(1, name, name.as_bytes().to_vec());
    }
    let lower = stub::mount(&w.l(1, ""), c);
    w.mount();
    // Known to the kernel, so that only the reading is left.
    for name in &names {
        sys::lstat(w.m(name)).unwrap();
    }
    lower.fail(&[Fault::ReadWaits]);
    std::thread::scope(|s| {
        let read = |name: &'static str| {
            let path = w.m(name);
            s.spawn(move || assert_eq!(cat(path), name));
        };
        names.iter().take(SOME).for_each(|n| read(n));
        until("all of them reach the disk", || lower.waiting() as usize == SOME);
        // Everything else goes on, also what has to be written to the disk of the upper.
        assert_eq!(cat(w.m("d/quick")), "quick");
        for n in 0..200 {
            let fd = sys::open(w.m(format!("d/new{n}")), libc::O_CREAT | libc::O_RDWR, 0o644);
            let fd = fd.unwrap();
            sys::pwrite(&fd, 0, b"new").unwrap();
            if n % 50 == 0 {
                sys::fsync(&fd).unwrap();
            }
            assert_eq!(sys::lstat(w.m(format!("d/none{n}"))).map(drop), Err(Errno::ENOENT));
        }
        assert_eq!(sys::names(w.m("d")).unwrap().len(), 201);
        // More of them than there are threads: they wait, and then all are answered.
        names.iter().skip(SOME).for_each(|n| read(n));
        until("more of them reach the disk", || lower.waiting() as usize > SOME + 8);
        lower.heal();
    });
    sys::unlink(w.m("d/new0")).unwrap();
    w.same_after_remount();
});
