//! Hosts that lack something: each is made from this machine by hiding it.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;

use cowl_tests::container::archive::{self, Tar};
use cowl_tests::container::{Machine, Outcome, outcome};
use cowl_tests::{as_root_and_user, as_single_id};

as_root_and_user!(without_dev_fuse, what_needs_cowlfs_says_so, a_driver_that_is_none_is_refused);

as_single_id!(without_dev_fuse);

const PATIENCE: Duration = Duration::from_secs(60);

/// `cowl` where `/dev/fuse` cannot be opened for writing.
fn without_fuse<A: AsRef<OsStr>>(
    machine: &Machine,
    arguments: impl IntoIterator<Item = A>,
) -> Outcome {
    let inner = machine.command(arguments);
    let mut command = Command::new("unshare");
    let hide =
        "mount --bind /dev/null /dev/fuse && mount -o remount,bind,nodev /dev/fuse && exec \"$@\"";
    command.args(["-m", "sh", "-c", hide, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.current_dir(machine.path("work")).stdin(Stdio::null());
    outcome::run(command, None, PATIENCE)
}

fn without_dev_fuse(machine: &Machine) {
    let below = Tar::default()
        .directory("d/")
        .file("d/below", b"1\n")
        .file("gone", b"x")
        .directory("opaque/")
        .file("opaque/below", b"x")
        .file("changed", b"old\n");
    let above = Tar::default()
        .file("d/above", b"2\n")
        .file(".wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/above", b"");
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let shell = Tar::default().directory("bin/").entry("bin/busybox", b'0', "", 0o755, &busybox);
    let layers: Vec<Vec<u8>> = [shell, below, above].into_iter().map(Tar::finish).collect();
    machine.load(&machine.file("layers.tar", archive::image("layers", &layers)));
    let layers = machine.layers();

    let script = "busybox cat d/below d/above; busybox ls opaque; busybox ls gone 2>/dev/null; \
                  busybox cat changed; echo new > changed; busybox rm -r d; busybox mkdir d; \
                  busybox cat changed; busybox ls d; echo ok";
    for name in ["first", "second"] {
        let said = without_fuse(
            machine,
            ["run", "--name", name, "layers", "/bin/busybox", "sh", "-c", script],
        );
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out(), "1\n2\nabove\nold\nnew\nok\n");
        let errors = said.err();
        assert!(errors.starts_with("cowl: /dev/fuse cannot be opened"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    // What it did is seen as of any other, also where /dev/fuse is back.
    let diff = machine.cowl(["diff", "first"]).ok();
    assert!(diff.contains("C /changed") && diff.contains("D /d/below"), "{diff}");
    machine.cowl(["rm", "first", "second"]).ok();
    assert!(machine.layers() == layers, "unpacking left the layers as they were");
    machine.cowl(["system", "fsck"]).ok();
    machine.cowl(["rmi", "layers"]).ok();
}

fn what_needs_cowlfs_says_so(machine: &Machine) {
    let said = without_fuse(machine, ["run", "--rm", "host", "true"]);
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.err().contains("needs cowlfs"), "{said:?}");
    assert_eq!(machine.cowl(["ps", "-aq"]).ok(), "");
}

fn a_driver_that_is_none_is_refused(machine: &Machine) {
    let mut command = machine.command(["run", "--rm", "busybox", "true"]);
    command.env("COWL_STORAGE_DRIVER", "zfs");
    let said = outcome::run(command, None, PATIENCE);
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.err().contains("names no storage driver"), "{said:?}");
    assert_eq!(machine.cowl(["ps", "-aq"]).ok(), "");
}
