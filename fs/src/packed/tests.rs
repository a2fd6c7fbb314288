use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;

use super::*;
use crate::attr::{Kind, Time};

/// A layer's directory with a store of its own.
struct Made {
    dir: tempfile::TempDir,
    objects: Arc<Objects>,
}

impl Made {
    fn new() -> Made {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store", "staging", "layer"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let objects = Objects::new(&dir.path().join("store"), &dir.path().join("staging")).unwrap();
        Made { dir, objects: Arc::new(objects) }
    }

    fn layer(&self) -> std::path::PathBuf {
        self.dir.path().join("layer")
    }

    fn writer(&self) -> Writer {
        let store = Some(Path::new("../store"));
        Writer::create(&self.layer(), Arc::clone(&self.objects), store).unwrap()
    }

    fn open(&self) -> Packed {
        Packed::open(&self.layer().join(INDEX)).unwrap()
    }

    fn finish(&self, writer: Writer) -> Packed {
        writer.finish().unwrap();
        self.objects.publish().unwrap();
        let packed = self.open();
        packed.verify().unwrap();
        packed
    }
}

fn meta(perm: u32) -> Meta {
    Meta { perm, uid: 7, gid: 70_000, mtime: Time { sec: -5, nsec: 9 }, xattrs: Vec::new() }
}

fn put(writer: &mut Writer, path: &[u8], content: &[u8]) -> Content {
    let mut from = content;
    writer.file(path, &meta(0o644), content.len() as u64, None, &mut from).unwrap()
}

fn read(packed: &Packed, content: &Content) -> Vec<u8> {
    let mut out = Vec::new();
    packed.reader(content).read_to_end(&mut out).unwrap();
    out
}

fn node(packed: &Packed, path: &[u8]) -> (u32, Kind) {
    match packed.lookup(path).unwrap() {
        Some(Entry { ino, kind: EntryKind::Node(kind) }) => (ino, kind),
        other => panic!("{}: {other:?}", String::from_utf8_lossy(path)),
    }
}

