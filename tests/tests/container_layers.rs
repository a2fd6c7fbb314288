//! Layers as other tools write them: what the container then sees.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;

use cowl_tests::as_root_and_user;
use cowl_tests::container::Machine;
use cowl_tests::container::archive::{self, Tar};

as_root_and_user!(
    a_directory_without_an_entry_keeps_the_lower_ones_attributes,
    missing_parents_are_made,
    a_hard_link_may_name_a_file_of_a_lower_layer,
    hard_links_are_one_file,
    whiteouts_hide_lower_layers_only,
    an_opaque_directory_hides_lower_layers_only,
    the_last_entry_of_a_name_wins,
    forms_of_names,
    times_owners_and_attributes,
    configuration_is_honoured,
);

/// A layer with a shell, below the ones a test is about.
fn shell() -> Tar {
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    let tar = Tar::default().directory("bin/").entry("bin/busybox", b'0', "", 0o755, &busybox);
    ["sh", "cat", "ls", "stat", "find", "echo", "readlink", "sort", "env", "pwd", "id"]
        .into_iter()
        .fold(tar, |tar, applet| tar.symlink(&format!("bin/{applet}"), "busybox"))
}

/// What a script says in an image of these layers, a shell below.
#[track_caller]
fn seen(machine: &Machine, layers: impl IntoIterator<Item = Tar>, script: &str) -> String {
    let layers: Vec<Vec<u8>> = std::iter::once(shell()).chain(layers).map(Tar::finish).collect();
    machine.load(&machine.file("layers.tar", archive::image("layers", &layers)));
    let said = machine.cowl(["run", "--rm", "layers", "/bin/sh", "-c", script]).ok();
    machine.cowl(["rmi", "layers"]).ok();
    said
}

fn a_directory_without_an_entry_keeps_the_lower_ones_attributes(machine: &Machine) {
    let lower = Tar::default().owner(7, 8).entry("d/", b'5', "", 0o2750, b"").file("d/old", b"old");
    let upper = Tar::default().file("d/new", b"new");
    let said = seen(machine, [lower, upper], "stat -c '%a %u %g' /d; cat /d/old /d/new");
    assert_eq!(said, "2750 7 8\noldnew");
}

fn missing_parents_are_made(machine: &Machine) {
    let layer = Tar::default().file("a/b/c", b"here");
    let said = seen(machine, [layer], "stat -c '%a %u %g %F' /a /a/b; cat /a/b/c");
    assert_eq!(said, "755 0 0 directory\n755 0 0 directory\nhere");
}

fn a_hard_link_may_name_a_file_of_a_lower_layer(machine: &Machine) {
    let lower = Tar::default().owner(7, 8).entry("one", b'0', "", 0o640, b"content");
    let upper = Tar::default().owner(7, 8).entry("two", b'1', "one", 0o640, b"");
    let said = seen(machine, [lower, upper], "stat -c '%n %a %u %g' /one /two; cat /one /two");
    assert_eq!(said, "/one 640 7 8\n/two 640 7 8\ncontentcontent");
}

fn hard_links_are_one_file(machine: &Machine) {
    let layer = Tar::default()
        .directory("x/")
        .directory("y/")
        .file("x/one", b"content")
        .link("y/two", "x/one")
        .link("three", "/y/two");
    let script = "stat -c '%h' /x/one /y/two /three; echo more >> /three; cat /x/one; \
        test $(stat -c %i /x/one) = $(stat -c %i /three) && echo same";
    assert_eq!(seen(machine, [layer], script), "3\n3\n3\ncontentmore\nsame\n");
}

fn whiteouts_hide_lower_layers_only(machine: &Machine) {
    let lower = Tar::default()
        .directory("d/")
        .file("d/gone", b"")
        .file("d/kept", b"")
        .directory("d/tree/")
        .file("d/tree/leaf", b"")
        .file("d/again", b"lower");
    let upper = Tar::default()
        .file("d/.wh.gone", b"")
        .file("d/.wh.tree", b"")
        .file("d/again", b"upper")
        .file("d/.wh.again", b"")
        .file("d/.wh.never-there", b"");
    let said = seen(machine, [lower, upper], "ls -A /d");
    // OCI image specification: "Files that are present in the same layer as a whiteout file can
    // only be hidden by whiteout files in subsequent layers."
    assert_eq!(said, "again\nkept\n");
}

