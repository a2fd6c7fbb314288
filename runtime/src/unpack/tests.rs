use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::archive::tar::Stream;

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

struct Stack {
    top: tempfile::TempDir,
    layers: Vec<PathBuf>,
}

impl Stack {
    fn new() -> Stack {
        Stack { top: tempfile::tempdir().unwrap(), layers: Vec::new() }
    }

    /// Unpacks a layer on those already there.
    fn push(&mut self, items: &[Item]) -> Result<Unpacked, UnpackError> {
        let path = self.top.path().join(format!("layer{}", self.layers.len()));
        fs::create_dir(&path).unwrap();
        let open = |path: &PathBuf| OwnedFd::from(fs::File::open(path).unwrap());
        let lowers: Vec<OwnedFd> = self.layers.iter().rev().map(open).collect();
        let root = open(&path);
        self.layers.push(path);
        unpack(&mut TarReader::new(Stream(archive(items).as_slice())), root, &lowers)
    }

    fn last(&self) -> &Path {
        self.layers.last().unwrap()
    }
}

fn one(items: &[Item]) -> (Stack, Result<Unpacked, UnpackError>) {
    let mut stack = Stack::new();
    let result = stack.push(items);
    (stack, result)
}

fn attribute(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    use std::os::fd::AsFd;
    crate::sys::attribute::get(fs::File::open(path).unwrap().as_fd(), name).ok()
}

/// The mode as a container sees it: a host that cannot store the owner keeps it aside.
fn mode(path: &Path) -> u32 {
    let kept = fs::metadata(path).unwrap().is_dir() || fs::metadata(path).unwrap().is_file();
    let kept = kept.then(|| attribute(path, c"user.containers.override_stat")).flatten();
    match kept {
        Some(text) => {
            let text = String::from_utf8(text).unwrap();
            u32::from_str_radix(text.split(':').nth(2).unwrap(), 8).unwrap()
        }
        None => fs::metadata(path).unwrap().mode() & 0o7777,
    }
}

fn is_opaque(path: &Path) -> bool {
    attribute(path, c"trusted.overlay.opaque").is_some()
        || attribute(path, c"user.overlay.opaque").is_some()
        || path.join(".wh..wh..opq").exists()
}

fn is_whiteout(path: &Path) -> bool {
    let device = fs::symlink_metadata(path)
        .is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0);
    let name = path.file_name().unwrap().to_str().unwrap();
    device || path.with_file_name(format!(".wh.{name}")).exists()
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
        assert_eq!(fs::read_dir(stack.top.path()).unwrap().count(), 1, "{name}");
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
    let root = stack.last();
    assert_eq!(fs::read(root.join("abs/f")).unwrap(), b"a");
    assert_eq!(fs::read(root.join("etc/passwd")).unwrap(), b"p");
    assert_eq!(fs::read(root.join("etc/group")).unwrap(), b"g");
    assert!(fs::symlink_metadata(root.join("conf")).unwrap().is_symlink());
    assert_eq!(fs::read(root.join("etc/out")).unwrap(), b"new");
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
        ("SCHILY.xattr.trusted.overlay.redirect".into(), b"/evil".to_vec()),
        ("SCHILY.xattr.user.containers.override_stat".into(), b"0:0:4755".to_vec()),
    ];
    let mut odd = file("x", "odd");
    odd.path = b"od\xffd".to_vec();
    let (stack, result) = one(&[
        dir(".", 0o1777),
        dir("d", 0o2550),
        file("d/f", "in a read-only directory"),
        rich,
        odd,
        link(b'1', "name", "rich"),
        link(b'1', "link-of-link", "name"),
        item(b'6', "pipe"),
        file(&"n".repeat(255), "long"),
        file(&format!("{}f", "deep/".repeat(1500)), "deep"),
    ]);
    let report = result.unwrap();
    assert!(report.lists_root && report.saw_end);
    let root = stack.last();
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(mode(root), 0o1777);
    assert_eq!((mode(&root.join("d")), stat("d").mtime()), (0o2550, 1_000_000_000));
    assert_eq!((stat("rich").mtime(), stat("rich").mtime_nsec()), (-6, 750_000_000));
    assert_eq!((stat("rich").nlink(), stat("name").ino()), (3, stat("rich").ino()));
    assert_eq!(attribute(&root.join("rich"), c"user.empty").unwrap(), b"");
    assert_eq!(attribute(&root.join("rich"), c"user.binary").unwrap(), b"\0\xff=\n");
    assert_eq!(attribute(&root.join("rich"), c"trusted.overlay.redirect"), None);
    assert!(root.join(std::ffi::OsStr::from_bytes(b"od\xffd")).exists());
    if !stat("pipe").file_type().is_fifo() {
        let kept = attribute(&root.join("pipe"), c"user.containers.override_stat").unwrap();
        assert_eq!(kept, b"0:0:0644:pipe");
    }
    let owner = attribute(&root.join("rich"), c"user.containers.override_stat");
    if nix::unistd::geteuid().is_root() && owner.is_none() {
        assert_eq!((stat("rich").uid(), stat("rich").mode() & 0o7777), (70_000, 0o6755));
    } else {
        // A host that cannot store the owner keeps it aside, and gives no set-user-ID bit.
        assert_eq!(owner.unwrap(), b"70000:0:6755:file");
        assert_eq!(stat("rich").mode() & 0o7777, 0o755);
    }
}

