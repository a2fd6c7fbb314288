//! renameat2(2) over every pair of kinds, with and without flags, and across directories.

use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{age_all, cat, put};
use cowl_tests::{both, same};

fn kinds(d: &std::path::Path) {
    for at in ["x", "y"] {
        put(&d.join(at).join("file"), format!("{at} file"));
        put(&d.join(at).join("full/inside"), "inside");
        std::fs::create_dir(d.join(at).join("empty")).unwrap();
        sys::symlink("file", d.join(at).join("link")).unwrap();
        sys::mknod(d.join(at).join("fifo"), libc::S_IFIFO | 0o644, 0).unwrap();
    }
    age_all(d);
}

const KINDS: [&str; 6] = ["file", "full", "empty", "link", "fifo", "none"];

fn every_pair(d: &std::path::Path, log: &mut cowl_tests::mount::Log, flags: u32) {
    for from in KINDS {
        for to in KINDS {
            // A pristine pair of directories for every combination, moved aside afterwards.
            let here = d.join(format!("{from}-{to}"));
            std::fs::create_dir(&here).unwrap();
            kinds(&here);
            let (a, b) = (here.join("x").join(from), here.join("y").join(to));
            log.r(&format!("rename {from} over {to} ({flags})"), sys::rename(&a, &b, flags));
            log.r("names of x", sys::names(here.join("x")));
            log.r("names of y", sys::names(here.join("y")));
        }
    }
}

same!(every_pair_of_new_names, |_d| {}, |d, log| {
    for flags in [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE] {
        let at = d.join(format!("flags{flags}"));
        std::fs::create_dir(&at).unwrap();
        every_pair(&at, log, flags);
    }
});

fn seeded_pairs(d: &std::path::Path) {
    for from in KINDS {
        for to in KINDS {
            kinds(&d.join(format!("{from}-{to}")));
        }
    }
    age_all(d);
}

fn rename_pairs(d: &std::path::Path, log: &mut cowl_tests::mount::Log, flags: u32) {
    for from in KINDS {
        for to in KINDS {
            let here = d.join(format!("{from}-{to}"));
            let (a, b) = (here.join("x").join(from), here.join("y").join(to));
            log.r(&format!("rename {from} over {to} ({flags})"), sys::rename(&a, &b, flags));
            log.r("names", (sys::names(here.join("x")), sys::names(here.join("y"))));
        }
    }
}

same!(
    every_pair,
    |d| {
        seeded_pairs(d);
    },
    |d, log| {
        rename_pairs(d, log, 0);
    }
);

same!(
    every_pair_noreplace,
    |d| {
        seeded_pairs(d);
    },
    |d, log| {
        rename_pairs(d, log, libc::RENAME_NOREPLACE);
    }
);

same!(
    every_pair_exchange,
    |d| {
        seeded_pairs(d);
    },
    |d, log| {
        rename_pairs(d, log, libc::RENAME_EXCHANGE);
    }
);

same!(
    refusals,
    |d| {
        put(&d.join("a/b/c/f"), "x");
        put(&d.join("g"), "x");
    },
    |d, log| {
        let r = |a: &str, b: &str, f: u32| sys::rename(d.join(a), d.join(b), f);
        log.r("into itself", r("a", "a/b/c/d", 0));
        log.r("over its parent", r("a/b", "a", 0));
        log.r("exchange with its parent", r("a/b", "a", libc::RENAME_EXCHANGE));
        log.r("onto itself", r("a", "a", 0));
        log.r("file onto itself", r("g", "g", 0));
        log.r("noreplace onto itself", r("g", "g", libc::RENAME_NOREPLACE));
        log.r("below a file", r("a", "g/x", 0));
        log.r("to nowhere", r("a", "none/x", 0));
        log.r("dot", r("a/.", "x", 0));
        log.r("dotdot", r("a/b/..", "x", 0));
        log.r("both flags", r("a", "x", libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE));
        log.r("an unknown flag", r("a", "x", 1 << 9));
        log.r("trailing slash of a file", r("g/", "x", 0));
    }
);

same!(
    directories_move_into_each_other,
    |d| {
        for i in 0..4 {
            put(&d.join(format!("d{i}/f{i}")), format!("{i}"));
            put(&d.join(format!("d{i}/s/deep{i}")), format!("deep {i}"));
        }
        age_all(d);
    },
    |d, log| {
        let r = |a: &str, b: &str| sys::rename(d.join(a), d.join(b), 0);
        log.r("1", r("d0", "d1/s/d0"));
        log.r("2", r("d1", "d2/d1"));
        log.r("3", r("d2/d1/s/d0/s", "d3/s0"));
        log.r("4", r("d2/d1/s", "d0"));
        put(&d.join("d0/d0/new"), "new");
        log.r("5", r("d3", "d0/d0/d3"));
        log.r("6", r("d2", "d0/d0/d3/s/d2"));
        log.r("7", sys::unlink(d.join("d0/d0/d3/s/d2/f2")));
        log.r("8", r("d0", "top"));
        log.r("9", sys::names(d.join("top/d0/d3/s/d2")));
    }
);

same!(
    a_tree_replaced_again_and_again,
    |d| {
        put(&d.join("app/bin/tool"), "version 0");
        put(&d.join("app/lib/lib"), "version 0");
        age_all(d);
    },
    |d, log| {
        // As apt, npm and rustup do it.
        for v in 1..6 {
            put(&d.join("app.new/bin/tool"), format!("version {v}"));
            put(&d.join(format!("app.new/only{v}")), "");
            log.r("aside", sys::rename(d.join("app"), d.join("app.old"), 0));
            log.r("into place", sys::rename(d.join("app.new"), d.join("app"), 0));
            log.r("remove", std::fs::remove_dir_all(d.join("app.old")).map_err(|e| e.kind()));
            log.r("now", (cat(d.join("app/bin/tool")), sys::names(d.join("app"))));
        }
    }
);

same!(
    save_by_rename,
    |d| {
        put(&d.join("etc/passwd"), "old");
        sys::chmod(d.join("etc/passwd"), 0o640).unwrap();
        sys::lchown(d.join("etc/passwd"), 3, 4).unwrap();
    },
    |d, log| {
        for i in 0..5 {
            put(&d.join("etc/passwd+"), format!("new {i}"));
            log.r("backup", sys::link(d.join("etc/passwd"), d.join(format!("etc/passwd-{i}"))));
            log.r("save", sys::rename(d.join("etc/passwd+"), d.join("etc/passwd"), 0));
            log.r("read", cat(d.join("etc/passwd")));
        }
    }
);

both!(whiteout_flag_is_refused, |w| {
    w.put(1, "a", "a");
    w.mount();
    put(&w.m("mine"), "mine");
    // A whiteout of the union's own kind must not be made by a user of the union: kernel overlayfs
    // says the same.
    for name in ["a", "mine"] {
        let done = sys::rename(w.m(name), w.m("to"), libc::RENAME_WHITEOUT);
        assert_eq!(done, Err(Errno::EINVAL), "{name}");
        assert!(sys::lstat(w.m(name)).is_ok() && sys::lstat(w.m("to")).is_err(), "{name}");
    }
});
