//! The processes of a container, as this machine sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::Live;

/// Every process and its parent.
fn parents() -> BTreeMap<i32, i32> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        // The command name (field 2) may hold spaces and brackets: count from its last bracket.
        let Some(end) = stat.iter().rposition(|byte| *byte == b')') else { continue };
        let text = String::from_utf8_lossy(stat.get(end + 1..).unwrap_or_default()).into_owned();
        if let Some(parent) = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()) {
            all.insert(pid, parent);
        }
    }
    all
}

/// PID 1, what `exec` started, and what descends from them. All of them descend from the monitor,
/// and nothing else of it does but the filesystem's server.
pub fn inside(live: &Live) -> BTreeSet<i32> {
    let parents = parents();
    let monitor = live.monitor.pid;
    let is_inside = |pid: i32| {
        let mut at = pid;
        // A line of ancestors is short; a number used anew while we looked could make a ring.
        for _ in 0..10_000 {
            match parents.get(&at) {
                Some(parent) if *parent == monitor => return at != live.filesystem.pid,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(|pid| is_inside(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Process;

    #[test]
    fn descendants_are_found_but_for_the_filesystem() {
        let spawn = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (mut one, mut two) = (spawn(), spawn());
        let process = |pid: u32| Process { pid: i32::try_from(pid).unwrap(), started: 1 };
        let me = process(std::process::id());
        let live =
            Live { init: process(one.id()), monitor: me, filesystem: process(two.id()), since: 0 };
        let found = inside(&live);
        for child in [&mut one, &mut two] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(found.contains(&live.init.pid));
        assert!(!found.contains(&live.filesystem.pid) && !found.contains(&me.pid));
    }
}