fn an_opaque_directory_hides_lower_layers_only(machine: &Machine) {
    let lower = Tar::default()
        .directory("d/")
        .file("d/old", b"")
        .directory("d/sub/")
        .file("d/sub/leaf", b"");
    // The mark may come first, last, or between.
    let upper = Tar::default()
        .directory("d/")
        .file("d/before", b"")
        .file("d/.wh..wh..opq", b"")
        .file("d/after", b"")
        .directory("d/sub/");
    assert_eq!(
        seen(machine, [lower.clone(), upper], "find /d | sort"),
        "/d\n/d/after\n/d/before\n/d/sub\n"
    );
    // A third layer sees what the second shows.
    let upper = Tar::default().directory("d/").file("d/.wh..wh..opq", b"");
    let third = Tar::default().file("d/third", b"");
    assert_eq!(seen(machine, [lower, upper, third], "find /d | sort"), "/d\n/d/third\n");
}

fn the_last_entry_of_a_name_wins(machine: &Machine) {
    let layer = Tar::default()
        .file("file", b"first")
        .file("file", b"second")
        .file("to-directory", b"")
        .directory("to-directory/")
        .file("to-directory/inside", b"")
        .symlink("to-file", "/elsewhere")
        .file("to-file", b"plain");
    let said = seen(
        machine,
        [layer],
        "cat /file; ls /to-directory; stat -c %F /to-file; test ! -e /elsewhere",
    );
    assert!(said.starts_with("secondinside\nregular file\n"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

fn forms_of_names(machine: &Machine) {
    let long = format!("long/{}/{}", "d".repeat(200), "f".repeat(255));
    let layer = Tar::default()
        .directory("./")
        .file("./dot", b"")
        .file("/absolute", b"")
        .file("twice//slashed", b"")
        .pax("path", long.as_bytes())
        .file("short", b"")
        .entry("././@LongLink", b'L', "", 0o644, format!("gnu/{}\0", "g".repeat(250)).as_bytes())
        .file("short", b"");
    let said = seen(machine, [layer], "find /dot /absolute /twice /long /gnu -type f | sort");
    let expected = format!("/absolute\n/dot\n/gnu/{}\n/{long}\n/twice/slashed\n", "g".repeat(250));
    assert_eq!(said, expected);
}

fn times_owners_and_attributes(machine: &Machine) {
    let layer = Tar::default()
        .pax("mtime", b"1000000000.123456789")
        .file("time", b"")
        .owner(1234, 60_000)
        .entry("special", b'0', "", 0o6711, b"")
        .owner(0, 0)
        .entry("fifo", b'6', "", 0o620, b"")
        .entry("sticky/", b'5', "", 0o1777, b"");
    let said =
        seen(machine, [layer], "stat -c '%n %F %a %u %g' /special /fifo /sticky; stat -c %y /time");
    assert_eq!(
        said,
        "/special regular empty file 6711 1234 60000\n/fifo fifo 620 0 0\n\
         /sticky directory 1777 0 0\n2001-09-09 01:46:40.123456789 +0000\n"
    );
}

fn configuration_is_honoured(machine: &Machine) {
    let layer = shell()
        .directory("etc/")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nworker:x:70:71::/work:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nstaff:x:71:\nextra:x:72:worker\n")
        .directory("work/")
        .finish();
    let settings = serde_json::json!({
        "Entrypoint": ["/bin/sh", "-c", "echo \"$0 $*\"; id -u; id -g; id -G; pwd; echo $GREETING $HOME"],
        "Cmd": ["one", "two"],
        "Env": ["PATH=/bin", "GREETING=hello"],
        "User": "worker",
        "WorkingDir": "/work",
    });
    let file = machine.file("set.tar", archive::image_with_settings("set", &[layer], &settings));
    machine.load(&file);
    assert_eq!(
        machine.cowl(["run", "--rm", "set"]).ok(),
        "one two\n70\n71\n71 72\n/work\nhello /work\n"
    );
    // Arguments replace the command, not the entrypoint; options replace the rest.
    let said = machine
        .cowl(["run", "--rm", "-u", "0", "-w", "/", "-e", "GREETING=bye", "set", "x", "-y"])
        .ok();
    assert_eq!(said, "x -y\n0\n0\n0\n/\nbye /root\n");
    machine.cowl(["rmi", "set"]).ok();
}
