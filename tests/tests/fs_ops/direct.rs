//! O_DIRECT beside the page cache: whatever is written by one way is read by all.

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Mapping, libc};

const PAGE: usize = 4096;

/// A page-aligned part of a buffer.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(len: usize, byte: u8) -> Aligned {
        let v = vec![byte; len + PAGE];
        let at = v.as_ptr().align_offset(PAGE);
        Aligned(v, at)
    }

    fn get(&self, len: usize) -> &[u8] {
        &self.0[self.1..self.1 + len]
    }
}

both!(direct_and_cached_writes_meet, |w| {
    w.put(1, "f", vec![b'a'; 10 * PAGE + 100]);
    w.put(1, "g", vec![b'a'; 10 * PAGE]);
    w.mount();
    let Ok(direct) = sys::open(w.m("f"), libc::O_RDWR | libc::O_DIRECT, 0) else {
        return; // the layers' filesystem has none; fs_ops::open checks which errno says so
    };
    let cached = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    let mut map = Mapping::new(&cached, 0, 10 * PAGE, true, true).unwrap();
    assert_eq!(map.get(PAGE, 1), b"a");
    // Direct, over pages that are cached and mapped.
    let b = Aligned::new(2 * PAGE, b'b');
    assert_eq!(sys::pwrite(&direct, PAGE as i64, b.get(2 * PAGE)), Ok(2 * PAGE));
    assert_eq!(sys::pread(&cached, PAGE as i64 - 1, 3).unwrap(), b"abb");
    assert_eq!(map.get(3 * PAGE - 1, 2), b"ba");
    // Direct reading of what is only in the cache, written and mapped.
    sys::pwrite(&cached, 4 * PAGE as i64, &[b'c'; PAGE]).unwrap();
    map.put(5 * PAGE, &[b'd'; PAGE]);
    let got = sys::pread(&direct, 4 * PAGE as i64, 2 * PAGE).unwrap();
    assert_eq!((got[0], got[PAGE - 1], got[PAGE], got[2 * PAGE - 1]), (b'c', b'c', b'd', b'd'));
    // Not aligned: done or refused with EINVAL, never half.
    let odd = sys::pwrite(&direct, 6 * PAGE as i64 + 7, &[b'e'; 1000]);
    assert!(odd == Ok(1000) || odd == Err(sys::Errno::EINVAL), "{odd:?}");
    let now = sys::pread(&cached, 6 * PAGE as i64, 2000).unwrap();
    let want = if odd.is_ok() { b'e' } else { b'a' };
    assert_eq!((now[6], now[7], now[1006], now[1007]), (b'a', want, want, b'a'));
    // Beyond the end.
    assert_eq!(sys::pwrite(&direct, 20 * PAGE as i64, b.get(PAGE)), Ok(PAGE));
    assert_eq!(sys::fstat(&cached).unwrap().st_size, 21 * PAGE as i64);
    assert_eq!(sys::pread(&cached, 19 * PAGE as i64, 2).unwrap(), [0, 0]);
    assert_eq!(sys::pread(&direct, 30 * PAGE as i64, PAGE).unwrap(), b"");
    // The first write of all to a lower file is a direct one.
    let first = sys::open(w.m("g"), libc::O_WRONLY | libc::O_DIRECT, 0).unwrap();
    assert_eq!(sys::pwrite(&first, 0, b.get(PAGE)), Ok(PAGE));
    let all = std::fs::read(w.m("f")).unwrap();
    drop((map, direct, cached, first));
    for _ in 0..2 {
        assert!(std::fs::read(w.m("f")).unwrap() == all);
        let g = std::fs::read(w.m("g")).unwrap();
        assert_eq!((g.len(), g[PAGE - 1], g[PAGE]), (10 * PAGE, b'b', b'a'));
        w.remount();
    }
});

both!(direct_appends_of_many, |w| {
    w.put(1, "log", vec![b'-'; PAGE]);
    w.mount();
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_DIRECT;
    if sys::open(w.m("log"), flags, 0).is_err() {
        return;
    }
    std::thread::scope(|s| {
        for writer in 0..4_u8 {
            let p = w.m("log");
            s.spawn(move || {
                let fd = sys::open(p, flags, 0).unwrap();
                let page = Aligned::new(PAGE, b'0' + writer);
                for _ in 0..20 {
                    assert_eq!(sys::write(&fd, page.get(PAGE)), Ok(PAGE));
                }
            });
        }
    });
    let got = std::fs::read(w.m("log")).unwrap();
    assert_eq!(got.len(), 81 * PAGE);
    for writer in 0..4_u8 {
        let pages = got.chunks(PAGE).filter(|p| p.iter().all(|b| *b == b'0' + writer)).count();
        assert_eq!(pages, 20, "whole pages of writer {writer}");
    }
});