fn paths(packed: &Packed) -> Vec<String> {
    let mut all = Vec::new();
    packed
        .walk::<crate::sys::Errno>(|path, _| {
            all.push(String::from_utf8_lossy(path).into_owned());
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn everything_comes_back_as_it_was_given() {
    let made = Made::new();
    let mut w = made.writer();
    let large: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    put(&mut w, b"./etc/passwd", b"root:x:0:0");
    put(&mut w, b"/usr//lib/large", &large);
    put(&mut w, b"empty", b"");
    let mut with = meta(0o4755);
    with.xattrs = vec![
        (b"user.empty".to_vec(), Vec::new()),
        (b"security.capability".to_vec(), vec![1, 0, 255]),
    ];
    w.file(b"etc/su", &with, 3, None, &mut &b"abc"[..]).unwrap();
    w.special(b"dev/null", &meta(0o666), Special::Char(1, 3)).unwrap();
    w.special(b"dev/sda", &meta(0o660), Special::Block(0x1234, 0x56789)).unwrap();
    w.special(b"dev/zero", &meta(0), Special::Char(0, 0)).unwrap();
    w.special(b"dev/pipe", &meta(0o600), Special::Fifo).unwrap();
    w.special(b"dev/log", &meta(0o600), Special::Socket).unwrap();
    w.special(b"bin", &meta(0o777), Special::Symlink(b"usr/bin")).unwrap();
    w.dir(b"etc", &meta(0o1777)).unwrap();
    w.whiteout(b"gone").unwrap();
    w.opaque(b"usr/lib").unwrap();
    assert_eq!(w.link(b"etc/other", b"./etc/su", &meta(0)).unwrap(), Link::Here);
    assert_eq!(w.link(b"etc/lower", b"bin2/sh", &meta(0)).unwrap(), Link::Below);
    let p = made.finish(w);

    let (su, _) = node(&p, b"etc/su");
    assert_eq!(node(&p, b"etc/other").0, su);
    let attr = p.attr(su, 77).unwrap();
    assert_eq!((attr.dev, attr.nlink, attr.perm, attr.size), (77, 2, 0o4755, 3));
    assert_eq!((attr.uid, attr.gid, attr.mtime), (7, 70_000, Time { sec: -5, nsec: 9 }));
    assert_eq!(p.xattr(su, b"security.capability").unwrap(), [1, 0, 255]);
    assert_eq!(p.xattr(su, b"user.empty").unwrap(), b"");
    assert_eq!(p.xattr(su, b"user.none"), Err(crate::sys::Errno::ENODATA));
    assert_eq!(read(&p, &p.content(node(&p, b"etc/passwd").0).unwrap()), b"root:x:0:0");
    let content = p.content(node(&p, b"usr/lib/large").0).unwrap();
    assert!(matches!(content, Content::Object { len: 200_000, .. }));
    assert_eq!(read(&p, &content), large);
    let mut part = [0; 10];
    assert_eq!(p.read(&content, 199_995, &mut part).unwrap(), 5);
    assert_eq!(part[..5], large[199_995..]);
    assert_eq!(p.content(node(&p, b"empty").0).unwrap(), Content::Empty);
    let rdev = |path: &[u8]| p.attr(node(&p, path).0, 0).unwrap().rdev;
    assert_eq!(rdev(b"dev/null"), libc::makedev(1, 3));
    assert_eq!(rdev(b"dev/sda"), libc::makedev(0x1234, 0x56789));
    assert_eq!((node(&p, b"dev/zero").1, rdev(b"dev/zero")), (Kind::Char, 0));
    assert_eq!(node(&p, b"dev/pipe").1, Kind::Fifo);
    assert_eq!(node(&p, b"dev/log").1, Kind::Socket);
    assert_eq!(p.target(node(&p, b"bin").0).unwrap(), b"usr/bin");
    assert_eq!(p.lookup(b"gone").unwrap().unwrap().kind, EntryKind::Whiteout);
    assert_eq!(p.lookup(b"absent").unwrap(), None);
    assert_eq!(p.lookup(b"etc/passwd/x").unwrap(), None);
    let (etc, usr, lib) = (node(&p, b"etc").0, node(&p, b"usr").0, node(&p, b"usr/lib").0);
    assert_eq!([etc, usr, lib].map(|d| p.implied(d).unwrap()), [false, true, true]);
    assert_eq!([etc, usr, lib].map(|d| p.opaque(d).unwrap()), [false, false, true]);
    assert_eq!(p.attr(usr, 0).unwrap().nlink, 3);
    let below: Vec<u32> = p.links_below().map(Result::unwrap).collect();
    let lower = p.lookup(b"etc/lower").unwrap().unwrap();
    assert_eq!((lower.kind, &below[..]), (EntryKind::Below, &[lower.ino][..]));
    assert_eq!(p.target(lower.ino).unwrap(), b"bin2/sh");
    assert_eq!(p.objects().count(), 1);
    let all = paths(&p);
    assert_eq!(all[..3], ["", "bin", "dev"]);
    assert_eq!(all.len(), 18, "{all:?}");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let made = Made::new();
    let mut w = made.writer();
    let first = put(&mut w, b"a", b"first");
    put(&mut w, b"a", b"second");
    put(&mut w, b"d/e/f", b"x");
    put(&mut w, b"d", b"a file now");
    put(&mut w, b"g/h", b"kept");
    w.dir(b"g", &meta(0o700)).unwrap();
    // A file, then a directory of the same name: what is below stays hidden.
    put(&mut w, b"i", b"");
    w.dir(b"i", &meta(0o755)).unwrap();
    w.dir(b"j", &meta(0o755)).unwrap();
    w.whiteout(b"j").unwrap();
    w.whiteout(b"k").unwrap();
    put(&mut w, b"k/l", b"");
    put(&mut w, b"m", b"m");
    w.whiteout(b"m").unwrap();
    put(&mut w, b"one", b"1");
    w.link(b"two", b"one", &meta(0)).unwrap();
    put(&mut w, b"one", b"another");
    let p = made.finish(w);
    let text = |path: &[u8]| read(&p, &p.content(node(&p, path).0).unwrap());
    assert_eq!(text(b"a"), b"second");
    assert_eq!(read(&p, &first), b"first", "what was replaced stays readable");
    assert_eq!(text(b"d"), b"a file now");
    assert_eq!(text(b"g/h"), b"kept");
    assert_eq!(p.attr(node(&p, b"g").0, 0).unwrap().perm, 0o700);
    for hidden in [&b"i"[..], b"j", b"k"] {
        assert!(p.opaque(node(&p, hidden).0).unwrap(), "{}", String::from_utf8_lossy(hidden));
    }
    assert_eq!(text(b"m"), b"m");
    assert_eq!((text(b"one"), text(b"two")), (b"another".to_vec(), b"1".to_vec()));
    assert_eq!(p.attr(node(&p, b"two").0, 0).unwrap().nlink, 1);
}

#[test]
fn what_cannot_be_is_refused() {
    let made = Made::new();
    let mut w = made.writer();
    put(&mut w, b"file", b"x");
    w.special(b"link", &meta(0o777), Special::Symlink(b"/")).unwrap();
    w.whiteout(b"gone").unwrap();
    let long = vec![b'n'; 256];
    for bad in [&b"../x"[..], b"a/../x", b"a\0b", &long, b"", b"./"] {
        let refused = w.file(bad, &meta(0), 0, None, &mut &b""[..]);
        assert!(matches!(refused, Err(PackError::Refused { .. })), "{bad:?}");
    }
    for below in [&b"file/x"[..], b"link/x"] {
        let refused = w.dir(below, &meta(0));
        assert!(matches!(refused, Err(PackError::NotADirectory { .. })), "{below:?}");
    }
    assert!(w.link(b"a", b"gone", &meta(0)).is_err());
    assert!(w.link(b"a", b".", &meta(0)).is_err());
    assert!(w.special(b"a", &meta(0), Special::Symlink(b"")).is_err());
    assert!(w.special(b"a", &meta(0), Special::Symlink(&[b'x'; 5000])).is_err());
    assert!(w.whiteout(b"/").is_err());
    let short = w.file(b"short", &meta(0), 10, None, &mut &b"abc"[..]);
    assert!(matches!(short, Err(PackError::Content { .. })));
    let short = w.file(b"short", &meta(0), 1 << 20, None, &mut &b"abc"[..]);
    assert!(matches!(short, Err(PackError::Content { .. })));
    let holes = |w: &mut Writer, size, segments: &[(u64, u64)]| {
        w.file(b"holes", &meta(0), size, Some(segments), &mut &[1; 100][..])
    };
    for size in [50, 1 << 20] {
        for bad in [&[(10, 20), (5, 1)][..], &[(10, 1 << 21)], &[(u64::MAX, 2)]] {
            assert!(matches!(holes(&mut w, size, bad), Err(PackError::Refused { .. })), "{bad:?}");
        }
    }
    assert!(made.objects.staged().is_empty(), "nothing is left of what failed");
    assert_eq!(std::fs::read_dir(made.dir.path().join("staging")).unwrap().count(), 0);
    made.finish(w);
}

#[test]
fn holes_are_kept_and_cost_nothing() {
    use std::os::unix::fs::MetadataExt;
    let made = Made::new();
    let mut w = made.writer();
    let data = [3u8; 5000];
    let tail = (1u64 << 40) - 3;
    let sparse = |w: &mut Writer, path: &[u8]| {
        let segments = [(1 << 20, 4997), (tail, 3)];
        w.file(path, &meta(0o600), 1 << 40, Some(&segments), &mut &data[..]).unwrap()
    };
    let content = sparse(&mut w, b"huge");
    assert_eq!(sparse(&mut w, b"again"), content);
    let small = w.file(b"small", &meta(0), 100, Some(&[(90, 10)]), &mut &data[..]).unwrap();
    // The same content, told with its zeros and without.
    let mut plain = vec![0; 300_000];
    plain[299_999] = 1;
    let told = w.file(b"told", &meta(0), 300_000, None, &mut &plain[..]).unwrap();
    let holes =
        w.file(b"holes", &meta(0), 300_000, Some(&[(299_999, 1)]), &mut &[1u8][..]).unwrap();
    assert_eq!(told, holes);
    let p = made.finish(w);
    let mut buf = [9; 8];
    p.read(&content, (1 << 20) - 4, &mut buf).unwrap();
    assert_eq!(buf, [0, 0, 0, 0, 3, 3, 3, 3]);
    p.read(&content, tail - 5, &mut buf).unwrap();
    assert_eq!(buf, [0, 0, 0, 0, 0, 3, 3, 3]);
    assert_eq!(read(&p, &small)[88..92], [0, 0, 3, 3]);
    let attr = p.attr(node(&p, b"huge").0, 0).unwrap();
    assert_eq!((attr.size, attr.blocks), (1 << 40, 24));
    for (digest, _) in p.objects().map(Result::unwrap) {
        let (dir, name) = objects::place(digest);
        let file = made.dir.path().join("store").join(dir).join(name);
        let blocks = std::fs::metadata(&file).unwrap().blocks();
        assert!(blocks <= 64, "{blocks} blocks");
    }
}

#[test]
fn large_content_is_stored_once() {
    let made = Made::new();
    let large = vec![5; 100_000];
    let mut w = made.writer();
    let first = put(&mut w, b"a", &large);
    assert_eq!(put(&mut w, b"b", &large), first);
    assert_eq!(made.objects.staged().len(), 1);
    let summary = w.finish().unwrap();
    assert_eq!(summary.bytes, 200_000);
    // The last block of an object counts whole.
    assert_eq!(summary.new_objects, 25 * 4096);
    made.objects.publish().unwrap();
    assert!(made.objects.staged().is_empty());
    let p = made.open();
    assert_eq!(p.objects().count(), 1);

    let again = made.dir.path().join("again");
    std::fs::create_dir(&again).unwrap();
    let mut w =
        Writer::create(&again, Arc::clone(&made.objects), Some(Path::new("../store"))).unwrap();
    assert_eq!(put(&mut w, b"elsewhere", &large), first);
    assert_eq!(w.finish().unwrap().new_objects, 0);
    assert!(made.objects.staged().is_empty());
}

#[test]
fn damage_is_found() {
    let made = Made::new();
    let mut w = made.writer();
    put(&mut w, b"small", b"content");
    put(&mut w, b"large", &vec![5; 100_000]);
    let p = made.finish(w);
    let (index, data) = (made.layer().join(INDEX), made.layer().join(DATA));
    let (digest, _) = p.objects().next().unwrap().unwrap();
    let (dir, name) = objects::place(digest);
    let object = made.dir.path().join("store").join(dir).join(name);
    drop(p);
    for file in [&data, &object] {
        let good = std::fs::read(file).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        // Made anew: an object may not be written.
        let replace = |with: &[u8]| {
            std::fs::remove_file(file).unwrap();
            std::fs::write(file, with).unwrap();
        };
        replace(&bad);
        assert!(matches!(made.open().verify(), Err(PackError::Damaged { .. })), "{file:?}");
        replace(&good[1..]);
        let cut = Packed::open(&index).and_then(|p| p.verify());
        assert!(matches!(cut, Err(PackError::Damaged { .. })), "{file:?}");
        replace(&good);
        made.open().verify().unwrap();
    }
    std::fs::remove_file(&object).unwrap();
    let missing = made.open().verify().unwrap_err().to_string();
    assert!(missing.contains("No such file"), "{missing}");
    std::fs::write(made.dir.path().join("text"), "no index, but long enough to be one".repeat(20))
        .unwrap();
    let other = Packed::open(&made.dir.path().join("text"));
    assert!(matches!(other, Err(PackError::NotPacked(_))));
    let mut newer = std::fs::read(&index).unwrap();
    newer[8] = 2;
    std::fs::write(&index, newer).unwrap();
    assert!(matches!(Packed::open(&index), Err(PackError::Version(_, 2))));
}

#[test]
fn an_index_that_is_cut_short_while_it_is_open_is_damaged_and_nothing_dies() {
    let made = Made::new();
    let mut w = made.writer();
    for n in 0..5000 {
        put(&mut w, format!("dir/file-{n}").as_bytes(), b"");
    }
    let p = made.finish(w);
    let file = std::fs::OpenOptions::new().write(true).open(made.layer().join(INDEX)).unwrap();
    file.set_len(8192).unwrap();
    assert_eq!(p.lookup(b"dir/file-4999"), Err(crate::sys::Errno::EIO));
    assert_eq!(p.attr(1, 0).unwrap_err(), crate::sys::Errno::EIO);
}

/// A layer with some of everything, as bytes of its index.
fn example() -> (Made, Vec<u8>) {
    let made = Made::new();
    let mut w = made.writer();
    put(&mut w, b"a/b/c", b"content");
    put(&mut w, b"a/large", &vec![5; 70_000]);
    w.link(b"a/link", b"a/b/c", &meta(0)).unwrap();
    w.link(b"a/below", b"x/y", &meta(0)).unwrap();
    w.special(b"s", &meta(0o777), Special::Symlink(b"a/b")).unwrap();
    w.special(b"n", &meta(0o600), Special::Char(1, 3)).unwrap();
    w.whiteout(b"a/w").unwrap();
    w.opaque(b"a").unwrap();
    let mut with = meta(0o700);
    with.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), Vec::new())];
    w.dir(b"x", &with).unwrap();
    w.dir(b"x/y/z", &with).unwrap();
    drop(made.finish(w));
    let bytes = std::fs::read(made.layer().join(INDEX)).unwrap();
    (made, bytes)
}

