//! What leaves and enters containers and images: save, export, commit, cp, and the check of the
//! store. The promises are in `runtime/docs/images-and-copies.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;
use std::time::Duration;

use cowl_tests::as_root_and_user;
use cowl_tests::container::archive::{self, Tar};
use cowl_tests::container::{Caller, Machine};

as_root_and_user!(
    saved_images_are_the_same_images,
    a_commit_holds_the_changes_and_nothing_else,
    an_export_is_the_whole_tree,
    files_are_copied_in_and_out,
    copies_never_leave_the_container,
    damage_is_found_and_repaired,
);

cowl_tests::as_single_id!(a_commit_holds_the_changes_and_nothing_else);

fn id(machine: &Machine, name: &str) -> String {
    machine.cowl(["images", "-q", "--no-trunc", name]).ok().trim().to_owned()
}

fn fsck(machine: &Machine) {
    let said = machine.cowl(["system", "fsck"]).ok();
    assert!(said.ends_with("no problems\n"), "{said}");
}

fn saved_images_are_the_same_images(machine: &Machine) {
    let large: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let layers = [
        Tar::default().owner(7, 70_000).file("large", &large).symlink("l", "large").finish(),
        Tar::default().file(".wh.large", b"").pax("mtime", b"12.5").file("new", b"n").finish(),
    ];
    machine.load(&machine.file("in.tar", archive::image("app", &layers)));
    let (app, busybox) = (id(machine, "app"), id(machine, "busybox"));
    let saved = machine.path("work/out.tar");
    machine.cowl(["save", "-o", "out.tar", "app", "busybox"]).ok();
    machine.cowl(["rmi", "app"]).ok();
    machine.load(&saved);
    assert_eq!(id(machine, "app"), app);
    assert_eq!(id(machine, "busybox"), busybox);
    // The layers are in the archive byte for byte, named by their digests.
    let bytes = fs::read(&saved).unwrap();
    for layer in &layers {
        assert!(bytes.windows(512).step_by(512).any(|block| block == &layer[..512]));
    }
    machine.cowl(["save", "missing"]).fails(1, "No such image: missing");
    fsck(machine);
    machine.cowl(["rmi", "app"]).ok();
}

const CHANGES: &str = "echo hi > /etc/new; rm /etc/group; rm -r /home; mkdir /home; \
    ln /etc/new /hard; ln -s /etc/new /sym; mkfifo /fifo; mv /usr /usr2; chmod 700 /var; \
    dd if=/dev/zero of=/holes bs=1 count=1 seek=1000000 2>/dev/null; chown 5:6 /hard; \
    mkdir -p /a/b; echo x > /a/b/c; mkdir '/odd name'";

const LOOK: &str = "cat /hard /sym /a/b/c; ls -d /odd*; stat -c '%h %u %g' /etc/new; \
    stat -c '%n %F %a' /fifo /usr2 /var /home; stat -c %s /holes; ls /usr /etc/group 2>&1; ls -A /home";

