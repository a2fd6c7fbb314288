//! Every option that changes what the filesystem does, by its effect.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Mode, Sut, World, cat, jail, put};
use cowl_tests::{as_root, both};

fn run(command: &mut Command) {
    let done = command.status();
    assert!(done.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {done:?}");
}

/// The number that stat(2) shows; readdir(3) must show the same.
fn number(p: &Path) -> u64 {
    let dir = sys::open(p.parent().unwrap(), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
    let st = sys::lstat(p).unwrap();
    let name = p.file_name().unwrap().as_bytes();
    let listed = sys::read_all_dirents(&dir).unwrap();
    let entry = listed.iter().find(|e| e.name.as_bytes() == name).unwrap();
    assert_eq!(entry.ino, st.st_ino, "{}", p.display());
    st.st_ino
}

as_root!(readers_do_not_keep_the_host_from_remounting_read_only, |w| {
    // The log of the filesystem under test is written beside the usual upper.
    let dir = w.dir.join("disk");
    for name in ["", "upper", "work"] {
        sys::mkdir(dir.join(name), 0o755).unwrap();
        if name.is_empty() {
            sys::mount("tmpfs", &dir, "tmpfs", 0, b"").unwrap();
        } else {
            w.options.push(format!("{name}dir={}", dir.join(name).display()));
        }
    }
    put(&dir.join("upper/f"), "upper");
    w.put(1, "l", "lower");
    w.mount();
    assert_eq!(cat(w.m("f")) + &cat(w.m("l")), "upperlower");
    let host = |flags: u64| sys::mount("", &dir, "", libc::MS_REMOUNT | flags, b"");
    host(libc::MS_RDONLY).expect("remount the upper's filesystem read-only");
    assert_eq!(cat(w.m("f")), "upper");
    let write = || std::fs::write(w.m("l"), "changed").map_err(|e| e.raw_os_error());
    assert_eq!(write(), Err(Some(Errno::EROFS as i32)));
    assert_eq!(cat(w.m("l")), "lower");
    host(0).unwrap();
    assert_eq!(write(), Ok(()));
    w.remount();
    assert_eq!(cat(w.m("l")), "changed");
});

both!(redirects_can_be_turned_off, |w| {
    w.put(1, "d/f", "lower");
    w.put(1, "e/g", "lower");
    w.mount();
    sys::mkdir(w.m("new"), 0o755).unwrap();
    if w.sut == Sut::Cowlfs || w.mode == Mode::Root {
        sys::rename(w.m("d"), w.m("moved"), 0).unwrap();
    }
    w.unmount();
    for value in ["off", "follow"] {
        w.options = vec![format!("redirect_dir={value}")];
        if (w.sut, w.mode) == (Sut::Overlay, Mode::UserNs) {
            continue; // it knows the option only without userxattr
        }
        w.mount();
        assert_eq!(cat(w.m("moved/f")), "lower", "{value}: a redirect that is there is followed");
        let before = sys::names(w.u("")).unwrap().len();
        assert_eq!(sys::rename(w.m("e"), w.m("e2"), 0), Err(Errno::EXDEV), "{value}");
        assert_eq!(sys::rename(w.m("moved"), w.m("m2"), 0), Err(Errno::EXDEV), "{value}");
        let exchange = sys::rename(w.m("new"), w.m("e"), libc::RENAME_EXCHANGE);
        assert_eq!(exchange, Err(Errno::EXDEV), "{value}");
        assert_eq!(sys::names(w.u("")).unwrap().len(), before, "refused before anything is made");
        sys::rename(w.m("new"), w.m("new2"), 0).expect("a directory of the upper alone moves");
        sys::rename(w.m("new2"), w.m("new"), 0).unwrap();
        sys::rename(w.m("e/g"), w.m("e/h"), 0).expect("a file moves");
        sys::rename(w.m("e/h"), w.m("e/g"), 0).unwrap();
        w.unmount();
    }
});

both!(redirects_are_not_followed_where_that_is_asked_for, |w| {
    w.put(1, "d/f", "lower");
    w.put(1, "e/g", "lower");
    w.mount();
    if w.sut == Sut::Overlay {
        return;
    }
    sys::rename(w.m("d"), w.m("moved"), 0).unwrap();
    w.options = vec!["redirect_dir=nofollow".into()];
    w.remount();
    let refused = std::fs::read_dir(w.m("moved")).map(drop).map_err(|e| e.raw_os_error());
    let found = sys::lstat(w.m("moved/f")).map(drop);
    assert!(refused.is_err() || found.is_err(), "the content of another directory is shown");
    assert_eq!(found, Err(Errno::EPERM));
    assert_eq!(sys::rename(w.m("e"), w.m("e2"), 0), Err(Errno::EXDEV));
    assert_eq!(cat(w.m("e/g")), "lower");
});

both!(without_an_index_names_of_one_file_part, |w| {
    if w.sut == Sut::Overlay {
        return; // the same after the write; before it the names share a number
    }
    w.put(1, "a", "one");
    for name in ["b", "c"] {
        sys::link(w.l(1, "a"), w.l(1, name)).unwrap();
    }
    w.options = vec!["index=off".into()];
    w.mount();
    std::fs::write(w.m("a"), "two").unwrap();
    sys::link(w.m("a"), w.m("a2")).unwrap();
    std::fs::write(w.m("b"), "three").unwrap();
    sys::link(w.m("b"), w.m("b2")).unwrap();
    let content = |w: &World| ["a", "a2", "b", "b2", "c"].map(|n| cat(w.m(n)));
    let inodes = |w: &World| {
        ["a", "a2", "b", "b2", "c"].map(|n| {
            let st = sys::lstat(w.m(n)).unwrap();
            (st.st_ino, st.st_nlink)
        })
    };
    let want = ["two", "two", "three", "three", "one"];
    assert_eq!(content(w), want);
    let before = inodes(w);
    assert_eq!((before[0], before[2]), (before[1], before[3]));
    assert_eq!((before[0].1, before[2].1), (2, 2));
    assert!(before[0].0 != before[2].0 && before[0].0 != before[4].0);
    w.remount();
    assert_eq!((content(w), inodes(w)), (want.map(Into::into), before));
    assert!(
        sys::names(w.dir.join("work/cowl-index"))
            .unwrap()
            .iter()
            .all(|n| { n.as_bytes().ends_with(b".tag") })
    );
});

as_root!(short_inode_numbers_are_unique_and_stay, |w| {
    w.set_lowers(4);
    for i in 1..4 {
        sys::mount("tmpfs", &w.l(i, ""), "tmpfs", 0, b"").unwrap();
    }
    for i in 0..4 {
        for n in 0..20 {
            w.put(i, &format!("d{i}/f{n}"), "x");
        }
    }
    if w.sut != Sut::Cowlfs {
        return;
    }
    w.options = vec!["ino32_t".into()];
    w.mount();
    let numbers = |w: &World| {
        let mut seen = HashMap::new();
        for i in 0..4 {
            for n in 0..20 {
                let name = format!("d{i}/f{n}");
                let ino = number(&w.m(&name));
                assert!(ino <= u64::from(u32::MAX), "{name}: {ino}");
                assert_eq!(seen.insert(ino, name.clone()), None, "{name} shares {ino}");
            }
        }
        seen
    };
    let before = numbers(w);
    for i in 0..4 {
        std::fs::write(w.m(format!("d{i}/f7")), "copied up").unwrap();
        number(&w.m(format!("d{i}")));
    }
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_eq!(numbers(w), before);
});

as_root!(xino_on_wants_an_upper_that_can_keep_numbers, |w| {
    if w.sut != Sut::Cowlfs {
        return;
    }
    w.put(1, "f", "x");
    let dir = w.dir.join("plain");
    sys::mkdir(&dir, 0o755).unwrap();
    sys::mount("ramfs", &dir, "ramfs", 0, b"").unwrap();
    for name in ["upper", "work"] {
        sys::mkdir(dir.join(name), 0o755).unwrap();
        w.options.push(format!("{name}dir={}", dir.join(name).display()));
    }
    for value in ["off", "auto", "on"] {
        let options =
            format!("lowerdir={},{},xino={value}", w.l(1, "").display(), w.options.join(","));
        let out = Command::new(jail::program_inside())
            .args(["-o", &options])
            .arg(w.m(""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if value == "on" {
            assert!(!out.status.success() && said.contains("xino=on"), "{said}");
        } else {
            assert!(out.status.success(), "{value}: {said}");
            assert_eq!(cat(w.m("f")), "x");
            sys::umount(&w.m(""), 0).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
});

/// What a file looks like: type and mode, owner, device.
fn looks(p: &Path) -> (u32, u32, u32, u64) {
    let st = sys::lstat(p).unwrap();
    (st.st_mode, st.st_uid, st.st_gid, st.st_rdev)
}

const SECURITY: &str = "security.fuseoverlayfs.override_stat";
const USER: &str = "user.containers.override_stat";

as_root!(owners_kept_in_the_security_namespace, |w| {
    if w.sut != Sut::Cowlfs {
        return;
    }
    w.put(1, "f", "x");
    sys::symlink("f", w.l(1, "link")).unwrap();
    w.put(1, "null", "");
    for (name, record) in [("f", "7:8:4751"), ("link", "9:10:777"), ("null", "1:2:0640:char-1-3")] {
        sys::setxattr(w.l(1, name), SECURITY, record.as_bytes(), 0).unwrap();
        sys::setxattr(w.l(1, name), USER, b"5:5:0100", 0).unwrap_or(());
    }
    // A program that may not change owners or make devices.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},xattr_permissions=1",
        w.l(1, "").display(),
        w.u("").display(),
        w.dir.join("work").display()
    );
    let check = |w: &World| {
        let (file, link) = (libc::S_IFREG, libc::S_IFLNK);
        assert_eq!(looks(&w.m("f")), (file | 0o4751, 7, 8, 0));
        assert_eq!(looks(&w.m("link")), (link | 0o777, 9, 10, 0));
        assert_eq!(looks(&w.m("null")), (libc::S_IFCHR | 0o640, 1, 2, libc::makedev(1, 3)));
        assert!(!sys::listxattr(w.m("f")).unwrap().iter().any(|n| n == SECURITY));
        assert_eq!(sys::setxattr(w.m("f"), SECURITY, b"0:0:755", 0), Err(Errno::EPERM));
    };
    for round in 0..2 {
        run(Command::new("setpriv")
            .args(["--bounding-set=-chown,-mknod", "--inh-caps=-chown,-mknod"])
            .arg(jail::program_inside())
            .args(["-o", &options])
            .arg(w.m("")));
        check(w);
        if round == 0 {
            put(&w.m("mine"), "y");
            sys::symlink("y", w.m("mylink")).unwrap();
            for name in ["mine", "mylink", "link"] {
                sys::lchown(w.m(name), 31, 32).unwrap();
            }
            sys::chmod(w.m("mine"), 0o6711).unwrap();
            sys::mknod(w.m("tty"), libc::S_IFCHR | 0o620, libc::makedev(5, 0)).unwrap();
        }
        assert_eq!(looks(&w.m("mine")), (libc::S_IFREG | 0o6711, 31, 32, 0));
        assert_eq!(looks(&w.m("mylink")), (libc::S_IFLNK | 0o777, 31, 32, 0));
        assert_eq!(looks(&w.m("tty")).3, libc::makedev(5, 0));
        sys::lchown(w.m("link"), 9, 10).unwrap();
        sys::umount(&w.m(""), 0).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(sys::getxattr(w.u("mylink"), SECURITY).unwrap(), b"31:32:0777:symlink");
});

both!(a_device_that_would_be_a_whiteout_can_be_kept, |w| {
    if w.sut != Sut::Cowlfs {
        return;
    }
    w.options = vec!["xattr_permissions=2".into()];
    w.mount();
    sys::mknod(w.m("dev"), libc::S_IFCHR | 0o640, 0).unwrap();
    sys::chmod(w.m("dev"), 0o604).unwrap();
    sys::rename(w.m("dev"), w.m("moved"), 0).unwrap();
    let check = |w: &World| {
        assert_eq!(looks(&w.m("moved")), (libc::S_IFCHR | 0o604, 0, 0, 0));
        assert_eq!(sys::names(w.m("")).unwrap(), ["moved"]);
    };
    check(w);
    w.remount();
    check(w);
    sys::unlink(w.m("moved")).unwrap();
    assert!(sys::names(w.u("")).unwrap().is_empty());
});

both!(a_layer_that_keeps_owners_says_so_itself, |w| {
    w.put(1, "f", "x");
    w.put(0, "g", "x");
    for name in ["f", ""] {
        sys::setxattr(w.l(1, name), USER, b"7:8:4751", 0).unwrap();
    }
    sys::setxattr(w.l(0, "g"), USER, b"7:8:4751", 0).unwrap();
    w.mount();
    if w.sut != Sut::Cowlfs {
        return;
    }
    assert_eq!(looks(&w.m("f")), (libc::S_IFREG | 0o4751, 7, 8, 0));
    assert_eq!(looks(&w.m("g")).1, 0, "this layer does not say so");
});

as_root!(marks_in_the_user_namespace, |w| {
    w.put(1, "d/f", "x");
    w.put(1, "gone/f", "x");
    w.put(1, "file", "x");
    w.options = vec!["userxattr".into()];
    w.mount();
    let moves = w.sut == Sut::Cowlfs;
    if moves {
        sys::rename(w.m("d"), w.m("moved"), 0).unwrap();
    }
    std::fs::remove_dir_all(w.m("gone")).unwrap();
    sys::mkdir(w.m("gone"), 0o755).unwrap();
    sys::chmod(w.m("file"), 0o600).unwrap();
    w.remount();
    assert!(sys::names(w.m("gone")).unwrap().is_empty());
    let names = |p: &str| -> Vec<String> {
        let mut all = Vec::new();
        // The trusted ones are listed to root only, and this is root.
        for name in sys::listxattr(w.u(p)).unwrap() {
            all.push(name.to_string_lossy().into_owned());
        }
        all
    };
    assert!(names("gone").contains(&"user.overlay.opaque".to_owned()));
    for p in ["", "gone", "file", if moves { "moved" } else { "" }] {
        assert!(!names(p).iter().any(|n| n.starts_with("trusted.")), "{p}: {:?}", names(p));
    }
    if moves {
        assert_eq!(sys::getxattr(w.u("moved"), "user.overlay.redirect").unwrap(), b"/d");
        assert_eq!(cat(w.m("moved/f")), "x");
    }
});

/// How to make a filesystem in an image, and how to give it another UUID.
type Maker = (&'static [&'static str], &'static [&'static [&'static str]]);

const EXT4: Maker = (&["mkfs.ext4", "-q"], &[&["e2fsck", "-fp"], &["tune2fs", "-U"]]);
const XFS: Maker = (&["mkfs.xfs", "-q"], &[&["xfs_admin", "-U"]]);

fn uuid_counts_unless_left_out(w: &mut World, (make, change): Maker) {
    if w.sut != Sut::Cowlfs {
        return;
    }
    let (image, at) = (w.dir.join("image"), w.l(1, ""));
    std::fs::File::create(&image).and_then(|f| f.set_len(400 << 20)).unwrap();
    run(Command::new(make[0]).args(&make[1..]).arg(&image));
    let attach = |uuid: &str| {
        for step in change {
            let mut cmd = Command::new(step[0]);
            cmd.args(&step[1..]);
            if step[1] == "-U" {
                cmd.arg(uuid);
            }
            let out = cmd.arg(&image).output().unwrap();
            assert!(out.status.success(), "{step:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
    };
    let uuids = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
    attach(uuids[0]);
    put(&at.join("f"), "x");
    sys::link(at.join("f"), at.join("g")).unwrap();
    for value in ["off", "on"] {
        w.options = vec![format!("uuid={value}")];
        w.mount();
        std::fs::write(w.m("f"), value).unwrap();
        let before = number(&w.m("f"));
        assert_eq!(cat(w.m("g")), value);
        w.remount();
        assert_eq!((number(&w.m("f")), cat(w.m("g"))), (before, value.into()));
        w.unmount();
        sys::umount(&at, 0).unwrap();
        attach(uuids[usize::from(value == "off")]);
        w.mount();
        let same = value == "off";
        assert_eq!(number(&w.m("f")) == before, same, "uuid={value}");
        assert_eq!(cat(w.m("g")) == value, same, "uuid={value}");
        w.unmount();
        // The next round starts anew, but for the UUID.
        for dir in [w.u(""), w.dir.join("work")] {
            std::fs::remove_dir_all(&dir).unwrap();
            sys::mkdir(&dir, 0o755).unwrap();
        }
    }
    sys::umount(&at, 0).unwrap();
    w.options.clear();
    w.mount();
}

as_root!(the_uuid_of_ext4_can_be_left_out, |w| {
    uuid_counts_unless_left_out(w, EXT4);
});

as_root!(the_uuid_of_xfs_can_be_left_out, |w| {
    uuid_counts_unless_left_out(w, XFS);
});

both!(directories_can_show_one_link, |w| {
    w.put(1, "d/a/f", "x");
    w.put(1, "d/b/f", "x");
    sys::link(w.l(1, "d/a/f"), w.l(1, "d/a/g")).unwrap();
    if w.sut == Sut::Overlay {
        return;
    }
    w.options = vec!["static_nlink".into()];
    w.mount();
    assert_eq!(sys::names(w.m("d")).unwrap().len(), 2);
    for (name, links) in [("d", 1), ("d/a", 1), ("", 1), ("d/a/f", 2), ("d/b/f", 1)] {
        assert_eq!(sys::lstat(w.m(name)).unwrap().st_nlink, links, "{name}");
    }
});

both!(without_the_writeback_cache_data_is_in_the_upper_at_once, |w| {
    w.put(1, "f", "lower");
    w.put(1, "g", "lower");
    if w.sut == Sut::Overlay {
        return;
    }
    w.options = vec!["writeback=0".into()];
    w.mount();
    let file = sys::open(w.m("f"), libc::O_RDWR, 0).unwrap();
    for (at, text) in [(0, "LO"), (5, "-more")] {
        sys::pwrite(&file, at, text.as_bytes()).unwrap();
        let want = if at == 0 { "LOwer" } else { "LOwer-more" };
        assert_eq!((cat(w.u("f")), cat(w.m("f"))), (want.into(), want.into()));
        assert_eq!(sys::fstat(&file).unwrap().st_size, want.len() as i64);
    }
    // Nor does the kernel keep the times then: a truncation that copies up sets them.
    sys::truncate(w.m("g"), 2).unwrap();
    assert!(sys::lstat(w.m("g")).unwrap().st_mtime > cowl_tests::tree::EXPLICIT_BEFORE);
    let old = sys::lstat(w.m("f")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    sys::truncate(w.m("f"), 3).unwrap();
    let new = sys::lstat(w.m("f")).unwrap();
    assert!((new.st_mtime, new.st_mtime_nsec) > (old.st_mtime, old.st_mtime_nsec));
});

both!(xattrs_can_be_turned_off, |w| {
    w.put(1, "f", "x");
    sys::setxattr(w.l(1, "f"), "user.a", b"1", 0).unwrap();
    if w.sut == Sut::Overlay {
        return;
    }
    w.options = vec!["noxattrs=1".into()];
    w.mount();
    let no = Errno::EOPNOTSUPP;
    assert_eq!(sys::getxattr(w.m("f"), "user.a"), Err(no));
    assert_eq!(sys::setxattr(w.m("f"), "user.b", b"1", 0), Err(no));
    assert_eq!(sys::removexattr(w.m("f"), "user.a"), Err(no));
    assert!(
        sys::listxattr(w.m("f")).is_ok_and(|l| l.is_empty()) || sys::listxattr(w.m("f")) == Err(no)
    );
    std::fs::write(w.m("f"), "y").unwrap();
    assert_eq!(sys::getxattr(w.u("f"), "user.a").unwrap(), b"1", "copy-up keeps them all the same");
});

both!(an_xattr_changes_owners_for_which_the_kernel_refuses_chown, |w| {
    const CHOWN: &str = "user.cowl.chown";
    if w.sut != Sut::Cowlfs {
        return;
    }
    w.put(1, "lower", "x");
    // An owner that the namespace lacks is shown as root's: nobody may write to an unknown one's.
    w.options = ["xattr_permissions=2", "chown_xattr", "unmapped_to_root"].map(Into::into).into();
    w.mount();
    put(&w.m("new"), "x");
    for name in ["lower", "new"] {
        sys::chmod(w.m(name), 0o640).unwrap();
        sys::setxattr(w.m(name), CHOWN, b"700000:", 0).unwrap();
        sys::setxattr(w.m(name), CHOWN, b":700001", 0).unwrap();
        // The host keeps it where it may; else it stands in the record.
        let native = (looks(&w.u(name)).1, looks(&w.u(name)).2) == (700_000, 700_001);
        let record = sys::getxattr(w.u(name), USER).unwrap_or_default();
        assert!(native || record == b"700000:700001:0640:file", "{record:?}");
        assert_eq!(sys::getxattr(w.m(name), CHOWN), Err(Errno::ENODATA));
        assert_eq!(std::fs::read(w.m(name)).unwrap(), b"x");
    }
    assert_eq!(sys::setxattr(w.m("new"), CHOWN, b"root:", 0), Err(Errno::EINVAL));
    sys::lchown(w.m("new"), 0, 0).unwrap();
    w.remount();
    assert_eq!((looks(&w.m("new")).1, looks(&w.m("new")).2), (0, 0));
    assert_eq!(looks(&w.m("new")).0 & 0o7777, 0o640);
});
