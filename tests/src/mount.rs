//! A union mounted for one test: layers, a filesystem under test, a jail, and the checks around it.
//!
//! The system under test is a parameter (`COWL_SUT=cowlfs|overlay|fuse-overlayfs`), so that the
//! tests themselves are checked against kernel overlayfs. What a reference is known to do wrong is
//! a table ([`known`]), not an exception in a test. Options that every mount of cowlfs gets on top
//! (`COWL_MOUNT_OPTIONS=copyup=block`, a comma list) run the same tests in another mode.
//!
//! Every test body runs in a re-executed child inside its own mount namespace, as root or as root
//! of a user namespace ([`jail`]); when the child is gone, so are its mounts. Around every body the
//! lower layers are read completely: a test fails when any of them changed in any way.
// An answer that a test does not need is dropped on purpose, and writing to a string cannot fail.
#![allow(clippy::let_underscore_must_use)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::tree::{self, Depth, Tree};

pub mod disk;
pub mod jail;
pub mod known;
pub mod log;
pub mod packed;
pub mod stub;
pub mod sut;
pub mod sys;

pub use jail::Mode;
pub use log::Log;
pub use packed::Packed;
pub use sut::Sut;

/// The layers of one test, and the union over them once mounted.
pub struct World {
    /// Directory of this test alone; everything else is in it.
    pub dir: PathBuf,
    /// Root, or root of a user namespace.
    pub mode: Mode,
    /// The filesystem under test.
    pub sut: Sut,
    /// Additional mount options.
    pub options: Vec<String>,
    /// Which of the lowers are mounted as packed layers made of them.
    pub packed: Packed,
    lowers: Vec<PathBuf>,
    /// What stands for each lower in the mount's options.
    given: Vec<PathBuf>,
    digests: Vec<Tree>,
    server: Option<sut::Server>,
    mounted: bool,
}

impl World {
    /// Two empty lowers, an upper, a workdir, a mount point and a plain reference directory.
    pub fn new(dir: PathBuf, mode: Mode, sut: Sut) -> World {
        let mut w = World {
            dir,
            mode,
            sut,
            options: Vec::new(),
            packed: Packed::from_env(),
            lowers: Vec::new(),
            given: Vec::new(),
            digests: Vec::new(),
            server: None,
            mounted: false,
        };
        for d in ["upper", "work", "mnt", "ref"] {
            w.make_dir(d);
        }
        w.set_lowers(2);
        w
    }

    fn make_dir(&self, name: &str) -> PathBuf {
        let p = self.dir.join(name);
        std::fs::create_dir_all(&p).expect("make a layer directory");
        std::fs::set_permissions(&p, PermissionsExt::from_mode(0o755)).expect("chmod a layer");
        p
    }

    /// Uses `n` lower layers; number 0 is the topmost.
    pub fn set_lowers(&mut self, n: usize) {
        self.lowers = (0..n).map(|i| self.make_dir(&format!("l{i}"))).collect();
    }

    /// Puts all layers into memory: for tests with much data, on machines with slow disks.
    pub fn in_memory(&mut self) {
        sys::mount("tmpfs", &self.dir, "tmpfs", 0, b"size=2g,mode=755").expect("mount a tmpfs");
        let n = self.lowers.len();
        for d in ["upper", "work", "mnt", "ref"] {
            self.make_dir(d);
        }
        self.set_lowers(n);
    }

    /// A name in the merged directory.
    pub fn m(&self, name: impl AsRef<Path>) -> PathBuf {
        join(self.dir.join("mnt"), name.as_ref())
    }

    /// A name in the upper layer.
    pub fn u(&self, name: impl AsRef<Path>) -> PathBuf {
        join(self.dir.join("upper"), name.as_ref())
    }

    /// A name in lower layer `i`.
    pub fn l(&self, i: usize, name: impl AsRef<Path>) -> PathBuf {
        join(self.lowers[i].clone(), name.as_ref())
    }

    /// A name in the plain directory that serves as the reference.
    pub fn r(&self, name: impl AsRef<Path>) -> PathBuf {
        join(self.dir.join("ref"), name.as_ref())
    }

    /// All lower layers, topmost first.
    pub fn lowers(&self) -> &[PathBuf] {
        &self.lowers
    }

