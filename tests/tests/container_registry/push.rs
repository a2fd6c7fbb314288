//! `cowl push`.

use std::sync::atomic::{AtomicBool, Ordering};

use cowl_tests::container::archive::digest;
use cowl_tests::container::{Caller, Machine, check};

use super::front::{Deed, Front};
use super::http::{self, Message};
use super::pull::settings;
use super::server::{Image, Layer, Registry, noise};

cowl_tests::as_root_and_user!(pushes_and_says_so);

fn starts_upload(request: &Message) -> bool {
    request.method() == "POST" && request.path().contains("/blobs/uploads/")
}

fn pushes_and_says_so(machine: &Machine) {
    let registry = Registry::start();
    let name = registry.name("team/box:1");
    machine.cowl(["push", &name]).fails(1, "An image does not exist locally with the tag");
    machine.cowl(["tag", "busybox", &name]).ok();
    let id = machine.cowl(["inspect", "-f", "{{.Id}}", "busybox"]).ok().trim().to_owned();
    let layer = machine.cowl(["inspect", "-f", "{{index .RootFS.Layers 0}}", "busybox"]).ok();
    let layer = &layer.trim()["sha256:".len()..][..12];

    let said = machine.cowl(["push", &name]).ok();
    let lines: Vec<&str> = said.lines().collect();
    let title = format!("The push refers to repository [{}]", registry.name("team/box"));
    assert_eq!(lines[..2], [title.as_str(), &format!("{layer}: Preparing")], "{said}");
    assert_eq!(lines[2], format!("{layer}: Pushed"), "{said}");
    let digest_line = lines[3];
    assert!(digest_line.starts_with("1: digest: sha256:"), "{said}");
    let again = machine.cowl(["image", "push", &name]).ok();
    assert!(again.contains(&format!("{layer}: Layer already exists")), "{again}");
    assert!(again.contains(digest_line), "{again}");
    assert_eq!(machine.cowl(["push", "-q", &name]).ok(), format!("{name}\n"));

    // What went out comes back, and runs; so it does for somebody else.
    machine.cowl(["rmi", &name, "busybox"]).ok();
    machine.cowl(["pull", &name]).ok();
    assert_eq!(machine.cowl(["inspect", "-f", "{{.Id}}", &name]).ok().trim(), id);
    assert_eq!(machine.cowl(["run", "--rm", &name, "echo", "back"]).ok(), "back\n");
    let seen = std::process::Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .expect("run skopeo");
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let wanted = digest_line.split_whitespace().nth(2).expect("a digest");
    assert!(String::from_utf8_lossy(&seen.stdout).contains(wanted));
}

#[test]
fn what_came_goes_out_unchanged() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let image = Image {
            layers: vec![
                Layer::plain("a", &noise(5, 2000))
                    .packed("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
                Layer::plain("b", &noise(6, 2000))
                    .packed("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
            ],
            ..Image::of(&[])
        };
        let manifest = registry.put_image("one", "latest", &image);
        machine.cowl(["pull", &registry.name("one")]).ok();
        // Another repository of the same registry lends the layers.
        let other = registry.name("two");
        machine.cowl(["tag", &registry.name("one"), &other]).ok();
        let said = machine.cowl(["push", &other]).ok();
        assert_eq!(said.matches("Mounted from one").count(), 2, "{said}");
        assert!(said.contains(&format!("latest: digest: sha256:{manifest}")), "{said}");

        // Another registry has nothing: all of it is sent.
        let elsewhere = Registry::start();
        let name = elsewhere.name("three");
        machine.cowl(["tag", &other, &name]).ok();
        machine.cowl(["tag", &other, &format!("{name}:second")]).ok();
        let said = machine.cowl(["push", "-a", &name]).ok();
        assert_eq!(said.matches(": Pushed").count(), 2, "{said}");
        assert!(said.contains("second: digest:") && said.contains("latest: digest:"), "{said}");
        let kept = elsewhere.manifest("three", "second");
        assert_eq!(kept["layers"].as_array().expect("layers").len(), 2, "{kept}");
        machine.cowl(["rmi", "-f", &name]).ok();
        machine.cowl(["pull", &name]).ok();
    });
}

#[test]
fn chunks_are_sent_again() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let source = registry.name("big");
        let image = Image::of(&[("big", noise(7, 300_000).as_slice())]);
        registry.put_image("big", "latest", &image);
        machine.cowl(["pull", &source]).ok();
        settings(machine, r#"{"max-upload-chunk": 100000}"#);
        // The second chunk fails once: before it arrives, or after it did and nobody learns of it.
        // Then the registry stands elsewhere than we think, and it may have to start anew.
        for arrives in [false, true] {
            let elsewhere = Registry::start();
            let target = elsewhere.address;
            let failed = AtomicBool::new(false);
            let front = Front::start(target, move |request| {
                let range = request.header("content-range").unwrap_or("0-");
                let second = request.method() == "PATCH" && !range.starts_with("0-");
                if !second || failed.swap(true, Ordering::SeqCst) {
                    return Deed::Pass;
                }
                if arrives {
                    http::send(target, request);
                }
                let first = "HTTP/1.1 502 Bad Gateway".to_owned();
                Deed::Answer(Message { first, ..Message::default() })
            });
            let name = front.name("big");
            machine.cowl(["tag", &source, &name]).ok();
            let said = machine.cowl(["push", &name]).ok();
            assert!(said.contains(": Pushed"), "{said}");
            assert!(front.count(|request| request.method() == "PATCH") >= 5, "{said}");
            if !arrives {
                assert_eq!(front.count(starts_upload), 2, "layer and configuration");
            }
            // What arrived is what was sent.
            let layers = &elsewhere.manifest("big", "latest")["layers"];
            let blob = layers[0]["digest"].as_str().expect("a digest");
            let line = format!("GET /v2/big/blobs/{blob}");
            let arrived = http::ask(target, &line, &[], b"").body;
            assert_eq!(format!("sha256:{}", digest(&arrived)), blob);
            assert_eq!(layers[0]["size"].as_u64(), Some(arrived.len() as u64));
        }
    });
}