fn a_commit_holds_the_changes_and_nothing_else(machine: &Machine) {
    let owners = !matches!(machine.caller, Caller::Single);
    let changes = if owners { CHANGES.to_owned() } else { CHANGES.replace("chown 5:6 /hard;", "") };
    machine.cowl(["run", "--name", "one", "-e", "SET=1", "busybox", "sh", "-c", &changes]).ok();
    let before = machine.cowl(["diff", "one"]).ok();
    let made = machine
        .cowl(["commit", "-m", "why", "-a", "who", "-c", "CMD [\"pwd\"]", "one", "new:1"])
        .ok();
    assert_eq!(made.trim(), id(machine, "new:1"));
    let said = machine.cowl(["run", "--rm", "new:1", "sh", "-c", LOOK]).stdout;
    let said = String::from_utf8(said).unwrap();
    let owner = if owners { "2 5 6" } else { "2 0 0" };
    assert_eq!(
        said,
        format!(
            "hi\nhi\nx\n/odd name\n{owner}\n/fifo fifo 644\n/usr2 directory 755\n\
             /var directory 700\n/home directory 755\n1000001\n\
             ls: /usr: No such file or directory\nls: /etc/group: No such file or directory\n"
        )
    );
    assert_eq!(machine.cowl(["run", "--rm", "new:1"]).ok(), "/\n");
    assert_eq!(machine.cowl(["run", "--rm", "new:1", "sh", "-c", "echo $SET"]).ok(), "1\n");
    // A container of the new image has changed nothing; the old one is as it was.
    machine.cowl(["run", "--name", "two", "new:1", "true"]).ok();
    assert_eq!(machine.cowl(["diff", "two"]).ok(), "");
    assert_eq!(machine.cowl(["diff", "one"]).ok(), before);
    // Twice the same changes is the same layer.
    machine.cowl(["commit", "one", "new:2"]).ok();
    fsck(machine);
    machine.cowl(["rm", "one", "two"]).ok();
    machine.cowl(["rmi", "new:1", "new:2"]).ok();
}

fn an_export_is_the_whole_tree(machine: &Machine) {
    machine.cowl(["run", "--name", "one", "busybox", "sh", "-c", CHANGES]).ok();
    machine.cowl(["export", "-o", "c.tar", "one"]).ok();
    machine.cowl(["import", "c.tar", "flat"]).ok();
    let script = "find / -xdev -path /dev -prune -o -path /proc -prune -o -path /sys -prune -o \
        -exec stat -c '%n %F %a %u %g %s %h' {} + | grep -v -e '^/ ' -e '^/etc ' -e /etc/ho -e /etc/res \
        -e directory | sort; find / -xdev -type d | grep -v -e ^/dev -e ^/proc -e ^/sys | sort";
    let flat = machine.cowl(["run", "--rm", "flat", "/bin/sh", "-c", script]).ok();
    machine.cowl(["commit", "one", "new"]).ok();
    let layered = machine.cowl(["run", "--rm", "new", "sh", "-c", script]).ok();
    assert!(flat.lines().count() > 100, "{flat}");
    assert_eq!(flat, layered);
    machine.cowl(["rm", "one"]).ok();
    machine.cowl(["rmi", "flat", "new"]).ok();
}

fn files_are_copied_in_and_out(machine: &Machine) {
    let work = machine.path("work");
    machine.folder("work/tree");
    machine.folder("work/tree/sub");
    let file = machine.file("work/tree/sub/file", "content");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("sub/file", work.join("tree/link")).unwrap();
    let mut running = machine.start("running");
    machine.cowl(["run", "--name", "stopped", "busybox", "true"]).ok();
    for name in ["running", "stopped"] {
        let to = |path: &str| format!("{name}:{path}");
        machine.cowl(["cp", "tree", &to("/opt")]).ok();
        machine.cowl(["cp", "tree", &to("/opt")]).ok();
        machine.cowl(["cp", "tree/sub/file", &to("/tmp/")]).ok();
        machine.cowl(["cp", "tree/sub/.", &to("/opt/flat")]).ok();
        machine.cowl(["cp", &to("/opt"), &format!("out-{name}")]).ok();
        let out = work.join(format!("out-{name}"));
        for path in ["sub/file", "tree/sub/file", "flat/file"] {
            assert_eq!(fs::read(out.join(path)).unwrap(), b"content", "{name} {path}");
        }
        assert_eq!(fs::read_link(out.join("link")).unwrap().to_str(), Some("sub/file"));
        assert_eq!(fs::metadata(out.join("sub/file")).unwrap().mode() & 0o777, 0o640);
        // A link is copied as one, or followed.
        machine.cowl(["cp", &to("/opt/link"), "as-link"]).ok();
        assert!(fs::symlink_metadata(work.join("as-link")).unwrap().is_symlink());
        fs::remove_file(work.join("as-link")).unwrap();
        machine.cowl(["cp", "-L", &to("/opt/link"), "as-file"]).ok();
        assert_eq!(fs::read(work.join("as-file")).unwrap(), b"content");
        // As an archive, out and in again.
        let archive = machine.cowl(["cp", &to("/opt/sub"), "-"]).stdout;
        machine.cowl_with_input(&archive, ["cp", "-", &to("/root")]).ok();
        machine.cowl(["cp", &to("/root/sub/file"), "back"]).ok();
        assert_eq!(fs::read(work.join("back")).unwrap(), b"content");
        machine.cowl(["cp", &to("/nowhere"), "x"]).fails(1, "no such file or directory");
        machine.cowl(["cp", "tree", &to("/etc/passwd")]).fails(1, "cannot copy a directory");
        machine.cowl(["cp", "tree", &to("/no/such/dir")]).fails(1, "cannot copy into");
    }
    machine.cowl(["cp", "tree", "nobody:/"]).fails(1, "No such container: nobody");
    // What was copied in belongs to the container's root.
    let changes = machine.cowl(["diff", "stopped"]).ok();
    assert!(changes.contains("A /opt/tree/sub/file\n"), "{changes}");
    machine.cowl(["commit", "stopped", "copied"]).ok();
    let said = machine.cowl(["run", "--rm", "copied", "stat", "-c", "%u %g %a", "/tmp/file"]).ok();
    assert_eq!(said, "0 0 640\n");
    machine.cowl(["rm", "-f", "running", "stopped"]).ok();
    running.wait().unwrap();
    machine.cowl(["rmi", "copied"]).ok();
}

