//! The power fails under the upper: what was synced is there, and no file is half copied, not even
//! when names reach the disk before data.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cowl_tests::as_root;
use cowl_tests::mount::disk::{EXT4, XFS};
use cowl_tests::mount::sys::{self, Cut, libc};
use cowl_tests::mount::{Sut, World};

use crate::{power_on, upper_on_disk};

/// What file `n` of the lower holds.
fn content(n: usize) -> Vec<u8> {
    (0..50_000 + n as u32 * 997).map(|i| (i / 10 + n as u32) as u8).collect()
}

const FILES: usize = 40;

fn seed(w: &mut World) {
    for n in 0..FILES {
        w.put(1, &format!("d{}/f{n}", n % 3), content(n));
    }
    w.mount();
}

fn file(w: &World, n: usize) -> std::path::PathBuf {
    w.m(format!("d{}/f{n}", n % 3))
}

fn append(p: &Path, text: &[u8]) -> sys::R<OwnedFd> {
    let fd = sys::open(p, libc::O_WRONLY | libc::O_APPEND, 0)?;
    assert_eq!(sys::write(&fd, text)?, text.len());
    Ok(fd)
}

fn sync_dir(p: &Path) {
    sys::fsync(&sys::open(p, libc::O_DIRECTORY, 0).unwrap()).unwrap();
}

/// Changes files of the lower in every way, syncs some, and cuts the power.
fn cut(w: &mut World, mkfs: &[&str], options: &str, how: Cut) {
    let disk = upper_on_disk(w, 320, mkfs, options);
    seed(w);
    for n in 0..FILES {
        let p = file(w, n);
        match n / 5 {
            0 => sys::chmod(&p, 0o600).unwrap(),
            1 => drop(append(&p, b"more").unwrap()),
            2 => sys::fsync(&append(&p, b"more").unwrap()).unwrap(),
            3 => sys::rename(&p, w.m(format!("moved{n}")), 0).unwrap(),
            4 => sys::setxattr(&p, "user.a", b"1", 0).unwrap(),
            5 => sys::unlink(&p).unwrap(),
            6 => {
                sys::unlink(&p).unwrap();
                std::fs::write(&p, "new").unwrap();
                sys::fsync(&sys::open(&p, libc::O_RDONLY, 0).unwrap()).unwrap();
            }
            _ => {
                // Save by rename, as editors do.
                let t = w.m(format!("tmp{n}"));
                std::fs::write(&t, "saved").unwrap();
                sys::fsync(&sys::open(&t, libc::O_RDONLY, 0).unwrap()).unwrap();
                sys::rename(&t, &p, 0).unwrap();
                sync_dir(p.parent().unwrap());
            }
        }
    }
    for n in 25..30 {
        sync_dir(file(w, n).parent().unwrap());
    }
    sys::shut_down(&sys::open(&disk, libc::O_RDONLY, 0).unwrap(), how).unwrap();
    assert!(std::fs::write(w.m("late"), "x").is_err(), "the disk is off");
    power_on(w, &disk, options);
    for n in 0..FILES {
        let got = std::fs::read(file(w, n));
        let old = content(n);
        let (mut more, moved) = (old.clone(), std::fs::read(w.m(format!("moved{n}"))));
        more.extend(b"more");
        let ok = match n / 5 {
            0 | 4 => got.as_ref().is_ok_and(|g| *g == old),
            // Not synced: of what was appended anything may be missing, of what was there nothing.
            1 => got.as_ref().is_ok_and(|g| g.starts_with(&old) && g.len() <= more.len()),
            2 => got.as_ref().is_ok_and(|g| *g == more),
            3 => match (&got, &moved) {
                (Ok(g), Err(_)) | (Err(_), Ok(g)) => *g == old,
                _ => false,
            },
            5 => got.is_err(),
            6 => got.as_ref().is_ok_and(|g| g == b"new"),
            _ => got.as_ref().is_ok_and(|g| g == b"saved"),
        };
        assert!(
            ok,
            "file {n} (case {}): {:?} bytes of {}, zeros {:?}; moved {:?}",
            n / 5,
            got.as_ref().map(Vec::len),
            old.len(),
            got.as_ref().map(|g| g.iter().filter(|b| **b == 0).count()),
            moved.as_ref().map(Vec::len),
        );
    }
    w.same_after_remount();
}

as_root!(power_fails_on_ext4, |w| {
    cut(w, EXT4, "", Cut::Power);
});

as_root!(names_before_data_on_ext4, |w| {
    cut(w, EXT4, ",noauto_da_alloc", Cut::KeepLog);
});

as_root!(power_fails_on_xfs, |w| {
    cut(w, XFS, "", Cut::Power);
});

as_root!(names_before_data_on_xfs, |w| {
    cut(w, XFS, "", Cut::KeepLog);
});

as_root!(power_fails_while_many_write, |w| {
    if w.sut != Sut::Cowlfs {
        return; // fuse-overlayfs loses data here, overlayfs waits for its own dirty pages
    }
    let disk = upper_on_disk(w, 320, XFS, "");
    seed(w);
    // Per file: how many appended lines were called synced before the power began to fail. (An
    // fsync that the emulated failure overtakes is answered with success by XFS itself.)
    let failing = AtomicBool::new(false);
    let synced = Mutex::new(vec![0_usize; FILES]);
    for round in 0..3 {
        let before = synced.lock().unwrap().clone();
        failing.store(false, Ordering::SeqCst);
        std::thread::scope(|s| {
            for writer in 0..4 {
                let (w, synced, failing) = (&*w, &synced, &failing);
                s.spawn(move || {
                    for k in 0.. {
                        let n = (writer + 4 * k) % FILES;
                        let at = synced.lock().unwrap()[n];
                        let line = format!("line {at:06}\n");
                        let done =
                            append(&file(w, n), line.as_bytes()).and_then(|f| sys::fsync(&f));
                        if done.is_err() || failing.load(Ordering::SeqCst) {
                            return;
                        }
                        synced.lock().unwrap()[n] = at + 1;
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(200 + 150 * round));
            failing.store(true, Ordering::SeqCst);
            let how = if round == 1 { Cut::KeepLog } else { Cut::Power };
            sys::shut_down(&sys::open(&disk, libc::O_RDONLY, 0).unwrap(), how).unwrap();
        });
        power_on(w, &disk, "");
        let mut now = synced.lock().unwrap();
        assert_ne!(*now, before, "round {round}: nothing was synced");
        for n in 0..FILES {
            let got = std::fs::read(file(w, n)).unwrap();
            let (old, lines) = got.split_at(content(n).len().min(got.len()));
            assert!(old == content(n), "round {round}, file {n}: what the lower held is not there");
            let text = String::from_utf8_lossy(lines);
            let want: String =
                (0..text.lines().count()).map(|i| format!("line {i:06}\n")).collect();
            assert_eq!(text, want, "round {round}, file {n}: garbage was appended");
            let kept = text.lines().count();
            assert!(
                kept >= now[n],
                "round {round}, file {n}: {} lines synced, {kept} there",
                now[n]
            );
            now[n] = kept;
        }
    }
});
