//! Archives that are broken or hostile: one sentence, exit code 1, and nothing half-made.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cowl_tests::as_root_and_user;
use cowl_tests::container::archive::{self, Tar};
use cowl_tests::container::{Machine, fixture};

as_root_and_user!(
    missing_file,
    not_an_archive,
    truncated_archive,
    truncated_layer,
    flipped_bits,
    wrong_digest,
    hostile_names,
    symlinks_are_not_followed,
    hard_links_stay_inside,
    whiteouts_stay_inside,
    manifest_paths_stay_inside,
    strange_manifests,
    a_failed_load_keeps_the_old_image,
);

/// Everything below the store, by name, and its size.
fn store(machine: &Machine) -> Vec<(PathBuf, u64)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, u64)>) {
        for entry in fs::read_dir(directory).expect("read the store") {
            let path = entry.expect("read the store").path();
            let status = path.symlink_metadata().expect("stat");
            // Locks and empty rooms may appear at first use.
            if status.is_dir() {
                walk(&path, found);
            } else if status.len() > 0 {
                found.push((path, status.size()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&machine.store(), &mut found);
    found.sort();
    found
}

/// Loading fails in one sentence that says `what`, and leaves the store as it was.
#[track_caller]
fn refused(machine: &Machine, file: &Path, what: &str) {
    let before = store(machine);
    machine.cowl(["load", "-i", &file.display().to_string()]).fails(1, what);
    assert_eq!(store(machine), before, "the store changed");
    machine.busybox(["true"]).ok();
}

fn missing_file(machine: &Machine) {
    refused(machine, Path::new("/no/such/file.tar"), "/no/such/file.tar");
    machine.cowl(["import", "/no/such/file.tar", "x:1"]).fails(1, "/no/such/file.tar");
    machine.cowl(["import", "/no/such/file.tar", "X//:1"]).fails(1, "X//:1");
}

fn not_an_archive(machine: &Machine) {
    let text = machine.file("text", "this is not an archive\n".repeat(100));
    refused(machine, &text, "archive");
    let empty = machine.file("empty", "");
    refused(machine, &empty, "image");
    let folder = machine.folder("folder");
    refused(machine, &folder, "image");
    let zeros = machine.file("zeros", vec![0; 10_240]);
    refused(machine, &zeros, "image");
    let other = machine.file("other.tar", Tar::default().file("hello", b"world").finish());
    refused(machine, &other, "image");
}

fn truncated_archive(machine: &Machine) {
    let whole = fs::read(machine.path("busybox.tar")).expect("read");
    machine.cowl(["rmi", "busybox"]).ok();
    // In a header, in the configuration, in the layer, in the manifest at the end.
    for length in [100, 700, 5_000, whole.len() / 2, whole.len() - 11_000] {
        let part = machine.file("part.tar", &whole[..length]);
        let before = store(machine);
        machine.cowl(["load", "-i", &part.display().to_string()]).fails(1, "cowl: ");
        assert_eq!(store(machine), before, "cut at {length}: the store changed");
    }
    machine.load(&machine.path("busybox.tar"));
}

fn truncated_layer(machine: &Machine) {
    for compression in ["gzip", "zstd"] {
        machine.cowl(["rmi", "busybox"]).ok();
        let layout = fixture::busybox_layout(machine, compression);
        let blobs = layout.join("blobs/sha256");
        let layer = fs::read_dir(&blobs)
            .expect("read")
            .map(|entry| entry.expect("read").path())
            .max_by_key(|path| path.metadata().expect("stat").len())
            .expect("a blob");
        let bytes = fs::read(&layer).expect("read");
        fs::write(&layer, &bytes[..bytes.len() / 2]).expect("cut the layer");
        let before = store(machine);
        machine.cowl(["load", "-i", &layout.display().to_string()]).fails(1, "blobs/sha256");
        assert_eq!(store(machine), before, "the store changed");

        fs::remove_file(&layer).expect("remove the layer");
        machine.cowl(["load", "-i", &layout.display().to_string()]).fails(1, "blobs/sha256");
        assert_eq!(store(machine), before, "the store changed");

        fs::write(&layer, bytes).expect("put the layer back");
        machine.load(&layout);
        machine.busybox(["true"]).ok();
    }
}

fn flipped_bits(machine: &Machine) {
    machine.cowl(["rmi", "busybox"]).ok();
    let whole = fs::read(machine.path("busybox.tar")).expect("read");
    for number in 1..20 {
        let mut bytes = whole.clone();
        let at = number * bytes.len() / 20;
        bytes[at] ^= 0x10;
        let bad = machine.file("bad.tar", &bytes);
        let before = store(machine);
        machine.cowl(["load", "-i", &bad.display().to_string()]).fails(1, "cowl: ");
        assert_eq!(store(machine), before, "byte {at}: the store changed");
    }
    machine.load(&machine.path("busybox.tar"));
}

fn wrong_digest(machine: &Machine) {
    let layer = Tar::default().file("file", b"content").finish();
    let lie = archive::digest(b"something else");
    let bytes = archive::image_with_ids("liar", &[layer], &[lie]);
    refused(machine, &machine.file("liar.tar", bytes), "digest");
}

fn hostile_names(machine: &Machine) {
    let outside = machine.path("work/outside");
    let absolute = outside.display().to_string();
    for name in [
        "../outside",
        "../../../../../../../../../../var/tmp/cowl-outside",
        "a/../../outside",
        "a/../../../x/outside",
    ] {
        let layer = Tar::default().directory("a/").file(name, b"escaped").finish();
        let file =
            machine.file("hostile.tar", archive::image("hostile", std::slice::from_ref(&layer)));
        refused(machine, &file, "outside");
        let file = machine.file("import.tar", layer);
        let before = store(machine);
        machine.cowl(["import", &file.display().to_string(), "hostile:1"]).fails(1, "outside");
        assert_eq!(store(machine), before, "{name}: the store changed");
    }
    assert!(!outside.exists());
    assert!(!Path::new("/var/tmp/cowl-outside").exists());
    // An absolute name means the same below the container's root, as tar and Docker take it; it
    // may also be refused. Never is it a file of this machine.
    let layer = Tar::default().file(&absolute, b"escaped").finish();
    let file = machine.file("absolute.tar", archive::image("absolute", &[layer]));
    let outcome = machine.cowl(["load", "-i", &file.display().to_string()]);
    assert!(!outside.exists());
    if outcome.code == Some(0) {
        machine.cowl(["rmi", "absolute"]).ok();
    } else {
        outcome.fails(1, "absolute.tar");
    }
}

fn symlinks_are_not_followed(machine: &Machine) {
    let outside = machine.folder("outside");
    machine.file("outside/target", "untouched\n");
    let there = outside.display().to_string();
    let up = format!("../../../../../../../../../..{there}");
    for (number, target) in [there.as_str(), up.as_str()].into_iter().enumerate() {
        // The link and what goes through it: in one layer, and in two.
        let link = Tar::default().symlink("link", target);
        let through = |tar: Tar| {
            tar.file("link/new", b"escaped").file("link/target", b"escaped").directory("link/dir/")
        };
        let layers: [Vec<Vec<u8>>; 2] = [
            vec![through(link.clone()).finish()],
            vec![link.clone().finish(), through(Tar::default()).finish()],
        ];
        for (kind, layers) in layers.iter().enumerate() {
            let name = format!("through{number}{kind}");
            let file = machine.file("through.tar", archive::image(&name, layers));
            let outcome = machine.cowl(["load", "-i", &file.display().to_string()]);
            let seen: Vec<_> = fs::read_dir(&outside)
                .expect("read")
                .map(|e| e.expect("read").file_name())
                .collect();
            assert_eq!(seen, ["target"], "{name} wrote outside");
            assert_eq!(fs::read_to_string(outside.join("target")).expect("read"), "untouched\n");
            match outcome.code {
                // Loaded: the last entry of a name wins, inside.
                Some(0) => drop(machine.cowl(["rmi", &name]).ok()),
                _ => outcome.fails(1, "link"),
            }
        }
    }
}

fn hard_links_stay_inside(machine: &Machine) {
    let secret = machine.file("secret", "of this machine\n");
    let absolute = secret.display().to_string();
    for target in
        [absolute.as_str(), "../../../../../../../../../../../../etc/passwd", "no-such-file"]
    {
        let layer = Tar::default().link("stolen", target).finish();
        let file = machine.file("link.tar", archive::image("link", &[layer]));
        refused(machine, &file, "stolen");
    }
    assert_eq!(fs::metadata(&secret).expect("stat").nlink(), 1);
    // Through a symlink of the same layer.
    let layer = Tar::default()
        .symlink("door", &machine.dir().display().to_string())
        .link("stolen", "door/secret")
        .finish();
    let file = machine.file("door.tar", archive::image("door", &[layer]));
    refused(machine, &file, "stolen");
    assert_eq!(fs::metadata(&secret).expect("stat").nlink(), 1);
}

fn whiteouts_stay_inside(machine: &Machine) {
    machine.folder("precious");
    machine.file("precious/file", "precious\n");
    let there = machine.path("precious").display().to_string();
    for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let layer = Tar::default().directory("a/").file("a/b", b"").file(name, b"").finish();
        let file = machine.file("white.tar", archive::image("white", &[layer]));
        let outcome = machine.cowl(["load", "-i", &file.display().to_string()]);
        match outcome.code {
            Some(0) => drop(machine.cowl(["rmi", "white"]).ok()),
            _ => outcome.fails(1, ".wh."),
        }
    }
    let lower = Tar::default().symlink("door", &there).finish();
    let upper = Tar::default().file("door/.wh.file", b"").file("door/.wh..wh..opq", b"").finish();
    let file = machine.file("door.tar", archive::image("door", &[lower, upper]));
    let outcome = machine.cowl(["load", "-i", &file.display().to_string()]);
    assert!(machine.path("precious/file").exists(), "deleted on this machine");
    match outcome.code {
        Some(0) => drop(machine.cowl(["rmi", "door"]).ok()),
        _ => outcome.fails(1, "door"),
    }
    machine.busybox(["true"]).ok();
}

fn manifest_paths_stay_inside(machine: &Machine) {
    // A layout directory whose manifest points out of it.
    let secret = machine.file("secret.json", "{}");
    for config in [secret.display().to_string(), "../secret.json".to_owned()] {
        let manifest =
            serde_json::json!([{ "Config": config, "RepoTags": ["out:latest"], "Layers": [] }]);
        let tar = Tar::default().file("manifest.json", manifest.to_string().as_bytes()).finish();
        refused(machine, &machine.file("out.tar", tar), "secret.json");
    }
    let layout = machine.folder("layout");
    machine.file("layout/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    for digest in ["sha256:../../../../secret.json", "sha256:", "md5:00", "sha256:zz", ""] {
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 2,
            "annotations": { "org.opencontainers.image.ref.name": "out:latest" } }] });
        machine.file("layout/index.json", index.to_string());
        refused(machine, &layout, "cowl: ");
    }
}

