use std::fs;
use std::io::Read;
use std::sync::Arc;

use cowl_fs::attr::{Attr, Kind as Type};
use cowl_fs::packed::{Content, EntryKind, INDEX, Objects, Packed};

use super::*;
use crate::archive::record::{Recorder, Replay};
use crate::archive::tar::TarReader;

/// One entry of a made-up layer. Names are written as they are, however wrong.
struct Item {
    path: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    data: Vec<u8>,
    mode: u32,
    uid: u64,
    pax: Vec<(String, Vec<u8>)>,
}

fn item(kind: u8, path: &str) -> Item {
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    Item {
        path: path.into(),
        kind,
        link: Vec::new(),
        data: Vec::new(),
        mode,
        uid: 0,
        pax: Vec::new(),
    }
}

fn file(path: &str, data: &str) -> Item {
    Item { data: data.into(), ..item(b'0', path) }
}

fn dir(path: &str, mode: u32) -> Item {
    Item { mode, ..item(b'5', path) }
}

fn link(kind: u8, path: &str, target: &str) -> Item {
    Item { link: target.into(), ..item(kind, path) }
}

fn block(kind: u8, path: &[u8], link: &[u8], size: usize, mode: u32, uid: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_entry_type(tar::EntryType::new(kind));
    let old = header.as_old_mut();
    old.name[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
    old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn padded(mut data: Vec<u8>) -> Vec<u8> {
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        let mut records = Vec::new();
        let long_path = (item.path.len() > 100).then(|| ("path".to_owned(), item.path.clone()));
        for (key, value) in item.pax.iter().chain(&long_path) {
            let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut length = body.len() + 1;
            while length.to_string().len() + body.len() != length {
                length += 1;
            }
            records.extend([length.to_string().as_bytes(), &body].concat());
        }
        if !records.is_empty() {
            bytes.extend(block(b'x', b"pax", b"", records.len(), 0o644, 0));
            bytes.extend(padded(records));
        }
        let (path, link) = (&item.path, &item.link);
        bytes.extend(block(item.kind, path, link, item.data.len(), item.mode, item.uid));
        bytes.extend(padded(item.data.clone()));
    }
    bytes.extend([0; 1024]);
    bytes
}

/// Layers on each other.
struct Stack {
    top: tempfile::TempDir,
    objects: Arc<Objects>,
    layers: Vec<Arc<Packed>>,
}

impl Stack {
    fn new() -> Stack {
        let top = tempfile::tempdir().unwrap();
        for directory in ["objects", "staged"] {
            fs::create_dir(top.path().join(directory)).unwrap();
        }
        let objects =
            Objects::new(&top.path().join("objects"), &top.path().join("staged")).unwrap();
        Stack { top, objects: Arc::new(objects), layers: Vec::new() }
    }

    fn view(&self) -> View {
        let mut view = View::default();
        self.layers.iter().for_each(|layer| view.push(Arc::clone(layer)));
        view
    }

    fn push(&mut self, items: &[Item]) -> Result<Report, PackError> {
        self.push_bytes(&archive(items))
    }

    /// Packs a layer on those already there. Whatever is packed comes out again as it was.
    fn push_bytes(&mut self, bytes: &[u8]) -> Result<Report, PackError> {
        let path = self.top.path().join(format!("layer{}", self.layers.len()));
        fs::create_dir(&path).unwrap();
        let link = Some(std::path::Path::new("../objects"));
        let writer = Writer::create(&path, Arc::clone(&self.objects), link).unwrap();
        let recorder = Recorder::new(bytes, &path.join("stream")).unwrap();
        let mut reader = TarReader::new(recorder);
        let (report, _) = pack(&mut reader, writer, &self.view())?;
        reader.into_inner().finish().unwrap();
        self.objects.publish().unwrap();
        let packed = Arc::new(Packed::open(&path.join(INDEX)).unwrap());
        let mut again = Vec::new();
        Replay::open(&path.join("stream"), Arc::clone(&packed))
            .unwrap()
            .read_to_end(&mut again)
            .unwrap();
        assert!(again == bytes, "the stream is not what it was");
        packed.verify().unwrap();
        self.layers.push(packed);
        Ok(report)
    }

    fn attr(&self, path: &str) -> Option<Attr> {
        let view = self.view();
        view.attr(&view.find(path.as_bytes()).unwrap()?).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        u32::from(self.attr(path).unwrap().perm)
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let view = self.view();
        let node = view.find(path.as_bytes()).unwrap().unwrap();
        let all = view.xattrs(&node).unwrap();
        all.into_iter().find(|(found, _)| found == name.as_bytes()).map(|(_, value)| value)
    }

    /// The content of a file that the last layer has.
    fn read(&self, path: &str) -> Vec<u8> {
        let layer = self.layers.last().unwrap();
        let entry = layer.lookup(path.as_bytes()).unwrap().unwrap();
        let mut content = Vec::new();
        let place: Content = layer.content(entry.ino).unwrap();
        layer.reader(&place).read_to_end(&mut content).unwrap();
        content
    }

    /// What the last layer itself has at a path.
    fn own(&self, path: &str) -> Option<EntryKind> {
        self.layers.last().unwrap().lookup(path.as_bytes()).unwrap().map(|entry| entry.kind)
    }

    fn is_opaque(&self, path: &str) -> bool {
        let layer = self.layers.last().unwrap();
        let entry = layer.lookup(path.as_bytes()).unwrap().unwrap();
        layer.opaque(entry.ino).unwrap()
    }

    fn target(&self, path: &str) -> Vec<u8> {
        let view = self.view();
        view.target(&view.find(path.as_bytes()).unwrap().unwrap()).unwrap()
    }
}

fn one(items: &[Item]) -> (Stack, Result<Report, PackError>) {
    let mut stack = Stack::new();
    let result = stack.push(items);
    (stack, result)
}

#[test]
fn attacks_stay_inside_or_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    fs::write(outside.path().join("victim"), "safe").unwrap();
    let victim = format!("{target}/victim");
    let attacks: Vec<(&str, Vec<Item>)> = vec![
        ("dot dot", vec![file("../x", "bad")]),
        ("dot dot inside", vec![dir("a", 0o755), file("a/../../x", "bad")]),
        ("whiteout of dot dot", vec![file(".wh...", "")]),
        ("whiteout of dot", vec![file("a/.wh..", "")]),
        ("whiteout of nothing", vec![file(".wh.", "")]),
        ("through absolute link", vec![link(b'2', "l", target), file("l/victim", "bad")]),
        ("through climbing link", vec![link(b'2', "l", "../../../.."), file("l/x", "bad")]),
        (
            "through two links",
            vec![
                dir("d", 0o755),
                link(b'2', "d/up", "../.."),
                link(b'2', "l", "d/up"),
                file("l/x", "bad"),
            ],
        ),
        ("whiteout through link", vec![link(b'2', "l", target), file("l/.wh.victim", "")]),
        ("opaque through link", vec![link(b'2', "l", target), file("l/.wh..wh..opq", "")]),
        ("directory through link", vec![link(b'2', "l", target), dir("l/d", 0o777)]),
        ("loop of links", vec![link(b'2', "a", "b"), link(b'2', "b", "a"), file("a/x", "bad")]),
        ("hard link out", vec![link(b'1', "h", "../../victim")]),
        ("hard link to host", vec![link(b'1', "h", &victim)]),
        ("hard link through link", vec![link(b'2', "l", target), link(b'1', "h", "l/victim")]),
        ("hard link to directory", vec![dir("d", 0o755), link(b'1', "h", "d")]),
        ("file as root", vec![file("./", "bad"), file("/", "bad"), link(b'2', ".", target)]),
        ("file under file", vec![file("f", ""), file("f/x", "bad")]),
        ("long name", vec![file(&"n".repeat(256), "")]),
        ("deep name", vec![file(&"d/".repeat(10_000), "")]),
        ("empty link", vec![link(b'2', "l", "")]),
        ("unknown kind", vec![item(b'Q', "q")]),
    ];
    for (name, items) in attacks {
        let (stack, result) = one(&items);
        let error = result.expect_err(name).to_string();
        assert!(!error.contains('\n') && error.len() < 600, "{name}: {error}");
        assert_eq!(fs::read_dir(stack.top.path()).unwrap().count(), 3, "{name}");
    }
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"safe");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn absolute_names_and_links_mean_the_images_root() {
    let (stack, result) = one(&[
        file("/abs/f", "a"),
        dir("etc", 0o755),
        link(b'2', "conf", "/etc"),
        link(b'2', "etc/self", "../conf"),
        file("conf/passwd", "p"),
        file("etc/self/group", "g"),
        // The final name is never followed.
        link(b'2', "etc/out", "/abs/f"),
        file("etc/out", "new"),
    ]);
    result.unwrap();
    assert_eq!(stack.read("abs/f"), b"a");
    assert_eq!(stack.read("etc/passwd"), b"p");
    assert_eq!(stack.read("etc/group"), b"g");
    assert_eq!(stack.own("conf"), Some(EntryKind::Node(Type::Symlink)));
    assert_eq!(stack.read("etc/out"), b"new");
}

