//! Volumes: made, filled, shared, kept and removed; and binds beside them.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic)]

use std::fs;

use cowl_tests::as_root_and_user;
use cowl_tests::container::Machine;

as_root_and_user!(
    a_named_volume_outlives_its_containers,
    a_new_volume_has_the_images_content,
    anonymous_volumes_go_with_rm,
    volumes_are_listed_and_inspected,
    a_volume_in_use_stays,
    links_in_a_volume_do_not_lead_out,
);

fn a_named_volume_outlives_its_containers(machine: &Machine) {
    machine
        .cowl(["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "echo kept > /d/file"])
        .ok();
    let again = [
        "run",
        "--rm",
        "-v",
        "data:/other:ro",
        "busybox",
        "sh",
        "-c",
        "cat /other/file; touch /other/x 2>/dev/null || echo read-only",
    ];
    assert_eq!(machine.cowl(again).ok(), "kept\nread-only\n");
    let mount =
        ["run", "--rm", "--mount", "type=volume,src=data,dst=/m", "busybox", "cat", "/m/file"];
    assert_eq!(machine.cowl(mount).ok(), "kept\n");
    assert_eq!(machine.cowl(["volume", "rm", "data"]).ok(), "data\n");
    assert_eq!(machine.cowl(["volume", "ls", "-q"]).ok(), "");
}

fn a_new_volume_has_the_images_content(machine: &Machine) {
    let script = "head -n 1 /etc/passwd; stat -c %a /etc; rm /etc/group; test -s /etc/hosts";
    let first = machine.cowl(["run", "--rm", "-v", "etc:/etc", "busybox", "sh", "-c", script]).ok();
    assert_eq!(first, "root:x:0:0:root:/root:/bin/sh\n755\n");
    // What was removed stays removed: only a new volume is filled.
    let second = machine.cowl(["run", "--rm", "-v", "etc:/etc", "busybox", "ls", "/etc"]).ok();
    assert!(second.contains("passwd") && !second.contains("group"), "{second}");
    let bare = [
        "run",
        "--rm",
        "-v",
        "bare:/etc:nocopy",
        "busybox",
        "sh",
        "-c",
        "test -e /etc/passwd || echo none",
    ];
    assert_eq!(machine.cowl(bare).ok(), "none\n");
    machine.cowl(["volume", "rm", "etc", "bare"]).ok();
}

fn anonymous_volumes_go_with_rm(machine: &Machine) {
    machine.cowl(["run", "--rm", "-v", "/d", "busybox", "touch", "/d/x"]).ok();
    assert_eq!(machine.cowl(["volume", "ls", "-q"]).ok(), "");
    machine.cowl(["volume", "create", "named"]).ok();
    machine.cowl(["run", "--rm", "-v", "named:/n", "busybox", "true"]).ok();
    assert_eq!(machine.cowl(["volume", "ls", "-q"]).ok(), "named\n");
    let pruned = machine.cowl(["volume", "prune", "-f"]).ok();
    assert!(pruned.starts_with("Total reclaimed space:"), "{pruned}");
    let pruned = machine.cowl(["volume", "prune", "-f", "-a"]).ok();
    assert!(pruned.contains("Deleted Volumes:\nnamed\n"), "{pruned}");
}

fn volumes_are_listed_and_inspected(machine: &Machine) {
    assert_eq!(machine.cowl(["volume", "create", "--label", "a=b", "one"]).ok(), "one\n");
    machine.cowl(["volume", "create", "two"]).ok();
    let table = machine.cowl(["volume", "ls"]).ok();
    assert!(table.starts_with("DRIVER    VOLUME NAME\nlocal     one\n"), "{table}");
    assert_eq!(machine.cowl(["volume", "ls", "-q", "--filter", "label=a=b"]).ok(), "one\n");
    let place = machine.cowl(["volume", "inspect", "-f", "{{.Mountpoint}}", "one"]).ok();
    assert!(fs::metadata(place.trim()).expect("the volume's place").is_dir());
    machine.cowl(["volume", "inspect", "three"]).ends(1);
    machine.cowl(["volume", "create", "../x"]).fails(1, "volume name");
    machine.cowl(["volume", "rm", "three"]).fails(1, "no such volume");
    machine.cowl(["volume", "rm", "-f", "one", "two", "three"]).ok();
}

fn a_volume_in_use_stays(machine: &Machine) {
    machine.cowl(["run", "--name", "user", "-v", "data:/d", "busybox", "touch", "/d/x"]).ok();
    machine.cowl(["volume", "rm", "data"]).fails(1, "volume is in use");
    let from = [
        "run",
        "--rm",
        "--volumes-from",
        "user:ro",
        "busybox",
        "sh",
        "-c",
        "ls /d; touch /d/y 2>/dev/null || echo read-only",
    ];
    assert_eq!(machine.cowl(from).ok(), "x\nread-only\n");
    machine.cowl(["rm", "user"]).ok();
    machine.cowl(["volume", "rm", "data"]).ok();
}

fn links_in_a_volume_do_not_lead_out(machine: &Machine) {
    let secret = machine.folder("secret");
    fs::write(secret.join("file"), "secret").expect("write");
    let link = format!(
        "mkdir /d/in; ln -s {} /d/out; ln -s in /d/good; echo inside > /d/in/file",
        secret.display()
    );
    machine.cowl(["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", &link]).ok();
    let at = |path: &str| format!("type=volume,src=data,dst=/m,volume-subpath={path}");
    machine.cowl(["run", "--rm", "--mount", &at("out"), "busybox", "cat", "/m/file"]).ends(125);
    machine.cowl(["run", "--rm", "--mount", &at("../.."), "busybox", "cat", "/m/in/file"]).ok();
    let good = machine.cowl(["run", "--rm", "--mount", &at("good"), "busybox", "cat", "/m/file"]);
    assert_eq!(good.ok(), "inside\n");
    // A mountpoint inside of it is resolved within the container as well.
    let bind = machine.folder("bind");
    let flag = format!("{}:/d/out/new", bind.display());
    machine.cowl(["run", "--rm", "-v", "data:/d", "-v", &flag, "busybox", "true"]).ok();
    assert_eq!(fs::read_dir(&secret).expect("list").count(), 1);
    machine.cowl(["volume", "rm", "data"]).ok();
}
