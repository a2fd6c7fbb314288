//! One upper, used in turn by cowlfs, kernel overlayfs and fuse-overlayfs: each shows what the other
//! wrote. What they show differently is listed in `fs/docs/on-disk.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cowl_tests::mount::{Mode, World, cat, sys};
use cowl_tests::tree::{self, Depth, Tree};
use cowl_tests::{as_root, both};

/// Mounts the layers of `w` with kernel overlayfs, runs `f` on the merged directory, unmounts.
fn kernel(w: &World, options: &str, f: impl FnOnce(&World)) {
    let lowers: Vec<_> = w.lowers().iter().map(|p| p.display().to_string()).collect();
    let (upper, work) = (w.u(""), w.dir.join("work"));
    let data = format!(
        "lowerdir={},upperdir={},workdir={},{options}",
        lowers.join(":"),
        upper.display(),
        work.display()
    );
    sys::mount("overlay", &w.m(""), "overlay", 0, data.as_bytes()).expect("mount overlayfs");
    f(w);
    sys::umount(&w.m(""), 0).expect("umount overlayfs");
}

/// The same with cowlfs (or the system under test).
fn ours(w: &mut World, f: impl FnOnce(&World)) {
    w.mount();
    f(w);
    w.unmount();
}

/// What the kernel is asked to use.
const REDIRECT: &str = "redirect_dir=on,metacopy=off,index=off";
const METACOPY: &str = "redirect_dir=on,metacopy=on,index=off";

/// The same with every feature of the kernel's.
const EVERYTHING: &str = "redirect_dir=on,metacopy=on,index=on";
/// What the kernel allows in a user namespace; without redirects.
const USERNS: &str = "userxattr";
/// Without redirects, as fuse-overlayfs is.
const PLAIN: &str = "redirect_dir=off,metacopy=off,index=off";

/// Where Debian has fuse-overlayfs.
const FUSE_OVERLAYFS: &str = "/usr/bin/fuse-overlayfs";