#[test]
fn everything_recorded_arrives() {
    let mut rich = file("rich", "data");
    rich.mode = 0o6755;
    rich.uid = 70_000;
    rich.pax = vec![
        ("mtime".into(), b"-5.25".to_vec()),
        ("SCHILY.xattr.user.empty".into(), b"".to_vec()),
        ("SCHILY.xattr.user.binary".into(), b"\0\xff=\n".to_vec()),
        ("SCHILY.xattr.security.capability".into(), b"\x01\0\0\x02".to_vec()),
        ("SCHILY.xattr.trusted.overlay.redirect".into(), b"/evil".to_vec()),
        ("SCHILY.xattr.user.containers.override_stat".into(), b"0:0:4755".to_vec()),
    ];
    let mut odd = file("x", "odd");
    odd.path = b"od\xffd".to_vec();
    let mut device = item(b'3', "null");
    device.mode = 0o666;
    let (stack, result) = one(&[
        dir(".", 0o1777),
        dir("d", 0o2550),
        file("d/f", "in a read-only directory"),
        rich,
        odd,
        device,
        link(b'1', "name", "rich"),
        link(b'1', "link-of-link", "name"),
        item(b'6', "pipe"),
        file(&"n".repeat(255), "long"),
        file("large", &"large ".repeat(50_000)),
        file(&format!("{}f", "deep/".repeat(500)), "deep"),
    ]);
    let report = result.unwrap();
    assert!(report.lists_root && report.saw_end);
    let rich = stack.attr("rich").unwrap();
    assert_eq!(stack.mode(""), 0o1777);
    assert_eq!((stack.mode("d"), stack.attr("d").unwrap().mtime.sec), (0o2550, 1_000_000_000));
    assert_eq!((rich.mtime.sec, rich.mtime.nsec), (-6, 750_000_000));
    assert_eq!((rich.uid, rich.perm, rich.nlink), (70_000, 0o6755, 3));
    assert_eq!(stack.attr("name").unwrap().ino, rich.ino);
    assert_eq!(stack.xattr("rich", "user.empty").unwrap(), b"");
    assert_eq!(stack.xattr("rich", "user.binary").unwrap(), b"\0\xff=\n");
    assert_eq!(stack.xattr("rich", "security.capability").unwrap(), b"\x01\0\0\x02");
    assert_eq!(stack.xattr("rich", "trusted.overlay.redirect"), None);
    assert_eq!(stack.xattr("rich", "user.containers.override_stat"), None);
    assert!(stack.view().find(b"od\xffd").unwrap().is_some());
    assert_eq!(stack.own("pipe"), Some(EntryKind::Node(Type::Fifo)));
    assert_eq!(stack.own("null"), Some(EntryKind::Node(Type::Char)));
    assert_eq!(stack.read("large"), "large ".repeat(50_000).as_bytes());
    assert_eq!(stack.read(&"n".repeat(255)), b"long");
}

