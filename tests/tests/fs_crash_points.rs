//! kill -9 between any two system calls of an operation.
//!
//! Each operation is first watched, and its system calls that could change anything are counted.
//! Then, for each of them, a fresh union is mounted, the filesystem is killed at the entry of that
//! call, and the union is mounted again: it must show the tree from before or from after, the
//! operation must work when it is done again, all must go away by `rm -r`, and stay away.
//!
//! `COWL_CRASH_CASE=rename` chooses cases by a part of their name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use cowl_tests::mount::sys::{self, Errno, R, Watch, libc};
use cowl_tests::mount::{Mode, Sut, World, age_all, jail, put};
use cowl_tests::tree::{self, Depth, Tree};

/// One operation, and what it finds.
struct Case {
    name: &'static str,
    /// Earlier changes, made through the mount.
    before: fn(&Path),
    /// The operation.
    op: fn(&Path) -> R<()>,
}

const fn case(name: &'static str, op: fn(&Path) -> R<()>) -> Case {
    Case { name, before: |_| {}, op }
}

const fn after(before: fn(&Path), name: &'static str, op: fn(&Path) -> R<()>) -> Case {
    Case { name, before, op }
}

/// The lower layers of every case.
fn layers(w: &World) {
    let (top, bottom) = (w.l(0, ""), w.l(1, ""));
    for name in ["f", "g", "dir/deep/f", "over", "d1/x", "d1/s/y", "d2/z", "gone"] {
        put(&bottom.join(name), name.repeat(1000));
    }
    put(&top.join("d1/top"), "top");
    for dir in ["empty", "whites"] {
        std::fs::create_dir(bottom.join(dir)).unwrap();
    }
    put(&bottom.join("whites/a"), "a");
    put(&bottom.join("whites/b"), "b");
    put(&bottom.join("h0"), "linked".repeat(2000));
    std::fs::create_dir(bottom.join("hd")).unwrap();
    for name in ["h1", "hd/h2"] {
        sys::link(bottom.join("h0"), bottom.join(name)).unwrap();
    }
    sys::symlink("f", bottom.join("sym")).unwrap();
    sys::setxattr(bottom.join("f"), "user.a", b"kept", 0).unwrap();
    for root in [top, bottom] {
        age_all(&root);
    }
}

/// A byte in the middle, synced.
fn poke(at: &Path) -> R<()> {
    let fd = sys::open(at, libc::O_WRONLY, 0)?;
    sys::pwrite(&fd, 1234, b"!")?;
    sys::fsync(&fd)
}

fn copied_up(m: &Path) {
    for name in ["f", "over", "h0", "gone"] {
        sys::chmod(m.join(name), 0o640).unwrap();
    }
}

fn removed(m: &Path) {
    sys::unlink(m.join("gone")).unwrap();
}

fn own_names(m: &Path) {
    // Each name of the linked file gets an upper name of its own.
    for name in ["h0", "h1", "hd/h2"] {
        sys::rename(m.join(name), m.join("tmp"), 0).unwrap();
        sys::rename(m.join("tmp"), m.join(name), 0).unwrap();
    }
}

fn one_left(m: &Path) {
    copied_up(m);
    sys::unlink(m.join("h1")).unwrap();
    sys::unlink(m.join("hd/h2")).unwrap();
}

fn whitened(m: &Path) {
    sys::unlink(m.join("whites/a")).unwrap();
    sys::unlink(m.join("whites/b")).unwrap();
}

fn pure(m: &Path) {
    std::fs::write(m.join("new"), "new").unwrap();
    sys::mkdir(m.join("newdir"), 0o755).unwrap();
}

const SWAP: u32 = libc::RENAME_EXCHANGE;