#[test]
fn devices_or_their_placeholders() {
    let mut device = item(b'3', "null");
    device.mode = 0o666;
    let mut bytes = archive(&[device]);
    // Device numbers 1, 3; then the checksum again.
    bytes[329..337].copy_from_slice(b"0000001\0");
    bytes[337..345].copy_from_slice(b"0000003\0");
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let top = tempfile::tempdir().unwrap();
    let root = OwnedFd::from(fs::File::open(top.path()).unwrap());
    unpack(&mut TarReader::new(Stream(bytes.as_slice())), root, &[]).unwrap();
    let path = top.path().join("null");
    let found = fs::symlink_metadata(&path).unwrap();
    if found.file_type().is_char_device() {
        assert_eq!(found.rdev(), nix::sys::stat::makedev(1, 3));
        assert_eq!(found.mode() & 0o7777, 0o666);
    } else {
        let value = attribute(&path, c"user.containers.override_stat").unwrap();
        assert_eq!(value, b"0:0:0666:char-1-3");
    }
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
    let root = stack.last();
    assert!(is_whiteout(&root.join("gone")));
    assert_eq!(fs::read(root.join("first")).unwrap(), b"kept");
    assert_eq!(fs::read(root.join("last")).unwrap(), b"kept");
    assert!(!is_whiteout(&root.join("first")) && !is_whiteout(&root.join("last")));
    for name in ["dir", "dir2", "dir3"] {
        assert!(is_opaque(&root.join(name)), "{name}");
    }
    assert!(!root.join(".wh..wh.aufs").exists());
    assert_eq!(mode(&root.join("dir2")), 0o700);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let (stack, result) = one(&[
        dir("a/b/c", 0o755),
        file("a/b/c/f", "old"),
        file("a", "now a file"),
        file("x", "old and longer"),
        file("x", "new"),
        file("y", "file"),
        dir("y", 0o711),
        file("y/z", "inside"),
        dir("y", 0o722),
    ]);
    result.unwrap();
    let root = stack.last();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"now a file");
    assert_eq!(fs::read(root.join("x")).unwrap(), b"new");
    assert_eq!(fs::read(root.join("y/z")).unwrap(), b"inside");
    assert_eq!(mode(&root.join("y")), 0o722);
}

#[test]
fn implied_directories_are_like_the_lower_ones() {
    let mut stack = Stack::new();
    let mut marked = dir("d", 0o2711);
    marked.pax = vec![("SCHILY.xattr.user.mark".into(), b"m".to_vec())];
    let report = stack
        .push(&[marked, dir("d/sub", 0o700), file("d/sub/f", "x"), dir("gone", 0o700)])
        .unwrap();
    assert!(!report.depends_on_parents);
    stack.push(&[file(".wh.gone", ""), link(b'2', "l", "d/sub")]).unwrap();
    let report =
        stack.push(&[file("d/sub/new", "n"), file("gone/f", "f"), file("l/via", "v")]).unwrap();
    assert!(report.depends_on_parents);
    let root = stack.last();
    let d = fs::metadata(root.join("d")).unwrap();
    assert_eq!((mode(&root.join("d")), d.mtime()), (0o2711, 1_000_000_000));
    assert_eq!(attribute(&root.join("d"), c"user.mark").unwrap(), b"m");
    assert_eq!(mode(&root.join("d/sub")), 0o700);
    assert_eq!(mode(&root.join("gone")), 0o755);
    // The link lies in a lower layer: the file is where a container would have put it.
    assert_eq!(fs::read(root.join("d/sub/via")).unwrap(), b"v");
    assert!(!root.join("l").exists());
}

#[test]
fn hard_links_to_lower_files_bring_them_up() {
    let mut stack = Stack::new();
    let mut base = file("d/f", "content");
    base.mode = 0o4750;
    stack.push(&[dir("d", 0o711), base, link(b'2', "d/s", "f"), file("d/dead", "")]).unwrap();
    stack.push(&[dir("d", 0o711), file("d/.wh.dead", "")]).unwrap();
    let report = stack.push(&[link(b'1', "h", "d/f"), link(b'1', "hs", "/d/s")]).unwrap();
    assert!(report.depends_on_parents);
    let root = stack.last();
    let (h, f) = (fs::metadata(root.join("h")).unwrap(), fs::metadata(root.join("d/f")).unwrap());
    assert_eq!((h.ino(), h.nlink(), mode(&root.join("h"))), (f.ino(), 2, 0o4750));
    assert_eq!(h.mtime(), 1_000_000_000);
    assert_eq!(fs::read(root.join("h")).unwrap(), b"content");
    assert_eq!(fs::read_link(root.join("hs")).unwrap(), Path::new("f"));
    assert_eq!(mode(&root.join("d")), 0o711);
    let error = stack.push(&[link(b'1', "h", "d/dead")]).unwrap_err().to_string();
    assert!(error.contains("neither this layer nor those below"), "{error}");
    let error = stack.push(&[link(b'1', "h", "d/never")]).unwrap_err().to_string();
    assert!(error.contains("'d/never'"), "{error}");
}

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
    for round in 0..800usize {
        let mut broken = whole.clone();
        if round < 512 {
            broken.truncate(round * whole.len() / 512);
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
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("layer");
        fs::create_dir(&inner).unwrap();
        let root = OwnedFd::from(fs::File::open(&inner).unwrap());
        let result = unpack(&mut TarReader::new(Stream(broken.as_slice())), root, &[]);
        drop(result);
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
