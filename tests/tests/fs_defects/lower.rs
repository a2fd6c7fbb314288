//! Lower layers stay as they are, and every handle sees what was written (D1, D30, D33, D40).

use std::os::fd::OwnedFd;
use std::process::Command;

use cowl_tests::both;
use cowl_tests::mount::sys::{self, Mapping, libc};
use cowl_tests::mount::{World, cat, put};

both!(d01_lower_is_never_written, |w| {
    w.put(1, "d/f", "lower content");
    w.mount();
    let early = sys::open(w.m("d/f"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::pread(&early, 0, 100).unwrap(), b"lower content");
    let writer = sys::open(w.m("d/f"), libc::O_RDWR, 0).unwrap();
    assert_eq!(sys::pwrite(&writer, 0, b"UPPER"), Ok(5));
    let map = Mapping::new(&writer, 0, 13, true, false).unwrap();
    assert_eq!(map.get(0, 13), b"UPPER content");
    sys::fsync(&writer).unwrap();
    assert_eq!(cat(w.l(1, "d/f")), "lower content");
    assert_eq!(cat(w.m("d/f")), "UPPER content");
    drop((early, writer, map));
    w.remount();
    assert_eq!(cat(w.m("d/f")), "UPPER content");
    assert_eq!(cat(w.u("d/f")), "UPPER content");
});

both!(d01_lower_is_never_written_through_a_live_shared_mapping, |w| {
    w.put(0, "f", "0123456789");
    w.mount();
    let fd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    let mut map = Mapping::new(&fd, 0, 10, true, true).unwrap();
    map.put(0, b"abc");
    map.sync().unwrap();
    drop(fd);
    assert_eq!(cat(w.m("f")), "abc3456789");
    drop(map);
    assert_eq!(cat(w.l(0, "f")), "0123456789");
});

/// Every handle opened before the copy-up, by every way to change a file's content.
fn old_handle_sees(w: &mut World, change: impl FnOnce(&World), want: &[u8]) {
    w.put(1, "f", "old content");
    w.mount();
    let early = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    assert_eq!(sys::pread(&early, 0, 100).unwrap(), b"old content");
    change(w);
    assert_eq!(sys::pread(&early, 0, 100).unwrap(), want, "the handle opened before the copy-up");
    assert_eq!(sys::fstat(&early).unwrap().st_size, want.len() as i64);
}

both!(d30_old_handle_sees_a_write, |w| {
    old_handle_sees(
        w,
        |w| {
            let fd = sys::open(w.m("f"), libc::O_WRONLY, 0).unwrap();
            sys::pwrite(&fd, 0, b"new").unwrap();
        },
        b"new content",
    );
});

both!(d30_old_handle_sees_a_truncate, |w| {
    old_handle_sees(w, |w| sys::truncate(w.m("f"), 3).unwrap(), b"old");
});

both!(d30_old_handle_sees_a_rewrite, |w| {
    old_handle_sees(w, |w| std::fs::write(w.m("f"), "fresh").unwrap(), b"fresh");
});

both!(d30_old_handle_sees_a_chmod, |w| {
    w.put(1, "f", "x");
    w.mount();
    let early = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    sys::chmod(w.m("f"), 0o640).unwrap();
    assert_eq!(sys::fstat(&early).unwrap().st_mode & 0o7777, 0o640);
    let by_name = sys::lstat(w.m("f")).unwrap().st_ino;
    assert_eq!(sys::fstat(&early).unwrap().st_ino, by_name);
});

both!(d30_old_mapping_sees_a_write, |w| {
    w.put(1, "f", vec![b'a'; 8192]);
    w.mount();
    let early = sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap();
    let map = Mapping::new(&early, 0, 8192, true, false).unwrap();
    assert_eq!(map.get(5000, 1), b"a");
    let fd = sys::open(w.m("f"), libc::O_WRONLY, 0).unwrap();
    sys::pwrite(&fd, 5000, b"b").unwrap();
    assert_eq!(map.get(5000, 1), b"b");
});

both!(d40_times_before_1970, |w| {
    let p = w.put(1, "f", "x");
    sys::utimens(&p, (-1_000_000_000, 5), (-86_400, 999_999_999)).unwrap();
    w.put(1, "g", "x");
    w.mount();
    let st = sys::lstat(w.m("f")).unwrap();
    assert_eq!((st.st_mtime, st.st_mtime_nsec), (-86_400, 999_999_999));
    sys::utimens(w.m("g"), (-5, 1), (-2_000_000_000, 7)).unwrap();
    sys::chmod(w.m("f"), 0o600).unwrap();
    for _ in 0..2 {
        let st = sys::lstat(w.m("g")).unwrap();
        assert_eq!((st.st_mtime, st.st_mtime_nsec), (-2_000_000_000, 7));
        assert_eq!((st.st_atime, st.st_atime_nsec), (-5, 1));
        let st = sys::lstat(w.m("f")).unwrap();
        assert_eq!((st.st_mtime, st.st_mtime_nsec), (-86_400, 999_999_999), "after copy-up");
        w.remount();
    }
});

fn mapped_store(w: &World) -> (sys::Stat, sys::Stat) {
    let before = sys::lstat(w.m("f")).unwrap();
    let fd: OwnedFd = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    let mut map = Mapping::new(&fd, 0, 1, true, true).unwrap();
    map.put(0, b"z");
    map.sync().unwrap();
    drop(map);
    drop(fd);
    (before, sys::lstat(w.m("f")).unwrap())
}

both!(d40_mapped_stores_update_times, |w| {
    put(&w.l(1, "f"), "abc");
    w.mount();
    let (before, after) = mapped_store(w);
    assert!(after.st_mtime > before.st_mtime, "mtime {} not updated", after.st_mtime);
    assert!(
        (after.st_ctime, after.st_ctime_nsec) > (before.st_ctime, before.st_ctime_nsec),
        "ctime not updated"
    );
    assert_eq!(cat(w.m("f")), "zbc");
});

both!(d40_rewinddir_shows_new_names, |w| {
    w.put(1, "d/a", "");
    w.mount();
    let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
    let count = || sys::read_all_dirents(&dir).unwrap().len();
    assert_eq!(count(), 3);
    std::fs::write(w.m("d/b"), "").unwrap();
    sys::unlink(w.m("d/a")).unwrap();
    std::fs::write(w.m("d/c"), "").unwrap();
    sys::lseek(&dir, 0, libc::SEEK_SET).unwrap();
    assert_eq!(count(), 4);
});

both!(d40_d_ino_is_st_ino, |w| {
    w.put(1, "d/a", "");
    w.put(0, "d/b", "");
    w.put(0, "d/sub/x", "");
    w.mount();
    std::fs::write(w.m("d/c"), "").unwrap();
    sys::chmod(w.m("d/a"), 0o600).unwrap();
    for _ in 0..2 {
        let dir = sys::open(w.m("d"), libc::O_DIRECTORY, 0).unwrap();
        for e in sys::read_all_dirents(&dir).unwrap() {
            if e.name == ".." {
                continue;
            }
            let st = sys::lstat(w.m("d").join(&e.name)).unwrap();
            assert_eq!(e.ino, st.st_ino, "{:?}", e.name);
        }
        drop(dir);
        w.remount();
    }
});

fn sqlite(db: &std::path::Path, sql: &str) -> String {
    let out = Command::new("sqlite3").arg(db).arg(sql).output().expect("sqlite3 is installed");
    assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn database_over_copy_up(w: &mut World, journal: &str) {
    let db = w.l(1, "db.sqlite");
    let fill = "create table t(a integer primary key, b text); \
        with recursive c(x) as (select 1 union all select x+1 from c where x<2000) \
        insert into t select x, hex(randomblob(100)) from c;";
    sqlite(&db, &format!("pragma journal_mode={journal}; {fill}"));
    w.mount();
    let db = w.m("db.sqlite");
    for round in 0..3 {
        for i in 0..10 {
            sqlite(&db, &format!("insert into t(b) values('round {round} {i}');"));
        }
        sqlite(&db, "update t set b = b || 'x' where a % 7 = 0;");
        w.crash();
        assert_eq!(sqlite(&db, "pragma integrity_check;"), "ok");
        assert_eq!(sqlite(&db, "select count(*) from t;"), (2000 + 10 * (round + 1)).to_string());
    }
}

both!(d33_sqlite_wal_over_copy_up_and_kill, |w| {
    database_over_copy_up(w, "wal");
});

both!(d33_sqlite_rollback_journal_over_copy_up_and_kill, |w| {
    database_over_copy_up(w, "delete");
});
