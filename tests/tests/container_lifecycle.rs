//! Containers and images that stay: `ps`, `rm`, `rmi`, `images`, `diff`, and what kill -9 leaves.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use cowl_tests::container::{Machine, fixture, left};
use cowl_tests::{as_root_and_user, as_single_id};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

as_root_and_user!(
    listed_and_removed,
    names,
    rm_leaves_nothing,
    images_in_use_stay,
    loads_every_form,
    imports,
    diff_says_what_changed,
    diff_of_a_running_container,
    kill_9_of_the_filesystem,
    kill_9_of_cowl,
    kill_9_of_everything,
    info_says_what_was_chosen,
);

as_single_id!(
    listed_and_removed,
    rm_leaves_nothing,
    loads_every_form,
    diff_says_what_changed,
    kill_9_of_the_filesystem,
    kill_9_of_everything,
);

fn listed_and_removed(machine: &Machine) {
    machine.cowl(["run", "--name", "kept", "busybox", "sh", "-c", "exit 3"]).ends(3);
    let running = machine.cowl(["ps"]).ok();
    assert_eq!(
        running.split_whitespace().collect::<Vec<_>>(),
        ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    );
    let all = machine.cowl(["ps", "-a"]).ok();
    let line = all.lines().nth(1).expect("one container");
    for text in ["busybox", "kept", "Exited (3)", "ago"] {
        assert!(line.contains(text), "{text} not in {line}");
    }
    let id = line.split_whitespace().next().expect("an id");
    assert!(id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    // By a prefix of its id; it says which.
    assert_eq!(machine.cowl(["rm", &id[..6]]).ok().trim(), &id[..6]);
    assert_eq!(machine.cowl(["ps", "-a"]).ok().lines().count(), 1);
    assert_eq!(machine.containers(), Vec::<String>::new());
    machine.cowl(["rm", "kept"]).fails(1, "kept");

    let mut child = machine.start("busy");
    let line = machine.cowl(["ps"]).ok().lines().nth(1).expect("one container").to_owned();
    assert!(line.contains("Up ") && line.contains("busy"), "{line}");
    machine.cowl(["rm", "busy"]).fails(1, "busy");
    machine.cowl(["rm", "-f", "busy"]).ok();
    assert_eq!(child.wait().expect("wait").code(), Some(137));
    assert_eq!(machine.containers(), Vec::<String>::new());
}

fn names(machine: &Machine) {
    machine.cowl(["run", "--name", "mine", "busybox", "true"]).ok();
    machine.cowl(["run", "--name", "mine", "busybox", "true"]).fails(125, "mine");
    for wrong in ["-x", "a b", "a/b", ".."] {
        let option = format!("--name={wrong}");
        let outcome = machine.cowl(["run", &option, "busybox", "true"]);
        assert_eq!(outcome.code, Some(125), "name {wrong:?}: {}", outcome.err());
    }
    assert_eq!(machine.cowl(["rm", "mine"]).ok(), "mine\n");
    assert_eq!(machine.containers(), Vec::<String>::new());
}

fn rm_leaves_nothing(machine: &Machine) {
    machine
        .cowl([
            "run",
            "--rm",
            "--name",
            "gone",
            "busybox",
            "sh",
            "-c",
            "mkdir -m 0 /locked; touch /locked/x; exit 5",
        ])
        .ends(5);
    assert_eq!(machine.containers(), Vec::<String>::new());
    left::nothing(machine.dir());
}

fn images_in_use_stay(machine: &Machine) {
    machine.cowl(["run", "--name", "user", "busybox", "true"]).ok();
    machine.cowl(["rmi", "busybox"]).fails(1, "busybox");
    machine.busybox(["true"]).ok();
    machine.cowl(["rm", "user"]).ok();

    machine.cowl(["rmi", "no-such-image"]).fails(1, "no-such-image");
    let before = machine.cowl(["images"]).ok();
    assert!(before.starts_with("REPOSITORY"), "{before}");
    assert!(
        before.lines().any(|line| line.starts_with("busybox ") && line.contains("latest")),
        "{before}"
    );
    machine.cowl(["rmi", "busybox:latest"]).ok();
    assert_eq!(machine.cowl(["images"]).ok().lines().count(), 1);
    machine.busybox(["true"]).fails(125, "busybox");
    // Back again, for the check of the layers.
    machine.load(&machine.path("busybox.tar"));
    machine.busybox(["true"]).ok();
}

fn loads_every_form(machine: &Machine) {
    for compression in ["gzip", "zstd"] {
        machine.cowl(["rmi", "busybox"]).ok();
        let layout = fixture::busybox_layout(machine, compression);
        let said = machine.cowl(["load", "-i", &layout.display().to_string()]).ok();
        assert!(said.contains("Loaded image: busybox:latest"), "{said}");
        assert_eq!(machine.busybox(["echo", compression]).ok(), format!("{compression}\n"));

        // The same layout as one file.
        machine.cowl(["rmi", "busybox"]).ok();
        let file = machine.path(format!("{compression}.tar"));
        let packed = std::process::Command::new("tar")
            .arg("-cf")
            .arg(&file)
            .arg("-C")
            .arg(&layout)
            .arg(".")
            .status();
        assert!(packed.expect("run tar").success());
        machine.load(&file);
        assert_eq!(machine.busybox(["echo", compression]).ok(), format!("{compression}\n"));
    }
    // A second load of what is there changes nothing.
    let before = machine.cowl(["images"]).ok();
    machine.load(&machine.path("gzip.tar"));
    assert_eq!(machine.cowl(["images"]).ok().lines().count(), before.lines().count());
}

fn imports(machine: &Machine) {
    let tree = machine.folder("tree");
    machine.folder("tree/bin");
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("copy busybox");
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).expect("symlink");
    for (option, name) in [("-cf", "plain.tar"), ("-czf", "packed.tar.gz")] {
        let archive = machine.path(name);
        let packed = std::process::Command::new("tar")
            .args([option, &archive.display().to_string(), "-C", &tree.display().to_string(), "."])
            .status();
        assert!(packed.expect("run tar").success());
        machine.cowl(["import", &archive.display().to_string(), "imported:1.0"]).ok();
        assert_eq!(
            machine.cowl(["run", "--rm", "imported:1.0", "/bin/sh", "-c", "echo in"]).ok(),
            "in\n"
        );
        // No command in the image, none given.
        machine.cowl(["run", "--rm", "imported:1.0"]).fails(125, "command");
        machine.cowl(["rmi", "imported:1.0"]).ok();
    }
}

