//! `io=passthrough`: the kernel reads and writes the layers' files itself. What is different from the
//! usual mode, and what must not be: a lower is never written (the harness digests them), nobody keeps
//! set-user-ID over a write, the attributes are true.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cowl_tests::as_root;
use cowl_tests::mount::sys::{self, Mapping, libc};
use cowl_tests::mount::{Sut, World, cat, jail};

/// Mounts with passthrough; false where the kernel, or the filesystem under test, has none.
fn mounted(w: &mut World) -> bool {
    if w.sut != Sut::Cowlfs {
        return false;
    }
    let said = Command::new(jail::program_inside()).arg("--probe").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let possible = said.contains("\npassthrough: possible");
    if !possible {
        eprintln!("skipped: {said}");
        return false;
    }
    w.options.push("io=passthrough".into());
    w.mount();
    true
}

/// A number of `/proc/PID/io`: bytes that the server read by read(2), say.
fn server_io(w: &World, what: &str) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", w.server_pid().unwrap())).unwrap();
    io.lines()
        .find_map(|l| l.strip_prefix(what)?.trim_start_matches(':').trim().parse().ok())
        .unwrap()
}

as_root!(a_handle_opened_before_keeps_reading_the_lower, |w| {
    w.put(1, "f", "lower content");
    if !mounted(w) {
        return;
    }
    let before = sys::lstat(w.m("f")).unwrap();
    let early = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::pread(&early, 0, 5).unwrap(), b"lower");
    let writer = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::pwrite(&writer, 0, b"UPPER"), Ok(5));
    assert_eq!(cat(w.m("f")), "UPPER content");
    assert_eq!(sys::pread(&early, 0, 13).unwrap(), b"lower content");
    // It is one file all the same.
    let after = sys::lstat(w.m("f")).unwrap();
    assert_eq!(after.st_ino, before.st_ino);
    assert_eq!(sys::fstat(&early).unwrap().st_ino, before.st_ino);
    assert_eq!(sys::fstat(&early).unwrap().st_mtime, after.st_mtime);
    drop((early, writer));
    assert_eq!(cat(w.m("f")), "UPPER content");
    w.remount();
    assert_eq!(cat(w.m("f")), "UPPER content");
    assert_eq!(cat(w.u("f")), "UPPER content");
});

as_root!(opens_that_need_another_file_never_fail, |w| {
    // The kernel looks a name up twice after ESTALE and gives one of the answers back; whether that
    // is known here before the second is a matter of luck, so many times.
    for i in 0..200 {
        w.put(1, &format!("f{i}"), "lower");
    }
    if !mounted(w) {
        return;
    }
    for i in 0..200 {
        let p = w.m(format!("f{i}"));
        let _early = sys::open(&p, libc::O_RDONLY, 0).unwrap();
        let writer = sys::open(&p, libc::O_RDWR, 0).unwrap();
        assert_eq!(sys::pwrite(&writer, 0, b"U"), Ok(1));
        assert_eq!(cat(&p), "Uower");
    }
});

as_root!(data_does_not_pass_through_the_server, |w| {
    const BIG: usize = 8 << 20;
    w.put(1, "big", vec![7u8; BIG]);
    if !mounted(w) {
        return;
    }
    let (read, written) = (server_io(w, "rchar"), server_io(w, "wchar"));
    assert_eq!(std::fs::read(w.m("big")).unwrap().len(), BIG);
    std::fs::write(w.m("new"), vec![8u8; BIG]).unwrap();
    let moved = server_io(w, "rchar") - read + server_io(w, "wchar") - written;
    assert!(moved < BIG as u64 / 8, "{moved} bytes went through the server");
    assert_eq!(std::fs::read(w.u("new")).unwrap(), vec![8u8; BIG]);
});

as_root!(truncation_at_open_copies_nothing, |w| {
    const BIG: usize = 32 << 20;
    w.put(1, "big", vec![7u8; BIG]);
    if !mounted(w) {
        return;
    }
    let before = server_io(w, "read_bytes") + server_io(w, "rchar");
    std::fs::write(w.m("big"), "new").unwrap();
    let read = server_io(w, "read_bytes") + server_io(w, "rchar") - before;
    assert!(read < BIG as u64 / 8, "{read} bytes were read");
    assert_eq!(cat(w.m("big")), "new");
    w.remount();
    assert_eq!(cat(w.m("big")), "new");
});

as_root!(mappings_are_coherent_and_move_the_times, |w| {
    w.put(1, "f", "0123456789");
    if !mounted(w) {
        return;
    }
    let file = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    let mut map = Mapping::new(&file, 0, 10, true, true).unwrap();
    let before = sys::lstat(w.m("f")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    map.put(0, b"abc");
    assert_eq!(sys::pread(&file, 0, 10).unwrap(), b"abc3456789");
    map.sync().unwrap();
    let after = sys::lstat(w.m("f")).unwrap();
    assert_ne!(
        (before.st_mtime, before.st_mtime_nsec),
        (after.st_mtime, after.st_mtime_nsec),
        "a store changes the mtime"
    );
    sys::pwrite(&file, 3, b"XYZ").unwrap();
    assert_eq!(map.get(0, 10), b"abcXYZ6789");
    drop((map, file));
    assert_eq!(cat(w.m("f")), "abcXYZ6789");
});

as_root!(set_user_id_goes_although_the_kernel_writes, |w| {
    w.put(1, "before", "x");
    w.put(1, "after", "x");
    let chmod = |p: std::path::PathBuf, mode| {
        std::fs::set_permissions(p, PermissionsExt::from_mode(mode)).unwrap();
    };
    chmod(w.l(1, "before"), 0o4777);
    chmod(w.l(1, "after"), 0o777);
    if !mounted(w) {
        return;
    }
    let mode = |w: &World, name: &str| sys::lstat(w.m(name)).unwrap().st_mode & 0o7777;
    let write = |p: std::path::PathBuf| {
        let done = Command::new("setpriv")
            .args(["--reuid=4321", "--regid=4321", "--clear-groups", "sh", "-c"])
            .arg(format!("printf y >> {}", p.display()))
            .status()
            .unwrap();
        assert!(done.success());
    };
    // While others have it open, so that the kernel has the host's file already.
    let _reader = sys::open(w.m("before"), libc::O_RDONLY, 0).unwrap();
    write(w.m("before"));
    assert_eq!(mode(w, "before"), 0o777);
    // The bit comes while a stranger has it open for writing.
    let mut child = Command::new("setpriv")
        .args(["--reuid=4321", "--regid=4321", "--clear-groups", "sh", "-c"])
        .arg(format!("exec 3>>{}; read _; printf y >&3", w.m("after").display()))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let fds = format!("/proc/{}/fd/3", child.id());
    while std::fs::read_link(&fds).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    chmod(w.m("after"), 0o4777);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(mode(w, "after"), 0o777);
    // Whoever may keep it keeps it.
    chmod(w.m("before"), 0o4777);
    std::fs::write(w.m("before"), "root").unwrap();
    assert_eq!(mode(w, "before"), 0o4777);
});

as_root!(files_without_a_name_get_one, |w| {
    if !mounted(w) {
        return;
    }
    let file = sys::open(w.m(""), libc::O_TMPFILE | libc::O_RDWR, 0o600).unwrap();
    sys::pwrite(&file, 0, b"data").unwrap();
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = sys::open(&own, libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::pread(&again, 0, 4).unwrap(), b"data");
});
