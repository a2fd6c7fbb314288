//! As whom a test runs `cowl`.
//!
//! Root makes the two accounts it needs once and leaves them: `newuidmap` wants a real account.
//! When the tests themselves run as an ordinary user, that user is the caller.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Root of the machine.
    Root,
    /// An ordinary user with 65,536 subordinate ids.
    User,
    /// An ordinary user with no subordinate ids.
    Single,
}

/// First subordinate id of the test user, beyond what useradd hands out by itself on a machine.
const SUBORDINATE: &str = "1879048192-1879113727";

impl Caller {
    fn account(self) -> Option<(&'static str, u32)> {
        match self {
            Caller::Root => None,
            Caller::User => Some(("cowl-test", 48_001)),
            Caller::Single => Some(("cowl-test-single", 48_002)),
        }
    }

    /// The user id to switch to; none when the test process is already the caller.
    pub fn id(self) -> Option<u32> {
        if nix::unistd::geteuid().is_root() { self.account().map(|(_, id)| id) } else { None }
    }

    /// Makes the account where it is missing.
    pub fn prepare(self) {
        let root = nix::unistd::geteuid().is_root();
        assert!(
            root || self == Caller::User,
            "this test needs root; as an ordinary user run tools/test, which leaves it out"
        );
        let (Some((name, id)), true) = (self.account(), root) else { return };
        // Several tests, in several processes, come here at once.
        let lock = File::create("/var/tmp/cowl-test-accounts.lock").expect("make a lock file");
        let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("lock");
        let known = |file: &str, start: &str| {
            fs::read_to_string(file).is_ok_and(|text| text.lines().any(|l| l.starts_with(start)))
        };
        if !known("/etc/passwd", &format!("{name}:")) {
            let mut add = Command::new("useradd");
            add.args(["--no-create-home", "--home-dir", "/", "--shell", "/bin/sh"]);
            // Subordinate ids are given below, or not at all.
            add.args(["-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0"]);
            succeed(add.args(["--uid", &id.to_string(), "--user-group", name]));
        }
        if self == Caller::User {
            for (file, option) in
                [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")]
            {
                if !known(file, &format!("{name}:")) {
                    succeed(Command::new("usermod").args([option, SUBORDINATE, name]));
                }
            }
        }
    }

    /// A program run as this caller.
    pub fn command(self, program: &Path) -> Command {
        match self.id() {
            None => Command::new(program),
            Some(id) => {
                let mut command = Command::new("/usr/bin/setpriv");
                command
                    .arg(format!("--reuid={id}"))
                    .arg(format!("--regid={id}"))
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        }
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}
