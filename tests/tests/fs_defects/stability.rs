//! Death, unmounting and what the mount table says (D32, D42). Signals and refusals of the command
//! line (D19, D37) are in `fs_cli`.

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Sut, cat, put};

both!(d32_a_killed_filesystem_mounts_again, |w| {
    w.put(1, "d/f", "lower");
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    std::fs::write(w.m("d/f"), "synced").unwrap();
    let fd = sys::open(w.m("d/f"), libc::O_RDWR, 0).unwrap();
    sys::fsync(&fd).unwrap();
    sys::mkdir(w.m("new"), 0o755).unwrap();
    sys::kill(pid, libc::SIGKILL).unwrap();
    // The connection ends when the process is gone: an error from then on, never a hang.
    let dead = (0..200).any(|i| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        sys::lstat(w.m(format!("d/none{i}"))).map(|_| ()) == Err(Errno::ENOTCONN)
    });
    assert!(dead, "no ENOTCONN after SIGKILL");
    drop(fd);
    w.crash();
    assert_eq!(cat(w.m("d/f")), "synced");
    assert_eq!(sys::names(w.m("")).unwrap(), ["d", "new"]);
});

both!(d32_descriptors_stay_bounded, |w| {
    w.in_memory();
    for i in 0..4000 {
        put(&w.l(1, format!("d{}/f{i}", i % 400)), "x");
    }
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    let held: Vec<_> = (0..2000)
        .map(|i| sys::open(w.m(format!("d{}/f{i}", i % 400)), libc::O_RDONLY, 0).unwrap())
        .collect();
    for (i, fd) in held.iter().enumerate() {
        assert_eq!(sys::pread(fd, 0, 4).unwrap(), b"x", "file {i}");
    }
    w.view();
    drop(held);
    w.view();
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(fds < 3000, "{fds} descriptors are open for nobody");
});

fn mount_line(w: &cowl_tests::mount::World) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mnt = format!(" {} ", w.m("").display());
    table.lines().find(|l| l.contains(&mnt)).expect("the mount is in the table").to_owned()
}

both!(d42_mount_table_says_what_it_is, |w| {
    w.options = vec!["fsname=my-layers".into(), "nodiratime".into(), "noatime".into()];
    w.mount();
    let line = mount_line(w);
    let after = line.split_once(" - ").expect("mountinfo separator").1;
    let kind = match w.sut {
        Sut::Cowlfs => "fuse.cowlfs my-layers ",
        Sut::Overlay => "overlay overlay ",
        Sut::FuseOverlayfs => "fuse.fuse-overlayfs my-layers ",
    };
    assert!(after.starts_with(kind), "{line}");
});

both!(d42_layers_are_free_after_umount, |w| {
    sys::mount("tmpfs", &w.l(1, ""), "tmpfs", 0, b"").unwrap();
    for i in 0..50 {
        w.put(1, &format!("d{i}/f"), "x");
    }
    w.mount();
    w.view();
    sys::chmod(w.m("d3/f"), 0o600).unwrap();
    w.unmount();
    w.check_lowers();
    sys::umount(&w.l(1, ""), 0).unwrap_or_else(|e| panic!("the lower is still in use: {e}"));
    // Nothing is left to compare at the end but an empty directory.
    w.set_lowers(0);
});

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Files that are looked at in the tests of memory: known ones take some 170 bytes each, 4 MiB.
const MANY: usize = 24_000;

fn look_at_all(w: &cowl_tests::mount::World) -> Vec<u64> {
    let name = |i| w.m(format!("d{}/f{i}", i % 8));
    (0..MANY).map(|i| sys::lstat(name(i)).unwrap().st_ino).collect()
}

both!(memory_follows_the_limit_of_known_files, |w| {
    if w.sut != Sut::Cowlfs {
        return;
    }
    w.in_memory();
    for i in 0..MANY {
        put(&w.l(1, format!("d{}/f{i}", i % 8)), "");
    }
    w.options = vec!["cache=1000".into()];
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    // In use, so never given up.
    let held = sys::open(w.m("d1/f1"), libc::O_RDONLY, 0).unwrap();
    let before = resident_kib(pid);
    let inos = look_at_all(w);
    let within = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        resident_kib(pid) < before + 3000
    });
    assert!(within, "{before} KiB before, {} KiB after", resident_kib(pid));
    assert_eq!(look_at_all(w), inos, "forgotten files are found again as what they were");
    assert_eq!(sys::fstat(&held).unwrap().st_ino, inos[1]);
});

both!(memory_stays_flat_under_churn, |w| {
    w.in_memory();
    w.put(1, "d/lower", "x");
    w.mount();
    let Some(pid) = w.server_pid() else { return };
    let churn = |rounds: usize| {
        for i in 0..rounds {
            put(&w.m(format!("d/a{i}")), "x");
            sys::rename(w.m(format!("d/a{i}")), w.m(format!("d/b{i}")), 0).unwrap();
            sys::unlink(w.m(format!("d/b{i}"))).unwrap();
        }
    };
    churn(2_000);
    let before = resident_kib(pid);
    churn(12_000);
    let after = resident_kib(pid);
    // A leak of one node a round were 2,000 KiB.
    assert!(after < before + 1500, "{before} KiB before, {after} KiB after 12,000 rounds");
});
