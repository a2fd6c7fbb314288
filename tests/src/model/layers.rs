//! Random lower layers, and a plain directory that looks like their union.
//!
//! The union is computed here a second time, independently of any filesystem: layer by layer, from
//! the bottom, a whiteout removes, an opaque directory empties, a directory merges and takes the
//! attributes of the higher layer, anything else replaces.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Rng, op};
use crate::mount::sys::{self, libc};
use crate::mount::{Mode, World};

/// What was made, as a script for humans, and which layer shows each name.
pub struct Built {
    /// The layers, as shell-like lines.
    pub script: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dir,
    Other,
}

struct Builder<'a> {
    w: &'a World,
    /// Directory of each layer in which everything is made; empty or with a slash at the end.
    below: &'a str,
    rng: Rng,
    /// What the union shows: path → (topmost layer, kind).
    seen: BTreeMap<String, (usize, Kind)>,
    /// What this layer has itself.
    own: BTreeMap<String, Kind>,
    script: String,
    clock: i64,
}

/// Fills the lowers and the reference directory of `w`, in the directory `below` that each has.
pub fn build(w: &World, seed: u64, below: &str) -> Built {
    let mut b = Builder {
        w,
        below,
        rng: Rng::new(seed ^ 0x001a_7e25),
        seen: BTreeMap::new(),
        own: BTreeMap::new(),
        script: String::new(),
        clock: 1_000_000_000,
    };
    for layer in (0..w.lowers().len()).rev() {
        b.own.clear();
        for _ in 0..4 + b.rng.below(10) {
            b.entry(layer);
        }
    }
    b.hard_links();
    b.times_and_reference();
    Built { script: b.script }
}

