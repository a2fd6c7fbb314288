//! SQLite: write-ahead log (shared memory mapped from the union) and rollback journals.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cowl_tests::mount::World;

use crate::{USER, app, can_be_killed, give_to_user, kill_under, said};

/// What the database holds before it is copied up.
const FILL: &str = "create table counter(n integer); insert into counter values(0); \
    create table log(writer integer, i integer, pad text, primary key(writer, i)); \
    create table old(a integer primary key, b text); \
    with recursive c(x) as (select 1 union all select x+1 from c where x<3000) \
    insert into old select x, hex(randomblob(100)) from c; create index by_b on old(b);";

fn sqlite(db: &Path, user: Option<u32>) -> Command {
    let mut c = match user {
        None => Command::new("sqlite3"),
        Some(u) => {
            let mut c = Command::new("setpriv");
            let u = u.to_string();
            c.args(["--reuid", &u, "--regid", &u, "--clear-groups", "sqlite3"]);
            c
        }
    };
    c.arg("-bail").arg(db);
    c
}

fn ask(db: &Path, sql: &str) -> String {
    said(sqlite(db, None).arg("-cmd").arg(".timeout 60000").arg(sql))
}

/// A process that adds one to the counter `n` times, and says each number when it is committed.
fn writer(db: &Path, user: Option<u32>, setup: &str, me: usize, n: usize, says: File) -> Child {
    let mut child = sqlite(db, user)
        .stdin(Stdio::piped())
        .stdout(says)
        .stderr(Stdio::null())
        .spawn()
        .expect("start sqlite3");
    let mut script = format!(".timeout 60000\n.output /dev/null\n{setup};\n.output\n");
    for i in 0..n {
        script.push_str(&format!(
            "begin immediate; update counter set n = n + 1; \
             insert into log values({me}, {i}, hex(randomblob(200))); \
             update old set b = hex(randomblob(90)) where a = {me} * 700 + {i} % 600 + 1; commit; \
             select 'done {i}';\n"
        ));
    }
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end early, when the filesystem is killed.
    std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    child
}

fn check(db: &Path) {
    assert_eq!(ask(db, "pragma integrity_check;"), "ok");
    assert_eq!(ask(db, "select (select n from counter) = (select count(*) from log);"), "1");
    assert_eq!(ask(db, "select count(*) from old;"), "3000");
}

fn many_writers(w: &mut World, setup: &str, user: Option<u32>) {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let mode = setup.split(';').next().unwrap();
    ask(&w.l(1, "db"), &format!("{mode}; {FILL}"));
    if user.is_some() {
        give_to_user(w);
    }
    w.mount();
    let db = w.m("db");
    for round in 1..=2 {
        let all: Vec<_> = (0..WRITERS)
            .map(|me| {
                let says = File::create(w.r(format!("{me}"))).unwrap();
                writer(&db, user, setup, me + 4 * (round - 1), EACH, says)
            })
            .collect();
        for mut child in all {
            let status = child.wait().unwrap();
            assert!(status.success(), "a writer ended with {status}");
        }
        check(&db);
        let n = WRITERS * EACH * round;
        assert_eq!(ask(&db, "select n from counter;"), n.to_string(), "a commit got lost");
        w.remount();
        check(&db);
        assert_eq!(ask(&db, "select n from counter;"), n.to_string(), "lost by a remount");
    }
}

app!(many_writers_in_wal_mode, |w| {
    many_writers(w, "pragma journal_mode=wal; pragma wal_autocheckpoint=20", None);
});

app!(many_writers_with_mapped_reads, |w| {
    many_writers(w, "pragma journal_mode=wal; pragma mmap_size=100000000", Some(USER));
});

app!(many_writers_with_a_journal_that_is_deleted, |w| {
    many_writers(w, "pragma journal_mode=delete", Some(USER));
});

app!(many_writers_with_a_journal_that_stays, |w| {
    many_writers(w, "pragma journal_mode=persist; pragma mmap_size=100000000", None);
});

/// Several writers, killed together with the filesystem in the middle of it, again and again.
fn killed(w: &mut World, setup: &str) {
    if !can_be_killed(w) {
        return;
    }
    let mode = setup.split(';').next().unwrap();
    ask(&w.l(1, "db"), &format!("{mode}; {FILL}"));
    w.mount();
    let db = w.m("db");
    for round in 0..4_usize {
        let all: Vec<_> = (0..2)
            .map(|me| {
                let says = File::create(w.r(format!("{round}.{me}"))).unwrap();
                writer(&db, None, setup, 2 * round + me, 5000, says)
            })
            .collect();
        // Each round a little longer: into copy-up, into steady writing, into a checkpoint.
        std::thread::sleep(Duration::from_millis(40 + 170 * round as u64));
        kill_under(w, all);
        check(&db);
        for me in 0..2 {
            let text = std::fs::read_to_string(w.r(format!("{round}.{me}"))).unwrap();
            let done = text.lines().filter(|l| l.starts_with("done ")).count();
            let kept =
                ask(&db, &format!("select count(*) from log where writer = {};", 2 * round + me));
            let kept: usize = kept.parse().unwrap();
            // One more may have been committed than was said.
            assert!(
                kept == done || kept == done + 1,
                "{done} commits were called done, {kept} are there"
            );
        }
    }
    let n = ask(&db, "select n from counter;");
    assert_ne!(n, "0", "nothing was written before the kills");
}

app!(killed_in_wal_mode, |w| {
    killed(w, "pragma journal_mode=wal; pragma synchronous=full; pragma wal_autocheckpoint=20");
});

app!(killed_with_a_rollback_journal, |w| {
    killed(w, "pragma journal_mode=delete; pragma synchronous=full");
});

app!(killed_with_a_truncated_journal, |w| {
    killed(w, "pragma journal_mode=truncate; pragma synchronous=full");
});
