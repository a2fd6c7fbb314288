//! The command line of the filesystem: what it accepts, what it refuses (in one sentence, with
//! nothing half-made), and how it ends.
#![allow(
    clippy::let_underscore_must_use,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cowl_tests::container::Caller;
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Sut, World, cat, jail, put};
use cowl_tests::{as_root, both};

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether there is a command line of ours to test.
fn ours(w: &World) -> bool {
    w.sut == Sut::Cowlfs
}

fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(s) = child.try_wait().unwrap() {
            return s;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("{what}: still running after {PATIENCE:?}");
}

fn command(w: &World) -> (Command, PathBuf) {
    let log = w.dir.join("cli.log");
    let out = File::create(&log).unwrap();
    let mut cmd = Command::new(jail::program_inside());
    cmd.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).current_dir(&w.dir);
    (cmd, log)
}

/// Runs it to its end; exit code and what it said.
fn run(w: &World, args: &[&str]) -> (Option<i32>, String) {
    let (mut cmd, log) = command(w);
    cmd.args(args);
    let mut child = cmd.spawn().unwrap();
    let status = wait(&mut child, &format!("{args:?}"));
    (status.code(), std::fs::read_to_string(log).unwrap())
}

fn mounted(w: &World) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(&format!(" {} ", w.m("").display()))
}

fn usual(w: &World) -> String {
    format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        w.l(0, "").display(),
        w.l(1, "").display(),
        w.u("").display(),
        w.dir.join("work").display()
    )
}

/// Refused in one sentence that names what is wrong, with nothing mounted and no process left.
fn refused(w: &World, options: &str, mnt: &Path, names: &str) {
    if !ours(w) {
        return;
    }
    let (code, text) = run(w, &["-f", "-o", options, mnt.to_str().unwrap()]);
    assert!(code.is_some_and(|c| c != 0), "{options}: exit code {code:?}, it said: {text}");
    assert!(text.contains(names), "the message should name {names}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "one sentence: {text}");
    assert!(!mounted(w), "{options}: refused, but something is mounted");
    // The same in the background: the parent says it.
    let (code, again) = run(w, &["-o", options, mnt.to_str().unwrap()]);
    assert!(code.is_some_and(|c| c != 0), "in the background: exit code {code:?}");
    assert!(again.contains(names), "in the background: {again}");
    assert!(!mounted(w));
}

both!(missing_lower_is_refused, |w| {
    let o = usual(w).replace("l1", "no-such-layer");
    refused(w, &o, &w.m(""), "no-such-layer");
});

both!(a_file_as_a_lower_is_refused, |w| {
    put(&w.dir.join("plain-file"), "x");
    let o = usual(w).replace("l1", "plain-file");
    refused(w, &o, &w.m(""), "plain-file");
});

both!(missing_upper_or_workdir_is_refused, |w| {
    refused(w, &usual(w).replace("/upper", "/no-upper"), &w.m(""), "no-upper");
    refused(w, &usual(w).replace("/work", "/no-work"), &w.m(""), "no-work");
    let o = format!("lowerdir={},upperdir={}", w.l(0, "").display(), w.u("").display());
    refused(w, &o, &w.m(""), "workdir");
});

both!(no_lower_is_refused, |w| {
    let o = format!("upperdir={},workdir={}", w.u("").display(), w.dir.join("work").display());
    refused(w, &o, &w.m(""), "lower");
    refused(w, &format!("lowerdir=,{o}"), &w.m(""), "lower");
});

both!(upper_inside_lower_is_refused, |w| {
    std::fs::create_dir_all(w.l(1, "in/upper")).unwrap();
    std::fs::create_dir_all(w.l(1, "in/work")).unwrap();
    let l1 = w.l(1, "").display().to_string();
    let o = format!("lowerdir={l1},upperdir={l1}/in/upper,workdir={l1}/in/work");
    refused(w, &o, &w.m(""), "in/upper");
    let o = format!("lowerdir={l1},upperdir={l1},workdir={}", w.dir.join("work").display());
    refused(w, &o, &w.m(""), "l1");
});

both!(lower_inside_upper_is_refused, |w| {
    std::fs::create_dir_all(w.u("layer")).unwrap();
    let o =
        usual(w).replace(&w.l(1, "").display().to_string(), &w.u("layer").display().to_string());
    refused(w, &o, &w.m(""), "upper/layer");
});

both!(workdir_inside_upper_is_refused, |w| {
    std::fs::create_dir_all(w.u("wd")).unwrap();
    let o = usual(w).replace(
        &format!("workdir={}", w.dir.join("work").display()),
        &format!("workdir={}", w.u("wd").display()),
    );
    refused(w, &o, &w.m(""), "upper/wd");
});

both!(workdir_on_another_filesystem_is_refused, |w| {
    sys::mount("tmpfs", &w.dir.join("work"), "tmpfs", 0, b"").unwrap();
    refused(w, &usual(w), &w.m(""), "workdir");
});

both!(mountpoint_missing_or_a_file_is_refused, |w| {
    refused(w, &usual(w), &w.dir.join("no-mountpoint"), "no-mountpoint");
    put(&w.dir.join("a-file"), "");
    refused(w, &usual(w), &w.dir.join("a-file"), "a-file");
});

both!(d37_mountpoint_in_upper_or_lower_is_refused_or_works, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "x");
    w.put(1, "at", "").parent().unwrap();
    for place in [w.u("in"), w.u(""), w.dir.join("work"), w.l(1, "in"), w.l(1, "")] {
        std::fs::create_dir_all(&place).unwrap();
        let (code, text) = run(w, &["-o", &usual(w), place.to_str().unwrap()]);
        if code == Some(0) {
            // A hang would be caught by the time limit of the jail.
            assert_eq!(cat(place.join("f")), "x", "at {}", place.display());
            put(&place.join("new"), "new");
            assert!(sys::names(&place).unwrap().contains(&OsString::from("new")));
            sys::unlink(place.join("new")).unwrap();
            sys::umount(&place, 0).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        } else {
            assert_eq!(text.trim_end().lines().count(), 1, "one sentence: {text}");
            assert!(code.is_some_and(|c| c != 0) && !text.contains("panicked"), "{text}");
        }
    }
});