    /// Writes a file, with its parents, into lower layer `i`, all with an old modification time.
    pub fn put(&self, i: usize, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let p = self.l(i, name);
        put(&p, content);
        age_parents(&p, &self.l(i, ""));
        p
    }

    /// Mounts the union; the lowers must not change from now on.
    pub fn mount(&mut self) {
        assert!(!self.mounted, "mounted twice");
        self.digests = self.lowers.iter().map(|l| tree::read(l, Depth::Digest)).collect();
        self.given = self.lowers.clone();
        if self.sut == Sut::Cowlfs {
            for (i, lower) in self.lowers.iter().enumerate() {
                if self.packed.takes(i) {
                    self.given[i] = packed::pack(lower, &self.dir.join(format!("packed{i}")));
                }
            }
        }
        self.start();
    }

    /// Puts packed layers that the test made on top of the lowers, topmost first: indexes.
    pub fn mount_below(&mut self, indexes: &[PathBuf]) {
        self.digests = self.lowers.iter().map(|l| tree::read(l, Depth::Digest)).collect();
        self.given = indexes.iter().chain(&self.lowers).cloned().collect();
        self.start();
    }

    fn start(&mut self) {
        let server = self.sut.mount(&sut::Layers {
            dir: &self.dir,
            lowers: &self.given,
            mode: self.mode,
            options: &self.options,
        });
        self.server = server.unwrap_or_else(|e| panic!("mount: {e}"));
        self.mounted = true;
    }

    /// Unmounts and waits until the filesystem process has ended.
    pub fn unmount(&mut self) {
        self.unmount_to_end(true);
    }

    /// The same after the upper's disk broke: the filesystem's process may end with a failure.
    pub fn unmount_broken(&mut self) {
        self.unmount_to_end(false);
    }