fn strange_manifests(machine: &Machine) {
    for text in [
        "",
        "{}",
        "null",
        "[]",
        "[1]",
        "[{}]",
        "[{\"Config\":1}]",
        "[{\"Config\":\"c\",\"RepoTags\":null,\"Layers\":[]}]",
        &"[".repeat(100_000),
    ] {
        let tar = Tar::default().file("manifest.json", text.as_bytes()).finish();
        refused(machine, &machine.file("strange.tar", tar), "archive");
    }
    // More layers in the manifest than ids in the configuration.
    let layer = Tar::default().file("file", b"content").finish();
    let bytes = archive::image_with_ids(
        "many",
        &[layer.clone(), layer.clone()],
        &[archive::digest(&layer)],
    );
    refused(machine, &machine.file("many.tar", bytes), "layers");
}

fn a_failed_load_keeps_the_old_image(machine: &Machine) {
    let good = Tar::default().file("file", b"new busybox").finish();
    let bad = archive::image_with_ids(
        "busybox",
        &[good.clone(), good],
        &[archive::digest(b"1"), archive::digest(b"2")],
    );
    let file = machine.file("bad.tar", bad);
    refused(machine, &file, "digest");
    assert_eq!(machine.busybox(["echo", "old"]).ok(), "old\n");
}