#[test]
fn whiteouts_yield_to_the_layers_own_entries() {
    let (stack, result) = one(&[
        file(".wh.gone", ""),
        file(".wh.first", ""),
        file("first", "kept"),
        file("last", "kept"),
        file(".wh.last", ""),
        file(".wh.dir", ""),
        file("dir/new", "n"),
        dir("dir2", 0o700),
        file(".wh.dir2", ""),
        dir("dir3", 0o755),
        file("dir3/.wh..wh..opq", ""),
        file(".wh..wh.aufs", ""),
    ]);
    result.unwrap();
    assert_eq!(stack.own("gone"), Some(EntryKind::Whiteout));
    assert_eq!(stack.read("first"), b"kept");
    assert_eq!(stack.read("last"), b"kept");
    for name in ["dir", "dir2", "dir3"] {
        assert!(stack.is_opaque(name), "{name}");
    }
    assert_eq!(stack.own(".wh..wh.aufs"), None);
    assert_eq!(stack.mode("dir2"), 0o700);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let large = "large".repeat(100_000);
    let (stack, result) = one(&[
        dir("a/b/c", 0o755),
        file("a/b/c/f", "old"),
        file("a", "now a file"),
        file("x", "old and longer"),
        file("x", "new"),
        file("replaced", &large),
        file("replaced", "small"),
        file("y", "file"),
        dir("y", 0o711),
        file("y/z", "inside"),
        dir("y", 0o722),
    ]);
    result.unwrap();
    assert_eq!(stack.read("a"), b"now a file");
    assert_eq!(stack.read("x"), b"new");
    assert_eq!(stack.read("replaced"), b"small");
    assert_eq!(stack.read("y/z"), b"inside");
    assert_eq!(stack.mode("y"), 0o722);
}

