//! PostgreSQL: a cluster of thousands of files, its log, checkpoints, and recovery after a crash.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use cowl_tests::mount::World;

use crate::{USER, app, can_be_killed, give_to_user, kill_under, sh, user_shell, ush};

/// Where Debian keeps the server's programs, newest version first.
fn programs() -> PathBuf {
    let mut all: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed")
        .flatten()
        .map(|e| e.path().join("bin"))
        .filter(|p| p.join("postgres").exists())
        .collect();
    all.sort();
    all.pop().expect("PostgreSQL's server is installed")
}

/// `$B` the programs, `$S` a directory for the socket, `psql` ready to use.
fn sql(script: &str) -> String {
    format!(
        "export PATH=\"{}:$PATH\" PGHOST=\"$T\" PGDATABASE=postgres PGUSER=u\n{script}",
        programs().display()
    )
}

/// A cluster with pgbench's tables in the lower layer.
fn seed(w: &World) {
    std::fs::set_permissions(w.r(""), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(w.l(1, ""), PermissionsExt::from_mode(0o777)).unwrap();
    ush(
        w,
        &sql("initdb -k -N -A trust -U u -D \"$L/pg\" >/dev/null; \
              printf '%s\\n' \"listen_addresses=''\" \"unix_socket_directories='$T'\" \
                 'shared_buffers=2MB' 'max_connections=10' 'max_wal_size=32MB' \
                 'autovacuum_naptime=1s' 'bgwriter_delay=10ms' >> \"$L/pg/postgresql.conf\"; \
              pg_ctl -s -w -D \"$L/pg\" -l \"$T/log\" -o '-c fsync=off' start; \
              pgbench -q -i -s 1 2>/dev/null; pg_ctl -s -w -D \"$L/pg\" -m fast stop"),
    );
    give_to_user(w);
}

const START: &str = "pg_ctl -s -w -t 60 -D \"$M/pg\" -l \"$T/log\" start";
const STOP: &str = "pg_ctl -s -w -D \"$M/pg\" -m fast stop";

/// The sums that every transaction of pgbench keeps equal.
const SUMS: &str = "psql -Atc \"select (select sum(abalance) from pgbench_accounts) = s \
    and (select sum(bbalance) from pgbench_branches) = s \
    and (select sum(tbalance) from pgbench_tellers) = s, n \
    from (select coalesce(sum(delta), 0) s, count(*) n from pgbench_history) h\"";

/// Number of transactions in the history; the sums agree.
fn transactions(w: &World) -> usize {
    let line = ush(w, &sql(SUMS));
    let (same, n) = line.split_once('|').expect(&line);
    assert_eq!(same, "t", "the balances differ: a transaction is half there");
    n.parse().expect(&line)
}

app!(pgbench_over_a_lower_cluster, |w| {
    seed(w);
    w.mount();
    ush(w, &sql(START));
    let out = ush(w, &sql("pgbench -n -c 4 -j 2 -t 60 2>/dev/null"));
    assert!(out.contains("240/240"), "{out}");
    assert_eq!(transactions(w), 240);
    ush(
        w,
        &sql(
            "psql -qc 'vacuum full pgbench_accounts' -c 'reindex database postgres' -c 'create database second'",
        ),
    );
    ush(w, &sql("pg_amcheck --install-missing --heapallindexed -a"));
    ush(w, &sql(STOP));
    ush(w, &sql("pg_checksums -c -D \"$M/pg\""));
    w.remount();
    ush(w, &sql("pg_checksums -c -D \"$M/pg\""));
    ush(w, &sql(START));
    assert_eq!(transactions(w), 240);
    ush(w, &sql(STOP));
});

/// Waits for the end of every process of the database.
fn ended(w: &World) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let left = std::fs::read_dir("/proc").unwrap().flatten().any(|e| {
            let status = std::fs::read_to_string(e.path().join("status")).unwrap_or_default();
            status.starts_with("Name:\tpostgres\n")
                && !status.contains("State:\tZ")
                && own_namespace(&e.path())
        });
        if !left {
            return;
        }
        assert!(Instant::now() < end, "postgres still runs in {}", w.dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process lives in this jail's mount namespace.
fn own_namespace(proc: &std::path::Path) -> bool {
    let mine = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    std::fs::read_link(proc.join("ns/mnt")).is_ok_and(|n| n == mine)
}

/// A client that runs transactions until its server is gone, one line of log for each that was
/// committed.
fn bench(w: &World) -> Child {
    let script =
        sql("cd \"$T\"; rm -f tx.*; exec pgbench -n -c 3 -T 60 -l --log-prefix=tx >/dev/null 2>&1");
    user_shell(w, &script).spawn().unwrap()
}

app!(killed_under_pgbench, |w| {
    if !can_be_killed(w) {
        return;
    }
    seed(w);
    w.mount();
    let mut least = 0;
    for round in 0..3 {
        ush(w, &sql(START));
        let before = transactions(w);
        assert!(before >= least, "{least} transactions were committed, {before} are there");
        let client = bench(w);
        std::thread::sleep(Duration::from_millis(300 + 500 * round));
        let server = std::fs::read_to_string(w.m("pg/postmaster.pid")).unwrap();
        let server: i32 = server.lines().next().unwrap().parse().unwrap();
        if let Some(pid) = w.server_pid() {
            cowl_tests::mount::sys::kill(pid, cowl_tests::mount::sys::libc::SIGKILL).unwrap();
        }
        // SIGQUIT: all of it at once, nothing written any more. It may have ended by itself.
        let _gone = cowl_tests::mount::sys::kill(server, cowl_tests::mount::sys::libc::SIGQUIT);
        ended(w);
        kill_under(w, vec![client]);
        // It names a process that has ended, but that the first process may never have reaped.
        sh(w, "rm -f \"$M/pg/postmaster.pid\" \"$T\"/.s.PGSQL.*");
        let done = ush(w, "cd \"$T\"; cat tx.* 2>/dev/null | wc -l || true");
        least = before + done.parse::<usize>().unwrap();
    }
    ush(w, &sql(START));
    let n = transactions(w);
    assert!(n >= least && least > 0, "{least} transactions were committed, {n} are there");
    ush(w, &sql("pg_amcheck --install-missing --heapallindexed -a"));
    ush(w, &sql(STOP));
    ush(w, &sql("pg_checksums -c -D \"$M/pg\""));
    // The owner of the cluster did all that.
    let st = cowl_tests::mount::sys::lstat(w.m("pg/PG_VERSION")).unwrap();
    assert_eq!(st.st_uid, USER);
});
