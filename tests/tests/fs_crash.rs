//! kill -9 of the filesystem at random moments of a random workload.
//!
//! Every operation the filesystem acknowledged must be there after the next mount, and the one that
//! was under way must have happened either completely or not at all: the tree must equal that of a
//! plain directory on which the same operations were done, without or with the last one. Data
//! counts as acknowledged once it was synced. Around everything, the lowers must not change.
#![allow(
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cowl_tests::both;
use cowl_tests::model::op::{self, Op, Side};
use cowl_tests::model::{self, Rng};
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Mode, World, cat};
use cowl_tests::tree::{self, Depth};

/// Worlds, each with new layers, and kills in each.
const WORLDS: u64 = 6;
const KILLS: usize = 5;

/// The connection to the filesystem is gone: the operation was under way.
fn interrupted(root: &Path, answer: &str) -> bool {
    ["ENOTCONN", "ECONNABORTED", "ECONNREFUSED"].iter().any(|e| answer.contains(e))
        || (answer.contains("EIO") && dead(root))
}

/// Whether the filesystem has been killed: pages that it did not take any more are reported as EIO by
/// the fsync that waits for them.
fn dead(root: &Path) -> bool {
    matches!(sys::lstat(root.join("no such name")), Err(e) if e != Errno::ENOENT)
}

/// Writes a whole file and syncs it.
fn save(root: &Path, path: &str, len: usize, byte: u8) -> String {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NONBLOCK;
    let done = sys::open(root.join(path), flags, 0o640).and_then(|fd| {
        let n = sys::write(&fd, &vec![byte; len])?;
        sys::fsync(&fd)?;
        Ok(n)
    });
    format!("{done:?}")
}

fn apply(side: &mut Side, root: &Path, op: &Op) -> String {
    match op {
        Op::Write { path, len, byte } => save(root, path, *len, *byte),
        other => side.apply(other),
    }
}

/// Operations that are done when they are acknowledged, and atomic.
fn random(rng: &mut Rng, privileged: bool) -> Op {
    loop {
        let op = op::random(rng, privileged);
        match op {
            Op::Write { .. }
            | Op::Mkdir { .. }
            | Op::Rmdir { .. }
            | Op::Unlink { .. }
            | Op::Rename { .. }
            | Op::Link { .. }
            | Op::Symlink { .. }
            | Op::Mksock { .. }
            | Op::Chmod { .. }
            | Op::Chown { .. }
            | Op::Times { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. } => return op,
            _ => {}
        }
    }
}

/// Works until the filesystem dies; the operation that was under way then.
fn work(w: &World, rng: &mut Rng) -> Option<Op> {
    let (mnt, plain) = (w.m(""), w.r(""));
    let (mut got, mut want) = (Side::new(&mnt, true), Side::new(&plain, true));
    for _ in 0..2_000 {
        let op = random(rng, w.mode == Mode::Root);
        let answer = apply(&mut got, &mnt, &op);
        if interrupted(&mnt, &answer) {
            return Some(op);
        }
        let expected = apply(&mut want, &plain, &op);
        assert_eq!(answer, expected, "`{}`", op.line());
    }
    None
}

fn differs(w: &World) -> String {
    tree::diff(&tree::read(&w.r(""), Depth::View), &w.view(), Depth::View)
}

/// Compares after a crash; false when the reference cannot go on because the two may differ.
fn check(w: &World, last: Option<Op>) -> bool {
    let before = differs(w);
    if before.is_empty() {
        return true;
    }
    let Some(op) = last else { panic!("without an interrupted operation:\n{before}") };
    let plain = w.r("");
    let undone = tree::read(&plain, Depth::View);
    apply(&mut Side::new(&plain, true), &plain, &op);
    let after = differs(w);
    let saved = matches!(op, Op::Write { .. });
    if after.is_empty() {
        return true;
    }
    let what = op.line();
    if saved {
        // Created or not, any prefix of the data; but nothing may have changed that a completed
        // save would not change.
        let done = tree::read(&plain, Depth::View);
        let touched = |p: &str| undone.get(p.as_bytes()) != done.get(p.as_bytes());
        let other: Vec<_> = before.lines().filter(|l| !touched(path_of(l))).collect();
        assert!(other.is_empty(), "an interrupted `{what}` changed:\n{}", other.join("\n"));
        return false;
    }
    panic!("`{what}` was interrupted and is neither undone:\n{before}nor done:\n{after}");
}

