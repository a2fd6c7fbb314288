//! Unions over packed layers, alone and between host directories: the same trees, the same answers,
//! and the layers' files never change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cowl_fs::attr::Time;
use cowl_fs::packed::{INDEX, Link, Meta, Objects, Special, Writer};
use cowl_tests::model::{self, Size};
use cowl_tests::mount::sys::{self, Errno, libc};
use cowl_tests::mount::{Mode, Packed, World, cat, jail};

/// Enough for a run of thousands of cases on demand.
const PATIENCE: u64 = 7200;
const KINDS: [Packed; 3] = [Packed::All, Packed::Even, Packed::Odd];
/// A time that no test gives by itself.
const TIME: i64 = 1_100_000_000;

/// Random operations over random layers against a plain directory.
fn model(w: &mut World) {
    w.in_memory();
    let first = if w.mode == Mode::Root { 1 } else { 10_000 };
    for (n, packed) in (0..).zip(KINDS) {
        w.packed = packed;
        model::run_in(w, Size::from_env(first + n * 1000, 20, 16));
    }
}

/// Makes the packed layer `name` of a test; returns its index.
fn make(w: &World, name: &str, fill: impl FnOnce(&mut Writer)) -> PathBuf {
    let dir = w.dir.join(name);
    let (store, staging) = (w.dir.join("store"), w.dir.join("staging"));
    for path in [&dir, &store, &staging] {
        std::fs::create_dir_all(path).unwrap();
    }
    let objects = Arc::new(Objects::new(&store, &staging).unwrap());
    let mut writer =
        Writer::create(&dir, Arc::clone(&objects), Some(Path::new("../store"))).unwrap();
    fill(&mut writer);
    writer.finish().unwrap();
    objects.publish().unwrap();
    dir.join(INDEX)
}

fn meta(perm: u32) -> Meta {
    Meta { perm, uid: 1, gid: 2, mtime: Time { sec: TIME, nsec: 7 }, xattrs: Vec::new() }
}

fn put(w: &mut Writer, path: &str, content: &[u8]) {
    let (size, mut from) = (content.len() as u64, content);
    w.file(path.as_bytes(), &meta(0o644), size, None, &mut from).unwrap();
}

fn large() -> Vec<u8> {
    (0..300_000u32).map(|i| (i / 7) as u8).collect()
}

/// One more name, in a layer above, for a file of a layer below.
fn links_to_lower_layers(w: &mut World) {
    w.set_lowers(1);
    w.put(0, "host/file", "of the host");
    let bottom = make(w, "bottom", |w| {
        put(w, "dir/file", b"once");
        w.special(b"dir/link", &meta(0o777), Special::Symlink(b"file")).unwrap();
    });
    let middle = make(w, "middle", |w| {
        assert_eq!(w.link(b"second", b"dir/file", &meta(0)).unwrap(), Link::Below);
        assert_eq!(w.link(b"third", b"second", &meta(0)).unwrap(), Link::Below);
        w.link(b"soft", b"dir/link", &meta(0)).unwrap();
        w.link(b"hosts", b"host/file", &meta(0)).unwrap();
        w.link(b"lost", b"no/such/file", &meta(0)).unwrap();
    });
    let top = make(w, "top", |w| {
        w.link(b"other/fourth", b"third", &meta(0)).unwrap();
        // What hides a name does not take the file from the others.
        w.whiteout(b"second").unwrap();
    });
    w.mount_below(&[top, middle, bottom]);
    let all = ["dir/file", "third", "other/fourth"];
    let stat = |w: &World, name: &str| sys::lstat(w.m(name)).unwrap();
    let first = stat(w, all[0]);
    for name in all {
        let st = stat(w, name);
        assert_eq!((st.st_ino, st.st_mtime, st.st_uid), (first.st_ino, TIME, 1), "{name}");
        assert_eq!(cat(w.m(name)), "once");
    }
    assert!(first.st_nlink >= 3);
    assert_eq!(sys::lstat(w.m("second")), Err(Errno::ENOENT));
    assert_eq!(std::fs::read_link(w.m("soft")).unwrap(), Path::new("file"));
    assert_eq!(stat(w, "soft").st_ino, stat(w, "dir/link").st_ino);
    assert_eq!(cat(w.m("hosts")), "of the host");
    assert_eq!(stat(w, "hosts").st_ino, stat(w, "host/file").st_ino);
    // No layer has it: better an error than a file without content.
    assert_eq!(sys::lstat(w.m("lost")).err(), Some(Errno::EIO));
    std::fs::write(w.m("third"), "changed").unwrap();
    for when in ["at once", "after a remount"] {
        for name in all {
            assert_eq!(cat(w.m(name)), "changed", "{name} {when}");
            assert_eq!(stat(w, name).st_ino, first.st_ino, "{name} {when}");
        }
        w.remount();
    }
    std::fs::remove_file(w.m("other/fourth")).unwrap();
    w.remount();
    assert_eq!(sys::lstat(w.m("other/fourth")), Err(Errno::ENOENT));
    assert_eq!(cat(w.m("dir/file")), "changed");
}

