//! mmap: coherent with read and write, over copy-up, truncation and unlinking.

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Mapping, libc};
use cowl_tests::mount::{cat, put};

both!(shared_stores_are_read_and_written_back, |w| {
    w.put(1, "f", vec![b'a'; 12_000]);
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    let mut m = Mapping::new(&fd, 0, 12_000, true, true).unwrap();
    m.put(4000, &[b'b'; 200]);
    assert_eq!(sys::pread(&fd, 3999, 3).unwrap(), b"abb");
    sys::pwrite(&fd, 8191, b"cc").unwrap();
    assert_eq!(m.get(8190, 4), b"acca");
    let other = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    let reader = Mapping::new(&other, 0, 12_000, true, false).unwrap();
    m.put(0, b"zz");
    assert_eq!(reader.get(0, 3), b"zza");
    assert_eq!(sys::pread(&other, 0, 3).unwrap(), b"zza");
    drop((m, reader, fd, other));
    w.remount();
    let got = std::fs::read(w.m("f")).unwrap();
    assert_eq!(
        (got[0], got[4000], got[4199], got[4200], got[8191]),
        (b'z', b'b', b'b', b'a', b'c')
    );
    assert_eq!(got.len(), 12_000);
});

both!(stores_outlive_the_descriptor_and_the_name, |w| {
    w.put(1, "f", vec![b'a'; 5000]);
    w.put(1, "g", vec![b'a'; 5000]);
    w.mount();
    let map = |n: &str| {
        let fd = sys::open(w.m(n), libc::O_RDWR, 0).unwrap();
        Mapping::new(&fd, 0, 5000, true, true).unwrap()
    };
    let (mut f, mut g) = (map("f"), map("g"));
    sys::rename(w.m("f"), w.m("f2"), 0).unwrap();
    sys::unlink(w.m("g")).unwrap();
    f.put(10, b"moved");
    g.put(10, b"gone");
    f.sync().unwrap();
    g.sync().unwrap();
    assert_eq!(g.get(10, 4), b"gone");
    drop((f, g));
    w.remount();
    assert_eq!(&std::fs::read(w.m("f2")).unwrap()[9..16], b"amoveda");
});

both!(private_stores_stay_private, |w| {
    w.put(1, "f", "content");
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    let mut m = Mapping::new(&fd, 0, 7, false, true).unwrap();
    m.put(0, b"private");
    assert_eq!(cat(w.m("f")), "content");
    assert!(sys::lstat(w.u("f")).is_err(), "a private mapping is no reason to copy up");
    let shared = Mapping::new(&fd, 0, 7, true, true);
    assert_eq!(shared.err(), Some(sys::Errno::EACCES), "shared and writable, of a read-only fd");
});

both!(truncation_is_seen_and_growth_is_zero, |w| {
    w.put(1, "f", vec![b'a'; 9000]);
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    let m = Mapping::new(&fd, 0, 9000, true, true).unwrap();
    assert_eq!(m.get(100, 2), b"aa");
    sys::ftruncate(&fd, 50).unwrap();
    assert_eq!(m.get(48, 4), b"aa\0\0");
    sys::ftruncate(&fd, 9000).unwrap();
    assert_eq!(m.get(48, 4), b"aa\0\0");
    assert_eq!(m.get(8000, 4), [0; 4]);
    assert_eq!(sys::pread(&fd, 40, 20).unwrap(), b"aaaaaaaaaa\0\0\0\0\0\0\0\0\0\0");
});

both!(programs_run_from_the_union_and_are_busy, |w| {
    let prog = w.l(1, "prog");
    std::fs::copy("/bin/sleep", &prog).unwrap();
    sys::chmod(&prog, 0o755).unwrap();
    put(&w.l(1, "script"), "#!/bin/sh\necho from the union\n");
    sys::chmod(w.l(1, "script"), 0o755).unwrap();
    w.mount();
    let out = std::process::Command::new(w.m("script")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "from the union\n");
    let mut child = std::process::Command::new(w.m("prog")).arg("100").spawn().unwrap();
    let open = sys::open(w.m("prog"), libc::O_WRONLY, 0).map(drop);
    let replaced = sys::unlink(w.m("prog"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(open, Err(sys::Errno::ETXTBSY));
    replaced.unwrap();
});