/// The path a line of a difference speaks of.
fn path_of(line: &str) -> &str {
    let line = line.trim_start();
    line.strip_prefix('/').unwrap_or(line).split(": ").next().unwrap_or_default()
}

fn one_world(base: &Path, mode: Mode, sut: cowl_tests::mount::Sut, seed: u64) {
    let dir = base.join(format!("world{seed}"));
    std::fs::create_dir(&dir).unwrap();
    let mut w = World::new(dir, mode, sut);
    let layers = model::build_layers(&mut w, seed);
    let mut rng = Rng::new(seed ^ 0xdead);
    w.mount();
    for kill in 0..KILLS {
        let delay = Duration::from_micros(500 + rng.below(30_000) as u64);
        let last = std::thread::scope(|s| {
            if let Some(pid) = w.server_pid() {
                s.spawn(move || {
                    std::thread::sleep(delay);
                    sys::kill(pid, libc::SIGKILL).unwrap();
                });
            }
            work(&w, &mut rng)
        });
        w.crash();
        println!("seed {seed}, kill {kill}, layers:\n{layers}");
        if !check(&w, last) {
            break;
        }
        w.same_after_remount();
    }
    w.finish();
}

both!(killed_at_any_moment, |w| {
    let first = std::env::var("COWL_MODEL_SEED").map_or(1, |s| s.parse().unwrap());
    let worlds = std::env::var("COWL_MODEL_CASES").map_or(WORLDS, |s| s.parse().unwrap());
    for seed in first..first + worlds {
        one_world(&w.dir, w.mode, w.sut, seed);
    }
});

both!(synced_data_is_there_and_half_files_are_not, |w| {
    for i in 0..10 {
        w.put(1, &format!("f{i}"), vec![b'a' + i; 200_000]);
    }
    w.mount();
    let mut rng = Rng::new(7);
    let mut synced = [false; 10];
    for _ in 0..12 {
        let Some(pid) = w.server_pid() else { return };
        let delay = Duration::from_micros(rng.below(12_000) as u64);
        std::thread::scope(|s| {
            s.spawn(move || {
                std::thread::sleep(delay);
                sys::kill(pid, libc::SIGKILL).unwrap();
            });
            loop {
                let i = rng.below(10);
                // One byte in the middle: the rest must come from the lower, whole.
                let done = sys::open(w.m(format!("f{i}")), libc::O_WRONLY, 0).and_then(|fd| {
                    sys::pwrite(&fd, 100_000, b"!")?;
                    sys::fsync(&fd)
                });
                match done {
                    Ok(()) => synced[i] = true,
                    Err(Errno::ENOTCONN | Errno::ECONNABORTED) => break,
                    Err(Errno::EIO) if dead(&w.m("")) => break,
                    Err(e) => panic!("f{i}: {e}"),
                }
            }
        });
        w.crash();
        for (i, synced) in synced.iter().enumerate() {
            let got = std::fs::read(w.m(format!("f{i}"))).unwrap();
            let fill = b'a' + i as u8;
            assert_eq!(got.len(), 200_000, "f{i}");
            let odd: Vec<_> = (0..got.len()).filter(|k| got[*k] != fill).collect();
            assert!(odd.is_empty() || odd == [100_000], "f{i} is a mixture at {odd:?}");
            assert!(!synced || got[100_000] == b'!', "f{i} lost what was synced");
        }
    }
});