/// The same with fuse-overlayfs.
fn peer(w: &World, f: impl FnOnce(&World)) {
    let lowers: Vec<_> = w.lowers().iter().map(|p| p.display().to_string()).collect();
    let (upper, work) = (w.u(""), w.dir.join("work"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        upper.display(),
        work.display()
    );
    let mut cmd = Command::new(FUSE_OVERLAYFS);
    sys::die_with_parent(&mut cmd);
    cmd.args(["-f", "-o", &options]).arg(w.m("")).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = cmd.spawn().expect("start fuse-overlayfs");
    const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
    let ready = || sys::statfs(w.m("")).is_ok_and(|s| s.f_type == FUSE_SUPER_MAGIC);
    for _ in 0..1000 {
        if ready() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ready(), "fuse-overlayfs does not mount");
    f(w);
    sys::umount(&w.m(""), 0).expect("umount fuse-overlayfs");
    child.wait().expect("wait for fuse-overlayfs");
}

/// Makes the upper of `w` its topmost lower, under a fresh upper.
fn commit(w: &World) {
    let top = w.l(0, "");
    std::fs::remove_dir(&top).expect("the topmost lower is empty");
    std::fs::rename(w.u(""), &top).expect("the upper becomes a lower");
    for dir in [w.u(""), w.dir.join("work")] {
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir(&dir).expect("a fresh directory");
    }
}

as_root!(a_directory_renamed_in_place_by_the_kernel_renames_further, |w| {
    w.put(1, "a/s/f", "deep");
    w.put(1, "a/g", "flat");
    kernel(w, REDIRECT, |w| sys::rename(w.m("a"), w.m("b"), 0).unwrap());
    ours(w, |w| {
        sys::rename(w.m("b/s"), w.m("t"), 0).unwrap();
        sys::rename(w.m("b"), w.m("c"), 0).unwrap();
    });
    ours(w, |w| assert_eq!((cat(w.m("t/f")), cat(w.m("c/g"))), ("deep".into(), "flat".into())));
    kernel(w, REDIRECT, |w| assert_eq!(cat(w.m("t/f")) + &cat(w.m("c/g")), "deepflat"));
});

as_root!(a_relative_redirect_of_a_lower_keeps_its_meaning_when_the_directory_moves, |w| {
    w.put(1, "a/f", "below");
    sys::mkdir(w.l(1, "q"), 0o755).unwrap();
    kernel(w, REDIRECT, |w| {
        sys::rename(w.m("a"), w.m("b"), 0).unwrap();
        std::fs::write(w.m("b/g"), "above").unwrap();
    });
    commit(w);
    ours(w, |w| sys::rename(w.m("b"), w.m("q/b"), 0).unwrap());
    ours(w, |w| assert_eq!(cat(w.m("q/b/f")) + &cat(w.m("q/b/g")), "belowabove"));
    kernel(w, REDIRECT, |w| assert_eq!(cat(w.m("q/b/f")) + &cat(w.m("q/b/g")), "belowabove"));
});

as_root!(files_with_attributes_only_have_their_data, |w| {
    let data = "0123456789".repeat(5000);
    for name in ["stays", "moves", "d/deep"] {
        w.put(1, name, &data);
    }
    kernel(w, METACOPY, |w| {
        sys::chmod(w.m("stays"), 0o600).unwrap();
        sys::rename(w.m("moves"), w.m("d/moved"), 0).unwrap();
        sys::rename(w.m("d/deep"), w.m("shallow"), 0).unwrap();
    });
    let check = |w: &World| {
        for name in ["stays", "d/moved", "shallow"] {
            assert!(cat(w.m(name)) == data, "{name} has other data");
        }
    };
    ours(w, check);
    commit(w);
    ours(w, check);
    ours(w, |w| {
        let fd = sys::open(w.m("d/moved"), libc::O_WRONLY, 0).unwrap();
        sys::pwrite(&fd, 3, b"X").unwrap();
        sys::truncate(w.m("shallow"), 7).unwrap();
    });
    let changed = |w: &World| {
        assert_eq!(cat(w.m("d/moved")), data.replacen('3', "X", 1));
        assert_eq!(cat(w.m("shallow")), "0123456");
    };
    ours(w, changed);
    kernel(w, METACOPY, changed);
});

as_root!(a_hard_link_made_by_the_kernel_is_one_file, |w| {
    w.put(1, "f", "1");
    ours(w, |w| std::fs::write(w.m("f"), "2").unwrap());
    kernel(w, REDIRECT, |w| {
        sys::mkdir(w.m("n"), 0o755).unwrap();
        sys::link(w.m("f"), w.m("n/g")).unwrap();
    });
    ours(w, |w| {
        assert_eq!(cat(w.m("f")) + &cat(w.m("n/g")), "22");
        std::fs::write(w.m("f"), "three").unwrap();
        assert_eq!(cat(w.m("n/g")), "three");
        let (a, b) = (sys::lstat(w.m("f")).unwrap(), sys::lstat(w.m("n/g")).unwrap());
        assert_eq!((a.st_ino, a.st_nlink), (b.st_ino, 2));
    });
});

as_root!(an_index_of_the_kernel_is_not_overlooked, |w| {
    w.put(1, "a", "old");
    sys::link(w.l(1, "a"), w.l(1, "b")).unwrap();
    kernel(w, "index=on", |w| std::fs::write(w.m("a"), "new").unwrap());
    let mounted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| w.mount()));
    if mounted.is_ok() {
        assert_eq!(cat(w.m("b")), "new");
        return;
    }
    std::fs::remove_dir_all(w.dir.join("work/index")).unwrap();
    ours(w, |w| assert_eq!(cat(w.m("a")) + &cat(w.m("b")), "newold"));
});

as_root!(an_empty_index_of_the_kernel_is_no_hindrance, |w| {
    w.put(1, "d/a", "old");
    kernel(w, "index=on,nfs_export=on", |w| {
        std::fs::write(w.m("d/a"), "new").unwrap();
        std::fs::remove_dir_all(w.m("d")).unwrap();
    });
    ours(w, |w| assert!(sys::names(w.m("")).unwrap().is_empty()));
});