/// What is said of each path.
type Answers = BTreeMap<Vec<u8>, String>;

/// Everything that can be asked of a layer, as a map; errors are answers.
fn everything(p: &Packed) -> Answers {
    let mut all = BTreeMap::new();
    let walked = p.walk::<crate::sys::Errno>(|path, e| {
        let mut xattrs = Vec::new();
        let read = p.xattrs(e.ino, &mut |n, v| {
            xattrs.push((n.to_vec(), v.to_vec()));
            true
        });
        let content = p.content(e.ino).map(|c| {
            let mut buf = vec![0; 100_000];
            p.read(&c, 0, &mut buf).map(|n| (n, c))
        });
        let text = format!(
            "{:?} {:?} {:?} {:?} {content:?} {xattrs:?} {read:?} {:?}",
            e.kind,
            p.attr(e.ino, 0),
            p.target(e.ino),
            p.opaque(e.ino).and_then(|o| p.implied(e.ino).map(|i| (o, i))),
            p.lookup(path).map(|e| e.map(|e| e.ino)),
        );
        assert!(all.insert(path.to_vec(), text).is_none(), "a path is met once");
        Ok(())
    });
    all.insert(b"/".to_vec(), format!("{walked:?} {:?}", p.links_below().collect::<Vec<_>>()));
    all
}