both!(killed_while_many_write, |w| {
    for i in 0..40 {
        w.put(i % 2, &format!("d{}/f{i}", i % 4), format!("lower {i}"));
    }
    w.mount();
    let mut rng = Rng::new(11);
    for round in 0..5 {
        let Some(pid) = w.server_pid() else { return };
        let delay = Duration::from_micros(2_000 + rng.below(20_000) as u64);
        let mut kept: Vec<(String, String)> = Vec::new();
        std::thread::scope(|s| {
            let mnt = w.m("");
            let workers: Vec<_> = (0..3)
                .map(|worker| {
                    let mnt = mnt.clone();
                    s.spawn(move || writer(&mnt, round, worker))
                })
                .collect();
            std::thread::sleep(delay);
            sys::kill(pid, libc::SIGKILL).unwrap();
            for worker in workers {
                kept.extend(worker.join().unwrap());
            }
        });
        w.crash();
        for (name, content) in kept {
            assert_eq!(cat(w.m(&name)), content, "{name} was synced and renamed into place");
        }
        w.same_after_remount();
    }
});

/// Replaces files as careful programs do; what was acknowledged to be in place.
fn writer(mnt: &Path, round: usize, worker: usize) -> Vec<(String, String)> {
    let mut done: Vec<(String, String)> = Vec::new();
    for n in 0.. {
        let name = format!("d{}/f{}", n % 4, (n * 3 + worker) % 40 / 3 * 3 + worker);
        let content = format!("round {round} worker {worker} number {n}");
        let tmp = mnt.join(format!("tmp-{worker}"));
        let saved = sys::open(&tmp, libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY, 0o644)
            .and_then(|fd| {
                sys::write(&fd, content.as_bytes())?;
                sys::fsync(&fd)
            })
            .and_then(|()| sys::rename(&tmp, mnt.join(&name), 0));
        if saved.is_err() {
            // It may have happened: no claim about this name.
            done.retain(|(at, _)| *at != name);
            break;
        }
        done.retain(|(at, _)| *at != name);
        done.push((name, content));
    }
    done
}

/// What looks for holes among pages not written back, until the connection has gone.
fn seeker(file: &Path, started: &AtomicUsize) {
    let Ok(fd) = sys::open(file, libc::O_RDWR | libc::O_CREAT, 0o644) else { return };
    for n in 0_i64.. {
        let at = n % 64 * 65_536;
        let done = sys::pwrite(&fd, at, &[b'x'; 5_000]).and_then(|_| {
            sys::lseek(&fd, at / 2, libc::SEEK_HOLE)?;
            match sys::lseek(&fd, at, libc::SEEK_DATA) {
                Err(Errno::ENXIO) | Ok(_) => Ok(()),
                Err(e) => Err(e),
            }
        });
        // A file that all know is never dead in the cache: a name that nobody asked for yet tells.
        let gone = file.with_extension(format!("none{n}"));
        if done.is_err() || matches!(sys::lstat(gone), Err(e) if e != Errno::ENOENT) {
            return;
        }
        started.fetch_add(1, Ordering::Relaxed);
    }
}

both!(killed_while_many_seek_nobody_hangs, |w| {
    w.put(1, "lower", vec![b'a'; 1 << 20]);
    w.mount();
    for _ in 0..10 {
        let Some(pid) = w.server_pid() else { return };
        let started = AtomicUsize::new(0);
        // Whoever hangs in the kernel cannot be killed: the test as a whole has a limit then.
        std::thread::scope(|s| {
            for n in 0..6 {
                let file = w.m(if n == 0 { "lower".into() } else { format!("f{}", n / 2) });
                let started = &started;
                s.spawn(move || seeker(&file, started));
            }
            while started.load(Ordering::Relaxed) < 60 {
                std::thread::yield_now();
            }
            sys::kill(pid, libc::SIGKILL).unwrap();
        });
        w.crash();
    }
});
