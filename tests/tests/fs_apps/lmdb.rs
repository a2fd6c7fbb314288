//! LMDB: one file, written with pwrite(2) and read through a shared mapping at the same time.

use std::fmt::Write as _;
use std::process::Child;
use std::time::Duration;

use cowl_tests::mount::World;

use crate::{app, can_be_killed, give_to_user, kill_under, sh, shell, ush};

/// What `mdb_load` reads before the data.
const HEAD: &str =
    "VERSION=3\\nformat=print\\ntype=btree\\nmapsize=67108864\\nmaxreaders=126\\nHEADER=END\\n";

/// Input for `mdb_load`.
fn pairs(from: usize, n: usize, value: &str) -> String {
    let mut s = HEAD.replace("\\n", "\n");
    for i in from..from + n {
        writeln!(s, " key{i:07}\n {value} {i} {}", "x".repeat(i % 300)).unwrap();
    }
    s.push_str("DATA=END\n");
    s
}

/// The content of the database on the mount, key by key.
const DUMP: &str = "mdb_dump -p \"$M/env\" | sed -n '/HEADER=END/,/DATA=END/p' | sha256sum";

fn seed(w: &World) {
    std::fs::write(w.r("old"), pairs(0, 4000, "old")).unwrap();
    std::fs::write(w.r("new"), pairs(3000, 3000, "new")).unwrap();
    // What the database must hold in the end, made beside the union.
    sh(
        w,
        "mkdir \"$L/env\" \"$T/env\"; for d in \"$L\" \"$T\"; do mdb_load -f \"$T/old\" \"$d/env\"; done; \
           mdb_load -f \"$T/new\" \"$T/env\"",
    );
}

app!(loaded_over_a_lower_database, |w| {
    seed(w);
    give_to_user(w);
    w.mount();
    let want = sh(w, &DUMP.replace("$M", "$T"));
    let before = sh(w, DUMP);
    assert_ne!(before, want);
    // A reader holds its view while a writer goes on; afterwards everybody sees the new one.
    ush(w, "mdb_load -f \"$T/new\" \"$M/env\"");
    assert_eq!(sh(w, DUMP), want);
    assert_eq!(ush(w, DUMP), want);
    w.remount();
    assert_eq!(sh(w, DUMP), want);
    ush(
        w,
        "rm \"$M/env/lock.mdb\"; mdb_copy -c \"$M/env\" > \"$T/copy\"; cat \"$T/copy\" > \"$M/env/data.mdb\"",
    );
    assert_eq!(sh(w, DUMP), want);
    w.remount();
    assert_eq!(sh(w, DUMP), want);
});

app!(readers_and_a_writer_at_once, |w| {
    seed(w);
    w.mount();
    // Each dump is one transaction: a mixture of two states would break the order or the count.
    let said = sh(
        w,
        "for i in $(seq 5); do mdb_load -f \"$T/new\" \"$M/env\"; mdb_load -f \"$T/old\" \"$M/env\"; done & \
         while kill -0 $! 2>/dev/null; do mdb_dump -p \"$M/env\" > \"$T/dump\"; \
           grep -c '^ key' \"$T/dump\" || true; grep '^ key' \"$T/dump\" | sort -cu; done; wait $!",
    );
    let counts: Vec<usize> = said.lines().map(|l| l.parse().unwrap()).collect();
    assert!(counts.len() > 1, "no dump ran beside the writer");
    assert!(counts.iter().all(|n| (4000..=6000).contains(n)), "{counts:?}");
    assert_eq!(sh(w, "mdb_dump -p \"$M/env\" | grep -c '^ key'"), "6000");
});

/// Loads small batches for ever, and notes each that `mdb_load` called done.
fn loader(w: &World, round: usize) -> Child {
    let script = format!(
        "exec 2>/dev/null; for i in $(seq 1000); do {{ printf '{HEAD}'; for k in 1 2 3 4 5; do \
           printf ' r{round}-%04d-%d\\n value\\n' $i $k; done; echo DATA=END; }} | mdb_load \"$M/env\"; \
           echo $i > \"$T/done{round}\"; done"
    );
    shell(w, &script).spawn().unwrap()
}

app!(killed_while_loading, |w| {
    if !can_be_killed(w) {
        return;
    }
    seed(w);
    w.mount();
    let mut all = 0;
    for round in 0..4 {
        let child = loader(w, round);
        std::thread::sleep(Duration::from_millis(100 + 250 * round as u64));
        kill_under(w, vec![child]);
        let done = std::fs::read_to_string(w.r(format!("done{round}"))).unwrap_or_default();
        let done: usize = done.trim().parse().unwrap_or(0);
        let keys = sh(w, "mdb_dump -p \"$M/env\" | grep '^ [kr]'");
        assert_eq!(keys.lines().filter(|l| l.starts_with(" key")).count(), 4000);
        let kept = keys.lines().filter(|l| l.starts_with(&format!(" r{round}-"))).count();
        let range = done * 5..=(done + 1) * 5;
        assert!(
            range.contains(&kept),
            "{done} batches of 5 were called done, {kept} keys are there"
        );
        all += done;
    }
    assert!(all > 0, "nothing was loaded before the kills");
});