#[test]
fn implied_directories_are_like_the_lower_ones() {
    let mut stack = Stack::new();
    let mut marked = dir("d", 0o2711);
    marked.pax = vec![("SCHILY.xattr.user.mark".into(), b"m".to_vec())];
    let below = [marked, dir("d/sub", 0o700), file("d/sub/f", "x"), dir("gone", 0o700)];
    assert!(!stack.push(&below).unwrap().depends_on_parents);
    stack.push(&[file(".wh.gone", ""), link(b'2', "l", "d/sub")]).unwrap();
    assert!(stack.view().find(b"gone").unwrap().is_none());
    let report = stack.push(&[file("d/sub/new", "n"), file("gone/f", "f")]).unwrap();
    assert!(!report.depends_on_parents);
    let report = stack.push(&[file("l/via", "v")]).unwrap();
    assert!(report.depends_on_parents);
    // The link lies in a lower layer: the file is where a container would have put it.
    assert_eq!(stack.read("d/sub/via"), b"v");
    assert_eq!(stack.own("l"), None);
    assert_eq!((stack.mode("d"), stack.attr("d").unwrap().mtime.sec), (0o2711, 1_000_000_000));
    assert_eq!(stack.xattr("d", "user.mark").unwrap(), b"m");
    assert_eq!(stack.mode("d/sub"), 0o700);
    assert!(stack.attr("gone").is_none(), "nobody describes it");
    assert_eq!(stack.view().names(b"d/sub").unwrap(), [&b"f"[..], b"new", b"via"]);
    assert_eq!(stack.view().names(b"").unwrap(), [&b"d"[..], b"gone", b"l"]);
}

#[test]
fn hard_links_may_name_lower_files() {
    let mut stack = Stack::new();
    let mut base = file("d/f", "content");
    base.mode = 0o4750;
    stack.push(&[dir("d", 0o711), base, link(b'2', "d/s", "f"), file("d/dead", "")]).unwrap();
    stack.push(&[dir("d", 0o711), file("d/.wh.dead", "")]).unwrap();
    stack.push(&[link(b'1', "h", "d/f"), link(b'1', "hs", "/d/s")]).unwrap();
    assert_eq!(stack.own("h"), Some(EntryKind::Below));
    assert_eq!(stack.mode("h"), 0o4750);
    assert_eq!(stack.attr("h").unwrap().size, 7);
    assert_eq!(stack.target("hs"), b"f");
    let error = stack.push(&[link(b'1', "h", "d/dead")]).unwrap_err().to_string();
    assert!(error.contains("neither this layer nor those below"), "{error}");
    fs::remove_dir_all(stack.top.path().join("layer3")).unwrap();
    let error = stack.push(&[link(b'1', "h", "d/never")]).unwrap_err().to_string();
    assert!(error.contains("'d/never'"), "{error}");
}

#[test]
fn what_a_layer_hides_is_not_seen_through_it() {
    let mut stack = Stack::new();
    stack.push(&[dir("d", 0o700), file("d/low", ""), file("f", ""), file("x/low", "")]).unwrap();
    stack
        .push(&[file("d/.wh..wh..opq", ""), file("d/top", ""), dir("f", 0o755), file("x", "file")])
        .unwrap();
    stack.push(&[file("other", "")]).unwrap();
    let view = stack.view();
    assert_eq!(view.names(b"d").unwrap(), [b"top"]);
    assert!(view.find(b"d/low").unwrap().is_none());
    assert!(view.find(b"x/low").unwrap().is_none());
    assert!(view.names(b"x").unwrap().is_empty());
    assert_eq!(view.find(b"f").unwrap().unwrap().kind, Type::Dir);
    assert!(stack.attr("d").is_none(), "the opaque directory was only implied");
    assert_eq!(view.names(b"").unwrap(), [&b"d"[..], b"f", b"other", b"x"]);
}

/// Every archive, whatever is wrong with it, is refused or comes out again byte for byte.
#[test]
fn truncated_and_random_archives_never_escape_or_panic() {
    let whole = archive(&[
        dir("a", 0o755),
        file("a/f", "some data"),
        link(b'2', "a/l", "../a"),
        link(b'1', "a/h", "a/f"),
        file("a/.wh.x", ""),
    ]);
    let mut seed = 7u64;
    let mut taken = 0;
    for round in 0..300usize {
        let mut broken = whole.clone();
        if round < 128 {
            broken.truncate(round * whole.len() / 128);
        } else {
            for _ in 0..4 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (seed >> 33) as usize % broken.len();
                broken[at] = b"./\0alwh0125"[(seed >> 20) as usize % 11];
                let start = at / 512 * 512;
                let header = &mut broken[start..start + 512];
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let mut stack = Stack::new();
        taken += usize::from(stack.push_bytes(&broken).is_ok());
        assert_eq!(fs::read_dir(stack.top.path()).unwrap().count(), 3);
    }
    assert!((10..300).contains(&taken), "{taken} were taken");
}