const CASES: &[Case] = &[
    case("chmod of a file", |m| sys::chmod(m.join("f"), 0o600)),
    case("chmod of a deep file", |m| sys::chmod(m.join("dir/deep/f"), 0o600)),
    case("chmod of a directory", |m| sys::chmod(m.join("d1"), 0o700)),
    case("chown of a symlink", |m| sys::lchown(m.join("sym"), 1, 1)),
    case("chmod of a linked file", |m| sys::chmod(m.join("h0"), 0o600)),
    case("setxattr", |m| sys::setxattr(m.join("f"), "user.b", b"new", 0)),
    case("write into a file", |m| poke(&m.join("f"))),
    case("write into a linked file", |m| poke(&m.join("h1"))),
    case("truncate", |m| sys::truncate(m.join("f"), 10)),
    case("unlink", |m| sys::unlink(m.join("f"))),
    after(copied_up, "unlink of a copy", |m| sys::unlink(m.join("f"))),
    after(pure, "unlink of a new file", |m| sys::unlink(m.join("new"))),
    case("unlink of a link", |m| sys::unlink(m.join("h0"))),
    after(copied_up, "unlink of a copied link", |m| sys::unlink(m.join("h0"))),
    after(copied_up, "unlink of another name of it", |m| sys::unlink(m.join("h1"))),
    after(own_names, "unlink of an upper link", |m| sys::unlink(m.join("hd/h2"))),
    after(one_left, "unlink of the last link", |m| sys::unlink(m.join("h0"))),
    case("rename", |m| sys::rename(m.join("f"), m.join("f2"), 0)),
    case("rename into a directory", |m| sys::rename(m.join("f"), m.join("d1/s/f2"), 0)),
    case("rename over a file", |m| sys::rename(m.join("f"), m.join("over"), 0)),
    after(copied_up, "rename over a copy", |m| sys::rename(m.join("g"), m.join("over"), 0)),
    after(removed, "rename over a deleted name", |m| sys::rename(m.join("f"), m.join("gone"), 0)),
    case("rename over a link", |m| sys::rename(m.join("f"), m.join("h1"), 0)),
    after(copied_up, "rename over a copied link", |m| sys::rename(m.join("f"), m.join("h0"), 0)),
    case("rename of a link", |m| sys::rename(m.join("h0"), m.join("h9"), 0)),
    after(copied_up, "rename of a link not copied", |m| {
        sys::rename(m.join("h1"), m.join("d2/h9"), 0)
    }),
    case("exchange of files", |m| sys::rename(m.join("f"), m.join("g"), SWAP)),
    case("exchange of a link and a directory", |m| sys::rename(m.join("h1"), m.join("d2"), SWAP)),
    case("rename of a directory", |m| sys::rename(m.join("d1"), m.join("d9"), 0)),
    case("rename of a directory into another", |m| sys::rename(m.join("d1"), m.join("d2/d9"), 0)),
    after(removed, "rename of a directory to a deleted name", |m| {
        sys::rename(m.join("d1"), m.join("gone"), 0)
    }),
    case("rename over an empty directory", |m| sys::rename(m.join("d1"), m.join("empty"), 0)),
    after(whitened, "rename over an emptied directory", |m| {
        sys::rename(m.join("d1"), m.join("whites"), 0)
    }),
    after(
        |m| {
            pure(m);
            whitened(m);
        },
        "rename of a new directory over an emptied one",
        |m| sys::rename(m.join("newdir"), m.join("whites"), 0),
    ),
    case("exchange of directories", |m| sys::rename(m.join("d1"), m.join("d2"), SWAP)),
    case("rmdir", |m| sys::rmdir(m.join("empty"))),
    after(whitened, "rmdir of an emptied directory", |m| sys::rmdir(m.join("whites"))),
    after(pure, "rmdir of a new directory", |m| sys::rmdir(m.join("newdir"))),
    case("mkdir", |m| sys::mkdir(m.join("d1/s/new"), 0o2750)),
    after(removed, "mkdir over a deleted name", |m| sys::mkdir(m.join("gone"), 0o750)),
    after(removed, "mknod over a deleted name", |m| {
        sys::mknod(m.join("gone"), libc::S_IFIFO | 0o640, 0)
    }),
    after(removed, "symlink over a deleted name", |m| sys::symlink("x", m.join("gone"))),
    case("link of a file", |m| sys::link(m.join("f"), m.join("d2/f9"))),
    after(copied_up, "link of a copy", |m| sys::link(m.join("f"), m.join("d2/f9"))),
    case("link of a link", |m| sys::link(m.join("h0"), m.join("d2/h9"))),
    after(copied_up, "link of a copied link", |m| sys::link(m.join("h1"), m.join("d2/h9"))),
    after(
        |m| {
            copied_up(m);
            removed(m);
        },
        "link over a deleted name",
        |m| sys::link(m.join("h0"), m.join("gone")),
    ),
];

fn world(base: &Path, name: &str, mode: Mode, sut: Sut) -> World {
    let dir = base.join(name);
    std::fs::create_dir(&dir).unwrap();
    let mut w = World::new(dir, mode, sut);
    layers(&w);
    w.mount();
    w
}