/// Makes the digests of changed bytes right, as somebody would who means harm.
fn reseal(bytes: &mut [u8]) {
    let body = format::digest(&bytes[format::HEADER..]);
    if let Ok(mut header) = format::Header::parse(bytes) {
        header.body = body;
        let sealed = header.seal();
        bytes[..format::HEADER].copy_from_slice(&sealed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_give_errors_or_another_tree_and_never_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        honest in any::<bool>(),
    ) {
        static EXAMPLE: OnceLock<(Made, Vec<u8>, Answers)> = OnceLock::new();
        let (made, good, wanted) = EXAMPLE.get_or_init(|| {
            let (made, good) = example();
            let wanted = everything(&made.open());
            (made, good, wanted)
        });
        let mut bad = good.clone();
        for (at, value, how) in changes {
            let at = at.index(bad.len());
            bad[at] = match how { 0 => value, 1 => bad[at].wrapping_add(1), _ => bad[at] ^ (1 << (value % 8)) };
        }
        if let Some(cut) = cut {
            bad.truncate(cut.index(bad.len()));
        }
        if !honest && bad.len() > format::HEADER {
            reseal(&mut bad);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bad).unwrap();
        let dir = std::fs::File::open(made.layer()).unwrap();
        if let Ok(p) = Packed::of(dir.into(), file.into(), Path::new("changed")) {
            let found = everything(&p);
            prop_assert!(found.len() <= good.len(), "it ends");
            if p.verify().is_ok() && honest {
                prop_assert_eq!(&found, wanted);
            }
        }
    }
}
