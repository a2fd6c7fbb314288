//! A machine of its own for one container test: a store, a caller, and the checks around it.
//!
//! A [`Machine`] is a directory that holds everything `cowl` writes, and a [`Caller`] on whose
//! behalf commands run: root, an ordinary user with subordinate ids, an ordinary user with none.
//! When the test is done, [`Machine::finish`] looks for what a container engine likes to leave
//! behind: processes, mounts, containers, and bytes in image layers that changed.
//!
//! The programs are those of `COWL_BIN_DIR`, or the ones cargo built next to the test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::tree::{self, Depth, Tree};

pub mod archive;
pub mod caller;
pub mod fixture;
pub mod left;
pub mod outcome;
pub mod patience;
pub mod pty;

pub use caller::Caller;
pub use outcome::Outcome;

/// No command of a small container takes longer than this; a hang must not hang the suite.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs each named function of the calling file as root and as an ordinary user.
///
/// A test is a function `fn name(machine: &Machine)`; the machine is checked afterwards.
#[macro_export]
macro_rules! as_root_and_user {
    ($($name:ident),+ $(,)?) => {
        mod root {
            $( #[test] fn $name() { $crate::container::check($crate::container::Caller::Root, super::$name); } )+
        }
        mod user {
            $( #[test] fn $name() { $crate::container::check($crate::container::Caller::User, super::$name); } )+
        }
    };
}

/// Runs each named function as an ordinary user who has no subordinate ids.
#[macro_export]
macro_rules! as_single_id {
    ($($name:ident),+ $(,)?) => {
        mod single {
            $( #[test] fn $name() { $crate::container::check($crate::container::Caller::Single, super::$name); } )+
        }
    };
}

/// Runs one test on a new machine that has the busybox image.
pub fn check(caller: Caller, test: fn(&Machine)) {
    let machine = Machine::new(caller);
    machine.load(&fixture::busybox(&machine));
    let layers = machine.layers();
    test(&machine);
    machine.finish(&layers);
}

/// A store and a caller.
pub struct Machine {
    /// As whom commands run.
    pub caller: Caller,
    directory: tempfile::TempDir,
    programs: PathBuf,
}

impl Machine {
    /// An empty store for this caller.
    pub fn new(caller: Caller) -> Machine {
        caller.prepare();
        // Not under /tmp: a tmpfs there could be small, and is mounted nodev on many machines.
        let directory = tempfile::Builder::new()
            .prefix("cowl-test-")
            .tempdir_in("/var/tmp")
            .expect("a directory in /var/tmp");
        let machine = Machine { caller, programs: directory.path().join("bin"), directory };
        machine.own(machine.dir(), 0o755);
        for name in ["bin", "home", "run", "store", "work"] {
            fs::create_dir(machine.path(name)).expect("make a directory of the test");
            machine.own(&machine.path(name), 0o755);
        }
        // The build directory may be out of an ordinary user's reach (under /root, say).
        for program in ["cowl", "cowlfs"] {
            let built = fixture::program(program);
            fs::copy(&built, machine.programs.join(program))
                .unwrap_or_else(|e| panic!("copy {}: {e}; build it first", built.display()));
        }
        machine
    }

    /// The directory of this machine; owned by the caller.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the machine's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    /// Where the caller's store is.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Makes a file in the machine's directory that belongs to the caller.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("write a file of the test");
        self.own(&path, 0o644);
        path
    }

    /// Makes a directory in the machine's directory that belongs to the caller.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("make a directory of the test");
        self.own(&path, 0o755);
        path
    }

    fn own(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        if let Some(id) = self.caller.id() {
            chown(path, Some(id), Some(id)).expect("chown to the test's user");
        }
    }

    /// `cowl` with arguments, as the caller, not yet started.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.caller.command(&self.programs.join("cowl"));
        command
            .args(arguments)
            .current_dir(self.path("work"))
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.display()))
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("COWL_ROOT", self.store())
            // A network is what the tests of networks are about; no other test depends on it.
            .env("COWL_NETWORK", "none")
            // Nothing outside answers where tests run; those of registries say when to ask one.
            .env("COWL_PULL", "never")
            // What is started by cowl carries this, so that `left` finds it.
            .env(left::MARK, self.dir())
            .stdin(Stdio::null());
        command
    }

    /// Runs `cowl` to its end.
    pub fn cowl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        outcome::run(self.command(arguments), None, PATIENCE)
    }

    /// Runs `cowl` to its end, with more time.
    pub fn cowl_within<A: AsRef<OsStr>>(
        &self,
        patience: Duration,
        arguments: impl IntoIterator<Item = A>,
    ) -> Outcome {
        outcome::run(self.command(arguments), None, patience)
    }

    /// Runs `cowl` to its end with bytes on its standard input.
    pub fn cowl_with_input<A: AsRef<OsStr>>(
        &self,
        input: &[u8],
        arguments: impl IntoIterator<Item = A>,
    ) -> Outcome {
        outcome::run(self.command(arguments), Some(input.to_vec()), PATIENCE)
    }

    /// `cowl run --rm busybox …`.
    pub fn busybox<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Outcome {
        let mut arguments: Vec<std::ffi::OsString> =
            ["run", "--rm", "busybox"].map(Into::into).to_vec();
        arguments.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
        self.cowl(arguments)
    }

    /// Starts a container that says `ready` and then stays; returns once it has said so.
    pub fn start(&self, name: &str) -> Child {
        let script = "echo ready; exec sleep 1000";
        let mut child = self
            .command(["run", "--name", name, "busybox", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start cowl");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
            .expect("read from the container");
        assert_eq!(line, "ready\n", "the container did not start");
        child
    }

    /// Loads an archive or layout.
    pub fn load(&self, image: &Path) {
        let patience = Duration::from_secs(180);
        self.cowl_within(patience, [OsStr::new("load"), OsStr::new("-i"), image.as_os_str()]).ok();
    }

    /// Names of the containers the store has directories for; a lock file is none.
    pub fn containers(&self) -> Vec<String> {
        let mut containers = names(&self.store().join("containers"));
        containers.retain(|name| !name.starts_with('.'));
        containers
    }

    /// Every name, attribute and byte of every image layer in the store, by the layer's name and
    /// birth: one that was removed and loaded again is another.
    pub fn layers(&self) -> BTreeMap<String, Tree> {
        let layers = self.store().join("layers");
        let found: BTreeMap<String, Tree> = names(&layers)
            .into_iter()
            .map(|name| {
                let path = layers.join(&name);
                let born = path.metadata().and_then(|status| status.created()).expect("statx");
                (format!("{name} of {born:?}"), tree::read(&path, Depth::Digest))
            })
            .collect();
        assert!(
            !found.is_empty(),
            "no layers in {}: the check would check nothing",
            layers.display()
        );
        found
    }

    /// The layers must be as they were, and nothing else may be left.
    pub fn finish(&self, before: &BTreeMap<String, Tree>) {
        let after = self.layers();
        for (name, tree) in before {
            if let Some(now) = after.get(name) {
                let changed: Vec<String> = tree
                    .iter()
                    .filter(|(path, entry)| now.get(*path) != Some(entry))
                    .map(|(path, _)| String::from_utf8_lossy(path).into_owned())
                    .collect();
                assert!(changed.is_empty(), "layer {name} changed: {changed:?}");
                assert_eq!(tree.len(), now.len(), "layer {name} has new names");
            }
        }
        // The contents of large files lie beside the layers, named by what they hold.
        let objects = self.store().join("objects");
        for start in names(&objects) {
            for rest in names(&objects.join(&start)) {
                let content = fs::read(objects.join(&start).join(&rest)).expect("read an object");
                assert_eq!(archive::digest(&content), format!("{start}{rest}"), "object changed");
            }
        }
        left::nothing(self.dir());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A failed test must not take the next ones down: end what it left, then remove.
        left::end(self.dir());
        left::remove_bridges(&self.store());
        if let Caller::User | Caller::Single = self.caller {
            // Files of subordinate ids belong to nobody the test process is, unless it is root.
            let mut remove = self.caller.command(Path::new("/bin/chmod"));
            remove.arg("-R").arg("u+rwX").arg(self.store()).stderr(Stdio::null());
            if let Err(error) = remove.status() {
                let _ignored = writeln!(std::io::stderr(), "chmod of the store: {error}");
            }
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("read a directory").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
