//! The image `host`: this machine's own root file system below a private write layer.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cowl_tests::as_root_and_user;
use cowl_tests::container::Machine;

as_root_and_user!(
    runs_this_machines_programs,
    changes_stay_inside,
    other_mounts_are_hidden,
    needs_no_image
);

fn runs_this_machines_programs(machine: &Machine) {
    assert_eq!(machine.cowl(["run", "--rm", "host", "echo", "hello"]).ok(), "hello\n");
    let inside = machine.cowl(["run", "--rm", "host", "cat", "/etc/os-release"]).ok();
    assert_eq!(inside, fs::read_to_string("/etc/os-release").expect("read"));
    // The default command is a shell.
    assert_eq!(machine.cowl_with_input(b"echo $$\n", ["run", "--rm", "-i", "host"]).ok(), "1\n");
    assert_eq!(machine.cowl(["run", "--rm", "host", "id", "-u"]).ok(), "0\n");
}

fn changes_stay_inside(machine: &Machine) {
    // A place that root and the ordinary user may both write, on the root file system.
    let place = Path::new("/var/tmp").join(format!(
        "cowl-host-{}",
        machine.dir().file_name().expect("a name").to_string_lossy()
    ));
    let of_caller = machine.folder("place");
    fs::rename(&of_caller, &place).expect("move the test's directory");
    let name = place.display().to_string();
    if fs::metadata(&place).expect("stat").dev() != fs::metadata("/").expect("stat").dev() {
        fs::remove_dir(&place).expect("remove");
        panic!("/var/tmp is not on the root file system: this test has no place to write");
    }
    for file in ["changed", "deleted", "kept"] {
        fs::write(place.join(file), format!("{file} on the host\n")).expect("write");
        std::os::unix::fs::chown(place.join(file), machine.caller.id(), machine.caller.id())
            .expect("chown");
    }
    let before = fs::metadata(&place).expect("stat");

    let script = format!(
        "cd {name} && echo inside >> changed && rm deleted && echo new > created && cat changed"
    );
    let seen = machine.cowl(["run", "--name", "mine", "host", "sh", "-c", &script]).ok();
    assert_eq!(seen, "changed on the host\ninside\n");
    let diff = machine.cowl(["diff", "mine"]).ok();
    for line in [
        format!("C {name}"),
        format!("C {name}/changed"),
        format!("D {name}/deleted"),
        format!("A {name}/created"),
    ] {
        assert!(diff.lines().any(|l| l == line), "{line} not in {diff}");
    }
    assert!(!diff.contains("kept"), "{diff}");
    machine.cowl(["rm", "mine"]).ok();

    let after = fs::metadata(&place).expect("stat");
    assert_eq!(
        (before.mtime_nsec(), before.ctime_nsec()),
        (after.mtime_nsec(), after.ctime_nsec())
    );
    assert_eq!(fs::read_to_string(place.join("changed")).expect("read"), "changed on the host\n");
    assert!(place.join("deleted").exists() && !place.join("created").exists());
    fs::remove_dir_all(&place).expect("clean up");
}

fn other_mounts_are_hidden(machine: &Machine) {
    // The store, wherever it is, is not part of what a container of it sees.
    let store = machine.store().display().to_string();
    let script = format!("ls -A {store} 2>/dev/null | wc -l");
    assert_eq!(machine.cowl(["run", "--rm", "host", "sh", "-c", &script]).ok(), "0\n");
    let mounts = machine.cowl(["run", "--rm", "host", "cat", "/proc/self/mounts"]).ok();
    for line in mounts.lines() {
        let point = line.split(' ').nth(1).expect("a mount point");
        let own = ["/", "/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
        let inside = |top: &str| point.starts_with(&format!("{top}/"));
        assert!(
            own.contains(&point)
                || inside("/proc")
                || inside("/sys")
                || inside("/dev")
                || point == store,
            "{line}"
        );
    }
}

fn needs_no_image(machine: &Machine) {
    machine.cowl(["rmi", "busybox"]).ok();
    assert_eq!(machine.cowl(["run", "--rm", "host", "true"]).ok(), "");
    machine.load(&machine.path("busybox.tar"));
    machine.cowl(["rmi", "host"]).fails(1, "host");
}
