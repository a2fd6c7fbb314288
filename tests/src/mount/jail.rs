//! Runs a test body in a child with its own mount (and, if asked, user) namespace.
//!
//! The test function runs twice. The first time, in the test runner, it makes a directory, starts
//! its own executable again for this one test inside the jail, waits with a time limit, kills what
//! is left of the jail's process group, and removes the directory. The second time, inside, it runs
//! the body. Nothing of a jail survives: mounts live in its namespace, processes in its group.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Sut, World, known, sys};

/// As whom a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Root of the machine.
    Root,
    /// Root of a user namespace made by an ordinary user with subordinate ids.
    UserNs,
}

/// The ordinary user whose user namespace the tests use; needs no account.
pub const USER: u32 = 1000;

const DIR_VAR: &str = "COWL_JAIL_DIR";
const PROGRAM_VAR: &str = "COWL_JAIL_PROGRAM";

/// Runs `body` in a jail; `test` is the module path of the calling test function.
pub fn run(test: &str, mode: Mode, seconds: u64, body: fn(&mut World)) {
    match std::env::var_os(DIR_VAR) {
        Some(dir) => inside(dir.into(), mode, body),
        None => outside(test, mode, Duration::from_secs(seconds)),
    }
}

/// The path by which the filesystem's program can be run inside the jail.
pub fn program_inside() -> PathBuf {
    std::env::var_os(PROGRAM_VAR).expect("only inside a jail").into()
}

fn inside(dir: PathBuf, mode: Mode, body: fn(&mut World)) {
    let mut w = World::new(dir, mode, Sut::from_env());
    body(&mut w);
    w.finish();
}

/// Programs kept open: `/proc/self/fd/N` can be run by a user who cannot reach the build directory.
fn programs() -> &'static (OwnedFd, Option<OwnedFd>) {
    static PROGRAMS: OnceLock<(OwnedFd, Option<OwnedFd>)> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let exe = std::env::current_exe().expect("the path of this test");
        let own = sys::open_program(&exe).expect("open this test");
        let fs = Sut::from_env()
            .program()
            .map(|p| sys::open_program(&p).unwrap_or_else(|e| panic!("open {}: {e}", p.display())));
        // udev does this on a real machine; without it no user namespace can mount FUSE.
        let _: sys::R<()> = sys::chmod("/dev/fuse", 0o666);
        (own, fs)
    })
}

fn outside(test: &str, mode: Mode, limit: Duration) {
    assert!(nix::unistd::geteuid().is_root(), "the mount tests make their own users: run as root");
    let name = test.split_once("::").map_or(test, |(_, n)| n);
    let base = std::env::var_os("COWL_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("cowl-t").tempdir_in(base).expect("a directory");
    let log = dir.path().with_extension("log");
    let out = File::create(&log).expect("a log");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    if mode == Mode::UserNs {
        sys::lchown(dir.path(), USER, USER).expect("chown");
    }
    let (own, fs) = programs();
    let mut cmd = Command::new(format!("/proc/self/fd/{}", own.as_raw_fd()));
    cmd.args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR_VAR, dir.path())
        .env("RUST_BACKTRACE", "0")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("dup"))
        .stderr(out);
    if let Some(fs) = fs {
        cmd.env(PROGRAM_VAR, format!("/proc/self/fd/{}", fs.as_raw_fd()));
    }
    sys::enter_jail(&mut cmd, (mode == Mode::UserNs).then_some(USER));
    let mut child = cmd.spawn().expect("start the jail");
    let group = -(child.id() as i32);
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(s) = child.try_wait().expect("wait for the jail") {
            break Some(s);
        }
        if Instant::now() > end {
            break None;
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let left = outlives(group);
    if status.is_none() {
        drop(child.wait());
    }
    if !status.is_some_and(|s| s.success()) {
        end_daemons(dir.path());
    }
    let text = std::fs::read(&log).map(|b| String::from_utf8_lossy(&b).into_owned());
    drop(std::fs::remove_file(&log));
    let text = text.unwrap_or_default();
    let fs_log = std::fs::read(dir.path().join("fs.log")).unwrap_or_default();
    // To look at what a failure left: the layers stay where they are.
    let keep = std::env::var_os("COWL_TEST_KEEP").is_some();
    let removed = catch_unwind(AssertUnwindSafe(|| {
        if keep {
            println!("{name}: kept {}", dir.keep().display());
            return Ok(());
        }
        dir.close()
    }));
    let verdict = match status {
        None => Err(format!("hung: not finished after {limit:?}")),
        // A filter that matched nothing would also succeed.
        Some(s) if s.success() && text.contains("1 passed") => Ok(()),
        Some(s) => Err(format!("failed ({s})")),
    };
    if verdict.is_ok() {
        assert!(!left, "{name}: a process of the test was left running");
        removed.expect("remove").unwrap_or_else(|e| panic!("{name}: remove the directory: {e}"));
    }
    let sut = Sut::from_env();
    match (verdict, known::row(sut, mode, name)) {
        (Ok(()), None) => {}
        (Ok(()), Some(k)) => {
            assert!(!k.always, "{name}: {sut:?} is listed as wrong ({}) but passed", k.why);
        }
        (Err(_), Some(k)) => println!("{name}: {sut:?} is known to be wrong: {}", k.why),
        (Err(v), None) => {
            panic!("{name} {v}\n{}\n{}", tidy(&text), String::from_utf8_lossy(&fs_log))
        }
    }
}

/// Whether anything of a process group still runs after a moment, and if so, ends it.
fn outlives(group: i32) -> bool {
    for _ in 0..200 {
        if sys::kill(group, 0).is_err() || !any_alive(-group) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    sys::kill(group, libc::SIGKILL).is_ok()
}

/// Whether a group has a member that is not just waiting to be reaped (some machines' first process
/// never does that).
fn any_alive(group: i32) -> bool {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|e| {
        let stat = std::fs::read_to_string(e.path().join("stat")).unwrap_or_default();
        // pid (command) state ppid pgrp …
        let mut rest = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let (state, pgrp) = (rest.next(), rest.nth(1));
        state != Some("Z") && pgrp.and_then(|p| p.parse().ok()) == Some(group)
    })
}

/// Ends filesystems that a failed test started in the background: they left its process group.
fn end_daemons(dir: &Path) {
    let dir = dir.as_os_str().as_bytes();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
        let ours = line.windows(dir.len()).any(|w| w == dir);
        if let (true, Some(pid)) = (ours, e.file_name().to_str().and_then(|n| n.parse().ok())) {
            // It may have ended just now.
            let _: sys::R<()> = sys::kill(pid, libc::SIGKILL);
        }
    }
}

fn tidy(text: &str) -> String {
    let noise = ["running 1 test", "note: run with", "failures:", "test result:"];
    text.lines()
        .filter(|l| !l.trim().is_empty() && !noise.iter().any(|n| l.contains(n)))
        .collect::<Vec<_>>()
        .join("\n")
}