both!(the_same_upper_twice_is_refused, |w| {
    if !ours(w) {
        return;
    }
    w.mount();
    std::fs::create_dir(w.dir.join("mnt2")).unwrap();
    let (code, text) = run(w, &["-o", &usual(w), w.dir.join("mnt2").to_str().unwrap()]);
    assert!(code.is_some_and(|c| c != 0), "a second mount of the same upper worked: {text}");
    assert!(text.contains("upper") || text.contains("work"), "{text}");
    put(&w.m("still"), "works");
    w.remount();
    assert_eq!(cat(w.m("still")), "works");
});

both!(same_lowers_in_many_mounts, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "shared");
    w.mount();
    let other = w.dir.join("other");
    for d in ["upper", "work", "mnt"] {
        std::fs::create_dir_all(other.join(d)).unwrap();
    }
    let o = format!(
        "lowerdir={}:{},upperdir={2}/upper,workdir={2}/work",
        w.l(0, "").display(),
        w.l(1, "").display(),
        other.display()
    );
    let (code, text) = run(w, &["-o", &o, other.join("mnt").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    std::fs::write(other.join("mnt/f"), "changed").unwrap();
    assert_eq!(cat(w.m("f")), "shared");
    assert_eq!(cat(other.join("mnt/f")), "changed");
    sys::umount(&other.join("mnt"), 0).unwrap();
    std::thread::sleep(Duration::from_millis(50));
});

both!(unknown_options_are_accepted_with_a_warning, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "x");
    let o = format!("{},frobnicate=1,nosuid,nodev,noatime,nodiratime,relatime,rw,auto", usual(w));
    let (code, text) = run(w, &["-o", &o, w.m("").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("frobnicate"), "no warning that names the option: {text:?}");
    assert_eq!(cat(w.m("f")), "x");
    sys::umount(&w.m(""), 0).unwrap();
});

both!(what_cannot_be_had_is_refused, |w| {
    for (option, names) in [
        ("nfs_export=on", "nfs_export"),
        ("verity=on", "verity"),
        ("verity=require", "verity"),
        ("plugins=/x", "plugins"),
        ("allow_root", "allow_other"),
        ("redirect_dir=sometimes", "nofollow"),
        ("index=maybe", "index"),
        ("xattr_permissions=9", "xattr_permissions"),
    ] {
        refused(w, &format!("{},{option}", usual(w)), &w.m(""), names);
    }
});

both!(an_index_in_use_is_not_left_out, |w| {
    w.put(1, "a", "x");
    sys::link(w.l(1, "a"), w.l(1, "b")).unwrap();
    if !ours(w) {
        return;
    }
    w.mount();
    std::fs::write(w.m("a"), "y").unwrap();
    w.unmount();
    refused(w, &format!("{},index=off", usual(w)), &w.m(""), "index");
    w.mount();
    assert_eq!(cat(w.m("b")), "y");
});