fn diff_says_what_changed(machine: &Machine) {
    let script = "echo new > /etc/new; echo more >> /etc/passwd; rm /etc/group; mkdir -p /made/deep; \
        touch /made/deep/file; rm -r /var; rm -r /home; mkdir /home; chmod 700 /tmp; cat /bin/busybox > /dev/null";
    machine.cowl(["run", "--name", "changed", "busybox", "sh", "-c", script]).ok();
    let mut lines: Vec<String> =
        machine.cowl(["diff", "changed"]).ok().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "A /etc/new",
            "A /made",
            "A /made/deep",
            "A /made/deep/file",
            "C /etc",
            "C /etc/passwd",
            "C /home",
            "C /tmp",
            "D /etc/group",
            "D /var"
        ]
    );
    machine.cowl(["rm", "changed"]).ok();
    machine.cowl(["diff", "changed"]).fails(1, "changed");
    // Nothing changed, nothing said.
    machine.cowl(["run", "--name", "same", "busybox", "cat", "/etc/passwd"]).ok();
    assert_eq!(machine.cowl(["diff", "same"]).ok(), "");
    machine.cowl(["rm", "same"]).ok();
}

fn diff_of_a_running_container(machine: &Machine) {
    let mut child = machine
        .command([
            "run",
            "--rm",
            "--name",
            "live",
            "busybox",
            "sh",
            "-c",
            "echo x > /x; sleep 1000",
        ])
        .spawn()
        .expect("start cowl");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let outcome = machine.cowl(["diff", "live"]);
        if outcome.code == Some(0) && outcome.out() == "A /x\n" {
            break;
        }
        assert!(Instant::now() < deadline, "{} {}", outcome.out(), outcome.err());
        thread::sleep(Duration::from_millis(50));
    }
    machine.cowl(["rm", "-f", "live"]).ok();
    child.wait().expect("wait");
}

/// After a crash the truth is told, and the container can be removed.
fn told_and_removed(machine: &Machine, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let line = loop {
        let all = machine.cowl(["ps", "-a"]).ok();
        let line = all.lines().find(|line| line.contains(name)).expect("the container").to_owned();
        if !line.contains("Up ") {
            break line;
        }
        assert!(Instant::now() < deadline, "still said to run: {line}");
        thread::sleep(Duration::from_millis(50));
    };
    assert!(line.contains("Exited ("), "{line}");
    assert_eq!(left::named(machine.dir(), "sleep 1000"), Vec::<i32>::new());
    machine.cowl(["rm", name]).ok();
    assert_eq!(machine.containers(), Vec::<String>::new());
    machine.busybox(["true"]).ok();
}

fn kill_9_of_the_filesystem(machine: &Machine) {
    let mut child = machine.start("orphan");
    let servers = left::named(machine.dir(), "cowlfs");
    let servers: Vec<i32> = servers.into_iter().filter(|&pid| is(pid, "cowlfs")).collect();
    assert!(!servers.is_empty(), "no cowlfs runs");
    for pid in servers {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill cowlfs");
    }
    let status = child.wait().expect("wait");
    assert!(!status.success(), "{status}");
    told_and_removed(machine, "orphan");
}

fn kill_9_of_cowl(machine: &Machine) {
    let mut child = machine.start("orphan");
    child.kill().expect("kill the command");
    child.wait().expect("wait");
    // The container is not the command's: it lives on, and others can do with it what they like.
    assert!(machine.cowl(["ps"]).ok().contains("orphan"));
    assert_eq!(machine.cowl(["exec", "orphan", "echo", "here"]).ok(), "here\n");
    machine.cowl(["kill", "orphan"]).ok();
    told_and_removed(machine, "orphan");
}

fn kill_9_of_everything(machine: &Machine) {
    let mut child = machine.start("orphan");
    for (pid, _) in left::processes(machine.dir()) {
        // One that dies with another is gone already.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    child.wait().expect("wait");
    told_and_removed(machine, "orphan");
}

fn is(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}

fn info_says_what_was_chosen(machine: &Machine) {
    let text = machine.cowl(["info"]).ok();
    assert!(text.contains("cowlfs") || text.contains("fuse"), "{text}");
    assert!(text.contains(&machine.store().display().to_string()), "{text}");
}