fn end(w: World) {
    let dir = w.dir.clone();
    w.finish();
    std::fs::remove_dir_all(dir).unwrap();
}

fn interrupted(done: R<()>) -> bool {
    match done {
        Ok(()) => false,
        Err(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ECONNREFUSED) => true,
        Err(e) => panic!("{e}"),
    }
}

/// The differences, but for one that is promised not to matter: making a copy and putting back the
/// times of its directory are two system calls, so these may be those of now.
fn diff(want: &Tree, got: &Tree) -> String {
    let mut want = want.clone();
    for (path, w) in &mut want {
        let Some(g) = got.get(path) else { continue };
        let is_dir = w.mode & libc::S_IFMT == libc::S_IFDIR;
        if is_dir && g.mtime.0 >= tree::EXPLICIT_BEFORE {
            w.mtime = g.mtime;
        }
    }
    tree::diff(&want, got, Depth::View)
}

/// The trees before and after an operation that nothing interrupts, and how many points there
/// are to kill at.
fn undisturbed(base: &Path, mode: Mode, sut: Sut, case: &Case) -> (Tree, Tree, usize) {
    let mut w = world(base, "undisturbed", mode, sut);
    (case.before)(&w.m(""));
    w.remount();
    let undone = w.view();
    end(w);
    let mut w = world(base, "watched", mode, sut);
    (case.before)(&w.m(""));
    let watch = Watch::count(w.server_pid().expect("a process")).expect("ptrace");
    (case.op)(&w.m("")).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    w.crash();
    let calls = watch.end();
    let done = w.view();
    end(w);
    (undone, done, calls)
}

/// Kills at the `n`th call; whether it was reached, and what was wrong then.
fn killed(
    base: &Path,
    mode: Mode,
    sut: Sut,
    case: &Case,
    n: usize,
    (undone, done): (&Tree, &Tree),
) -> (bool, String) {
    let mut w = world(base, "killed", mode, sut);
    let m = w.m("");
    (case.before)(&m);
    let watch = Watch::kill_at(w.server_pid().expect("a process"), n).expect("ptrace");
    let reached = interrupted((case.op)(&m));
    w.crash();
    watch.end();
    let now = w.view();
    let (from_undone, from_done) = (diff(undone, &now), diff(done, &now));
    let mut wrong = String::new();
    if !from_done.is_empty() && (!reached || !from_undone.is_empty()) {
        wrong = format!("neither undone:\n{from_undone}nor done:\n{from_done}");
    } else if !from_done.is_empty() {
        match (case.op)(&m) {
            Ok(()) => wrong = diff(done, &w.view()),
            Err(e) => wrong = format!("done again: {e}"),
        }
    }
    for name in sys::names(&m).unwrap() {
        let at = m.join(name);
        let is_dir = std::fs::symlink_metadata(&at).is_ok_and(|m| m.is_dir());
        let gone = if is_dir { std::fs::remove_dir_all(&at) } else { std::fs::remove_file(&at) };
        if let Err(e) = gone {
            wrong.push_str(&format!("rm -r {}: {e}\n", at.display()));
        }
    }
    w.remount();
    let left = sys::names(&m).unwrap();
    if !left.is_empty() {
        wrong.push_str(&format!("after rm -r and a remount there is {left:?}\n"));
    }
    end(w);
    (reached, wrong)
}

fn sweep(w: &mut World) {
    if w.server_pid().is_none() && w.sut == Sut::Overlay {
        println!("kernel overlayfs cannot be killed: nothing to do");
        return;
    }
    w.in_memory();
    let only = std::env::var("COWL_CRASH_CASE").unwrap_or_default();
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(|c| c.name.contains(&only)) {
        let (undone, done, calls) = undisturbed(&w.dir, w.mode, w.sut, case);
        let mut kills = 0;
        for n in 1..=calls {
            let trees = (&undone, &done);
            let (reached, what) = killed(&w.dir, w.mode, w.sut, case, n, trees);
            if !what.is_empty() {
                wrong.push(format!("{}, killed at call {n}: {what}", case.name));
            }
            kills += usize::from(reached);
        }
        println!("{}: {kills} kills at {calls} points", case.name);
        // Caches differ a little from run to run.
        assert!(calls > 0 && kills * 2 >= calls, "{}: hardly ever killed", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn root() {
    jail::run("fs_crash_points::root", Mode::Root, 600, sweep);
}

#[test]
fn userns() {
    jail::run("fs_crash_points::userns", Mode::UserNs, 600, sweep);
}