as_root!(filesystems_inside_a_lower_do_not_share_inode_numbers, |w| {
    for d in ["A", "B"] {
        let at = w.l(1, d);
        sys::mkdir(&at, 0o755).unwrap();
        sys::mount("tmpfs", &at, "tmpfs", 0, b"").unwrap();
        std::fs::write(at.join("f"), d).unwrap();
        sys::link(at.join("f"), at.join("g")).unwrap();
    }
    let number = |d| sys::lstat(w.l(1, d).join("f")).unwrap().st_ino;
    assert_eq!(number("A"), number("B"), "the test needs equal inode numbers");
    let check = |w: &World, want: [&str; 4]| {
        assert_eq!(["A/f", "A/g", "B/f", "B/g"].map(|n| cat(w.m(n))), want);
    };
    ours(w, |w| {
        check(w, ["A", "A", "B", "B"]);
        std::fs::write(w.m("A/f"), "new").unwrap();
        check(w, ["new", "new", "B", "B"]);
    });
    ours(w, |w| assert_eq!((cat(w.m("B/f")), cat(w.m("B/g"))), ("B".into(), "B".into())));
});

as_root!(opaque_directories_of_fuse_overlayfs_show_no_marker, |w| {
    w.put(1, "d/old", "x");
    sys::mkdir(w.u("d"), 0o755).unwrap();
    sys::setxattr(w.u("d"), "trusted.overlay.opaque", b"y", 0).unwrap();
    std::fs::write(w.u("d/.wh..wh..opq"), "").unwrap();
    ours(w, |w| {
        assert!(sys::names(w.m("d")).unwrap().is_empty());
        sys::rmdir(w.m("d")).unwrap();
        assert_eq!(cat(w.m("d/old")), "error: entity not found");
    });
});

/// A generator of numbers that is the same everywhere (Numerical Recipes' LCG).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn path(&mut self) -> String {
        let parts: Vec<_> =
            (0..=self.roll(3)).map(|_| ["a", "b", "c", "d", "e"][self.roll(5) as usize]).collect();
        parts.join("/")
    }
}

/// One random operation on the tree at `root`; its outcome in words.
fn step(root: &Path, what: u64, p: &str, q: &str, n: u64) -> String {
    let (p, q) = (root.join(p), root.join(q));
    let done = match what {
        0 | 1 => sys::mkdir(&p, 0o755),
        2 | 3 => sys::open(&p, libc::O_WRONLY | libc::O_CREAT | libc::O_NOFOLLOW, 0o644)
            .and_then(|fd| sys::pwrite(&fd, n as i64, b"data").map(drop)),
        4 => sys::unlink(&p),
        5 => sys::rmdir(&p),
        6..=9 => sys::rename(&p, &q, 0),
        10 => sys::rename(&p, &q, libc::RENAME_EXCHANGE),
        11 => sys::symlink("target", &p),
        12 => sys::chmod(&p, 0o700 + n as u32 % 8),
        _ => match std::fs::remove_dir_all(&p) {
            Ok(()) => Ok(()),
            Err(_) => Ok(()),
        },
    };
    format!("{done:?}")
}

fn swap(w: &mut World, seed: u64) {
    let mut dice = Dice(seed);
    for i in (0..2).rev() {
        let root = w.l(i, "");
        for _ in 0..40 {
            let what = dice.roll(4);
            step(&root, what, &dice.path(), "", 0);
        }
    }
    kernel(w, REDIRECT, |w| {
        let copied =
            std::process::Command::new("cp").arg("-a").arg(w.m("").join(".")).arg(w.r("")).status();
        assert!(copied.expect("cp runs").success());
    });
    for round in 0..8u64 {
        let mut log = Vec::new();
        let mut work = |w: &World| {
            for _ in 0..40 {
                let (what, n) = (dice.roll(14), dice.roll(9000));
                let (p, q) = (dice.path(), dice.path());
                let want = step(&w.r(""), what, &p, &q, n);
                let got = step(&w.m(""), what, &p, &q, n);
                log.push(format!("{what} {p} {q} {n}: {want}"));
                assert_eq!(want, got, "seed {seed} round {round}: {}", log.join("\n"));
            }
            let view = |p: &Path| {
                let mut t = tree::read(p, Depth::View);
                t.remove(&b""[..]);
                t
            };
            let d = tree::diff(&view(&w.r("")), &view(&w.m("")), Depth::View);
            assert!(d.is_empty(), "seed {seed} round {round}: {d}\n{}", log.join("\n"));
        };
        if round % 2 == 0 {
            ours(w, &mut work);
        } else {
            let options = if seed.is_multiple_of(2) { METACOPY } else { EVERYTHING };
            kernel(w, options, &mut work);
        }
    }
}