    fn unmount_to_end(&mut self, clean: bool) {
        if !self.mounted {
            return;
        }
        // A process that is just exiting may still hold the mount for a moment.
        let mut last = Ok(());
        for _ in 0..50 {
            last = sys::umount(&self.m(""), 0);
            if last != Err(sys::Errno::EBUSY) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        last.unwrap_or_else(|e| panic!("umount: {e} (does the test still hold a descriptor?)"));
        self.mounted = false;
        if let Some(s) = self.server.take() {
            s.wait_end(clean);
        }
    }

    /// Unmounts and mounts again.
    pub fn remount(&mut self) {
        self.unmount();
        self.start();
    }

    /// Unmounts and mounts again with the upper as the topmost lower, under a fresh upper with the
    /// same root attributes. Only a remount when the upper cannot be used without its work directory
    /// (it keeps an index of hard links), or there are enough layers.
    pub fn restack(&mut self) {
        const ENOUGH: usize = 8;
        self.unmount();
        if self.lowers.len() < ENOUGH && !self.needs_workdir() {
            let lower = self.dir.join(format!("was-upper{}", self.lowers.len()));
            std::fs::rename(self.u(""), &lower).expect("the upper becomes a lower");
            std::fs::remove_dir_all(self.dir.join("work")).expect("remove the work directory");
            let upper = self.make_dir("upper");
            self.make_dir("work");
            copy_root(&lower, &upper);
            self.digests.insert(0, tree::read(&lower, Depth::Digest));
            self.given.insert(0, lower.clone());
            self.lowers.insert(0, lower);
        }
        self.start();
    }

    /// Whether the work directory holds more than temporaries and tags of the layers.
    fn needs_workdir(&self) -> bool {
        ["cowl-index", "index"].iter().any(|index| {
            sys::names(self.dir.join("work").join(index))
                .is_ok_and(|names| names.iter().any(|n| !n.as_encoded_bytes().ends_with(b".tag")))
        })
    }

    /// Kills the filesystem with SIGKILL, takes the dead mount away, and mounts again.
    ///
    /// Descriptors into the mount must have been closed (or are dead afterwards). For kernel
    /// overlayfs, which cannot be killed, this is a remount.
    pub fn crash(&mut self) {
        match self.server.take() {
            Some(s) => {
                s.kill();
                sys::umount(&self.m(""), libc::MNT_DETACH).expect("umount the dead mount");
                self.mounted = false;
                self.start();
            }
            None => self.remount(),
        }
    }

    /// Kills the filesystem with SIGKILL and takes the dead mount away; [`World::start_again`] follows.
    pub fn kill(&mut self) {
        if let Some(s) = self.server.take() {
            s.kill();
            sys::umount(&self.m(""), libc::MNT_DETACH).expect("umount the dead mount");
            self.mounted = false;
        }
    }

    /// Mounts again what was unmounted; the lowers are those of [`World::mount`].
    pub fn start_again(&mut self) {
        self.start();
    }

    /// The process id of the filesystem, when it has one.
    pub fn server_pid(&self) -> Option<i32> {
        self.server.as_ref().map(sut::Server::pid)
    }

    /// Fails when any lower layer differs from what it was at [`World::mount`].
    pub fn check_lowers(&self) {
        for (l, want) in self.lowers.iter().zip(&self.digests) {
            let d = tree::diff(want, &tree::read(l, Depth::Digest), Depth::Digest);
            assert!(d.is_empty(), "the lower layer {} was changed:\n{d}", l.display());
        }
        for index in self.given.iter().filter(|given| given.ends_with(packed::INDEX)) {
            packed::check(index);
        }
    }

    /// The tree as the mount shows it.
    pub fn view(&self) -> Tree {
        tree::read(&self.m(""), Depth::View)
    }

    /// Fails unless the mount shows the same tree as the reference directory.
    pub fn same_as_reference(&self, when: &str) {
        let want = tree::read(&self.r(""), Depth::View);
        let d = tree::diff(&want, &self.view(), Depth::View);
        assert!(d.is_empty(), "{when}, the mount differs from a plain directory:\n{d}");
    }

    /// Fails unless a remount shows the same tree.
    pub fn same_after_remount(&mut self) {
        let before = self.view();
        self.remount();
        let d = tree::diff(&before, &self.view(), Depth::View);
        assert!(d.is_empty(), "the tree changed by a remount:\n{d}");
    }

    /// Where the content of a differential test starts out.
    pub fn seed(&mut self, place: Place, build: &dyn Fn(&Path)) {
        build(&self.r(""));
        match place {
            Place::Lower => build(&self.l(1, "")),
            Place::Upper => build(&self.u("")),
        }
        // The attributes of the merged root are those of the upper's.
        let st = sys::lstat(self.r("")).expect("stat");
        let mtime = (st.st_mtime, st.st_mtime_nsec);
        sys::utimens(self.u(""), mtime, mtime).expect("utimens");
    }

    /// Runs the same operations on the mount and on the plain directory; both must answer the
    /// same, leave the same tree, and show it again after a remount.
    pub fn same(&mut self, ops: &dyn Fn(&Path, &mut Log)) {
        let mut want = Log::default();
        ops(&self.r(""), &mut want);
        let mut got = Log::default();
        ops(&self.m(""), &mut got);
        let d = want.diff(&got);
        assert!(d.is_empty(), "the operations answer differently:\n{d}");
        self.same_as_reference("after the operations");
        self.remount();
        self.same_as_reference("after a remount");
    }

    /// What every test ends with: clean unmount, lowers untouched.
    pub fn finish(mut self) {
        self.unmount();
        self.check_lowers();
    }
}

impl Drop for World {
    /// After a failure: take the mount away whatever its state; errors have nobody left to hear.
    fn drop(&mut self) {
        if let Some(s) = self.server.take() {
            s.kill();
        }
        if self.mounted {
            let _: sys::R<()> = sys::umount(&self.m(""), libc::MNT_DETACH);
        }
    }
}

/// Where the initial content of a differential test lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the bottom lower layer: the operations copy up.
    Lower,
    /// In the upper layer.
    Upper,
}

fn join(dir: PathBuf, name: &Path) -> PathBuf {
    if name.as_os_str().is_empty() { dir } else { dir.join(name) }
}

/// The modification time [`put`] gives: explicit in the sense of [`tree::EXPLICIT_BEFORE`].
pub const OLD: (i64, i64) = (1_000_000_000, 123_456_789);

/// Writes a file with its parents and gives it an old modification time.
pub fn put(p: &Path, content: impl AsRef<[u8]>) {
    if let Some(parent) = p.parent() {
        std::fs::create_dir_all(parent).expect("make parents");
    }
    std::fs::write(p, content).unwrap_or_else(|e| panic!("write {}: {e}", p.display()));
    age(p);
}

