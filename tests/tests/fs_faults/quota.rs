//! A quota under the upper (btrfs counts what a subvolume uses): `EDQUOT` as for a full disk, nothing
//! half made, and room can be made again by deleting.

use std::process::Command;

use cowl_tests::as_root;
use cowl_tests::mount::disk::{self, BTRFS, run};
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{World, cat};

use crate::upper_in;

/// Upper and workdir in a subvolume that may hold `megabytes`.
fn limited(w: &World, megabytes: u32) {
    let at = w.dir.join("disk");
    std::fs::create_dir(&at).unwrap();
    disk::make(&w.dir.join("image"), 256, BTRFS, &at, "");
    let volume = at.join("volume");
    let btrfs = |words: &[&str]| {
        let mut c = Command::new("btrfs");
        run(c.args(words).arg(&volume).stdout(std::process::Stdio::null()));
    };
    btrfs(&["subvolume", "create"]);
    btrfs(&["quota", "enable"]);
    btrfs(&["qgroup", "limit", &format!("{megabytes}M")]);
    upper_in(w, &volume);
}

/// The accounting follows the transactions of btrfs.
fn settle(w: &World) {
    let fd = sys::open(w.dir.join("disk"), libc::O_RDONLY, 0).unwrap();
    sys::syncfs(&fd).unwrap();
}

/// Writes and syncs until there is no room; the bytes that were acknowledged.
fn fill(w: &World, name: &str) -> usize {
    let fd = sys::open(w.m(name), libc::O_CREAT | libc::O_WRONLY, 0o644).unwrap();
    let mut n = 0;
    loop {
        let wrote = sys::pwrite(&fd, n as i64, &[b'x'; 1 << 18]);
        let done =
            wrote.and_then(|k| if k == 1 << 18 { sys::fsync(&fd) } else { Err(Errno::EDQUOT) });
        match done {
            Ok(()) => n += 1 << 18,
            Err(e) => {
                assert_eq!(e, Errno::EDQUOT);
                return n;
            }
        }
        assert!(n < 64 << 20, "the quota has no effect");
    }
}

as_root!(a_quota_is_a_full_disk, |w| {
    limited(w, 12);
    w.put(1, "big", vec![b'b'; 6 << 20]);
    w.put(1, "small", "small");
    w.put(1, "dir/f", "f");
    w.mount();
    std::fs::write(w.m("mine"), "kept").unwrap();
    let n = fill(w, "filler");
    assert!(n >= 6 << 20, "{n} bytes fitted");
    settle(w);
    // A copy-up that has no room fails whole.
    let done = sys::open(w.m("big"), libc::O_WRONLY, 0)
        .and_then(|fd| sys::pwrite(&fd, 100, &[b'x'; 5000]).and_then(|_| sys::fsync(&fd)));
    assert_eq!(done, Err(Errno::EDQUOT));
    assert!(sys::lstat(w.u("big")).is_err(), "half a copy was left");
    for made in [
        sys::mkdir(w.m("new"), 0o755),
        sys::open(w.m("dir/new"), libc::O_CREAT | libc::O_WRONLY, 0o644).map(drop),
        sys::chmod(w.m("dir/f"), 0o600),
        sys::symlink("x", w.m("dir/link")),
    ] {
        assert!(matches!(made, Ok(()) | Err(Errno::EDQUOT)), "{made:?}");
    }
    assert_eq!(cat(w.m("mine")) + &cat(w.m("small")) + &cat(w.m("dir/f")), "keptsmallf");
    w.remount();
    let big = std::fs::read(w.m("big")).unwrap();
    assert!(big.len() == 6 << 20 && big.iter().all(|b| *b == b'b'), "the lower file changed");
    let filler = std::fs::read(w.m("filler")).unwrap();
    assert!(filler.len() >= n && filler[..n].iter().all(|b| *b == b'x'), "synced data got lost");
    // Deleting works, of both kinds of files, and makes room.
    sys::unlink(w.m("filler")).unwrap();
    // btrfs gives the room back when it comes to it.
    let mut done = Err(Errno::EDQUOT);
    for _ in 0..100 {
        settle(w);
        done = sys::unlink(w.m("small"));
        if done != Err(Errno::EDQUOT) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(done, Ok(()));
    let fd = sys::open(w.m("big"), libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, 100, &[b'x'; 5000]).unwrap();
    sys::fsync(&fd).unwrap();
    drop(fd);
    std::fs::remove_dir_all(w.m("dir")).unwrap();
    w.same_after_remount();
    let big = std::fs::read(w.m("big")).unwrap();
    assert_eq!((big[99], big[100], big[5099], big[5100]), (b'b', b'x', b'x', b'b'));
});