impl Builder<'_> {
    fn l(&self, layer: usize, path: &str) -> PathBuf {
        self.w.l(layer, format!("{}{path}", self.below))
    }

    fn r(&self, path: &str) -> PathBuf {
        self.w.r(format!("{}{path}", self.below))
    }

    fn say(&mut self, layer: usize, text: &str) {
        let _ = writeln!(self.script, "  l{layer}: {text}");
    }

    /// Everything below a path is hidden from now on.
    fn hide(&mut self, path: &str, and_itself: bool) {
        let below = format!("{path}/");
        self.seen.retain(|p, _| !(p.starts_with(&below) || (and_itself && p == path)));
    }

    /// Makes the parents of `path` in this layer, where the union has them as directories.
    fn parents(&mut self, layer: usize, path: &str) -> bool {
        let ends: Vec<_> = path.match_indices('/').map(|(i, _)| i).collect();
        for i in ends {
            let dir = &path[..i];
            match self.own.get(dir) {
                Some(Kind::Dir) => continue,
                Some(Kind::Other) => return false,
                None => {}
            }
            if !matches!(self.seen.get(dir), Some((_, Kind::Dir))) {
                return false;
            }
            self.dir(layer, dir);
        }
        !self.own.contains_key(path)
    }

    fn dir(&mut self, layer: usize, path: &str) {
        let mode = *self.rng.pick(&[0o755, 0o700, 0o750, 0o1777, 0o2755]);
        let at = self.l(layer, path);
        std::fs::create_dir(&at).expect("mkdir in a layer");
        self.attributes(layer, path, mode);
        if !matches!(self.seen.get(path), Some((_, Kind::Dir))) {
            self.hide(path, true);
        }
        self.seen.insert(path.into(), (layer, Kind::Dir));
        self.own.insert(path.into(), Kind::Dir);
        self.say(layer, &format!("mkdir -m {mode:o} {path}"));
    }

    fn attributes(&mut self, layer: usize, path: &str, mode: u32) {
        let at = self.l(layer, path);
        let (uid, gid) = (self.rng.below(3) as u32, self.rng.below(3) as u32);
        sys::lchown(&at, uid, gid).expect("chown in a layer");
        sys::chmod(&at, mode).expect("chmod in a layer");
        if self.rng.one_in(4) {
            sys::setxattr(&at, "user.a", b"from a lower layer", 0).expect("xattr in a layer");
        }
    }

    fn entry(&mut self, layer: usize) {
        let path = op::path(&mut self.rng);
        if path.contains('h') || !self.parents(layer, &path) {
            return;
        }
        let at = self.l(layer, &path);
        match self.rng.below(14) {
            0..=4 => self.dir(layer, &path),
            5..=9 => {
                let (len, holes) = self.content(&at);
                let mode = *self.rng.pick(&[0o644, 0o600, 0o755, 0o4755, 0o400]);
                self.attributes(layer, &path, mode);
                self.other(layer, &path);
                self.say(layer, &format!("file {path}: {len} bytes{holes}, mode {mode:o}"));
            }
            10 => {
                sys::symlink("some/target", &at).expect("symlink in a layer");
                self.other(layer, &path);
                self.say(layer, &format!("ln -s some/target {path}"));
            }
            11 => {
                let (kind, what) =
                    *self.rng.pick(&[(libc::S_IFSOCK, "mksock"), (libc::S_IFIFO, "mkfifo")]);
                sys::mknod(&at, kind | 0o640, 0).expect("a special file in a layer");
                self.other(layer, &path);
                self.say(layer, &format!("{what} {path}"));
            }
            12 if self.seen.contains_key(&path) => {
                sys::mknod(&at, libc::S_IFCHR, 0).expect("whiteout in a layer");
                self.hide(&path, true);
                self.own.insert(path.clone(), Kind::Other);
                self.say(layer, &format!("whiteout {path}"));
            }
            13 if layer + 1 < self.w.lowers().len() => {
                self.dir(layer, &path);
                let name = match self.w.mode {
                    Mode::Root => "trusted.overlay.opaque",
                    Mode::UserNs => "user.overlay.opaque",
                };
                sys::setxattr(&at, name, b"y", 0).expect("opaque mark in a layer");
                self.hide(&path, false);
                self.say(layer, &format!("opaque {path}"));
            }
            _ => {}
        }
    }

    /// Fills a regular file: sizes on and beside block borders, some large, some with holes. Every
    /// 512 bytes look different from the next.
    fn content(&mut self, at: &Path) -> (usize, &'static str) {
        let len = match self.rng.below(14) {
            0 => (1 << 20) + 123,
            1 => 3_000_777,
            _ => *self.rng.pick(&[0, 10, 4095, 4096, 4097, 5000, 30_000, 70_001]),
        };
        let first = self.rng.below(26);
        let mut data: Vec<u8> = (0..len).map(|i| b'a' + ((first + i / 512) % 26) as u8).collect();
        if len <= 8192 || !self.rng.one_in(4) {
            std::fs::write(at, data).expect("write in a layer");
            return (len, "");
        }
        let file = sys::open(at, libc::O_CREAT | libc::O_WRONLY, 0o600).expect("open in a layer");
        sys::ftruncate(&file, len as i64).expect("ftruncate in a layer");
        for (block, part) in data.chunks_mut(4096).enumerate() {
            if self.rng.one_in(3) {
                sys::pwrite(&file, block as i64 * 4096, part).expect("write in a layer");
            }
        }
        (len, " with holes")
    }

    fn other(&mut self, layer: usize, path: &str) {
        self.hide(path, true);
        self.seen.insert(path.into(), (layer, Kind::Other));
        self.own.insert(path.into(), Kind::Other);
    }

    /// More names for files that show, next to them, under names that no other layer uses.
    fn hard_links(&mut self) {
        for _ in 0..self.rng.below(4) {
            let files: Vec<_> = self
                .seen
                .iter()
                .filter(|(p, (l, k))| {
                    *k == Kind::Other
                        && sys::lstat(self.l(*l, p))
                            .is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFREG)
                })
                .map(|(p, (l, _))| (p.clone(), *l))
                .collect();
            if files.is_empty() {
                return;
            }
            let (from, layer) = self.rng.pick(&files).clone();
            let dir = from.rsplit_once('/').map_or(String::new(), |(d, _)| format!("{d}/"));
            let to = format!("{dir}h{}", self.rng.below(3));
            if !self.seen.contains_key(&to) {
                sys::link(self.l(layer, &from), self.l(layer, &to)).expect("link in a layer");
                self.seen.insert(to.clone(), (layer, Kind::Other));
                self.say(layer, &format!("ln {from} {to}"));
            }
        }
    }

    /// Explicit times everywhere, then the plain directory.
    fn times_and_reference(&mut self) {
        for l in 0..self.w.lowers().len() {
            let mut clock = self.clock;
            age(&self.l(l, ""), &mut clock);
            self.clock = clock;
        }
        let mut inodes: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for (p, (layer, _)) in &self.seen {
            let (from, to) = (self.l(*layer, p), self.r(p));
            let st = sys::lstat(&from).expect("stat in a layer");
            match st.st_mode & libc::S_IFMT {
                libc::S_IFDIR => std::fs::create_dir(&to).expect("mkdir"),
                libc::S_IFREG => {
                    if let Some(first) = inodes.get(&(st.st_dev, st.st_ino)) {
                        sys::link(self.r(first), &to).expect("link");
                        continue;
                    }
                    inodes.insert((st.st_dev, st.st_ino), p.clone());
                    std::fs::write(&to, std::fs::read(&from).expect("read")).expect("write");
                }
                libc::S_IFLNK => sys::symlink("some/target", &to).expect("symlink"),
                kind => sys::mknod(&to, kind, 0).expect("a special file"),
            }
        }
        for (p, (layer, _)) in self.seen.iter().rev() {
            copy_attributes(&self.l(*layer, p), &self.r(p));
        }
    }
}

/// Gives `to` the owner, mode, xattrs and times of `from`.
pub fn copy_attributes(from: &Path, to: &Path) {
    let st = sys::lstat(from).expect("stat");
    sys::lchown(to, st.st_uid, st.st_gid).expect("chown");
    if st.st_mode & libc::S_IFMT != libc::S_IFLNK {
        sys::chmod(to, st.st_mode & 0o7777).expect("chmod");
    }
    for n in sys::listxattr(from).expect("listxattr") {
        let n = n.to_string_lossy().into_owned();
        if n.contains("overlay.") {
            continue;
        }
        sys::setxattr(to, &n, &sys::getxattr(from, &n).expect("getxattr"), 0).expect("setxattr");
    }
    sys::utimens(to, (st.st_mtime, 1), (st.st_mtime, st.st_mtime_nsec)).expect("utimens");
}

fn age(p: &Path, clock: &mut i64) {
    let st = sys::lstat(p).expect("stat");
    if st.st_mode & libc::S_IFMT == libc::S_IFDIR {
        for n in sys::names(p).expect("readdir") {
            age(&p.join(n), clock);
        }
    }
    *clock += 1;
    sys::utimens(p, (*clock, 1), (*clock, 77)).expect("utimens");
}
