//! What is left on the machine when a test is over: processes and mounts that name its directory.
//!
//! A process belongs to a test when its environment, its arguments, its working directory, its
//! root or its mounts name the test's directory, or when its parent belongs to the test: cowl and
//! its children inherit the mark, and a container's processes descend from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Environment variable that everything started by a test inherits.
pub const MARK: &str = "COWL_TEST_MACHINE";

/// How long the kernel may need to finish what was killed.
const GRACE: Duration = Duration::from_secs(3);

/// Fails when a process or a mount of this machine is still there.
#[track_caller]
pub fn nothing(directory: &Path) {
    let deadline = Instant::now() + GRACE;
    loop {
        let mut left: Vec<String> =
            processes(directory).into_iter().map(|(pid, what)| format!("{pid} {what}")).collect();
        left.extend(mounts(directory));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Ends whatever a failed test left, so that its directory can be removed.
pub fn end(directory: &Path) {
    for (pid, _) in processes(directory) {
        // It may have ended by itself since.
        let _ignored = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for mount in mounts(directory).iter().rev() {
        let _ignored = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Removes the bridges of a store's networks, which stay when no container runs, and their rules.
pub fn remove_bridges(store: &Path) {
    for name in bridges(store) {
        for (program, words) in [
            ("ip", vec!["link", "delete", &name]),
            ("nft", vec!["delete", "table", "ip", &name.replace('-', "_")]),
        ] {
            let mut command = std::process::Command::new(program);
            command.args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            // Most stores have brought none up.
            let _ignored = command.output();
        }
        let _ignored = fs::remove_file(Path::new("/run/cowl-bridges").join(&name));
    }
}

/// The names of the bridges of a store's networks, up or not.
pub fn bridges(store: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(store.join("networks")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("network.json")).ok())
        .filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .filter_map(|network| network["bridge"].as_str().map(str::to_owned))
        .collect()
}

/// The processes of a machine, and their children: id and command line.
pub fn processes(directory: &Path) -> Vec<(i32, String)> {
    let mark = directory.as_os_str().as_bytes();
    let own = std::process::id().to_string();
    let mut marked = BTreeSet::new();
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
        let at = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if entry.file_name().to_str() == Some(&own) {
            continue;
        }
        if let Some(parent) = parent(&at) {
            parents.insert(pid, parent);
        }
        if names(&at, mark) {
            marked.insert(pid);
        }
    }
    let belongs = |&pid: &i32| {
        let mut line = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        line.any(|pid| marked.contains(&pid))
    };
    let all: BTreeSet<i32> = parents.keys().chain(&marked).copied().collect();
    all.into_iter()
        .filter(belongs)
        .map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&command).replace('\0', " "))
        })
        .collect()
}

/// The parent of a process; none for one that has ended and only waits to be noticed.
fn parent(process: &Path) -> Option<i32> {
    let stat = fs::read(process.join("stat")).ok()?;
    let after_name = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = String::from_utf8_lossy(stat.get(after_name + 1..)?).into_owned();
    let mut fields = fields.split_whitespace();
    if fields.next()? == "Z" { None } else { fields.next()?.parse().ok() }
}

fn names(process: &Path, mark: &[u8]) -> bool {
    let named = |file: &str| fs::read(process.join(file)).is_ok_and(|b| contains(&b, mark));
    let linked = |file: &str| {
        fs::read_link(process.join(file)).is_ok_and(|p| contains(p.as_os_str().as_bytes(), mark))
    };
    named("environ")
        || named("cmdline")
        || linked("cwd")
        || linked("root")
        || (named("mountinfo") && !same_mounts(process))
}

/// The processes of a machine whose command line contains a word.
pub fn named(directory: &Path, word: &str) -> Vec<i32> {
    processes(directory)
        .into_iter()
        .filter(|(_, command)| command.contains(word))
        .map(|(pid, _)| pid)
        .collect()
}

fn same_mounts(process: &Path) -> bool {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    own.is_some() && fs::read_link(process.join("ns/mnt")).ok() == own
}

fn mounts(directory: &Path) -> Vec<String> {
    let text = fs::read("/proc/self/mountinfo").expect("read mountinfo");
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(directory))
        .map(str::to_owned)
        .collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