/// A directory that a layer only implies has the attributes of the layers below.
fn implied_directories(w: &mut World) {
    w.set_lowers(1);
    w.put(0, "etc/host", "host");
    sys::chmod(w.l(0, "etc"), 0o700).unwrap();
    let bottom = make(w, "bottom", |w| {
        let mut with = meta(0o1777);
        with.xattrs.push((b"user.colour".to_vec(), b"green".to_vec()));
        w.dir(b"var/tmp", &with).unwrap();
        put(w, "var/tmp/old", b"old");
        w.dir(b"gone", &meta(0o711)).unwrap();
        put(w, "gone/old", b"old");
    });
    let top = make(w, "top", |w| {
        put(w, "var/tmp/new", b"new");
        put(w, "etc/new", b"new");
        put(w, "alone/new", b"new");
        w.whiteout(b"gone").unwrap();
        put(w, "gone/new", b"new");
    });
    w.mount_below(&[top, bottom]);
    let tmp = w.m("var/tmp");
    let check = |w: &World, when: &str| {
        let st = sys::lstat(&tmp).unwrap();
        assert_eq!((st.st_mode & 0o7777, st.st_uid, st.st_gid), (0o1777, 1, 2), "{when}");
        assert_eq!(sys::getxattr(&tmp, "user.colour").unwrap(), b"green", "{when}");
        assert_eq!(sys::lstat(w.m("etc")).unwrap().st_mode & 0o7777, 0o700, "{when}");
        assert_eq!(sys::lstat(w.m("alone")).unwrap().st_mode & 0o7777, 0o755, "{when}");
        assert_eq!(sys::lstat(w.m("gone")).unwrap().st_mode & 0o7777, 0o755, "{when}");
        assert_eq!(sys::names(w.m("gone")).unwrap().len(), 1, "{when}");
        for name in ["old", "new"] {
            assert_eq!(cat(tmp.join(name)), name, "{when}");
        }
        st.st_ino
    };
    let ino = check(w, "at first");
    assert_eq!(sys::lstat(&tmp).unwrap().st_mtime, TIME);
    let var = sys::open(w.m("var"), libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
    let listed = sys::read_all_dirents(&var).unwrap();
    assert!(listed.iter().any(|e| e.name == "tmp" && e.ino == ino), "{listed:?}");
    drop(var);
    std::fs::write(tmp.join("mine"), "").unwrap();
    assert_eq!(check(w, "after copy-up"), ino);
    w.remount();
    assert_eq!(check(w, "after a remount"), ino);
}

/// Data comes up from data files and objects alike, in every mode, and identity stays.
fn copy_up(w: &mut World) {
    w.set_lowers(0);
    let large = large();
    let mut sparse = vec![0; 1 << 20];
    sparse[700_000] = 1;
    let index = make(w, "layer", |w| {
        w.dir(b"", &meta(0o755)).unwrap();
        for n in 0..2 {
            put(w, &format!("small{n}"), b"a few bytes");
            put(w, &format!("large{n}"), &large);
            put(w, &format!("sparse{n}"), &sparse);
            put(w, &format!("empty{n}"), b"");
        }
        w.link(b"twin", b"large1", &meta(0)).unwrap();
    });
    w.mount_below(&[index]);
    let wanted = |name: &str| match name {
        "small" => b"a few bytes".to_vec(),
        "large" => large.clone(),
        "sparse" => sparse.clone(),
        _ => Vec::new(),
    };
    let sets = ["small", "large", "sparse", "empty"];
    let inos: Vec<u64> =
        sets.iter().map(|s| std::fs::metadata(w.m(format!("{s}0"))).unwrap().ino()).collect();
    for set in sets {
        let (attributes, data) = (w.m(format!("{set}0")), w.m(format!("{set}1")));
        assert_eq!(std::fs::read(&data).unwrap(), wanted(set), "{set}");
        // Beyond the end of a small file lies the next one.
        let file = sys::open(&data, libc::O_RDONLY, 0).unwrap();
        let len = wanted(set).len() as i64;
        assert_eq!(sys::pread(&file, (len - 2).max(0), 100).unwrap().len() as i64, len.min(2));
        assert_eq!(sys::pread(&file, len, 100).unwrap(), b"");
        let end = sys::lseek(&file, 0, libc::SEEK_HOLE);
        match set {
            "empty" => assert_eq!(end, Err(Errno::ENXIO)),
            "sparse" => {} // where holes are is the host's business
            _ => assert_eq!(end, Ok(len)),
        }
        drop(file);
        sys::chmod(&attributes, 0o600).unwrap();
        let file = sys::open(&data, libc::O_WRONLY, 0).unwrap();
        sys::pwrite(&file, 3, b"XYZ").unwrap();
    }
    for when in ["at once", "after a remount"] {
        for (set, ino) in sets.iter().zip(&inos) {
            let (attributes, data) = (w.m(format!("{set}0")), w.m(format!("{set}1")));
            assert_eq!(std::fs::read(&attributes).unwrap(), wanted(set), "{set} {when}");
            let st = std::fs::metadata(&attributes).unwrap();
            assert_eq!((st.ino(), st.mode() & 0o7777, st.mtime()), (*ino, 0o600, TIME), "{set}");
            let mut changed = wanted(set);
            changed.resize(changed.len().max(6), 0);
            changed[3..6].copy_from_slice(b"XYZ");
            assert_eq!(std::fs::read(&data).unwrap(), changed, "{set} {when}");
        }
        let (twin, file) = (w.m("twin"), w.m("large1"));
        assert_eq!(std::fs::read(&twin).unwrap(), std::fs::read(&file).unwrap(), "{when}");
        let [twin, file] = [twin, file].map(|p| std::fs::metadata(p).unwrap());
        assert_eq!((twin.ino(), twin.nlink()), (file.ino(), 2), "{when}");
        w.remount();
    }
}

fn copy_up_in_blocks(w: &mut World) {
    w.options.push("copyup=block".into());
    copy_up(w);
}

fn copy_up_of_attributes(w: &mut World) {
    w.options.push("metacopy=on".into());
    copy_up(w);
}

fn copy_up_with_passthrough(w: &mut World) {
    w.options.push("io=passthrough".into());
    copy_up(w);
}

/// Directories of packed layers are renamed, and renamed ones are found again.
fn renamed_directories(w: &mut World) {
    w.set_lowers(1);
    w.put(0, "a/b/host", "host");
    let bottom = make(w, "bottom", |w| put(w, "a/b/bottom", b"bottom"));
    let top = make(w, "top", |w| {
        w.dir(b"a/b", &meta(0o750)).unwrap();
        put(w, "a/b/top", b"top");
    });
    w.mount_below(&[top, bottom]);
    let ino = sys::lstat(w.m("a/b")).unwrap().st_ino;
    sys::rename(w.m("a/b"), w.m("moved"), 0).unwrap();
    std::fs::write(w.m("moved/mine"), "mine").unwrap();
    for when in ["at once", "after a remount"] {
        let st = sys::lstat(w.m("moved")).unwrap();
        assert_eq!((st.st_ino, st.st_mode & 0o7777), (ino, 0o750), "{when}");
        for name in ["host", "bottom", "top", "mine"] {
            assert_eq!(cat(w.m(format!("moved/{name}"))), name, "{when}");
        }
        assert_eq!(sys::names(w.m("a")).unwrap().len(), 0, "{when}");
        w.remount();
    }
}

/// Devices, owners and xattrs come from the index, whoever mounts it.
fn everything_an_index_holds(w: &mut World) {
    w.set_lowers(0);
    let index = make(w, "layer", |w| {
        let mut with = meta(0o6711);
        with.uid = 3;
        with.xattrs.push((b"user.empty".to_vec(), Vec::new()));
        w.file(b"program", &with, 3, None, &mut &b"run"[..]).unwrap();
        w.special(b"null", &meta(0o666), Special::Char(1, 3)).unwrap();
        w.special(b"zero", &meta(0o600), Special::Char(0, 0)).unwrap();
        w.special(b"disk", &meta(0o660), Special::Block(300, 70_000)).unwrap();
        w.special(b"pipe", &meta(0o600), Special::Fifo).unwrap();
        put(w, ".wh.name", b"a user's");
        put(w, &"n".repeat(255), b"long");
    });
    w.mount_below(&[index]);
    let st = sys::lstat(w.m("program")).unwrap();
    assert_eq!((st.st_mode & 0o7777, st.st_uid, st.st_size), (0o6711, 3, 3));
    assert_eq!(sys::getxattr(w.m("program"), "user.empty").unwrap(), b"");
    let device = |name: &str| {
        let st = sys::lstat(w.m(name)).unwrap();
        (st.st_mode & libc::S_IFMT, libc::major(st.st_rdev), libc::minor(st.st_rdev))
    };
    assert_eq!(device("null"), (libc::S_IFCHR, 1, 3));
    assert_eq!(device("zero"), (libc::S_IFCHR, 0, 0));
    assert_eq!(device("disk"), (libc::S_IFBLK, 300, 70_000));
    assert_eq!(device("pipe").0, libc::S_IFIFO);
    assert_eq!(cat(w.m(".wh.name")), "a user's");
    assert_eq!(cat(w.m("n".repeat(255))), "long");
    let times = sys::lstat(w.m("program")).unwrap();
    assert_eq!((times.st_mtime, times.st_mtime_nsec), (TIME, 7));
}

/// A damaged or missing layer is refused in one sentence, before anything is mounted.
fn refused_in_one_sentence(w: &mut World) {
    let index = make(w, "layer", |w| {
        put(w, "large", &large());
        put(w, "small", b"small");
    });
    let mount = |w: &World, lower: &Path| {
        let mut command = std::process::Command::new(jail::program_inside());
        command.arg("-o").arg(format!("lowerdir={}", lower.display())).arg(w.m(""));
        let done = command.output().unwrap();
        assert_eq!(done.status.code(), Some(1));
        String::from_utf8(done.stderr).unwrap()
    };
    let text = w.dir.join("text");
    std::fs::write(&text, "no index").unwrap();
    assert!(mount(w, &text).contains("is not the index of a packed layer"));
    let mut bytes = std::fs::read(&index).unwrap();
    let data = index.with_file_name("layer.data");
    std::fs::write(&data, "smal").unwrap();
    assert!(mount(w, &index).contains("its data file has another length"));
    std::fs::remove_file(&data).unwrap();
    assert!(mount(w, &index).contains("layer.data: No such file"));
    std::fs::write(&data, "small").unwrap();
    std::fs::rename(w.dir.join("store"), w.dir.join("elsewhere")).unwrap();
    assert!(mount(w, &index).contains("objects: No such file"));
    std::fs::rename(w.dir.join("elsewhere"), w.dir.join("store")).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&index, &bytes).unwrap();
    let said = mount(w, &index);
    assert!(said.contains("is damaged") && said.lines().count() == 1, "{said}");
    w.set_lowers(1);
    w.mount();
}

macro_rules! tests {
    ($($root:ident $userns:ident $body:ident;)*) => {$(
        #[test]
        fn $root() {
            jail::run(concat!("fs_packed::", stringify!($root)), Mode::Root, PATIENCE, $body);
        }

        #[test]
        fn $userns() {
            jail::run(concat!("fs_packed::", stringify!($userns)), Mode::UserNs, PATIENCE, $body);
        }
    )*};
}

tests! {
    model_root model_userns model;
    links_root links_userns links_to_lower_layers;
    implied_root implied_userns implied_directories;
    copy_up_root copy_up_userns copy_up;
    blocks_root blocks_userns copy_up_in_blocks;
    metacopy_root metacopy_userns copy_up_of_attributes;
    renames_root renames_userns renamed_directories;
    holds_root holds_userns everything_an_index_holds;
    refused_root refused_userns refused_in_one_sentence;
}

#[test]
fn passthrough_root() {
    jail::run("fs_packed::passthrough_root", Mode::Root, PATIENCE, copy_up_with_passthrough);
}