/// What a mount of `who` shows, without what fuse-overlayfs is known to show differently: the link
/// count of what it has not looked up yet, and attributes of the merged root.
fn shown(w: &mut World, who: Who) -> Tree {
    let mut tree = Tree::new();
    mounted(w, who, |w| tree = tree::read(&w.m(""), Depth::View));
    tree.remove(&b""[..]);
    for entry in tree.values_mut() {
        entry.nlink = 0;
        // Inode numbers of listings are those of whatever layer it read.
        entry.error = entry.error.replace("d_ino differs from st_ino; ", "");
    }
    tree
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Ours,
    Kernel,
    Peer,
}

fn mounted(w: &mut World, who: Who, f: impl FnOnce(&World)) {
    match (who, w.mode) {
        (Who::Ours, _) => ours(w, f),
        (Who::Kernel, Mode::Root) => kernel(w, PLAIN, f),
        (Who::Kernel, Mode::UserNs) => kernel(w, USERNS, f),
        (Who::Peer, _) => peer(w, f),
    }
}

/// One after the other changes the upper; each time both must show the same. (All three together do
/// not work: the kernel shows fuse-overlayfs's opaque marks, `.wh..wh..opq` and
/// `user.fuseoverlayfs.opaque`, as files and xattrs, and not what they mean.)
fn in_turn(w: &mut World, with: Who, seed: u64) {
    let mut dice = Dice(seed);
    // Nobody else follows redirects.
    w.options.push("redirect_dir=off".into());
    for i in (0..2).rev() {
        let root = w.l(i, "");
        for _ in 0..40 {
            let what = dice.roll(4);
            step(&root, what, &dice.path(), "", 0);
        }
    }
    for round in 0..6 {
        let turns = [Who::Ours, with];
        let (who, other) =
            (turns[(seed as usize + round) % 2], turns[(seed as usize + round + 1) % 2]);
        let mut log = Vec::new();
        mounted(w, who, |w| {
            for _ in 0..30 {
                let (what, n) = (dice.roll(14), dice.roll(9000));
                let (p, q) = (dice.path(), dice.path());
                log.push(format!("{what} {p} {q} {n}: {}", step(&w.m(""), what, &p, &q, n)));
            }
        });
        let want = shown(w, who);
        let (mut want, mut got) = (want, shown(w, other));
        // No file here has two names: where fuse-overlayfs says so it has taken two files with equal
        // numbers for one (defect D8) and shows the other's content.
        let aliases = |t: &Tree| -> Vec<_> {
            t.iter().filter(|(_, e)| e.twin.is_some()).map(|(p, _)| p.clone()).collect()
        };
        if with == Who::Peer {
            for path in aliases(if who == with { &want } else { &got }) {
                want.remove(&path);
                got.remove(&path);
            }
        }
        let d = tree::diff(&want, &got, Depth::View);
        assert!(
            d.is_empty(),
            "seed {seed} round {round}: {other:?} shows what {who:?} wrote differently:\n{d}{}",
            log.join("\n")
        );
    }
}

fn worlds(w: &World, with: Who) {
    let seeds = std::env::var("COWL_INTEROP_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    for seed in 0..seeds {
        let mut inner = World::new(w.dir.join(format!("s{seed}")), w.mode, w.sut);
        in_turn(&mut inner, with, seed);
        inner.finish();
    }
}

both!(random_trees_swap_with_the_kernel_without_redirects, |w| {
    worlds(w, Who::Kernel);
});

both!(random_trees_swap_with_fuse_overlayfs, |w| {
    if Path::new(FUSE_OVERLAYFS).exists() {
        worlds(w, Who::Peer);
    } else {
        println!("fuse-overlayfs is not installed: not tested (tools/setup --tests installs it)");
    }
});

as_root!(random_trees_swap_between_cowlfs_and_the_kernel, |w| {
    // More by `COWL_INTEROP_SEEDS=N`; each takes a fresh part of the world.
    let seeds = std::env::var("COWL_INTEROP_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let home = w.dir.clone();
    for seed in 0..seeds {
        let dir = home.join(format!("s{seed}"));
        let mut inner = World::new(dir, w.mode, w.sut);
        swap(&mut inner, seed);
        inner.finish();
    }
});