both!(background_parent_ends_once_the_mount_is_usable, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "x");
    for round in 0..5 {
        let mut child = Command::new(jail::program_inside())
            .args(["-o", &usual(w), w.m("").to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let status = wait(&mut child, "the parent");
        assert_eq!(status.code(), Some(0));
        assert_eq!(cat(w.m("f")), "x", "round {round}: usable at once");
        // Whoever reads our output (a script, Podman) must see its end now.
        let out: std::os::fd::OwnedFd = child.stdout.take().unwrap().into();
        let err: std::os::fd::OwnedFd = child.stderr.take().unwrap().into();
        for fd in [out, err] {
            assert!(sys::wait_readable(&fd, 3000).unwrap(), "the daemon keeps the output open");
        }
        sys::umount(&w.m(""), 0).unwrap();
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            !running_on(&w.dir)
        });
        assert!(gone, "the daemon goes on after the unmount");
    }
});

/// Whether a process with this directory in its command line runs.
fn running_on(dir: &Path) -> bool {
    let dir = dir.to_str().unwrap().as_bytes();
    let me = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|e| {
        e.file_name().to_str() != Some(&me)
            && std::fs::read(e.path().join("cmdline"))
                .is_ok_and(|c| c.windows(dir.len()).any(|w| w == dir))
    })
}

both!(d19_signals_unmount_cleanly, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "x");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        for busy in [false, true] {
            let (mut cmd, log) = command(w);
            sys::die_with_parent(&mut cmd);
            let pipe = sys::ready_pipe().unwrap();
            use std::os::fd::AsRawFd;
            cmd.args(["-f", "--ready-fd", &pipe.1.as_raw_fd().to_string(), "-o", &usual(w)])
                .arg(w.m(""));
            let mut child = cmd.spawn().unwrap();
            drop(pipe.1);
            assert!(sys::wait_readable(&pipe.0, 10_000).unwrap());
            assert_eq!(sys::read(&pipe.0, 10).unwrap().len(), 1, "one byte when it is usable");
            put(&w.m(format!("sig{signal}")), "kept");
            let held = busy.then(|| sys::open(w.m("f"), libc::O_RDONLY, 0).unwrap());
            sys::kill(child.id() as i32, signal).unwrap();
            if busy {
                // It may wait for the file to be closed or cut it off; but it must not hang.
                std::thread::sleep(Duration::from_millis(100));
            }
            drop(held);
            let status = wait(&mut child, "after the signal");
            let text = std::fs::read_to_string(&log).unwrap();
            assert!(status.success(), "signal {signal}, busy {busy}: {status}, it said {text}");
            assert!(!mounted(w), "signal {signal}, busy {busy}: still mounted");
            assert!(sys::names(w.m("")).unwrap().is_empty(), "the mount point works again");
        }
    }
    w.mount();
    assert_eq!(cat(w.m(format!("sig{}", libc::SIGTERM))), "kept");
});

