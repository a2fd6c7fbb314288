//! A directory tree as data: what a test compares when it says two trees are the same.
//!
//! Walks by directory descriptors, so depth and path length do not matter, and never follows a
//! symlink. Two uses: the digest of a lower layer (everything, change times included: nobody may
//! touch a lower), and the comparison of a union with a plain directory that should look the same.
// An answer that a test does not need is dropped on purpose, and writing to a string cannot fail.
#![allow(clippy::let_underscore_must_use)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::mount::sys::{self, R, libc};

/// What is recorded of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count; 0 for directories, whose count is up to the filesystem.
    pub nlink: u64,
    /// Size; 0 for directories.
    pub size: i64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Modification time.
    pub mtime: (i64, i64),
    /// Change time; only in a digest.
    pub ctime: (i64, i64),
    /// First name (in byte order) of the same inode, when it has several names in the tree.
    pub twin: Option<Vec<u8>>,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// Hash of the content, or the target of a symlink.
    pub content: Vec<u8>,
    /// Something that could not be read, as text.
    pub error: String,
}

/// All names of a tree; the root is the empty name.
pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// How much to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Everything that may never change in a lower layer.
    Digest,
    /// What a user of a merged tree can rely on.
    View,
}

/// Times before this second count as set explicitly; later ones as "now".
///
/// The tests set only times before it, so that "the time was updated" and "the time was kept" can
/// both be compared between two filesystems although their clocks differ.
pub const EXPLICIT_BEFORE: i64 = 1_300_000_000;

/// Reads the tree under `root`.
pub fn read(root: &Path, depth: Depth) -> Tree {
    let mut tree = Tree::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let dir = match sys::open(root, libc::O_RDONLY | libc::O_DIRECTORY, 0) {
        Ok(d) => d,
        Err(e) => panic!("cannot read the tree {}: {e}", root.display()),
    };
    let st = sys::fstat(&dir).expect("fstat of the root");
    tree.insert(Vec::new(), entry(dir.as_raw_fd(), &OsString::from("."), &st, depth));
    walk(&dir, &[], depth, &mut tree, &mut inodes);
    tree
}

fn walk(
    dir: &std::os::fd::OwnedFd,
    prefix: &[u8],
    depth: Depth,
    tree: &mut Tree,
    inodes: &mut BTreeMap<(u64, u64), Vec<u8>>,
) {
    let mut list = match sys::read_all_dirents(dir) {
        Ok(l) => l,
        Err(e) => {
            let at = tree.entry(prefix.to_vec()).or_insert_with(Entry::empty);
            let _ = write!(at.error, "readdir: {e}; ");
            return;
        }
    };
    list.retain(|e| e.name != "." && e.name != "..");
    list.sort_by(|a, b| a.name.cmp(&b.name));
    for e in list {
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(e.name.as_bytes());
        if tree.contains_key(&path) {
            let at = tree.get_mut(&path).expect("just seen");
            at.error.push_str("listed twice; ");
            continue;
        }
        let st = match sys::fstatat(dir.as_raw_fd(), &e.name) {
            Ok(st) => st,
            Err(err) => {
                let mut bad = Entry::empty();
                bad.error = format!("listed, but stat says {err}; ");
                tree.insert(path, bad);
                continue;
            }
        };
        let mut ent = entry(dir.as_raw_fd(), &e.name, &st, depth);
        if e.kind != libc::DT_UNKNOWN && u32::from(e.kind) != (st.st_mode & libc::S_IFMT) >> 12 {
            let _ = write!(ent.error, "d_type {} differs from st_mode; ", e.kind);
        }
        if depth == Depth::View && e.ino != st.st_ino {
            ent.error.push_str("d_ino differs from st_ino; ");
        }
        let is_dir = st.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if !is_dir && st.st_nlink > 1 {
            let first = inodes.entry((st.st_dev, st.st_ino)).or_insert_with(|| path.clone());
            ent.twin = Some(first.clone());
        }
        tree.insert(path.clone(), ent);
        if is_dir {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            match sys::openat(dir.as_raw_fd(), &e.name, flags, 0) {
                Ok(sub) => walk(&sub, &path, depth, tree, inodes),
                Err(err) => {
                    let at = tree.get_mut(&path).expect("just inserted");
                    let _ = write!(at.error, "cannot open: {err}; ");
                }
            }
        }
    }
}

impl Entry {
    fn empty() -> Entry {
        Entry {
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
            size: 0,
            rdev: 0,
            mtime: (0, 0),
            ctime: (0, 0),
            twin: None,
            xattrs: BTreeMap::new(),
            content: Vec::new(),
            error: String::new(),
        }
    }
}