fn copies_never_leave_the_container(machine: &Machine) {
    let victim = machine.file("work/victim", "safe");
    machine.file("work/evil", "evil");
    let outside = machine.path("work");
    let script = format!(
        "ln -s {0} /dirlink; ln -s {0}/victim /filelink; ln -s ../../../../../../..{0} /up; \
         echo inside > /secret; ln -s /secret /inner",
        outside.display()
    );
    machine.cowl(["run", "--name", "one", "busybox", "sh", "-c", &script]).ok();
    for target in ["one:/dirlink/victim", "one:/up/victim"] {
        machine.cowl(["cp", "evil", target]).fails(1, "cannot copy");
    }
    // The link itself is replaced, not what it leads to on this machine.
    machine.cowl(["cp", "evil", "one:/filelink"]).ok();
    assert_eq!(fs::read(&victim).unwrap(), b"safe");
    machine.cowl(["cp", "-L", "one:/inner", "got"]).ok();
    assert_eq!(fs::read(machine.path("work/got")).unwrap(), b"inside\n");
    for source in ["one:/dirlink/victim", "one:/up/victim", "one:/dirlink/"] {
        machine.cowl(["cp", source, "stolen"]).fails(1, "no such file or directory");
    }
    // An archive from outside cannot climb either.
    let climbing = Tar::default().file("../../victim", b"evil").finish();
    machine.cowl_with_input(&climbing, ["cp", "-", "one:/tmp"]).fails(1, "'..'");
    let through = Tar::default().symlink("l", outside.to_str().unwrap()).file("l/victim", b"evil");
    machine.cowl_with_input(&through.finish(), ["cp", "-", "one:/tmp"]).fails(1, "cannot");
    // A link on this machine is not written through.
    symlink("victim", machine.path("work/alias")).unwrap();
    machine.cowl(["cp", "one:/secret", "alias"]).ok();
    assert_eq!(fs::read(&victim).unwrap(), b"safe");
    machine.cowl(["rm", "one"]).ok();
}