both!(no_upper_is_read_only, |w| {
    if !ours(w) {
        return;
    }
    w.put(0, "a", "a");
    w.put(1, "d/b", "b");
    let o = format!("lowerdir={}:{}", w.l(0, "").display(), w.l(1, "").display());
    let (code, text) = run(w, &["-o", &o, w.m("").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((cat(w.m("a")), cat(w.m("d/b"))), ("a".into(), "b".into()));
    let no = Err(Errno::EROFS);
    assert_eq!(sys::open(w.m("a"), libc::O_WRONLY, 0).map(drop), no);
    assert_eq!(sys::open(w.m("new"), libc::O_CREAT | libc::O_WRONLY, 0o600).map(drop), no);
    assert_eq!(sys::mkdir(w.m("new"), 0o700), no);
    assert_eq!(sys::unlink(w.m("a")), no);
    assert_eq!(sys::rename(w.m("a"), w.m("c"), 0), no);
    assert_eq!(sys::link(w.m("a"), w.m("c")), no);
    assert_eq!(sys::symlink("a", w.m("c")), no);
    assert_eq!(sys::chmod(w.m("a"), 0o600), no);
    assert_eq!(sys::utimens(w.m("a"), (1, 1), (1, 1)), no);
    assert_eq!(sys::setxattr(w.m("a"), "user.a", b"", 0), no);
    assert_eq!(sys::truncate(w.m("a"), 0), no);
    sys::umount(&w.m(""), 0).unwrap();
});

both!(relative_paths_and_odd_names, |w| {
    if !ours(w) {
        return;
    }
    for d in ["l:0", "l,1", "up per", "wo\\rk"] {
        std::fs::create_dir(w.dir.join(d)).unwrap();
    }
    put(&w.dir.join("l:0/f"), "colon");
    put(&w.dir.join("l,1/g"), "comma");
    let o = "lowerdir=l\\:0:l\\,1,upperdir=up per,workdir=wo\\\\rk";
    let (code, text) = run(w, &["-o", o, "mnt"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((cat(w.m("f")), cat(w.m("g"))), ("colon".into(), "comma".into()));
    put(&w.m("new"), "x");
    assert_eq!(cat(w.dir.join("up per/new")), "x");
    sys::umount(&w.m(""), 0).unwrap();
});

both!(arguments_in_other_orders, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "x");
    let lower = format!("lowerdir={}:{}", w.l(0, "").display(), w.l(1, "").display());
    let rest = format!("upperdir={},workdir={}", w.u("").display(), w.dir.join("work").display());
    let mnt = w.m("").display().to_string();
    for args in [
        vec![mnt.as_str(), "-o", &lower, "-o", &rest],
        vec!["-o", &lower, &mnt, "-o", &rest],
        vec!["overlay", &mnt, "-o", &lower, "-o", &rest],
    ] {
        let (code, text) = run(w, &args);
        assert_eq!(code, Some(0), "{args:?}: {text}");
        assert_eq!(cat(w.m("f")), "x");
        sys::umount(&w.m(""), 0).unwrap();
        // The upper is free again once the daemon has gone.
        for _ in 0..200 {
            if !running_on(&w.dir) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
});

both!(bad_usage_is_one_sentence, |w| {
    if !ours(w) {
        return;
    }
    for args in [
        vec![],
        vec!["-o"],
        vec!["--no-such-flag"],
        vec!["-o", "lowerdir=/", "a", "b", "c"],
        vec!["--ready-fd", "x", "-o", "lowerdir=/", "mnt"],
        vec!["--ready-fd", "777", "-o", "lowerdir=/", "mnt"],
    ] {
        let (code, text) = run(w, &args);
        assert!(code.is_some_and(|c| c != 0), "{args:?} succeeded: {text}");
        assert!(!text.trim().is_empty() && !text.contains("panicked"), "{args:?}: {text}");
    }
    let (code, help) = run(w, &["--help"]);
    assert!(code == Some(0) && help.contains("lowerdir"), "{help}");
    let (code, man) = run(w, &["--man"]);
    assert!(code == Some(0) && man.starts_with(".TH") && man.contains("redirect_dir"), "{man}");
    let (code, version) = run(w, &["--version"]);
    assert!(code == Some(0) && version.contains("cowlfs"), "{version}");
});

as_root!(an_ordinary_user_mounts_with_fusermount, |w| {
    if !ours(w) {
        return;
    }
    // No user namespace: fusermount3 does the mounting, for someone with an account.
    Caller::User.prepare();
    let user = Caller::User.id().unwrap();
    w.put(1, "d/f", "lower");
    w.put(1, "gone", "x");
    let chown = |p: PathBuf| sys::lchown(p, user, user).unwrap();
    for d in ["upper", "work", "mnt", "l0", "l1", "l1/d", "l1/d/f", "l1/gone", "."] {
        chown(w.dir.join(d));
    }
    let options = usual(w);
    let mount = |w: &World| {
        let (mut cmd, log) = command(w);
        cmd.args(["-o", &options]).arg(w.m(""));
        sys::as_ordinary_user(&mut cmd, user);
        let status = wait(&mut cmd.spawn().unwrap(), "the parent");
        assert!(status.success(), "{status}: {}", std::fs::read_to_string(log).unwrap());
    };
    let unmount = |w: &World| {
        let mut cmd = Command::new("fusermount3");
        cmd.arg("-u").arg(w.m("")).stdin(Stdio::null());
        sys::as_ordinary_user(&mut cmd, user);
        assert!(cmd.status().unwrap().success());
        for _ in 0..200 {
            if !running_on(&w.dir) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the daemon goes on after the unmount");
    };
    mount(w);
    let mnt = w.m("");
    sys::as_user(user, user, || {
        assert_eq!(cat(mnt.join("d/f")), "lower");
        std::fs::write(mnt.join("d/f"), "changed").unwrap();
        sys::unlink(mnt.join("gone")).unwrap();
        sys::mkdir(mnt.join("new"), 0o755).unwrap();
        sys::rename(mnt.join("d"), mnt.join("new/d"), 0).unwrap();
    });
    unmount(w);
    mount(w);
    sys::as_user(user, user, || {
        assert_eq!(cat(mnt.join("new/d/f")), "changed");
        assert_eq!(sys::names(&mnt).unwrap(), ["new"]);
    });
    unmount(w);
    assert_eq!(cat(w.l(1, "d/f")), "lower");
});

both!(probing_says_what_would_be_chosen_and_mounts_nothing, |w| {
    if !ours(w) {
        return;
    }
    w.put(1, "f", "lower");
    let dir = w.dir.display();
    let layers = format!("lowerdir={dir}/l0:{dir}/l1,upperdir={dir}/upper,workdir={dir}/work");
    let (code, said) = run(w, &["--probe", "-o", &layers]);
    assert_eq!(code, Some(0), "{said}");
    for what in ["FUSE protocol of the kernel: 7.", "file data: write-back cache (", "marks: "] {
        assert!(said.contains(what), "{what} is not in: {said}");
    }
    assert!(!mounted(w));
    let (code, said) = run(w, &["--probe", "-o", &format!("timeout=3,lowerdir={dir}/l1")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("names and attributes: kept for 3 s (timeout=)"), "{said}");
    assert!(said.contains("file data: read cache"), "{said}");
    let privileged = said.contains("rights: CAP_SYS_ADMIN in the initial user namespace");
    assert_eq!(privileged, w.mode == cowl_tests::mount::Mode::Root, "{said}");
});

both!(passthrough_is_refused_where_it_cannot_be, |w| {
    if !ours(w) || w.mode == cowl_tests::mount::Mode::Root {
        return;
    }
    let (code, said) = run(w, &["-f", "-o", "io=passthrough,lowerdir=l0", "mnt"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("io=passthrough is not possible here"), "{said}");
    assert!(!mounted(w));
    w.put(1, "f", "lower");
    w.options.push("io=auto".into());
    w.mount();
    std::fs::write(w.m("f"), "upper").unwrap();
    assert_eq!(cat(w.m("f")), "upper");
});

both!(debugging_counts_the_requests, |w| {
    if !ours(w) {
        return;
    }
    let (mut cmd, log) = command(w);
    let dir = w.dir.display();
    let layers = format!("lowerdir={dir}/l1,upperdir={dir}/upper,workdir={dir}/work");
    let mut child = cmd.args(["-d", "-o", &layers]).arg(w.m("")).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while !mounted(w) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    for i in 0..7 {
        sys::mkdir(w.m(format!("d{i}")), 0o755).unwrap();
    }
    sys::umount(&w.m(""), 0).unwrap();
    assert!(wait(&mut child, "the server").success());
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains(", MKDIR 7"), "{said}");
    assert!(said.contains("file data: write-back cache"), "{said}");
});

/// A setting of the mount's cache, where it can be changed at all.
fn cache_setting(w: &World, name: &str) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = w.m("").display().to_string();
    let at = at.trim_end_matches('/');
    let line = table.lines().find(|l| l.split(' ').nth(4) == Some(at)).unwrap();
    let setting = format!("/sys/class/bdi/{}/{name}", line.split(' ').nth(2).unwrap());
    std::fs::OpenOptions::new().write(true).open(&setting).ok()?;
    Some(std::fs::read_to_string(&setting).unwrap().trim().to_owned())
}

as_root!(the_kernel_reads_further_ahead, |w| {
    if ours(w) {
        w.mount();
        assert_eq!(cache_setting(w, "read_ahead_kb").as_deref().unwrap_or("1024"), "1024");
    }
});

as_root!(a_small_upper_does_not_let_the_kernel_keep_more_than_it_can_take, |w| {
    if !ours(w) {
        return;
    }
    // The limits of tmpfs are promises: nothing is taken for a large one.
    for (size, share, strict) in [("size=16m", "1", "1"), ("size=64t", "50", "0")] {
        let dir = w.dir.join(size);
        std::fs::create_dir(&dir).unwrap();
        sys::mount("tmpfs", &dir, "tmpfs", 0, size.as_bytes()).unwrap();
        w.options.clear();
        for name in ["upper", "work"] {
            std::fs::create_dir(dir.join(name)).unwrap();
            w.options.push(format!("{name}dir={}", dir.join(name).display()));
        }
        w.mount();
        let is = |name, want: &str| {
            let is = cache_setting(w, name);
            assert_eq!(is.as_deref().unwrap_or(want), want, "{name} with {size}");
        };
        is("max_ratio", share);
        is("strict_limit", strict);
        w.unmount();
    }
});