fn entry(dir: RawFd, name: &OsString, st: &sys::Stat, depth: Depth) -> Entry {
    let kind = st.st_mode & libc::S_IFMT;
    let mut e = Entry::empty();
    e.mode = st.st_mode;
    e.uid = st.st_uid;
    e.gid = st.st_gid;
    e.mtime = (st.st_mtime, st.st_mtime_nsec);
    if depth == Depth::Digest {
        e.ctime = (st.st_ctime, st.st_ctime_nsec);
    }
    if kind != libc::S_IFDIR {
        e.nlink = st.st_nlink;
        e.size = st.st_size;
    }
    if kind == libc::S_IFCHR || kind == libc::S_IFBLK {
        e.rdev = st.st_rdev;
    }
    let by_fd = Path::new("/proc/self/fd").join(dir.to_string()).join(name);
    match xattrs(&by_fd) {
        Ok(x) => e.xattrs = x,
        Err(sys::Errno::EOPNOTSUPP) => {}
        Err(err) => e.error = format!("xattrs: {err}; "),
    }
    match kind {
        libc::S_IFLNK => match sys::readlinkat(dir, name) {
            Ok(t) => e.content = t.into_vec(),
            Err(err) => e.error = format!("readlink: {err}; "),
        },
        libc::S_IFREG if st.st_size == 0 => {}
        libc::S_IFREG => match hash(dir, name) {
            Ok(h) => e.content = h,
            Err(err) => e.error = format!("read: {err}; "),
        },
        _ => {}
    }
    e
}

fn xattrs(p: &Path) -> R<BTreeMap<OsString, Vec<u8>>> {
    let mut map = BTreeMap::new();
    for n in sys::listxattr(p)? {
        let v = sys::getxattr(p, &n)?;
        map.insert(n, v);
    }
    Ok(map)
}

fn hash(dir: RawFd, name: &OsString) -> R<Vec<u8>> {
    // O_NOATIME where allowed: reading for a digest must not change what is digested.
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let fd = sys::openat(dir, name, flags | libc::O_NOATIME, 0)
        .or_else(|_| sys::openat(dir, name, flags, 0))?;
    let mut h = Sha256::new();
    let mut len = 0;
    loop {
        let b = sys::read(&fd, 1 << 17)?;
        if b.is_empty() {
            let mut v = h.finalize().to_vec();
            v.truncate(8);
            v.extend_from_slice(&u64::to_be_bytes(len)[4..]);
            return Ok(v);
        }
        len += b.len() as u64;
        h.update(&b);
    }
}

/// The differences between two trees, one a line; empty when they are the same.
///
/// In a `View`, modification times are compared when both are explicit (see [`EXPLICIT_BEFORE`]),
/// and must agree on being explicit or not.
pub fn diff(want: &Tree, got: &Tree, depth: Depth) -> String {
    let mut out = String::new();
    for (p, w) in want {
        match got.get(p) {
            None => line(&mut out, p, "missing", "", ""),
            Some(g) => diff_entry(&mut out, p, w, g, depth),
        }
    }
    for (p, g) in got {
        if !want.contains_key(p) {
            line(&mut out, p, "should not exist", "", &format!("mode {:o} {}", g.mode, g.error));
        }
    }
    out
}

fn line(out: &mut String, p: &[u8], what: &str, want: &str, got: &str) {
    let name = String::from_utf8_lossy(p).into_owned();
    let name = if name.len() > 200 { format!("{}…", &name[..120]) } else { name };
    let _ = writeln!(out, "  /{name}: {what}: want {want} got {got}");
}

fn diff_entry(out: &mut String, p: &[u8], w: &Entry, g: &Entry, depth: Depth) {
    let mut field = |what: &str, a: String, b: String| {
        if a != b {
            line(out, p, what, &a, &b);
        }
    };
    field("error", w.error.clone(), g.error.clone());
    field("mode", format!("{:o}", w.mode), format!("{:o}", g.mode));
    field("uid", w.uid.to_string(), g.uid.to_string());
    field("gid", w.gid.to_string(), g.gid.to_string());
    field("nlink", w.nlink.to_string(), g.nlink.to_string());
    field("size", w.size.to_string(), g.size.to_string());
    field("rdev", w.rdev.to_string(), g.rdev.to_string());
    field("twin", show(&w.twin), show(&g.twin));
    field("xattrs", format!("{:?}", w.xattrs), format!("{:?}", g.xattrs));
    field("content", hex(&w.content), hex(&g.content));
    match depth {
        Depth::Digest => {
            field("mtime", format!("{:?}", w.mtime), format!("{:?}", g.mtime));
            field("ctime", format!("{:?}", w.ctime), format!("{:?}", g.ctime));
        }
        Depth::View => field("mtime", view_time(w.mtime), view_time(g.mtime)),
    }
}

fn view_time(t: (i64, i64)) -> String {
    if t.0 < EXPLICIT_BEFORE { format!("{}.{:09}", t.0, t.1) } else { "now".into() }
}

fn show(v: &Option<Vec<u8>>) -> String {
    v.as_ref().map_or_else(|| "none".into(), |v| String::from_utf8_lossy(v).into_owned())
}

fn hex(v: &[u8]) -> String {
    v.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
