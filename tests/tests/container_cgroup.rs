//! Control groups of root's containers, where this machine has them.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use cowl_tests::container::{Caller, Machine, check};

/// Whether groups can be made here at all; a machine without says so in `info`.
fn available() -> bool {
    let base = Path::new("/sys/fs/cgroup/pids");
    let version_1 = base.join("cgroup.procs").exists()
        && fs::OpenOptions::new().write(true).open(base.join("cgroup.procs")).is_ok();
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    version_1 || controllers.split_whitespace().any(|name| name == "pids")
}

#[test]
fn limits_hold_and_the_group_goes() {
    check(Caller::Root, |machine: &Machine| {
        let flags = ["run", "--rm", "--pids-limit", "8", "-m", "64m", "--cpus", "0.5"];
        // The shell gives up when it cannot start one more process.
        let script = "hostname; for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; echo all";
        let line = [&flags[..], &["busybox", "sh", "-c", script]].concat();
        let outcome = machine.cowl(line);
        let out = outcome.out();
        let id = out.lines().next().unwrap_or_default();
        if available() {
            assert!(!out.contains("all") && outcome.err().contains("fork"), "{outcome:?}");
        } else {
            assert!(outcome.err().contains("pids limit"), "{outcome:?}");
        }
        assert_eq!(id.len(), 12, "{outcome:?}");
        for base in fs::read_dir("/sys/fs/cgroup").expect("list the hierarchies").flatten() {
            let groups = fs::read_dir(base.path().join("cowl")).into_iter().flatten().flatten();
            for group in groups {
                let name = group.file_name().to_string_lossy().into_owned();
                assert!(!name.starts_with(id), "left behind: {}", group.path().display());
            }
        }
    });
}

#[test]
fn limits_change_while_it_runs_and_use_is_shown() {
    check(Caller::Root, |machine: &Machine| {
        machine.cowl(["run", "-d", "--name", "busy", "-m", "64m", "busybox", "sleep", "1000"]).ok();
        let limit = || {
            machine.cowl(["inspect", "-f", "{{.HostConfig.Memory}}", "busy"]).ok().trim().to_owned()
        };
        let shown = || {
            let format = "{{.Name}} {{.MemUsage}} {{.PIDs}}";
            machine.cowl(["stats", "--no-stream", "--format", format]).ok()
        };
        assert_eq!(limit(), "67108864");
        let first = shown();
        assert_eq!(
            machine.cowl(["update", "-m", "128m", "--restart", "no", "busy"]).ok(),
            "busy\n"
        );
        assert_eq!(limit(), "134217728");
        let second = shown();
        if available() {
            assert!(first.starts_with("busy ") && first.contains("/ 64MiB 1"), "{first}");
            assert!(second.contains("/ 128MiB 1"), "{second}");
        }
        machine.cowl(["update", "-m", "1m", "busy"]).fails(1, "Minimum memory limit");
        machine.cowl(["update", "--restart", "often", "busy"]).fails(1, "unknown policy 'often'");
        machine.cowl(["update", "-m", "64m", "nobody"]).fails(1, "No such container: nobody");
        assert_eq!(limit(), "134217728");
        machine.cowl(["rm", "-f", "busy"]).ok();
    });
}
