//! Many threads at once, as a build or a package manager would do it.
//!
//! Each thread has a subtree of its own, where every answer must be that of a plain directory, and
//! all share one more, where anything that a race explains may be answered. Another thread walks
//! through everything meanwhile. Afterwards the tree must hang together (`..`, inode numbers, link
//! counts), be the same after a remount, and go away by `rm -r`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::op::{self, Op, Side, Step};
use super::{Rng, layers};
use crate::mount::sys::{self, Errno, libc};
use crate::mount::{Mode, Sut, World};
use crate::tree::{self, Depth, Tree};

/// Threads that change things.
const THREADS: usize = 4;
/// The subtree that all of them use.
const SHARED: &str = "s";

/// Answers that no race explains.
const NEVER: [Errno; 7] = [
    Errno::EIO,
    Errno::ESTALE,
    Errno::ENOTCONN,
    Errno::ENOSYS,
    Errno::EFAULT,
    Errno::EUCLEAN,
    Errno::EMFILE,
];

/// Runs one world below `base`, with `ops` operations by each thread.
pub fn run(base: &Path, mode: Mode, sut: Sut, seed: u64, ops: usize) {
    let dir = base.join(format!("churn{seed}"));
    std::fs::create_dir(&dir).expect("a directory");
    let mut w = World::new(dir.clone(), mode, sut);
    w.set_lowers(1 + (seed % 3) as usize);
    sys::umask(0o022);
    for (n, name) in subtrees().iter().enumerate() {
        for layer in w.lowers() {
            sys::mkdir(layer.join(name), 0o755).expect("mkdir");
        }
        sys::mkdir(w.r(name), 0o755).expect("mkdir");
        layers::build(&w, seed * 100 + n as u64, &format!("{name}/"));
        layers::copy_attributes(&w.l(0, name), &w.r(name));
    }
    w.mount();
    work(&w, seed, ops);
    for name in subtrees().iter().filter(|n| *n != SHARED) {
        same(seed, "a thread's own subtree", &view(&w.r(name)), &view(&w.m(name)));
    }
    let live = view(&w.m(""));
    consistent(&w.m(""), seed, "live");
    w.remount();
    same(seed, "a remount", &live, &view(&w.m("")));
    consistent(&w.m(""), seed, "after a remount");
    for name in subtrees() {
        std::fs::remove_dir_all(w.m(&name))
            .unwrap_or_else(|e| panic!("seed {seed}: rm -r {name}: {e}"));
    }
    for when in ["after rm -r", "after rm -r and a remount"] {
        let left = sys::names(w.m("")).expect("list the root");
        assert!(left.is_empty(), "seed {seed} {when}: {left:?}");
        w.remount();
    }
    w.finish();
    std::fs::remove_dir_all(&dir).expect("remove the world");
}

fn subtrees() -> Vec<String> {
    (0..THREADS).map(|n| format!("t{n}")).chain([SHARED.to_owned()]).collect()
}

fn view(at: &Path) -> Tree {
    tree::read(at, Depth::View)
}

fn same(seed: u64, what: &str, want: &Tree, got: &Tree) {
    let d = tree::diff(want, got, Depth::View);
    assert!(d.is_empty(), "seed {seed}: {what} shows another tree:\n{d}");
}

fn work(w: &World, seed: u64, ops: usize) {
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let walker = s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                walk(&w.m(""));
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|n| s.spawn(move || worker(w, n, &mut Rng::new(seed * 1000 + n as u64), ops)))
            .collect();
        let results: Vec<_> = workers.into_iter().map(|t| t.join().expect("a thread")).collect();
        over.store(true, Ordering::Relaxed);
        walker.join().expect("the walker");
        for (n, result) in results.into_iter().enumerate() {
            result.unwrap_or_else(|e| panic!("seed {seed}, thread {n}: {e}"));
        }
    });
}