fn damage_is_found_and_repaired(machine: &Machine) {
    let large = vec![7u8; 200_000];
    let layer = Tar::default().file("small", b"some content here").file("large", &large).finish();
    let image = machine.file("in.tar", archive::image("app", &[layer]));
    machine.load(&image);
    fsck(machine);
    let objects = machine.store().join("objects");
    let find = |name: &str| {
        let mut found = Vec::new();
        let mut look = vec![machine.store().join(name)];
        while let Some(directory) = look.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                if kind.is_dir() {
                    look.push(path)
                } else if kind.is_file() {
                    found.push(path)
                }
            }
        }
        found
    };
    let owned = |path: &std::path::Path, bytes: &[u8]| {
        let kept = fs::metadata(path).unwrap();
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
        std::os::unix::fs::chown(path, Some(kept.uid()), Some(kept.gid())).unwrap();
    };
    assert!(objects.is_dir());
    let object = find("objects")
        .into_iter()
        .find(|path| fs::metadata(path).unwrap().len() == large.len() as u64)
        .unwrap();
    let data = find("layers")
        .into_iter()
        .find(|path| fs::read(path).unwrap().windows(17).any(|part| part == b"some content here"))
        .unwrap();
    for path in [object, data] {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        owned(&path, &bytes);
        let said = machine.cowl(["system", "fsck"]);
        assert_eq!(said.code, Some(1));
        assert!(said.err().contains("--repair") && said.out().contains("1 problem"), "{said:?}");
        let said = machine.cowl(["system", "fsck", "--repair"]).ok();
        assert!(said.contains("removed the image docker.io/library/app:latest"), "{said}");
        fsck(machine);
        // What was taken out can be loaded again, and is whole then.
        machine.load(&image);
        fsck(machine);
        machine.cowl(["save", "-o", "out.tar", "app"]).ok();
    }
    machine.cowl(["rmi", "app"]).ok();
}

/// Whenever a command is killed, the store is right afterwards and holds nothing that is not used.
#[test]
fn kill_at_any_point_leaves_a_right_store() {
    let machine = Machine::new(Caller::Root);
    let layer = |seed: u8| {
        let mut tar = Tar::default();
        for number in 0..200u32 {
            let size = if number % 50 == 0 { 150_000 } else { 900 };
            let content: Vec<u8> =
                (0..size).map(|at: u32| (at.wrapping_mul(number + 7) >> 3) as u8 ^ seed).collect();
            tar = tar.file(&format!("f{number}"), &content);
        }
        tar.finish()
    };
    let image = machine.file("in.tar", archive::image("app", &[layer(1), layer(2), layer(3)]));
    let busybox = cowl_tests::container::fixture::busybox(&machine);
    machine.load(&busybox);
    machine.cowl(["run", "--name", "one", "busybox", "sh", "-c", "echo 1 > /x; rm -r /home"]).ok();
    let commands: [&[&str]; 4] = [
        &["load", "-q", "-i", image.to_str().unwrap()],
        &["commit", "one", "made"],
        &["rmi", "-f", "app"],
        &["image", "prune", "-af"],
    ];
    let mut seed = 1u64;
    for round in 0..24 {
        let command = commands[round % commands.len()];
        let mut child = machine
            .command(command)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start cowl");
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Any moment will do: the later ones are after its end.
        std::thread::sleep(Duration::from_micros((seed >> 33) % 120_000));
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 3 == 2 {
            fsck(&machine);
        }
    }
    machine.load(&image);
    fsck(&machine);
    let layers = machine.layers();
    machine.cowl(["rm", "-f", "one"]).ok();
    machine.cowl(["image", "prune", "-af"]).ok();
    // Everything is gone: nothing that a killed command left stays.
    for directory in ["layers", "tmp", "blobs/sha256", "images"] {
        let left = fs::read_dir(machine.store().join(directory)).unwrap().count();
        assert_eq!(left, 0, "{directory}");
    }
    for start in fs::read_dir(machine.store().join("objects")).unwrap() {
        assert_eq!(fs::read_dir(start.unwrap().path()).unwrap().count(), 0);
    }
    std::io::stdout().flush().unwrap();
    machine.load(&busybox);
    machine.finish(&layers);
}