/// Gives a name an old modification time.
pub fn age(p: &Path) {
    sys::utimens(p, OLD, OLD).unwrap_or_else(|e| panic!("utimens {}: {e}", p.display()));
}

/// Gives every name under `root`, and `root`, an old modification time.
pub fn age_all(root: &Path) {
    for e in std::fs::read_dir(root).expect("read_dir").flatten() {
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            age_all(&e.path());
        } else {
            age(&e.path());
        }
    }
    age(root);
}

/// Gives the root of a fresh upper the attributes of the previous one.
fn copy_root(from: &Path, to: &Path) {
    let st = sys::lstat(from).expect("stat");
    sys::lchown(to, st.st_uid, st.st_gid).expect("chown");
    sys::chmod(to, st.st_mode & 0o7777).expect("chmod");
    for name in sys::listxattr(from).expect("listxattr") {
        let (value, name) = (sys::getxattr(from, &name).expect("getxattr"), name.to_string_lossy());
        if !name.contains("overlay.") {
            sys::setxattr(to, &name, &value, 0).expect("setxattr");
        }
    }
    let mtime = (st.st_mtime, st.st_mtime_nsec);
    sys::utimens(to, mtime, mtime).expect("utimens");
}

fn age_parents(p: &Path, root: &Path) {
    for a in p.ancestors().skip(1).take_while(|a| a.starts_with(root)) {
        age(a);
    }
}

/// The content of a file, or the error, as text.
pub fn cat(p: impl AsRef<Path>) -> String {
    match std::fs::read(p.as_ref()) {
        Ok(b) => String::from_utf8_lossy(&b).into_owned(),
        Err(e) => format!("error: {}", e.kind()),
    }
}

/// Defines a test that runs as root and again as root of a user namespace.
#[macro_export]
macro_rules! both {
    ($(#[$doc:meta])* $name:ident, |$w:ident| $body:block) => {
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn body($w: &mut $crate::mount::World) $body
            #[test]
            fn root() {
                $crate::mount::jail::run(
                    concat!(module_path!(), "::root"), $crate::mount::Mode::Root, 60, body);
            }
            #[test]
            fn userns() {
                $crate::mount::jail::run(
                    concat!(module_path!(), "::userns"), $crate::mount::Mode::UserNs, 60, body);
            }
        }
    };
}

/// Defines a test that runs as root only.
#[macro_export]
macro_rules! as_root {
    ($(#[$doc:meta])* $name:ident, |$w:ident| $body:block) => {
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn body($w: &mut $crate::mount::World) $body
            #[test]
            fn root() {
                $crate::mount::jail::run(
                    concat!(module_path!(), "::root"), $crate::mount::Mode::Root, 90, body);
            }
        }
    };
}

/// Defines a differential test: the same operations on a plain directory, and on the union with
/// the initial content in a lower layer, and again with it in the upper.
#[macro_export]
macro_rules! same {
    ($(#[$doc:meta])* $name:ident, |$s:ident| $seed:block, |$d:ident, $log:ident| $ops:block) => {
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn seed($s: &std::path::Path) $seed
            fn ops($d: &std::path::Path, $log: &mut $crate::mount::Log) $ops
            fn lower(w: &mut $crate::mount::World) {
                w.seed($crate::mount::Place::Lower, &seed);
                w.mount();
                w.same(&ops);
            }
            fn upper(w: &mut $crate::mount::World) {
                // Layers on another filesystem (tmpfs), for variety and speed.
                w.in_memory();
                w.seed($crate::mount::Place::Upper, &seed);
                w.mount();
                w.same(&ops);
            }
            #[test]
            fn lower_root() {
                $crate::mount::jail::run(
                    concat!(module_path!(), "::lower_root"), $crate::mount::Mode::Root, 60, lower);
            }
            #[test]
            fn lower_userns() {
                $crate::mount::jail::run(concat!(module_path!(), "::lower_userns"),
                    $crate::mount::Mode::UserNs, 60, lower);
            }
            #[test]
            fn upper_root() {
                $crate::mount::jail::run(
                    concat!(module_path!(), "::upper_root"), $crate::mount::Mode::Root, 60, upper);
            }
        }
    };
}