fn worker(w: &World, n: usize, rng: &mut Rng, ops: usize) -> Result<(), String> {
    let own = format!("t{n}");
    let honest = w.sut != Sut::Overlay;
    let mut want = Side::new(&w.r(&own), honest);
    let mut got = Side::new(&w.m(&own), honest);
    let mut shared = Side::new(&w.m(SHARED), honest);
    for i in 0..ops {
        let step = op::step(rng, w.mode == Mode::Root, 1);
        // The file mode creation mask is the whole process's.
        if matches!(step.op, Op::Umask { .. } | Op::Remount | Op::Restack | Op::Compare) {
            continue;
        }
        if rng.one_in(2) {
            in_shared(&mut shared, &step).map_err(|e| format!("step {i}: {e}"))?;
            continue;
        }
        let (a, b) = (want.step(&step), got.step(&step));
        if a != b {
            return Err(format!("step {i}: `{}`\n  want {a}\n  got  {b}", step.line()));
        }
    }
    Ok(())
}

/// In the subtree of all: no stores where another may cut the file off, and only certain answers are
/// wrong.
fn in_shared(side: &mut Side, step: &Step) -> Result<(), String> {
    let alone = matches!(
        step.op,
        Op::FdMap { .. } | Op::MapOpen { .. } | Op::MapPut { .. } | Op::MapGet { .. }
    ) || matches!(step.op, Op::FdSeek { .. });
    if alone {
        return Ok(());
    }
    let answer = side.step(step);
    if NEVER.iter().any(|e| answer == format!("{e:?}")) {
        return Err(format!("`{}` in the shared subtree: {answer}", step.line()));
    }
    Ok(())
}

/// Looks at everything once; what goes away meanwhile is passed over.
fn walk(dir: &Path) {
    for name in sys::names(dir).unwrap_or_default() {
        let at = dir.join(name);
        if sys::lstat(&at).is_ok_and(|st| st.st_mode & libc::S_IFMT == libc::S_IFDIR) {
            walk(&at);
        }
    }
}

/// How often each inode was met, and what it says of its names.
type Links = std::collections::BTreeMap<u64, (u64, u64, String)>;

/// Fails unless `..`, the numbers in listings, and link counts are what the tree itself shows.
fn consistent(root: &Path, seed: u64, when: &str) {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let fd = sys::open(root, flags, 0).expect("open the root");
    let mut links = Links::new();
    let mut wrong = Vec::new();
    check_dir(&fd, "", None, &mut links, &mut wrong);
    for (count, nlink, first) in links.values() {
        if count != nlink {
            wrong.push(format!("{first}: {count} names but st_nlink {nlink}"));
        }
    }
    assert!(wrong.is_empty(), "seed {seed}, {when}:\n{}", wrong.join("\n"));
}

fn check_dir(
    fd: &OwnedFd,
    path: &str,
    parent: Option<u64>,
    links: &mut Links,
    wrong: &mut Vec<String>,
) {
    let me = sys::fstat(fd).expect("fstat");
    let mut subdirs = 0;
    for e in sys::read_all_dirents(fd).expect("list") {
        let name = e.name.to_string_lossy();
        let at = format!("{path}/{name}");
        let want = match (&*name, parent) {
            (".", _) => me.st_ino,
            ("..", None) => continue, // outside the mount
            ("..", Some(parent)) => parent,
            _ => e.ino,
        };
        let st = match sys::fstatat(fd.as_raw_fd(), &e.name) {
            Ok(st) => st,
            Err(err) => {
                wrong.push(format!("{at}: listed, but {err}"));
                continue;
            }
        };
        if st.st_ino != want || e.ino != want {
            wrong.push(format!("{at}: st_ino {} d_ino {}, not {want}", st.st_ino, e.ino));
        }
        if name == "." || name == ".." {
            continue;
        }
        if st.st_mode & libc::S_IFMT != libc::S_IFDIR {
            links.entry(st.st_ino).or_insert((0, st.st_nlink, at)).0 += 1;
            continue;
        }
        subdirs += 1;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        match sys::openat(fd.as_raw_fd(), &e.name, flags, 0) {
            Ok(sub) => check_dir(&sub, &at, Some(me.st_ino), links, wrong),
            Err(err) => wrong.push(format!("{at}: cannot open: {err}")),
        }
    }
    let now = sys::fstat(fd).expect("fstat").st_nlink;
    // 1: "not counted", as overlayfs and btrfs have it.
    if now != 1 && now != subdirs + 2 {
        wrong.push(format!("{path}/: {subdirs} directories but st_nlink {now}"));
    }
}
