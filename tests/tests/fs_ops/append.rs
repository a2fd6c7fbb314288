//! O_APPEND: every record whole, none lost, whoever writes.

use cowl_tests::both;
use cowl_tests::mount::sys::{self, libc};

const WRITERS: usize = 6;
const RECORDS: usize = 150;

fn check(content: &[u8], start: &[u8]) {
    assert!(content.starts_with(start), "the content before the appends");
    let lines: Vec<_> = content[start.len()..].split(|b| *b == b'\n').collect();
    assert_eq!(lines.len(), WRITERS * RECORDS + 1);
    let mut seen = std::collections::BTreeSet::new();
    for l in &lines[..WRITERS * RECORDS] {
        let text = String::from_utf8_lossy(l).into_owned();
        assert_eq!(text.len(), 100, "a torn record: {text}");
        assert!(seen.insert(text), "a record twice");
    }
}

fn record(writer: usize, n: usize) -> Vec<u8> {
    let mut r = format!("{writer} {n} ").into_bytes();
    r.resize(100, b'.');
    r.push(b'\n');
    r
}

both!(many_writers_with_their_own_descriptors, |w| {
    w.put(1, "log", "start\n");
    w.mount();
    std::thread::scope(|s| {
        for writer in 0..WRITERS {
            let p = w.m("log");
            s.spawn(move || {
                let fd = sys::open(p, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
                for n in 0..RECORDS {
                    assert_eq!(sys::write(&fd, &record(writer, n)), Ok(101));
                }
            });
        }
    });
    check(&std::fs::read(w.m("log")).unwrap(), b"start\n");
    w.remount();
    check(&std::fs::read(w.m("log")).unwrap(), b"start\n");
});

both!(appends_go_to_the_end_whatever_the_position, |w| {
    w.put(1, "f", "0123456789");
    w.mount();
    let a = sys::open(w.m("f"), libc::O_RDWR | libc::O_APPEND, 0).unwrap();
    let b = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    sys::lseek(&a, 2, libc::SEEK_SET).unwrap();
    sys::write(&a, b"A").unwrap();
    sys::pwrite(&b, 20, b"B").unwrap();
    sys::write(&a, b"C").unwrap();
    sys::ftruncate(&b, 5).unwrap();
    sys::write(&a, b"D").unwrap();
    assert_eq!(sys::pread(&b, 0, 100).unwrap(), b"01234D");
    // Linux appends with pwrite, too, when O_APPEND is set.
    sys::pwrite(&a, 0, b"E").unwrap();
    assert_eq!(sys::pread(&b, 0, 100).unwrap(), b"01234DE");
});
