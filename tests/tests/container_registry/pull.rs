//! `cowl pull`.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use cowl_tests::container::archive::{architecture, digest};
use cowl_tests::container::{Caller, Machine, check};

use super::front::{Deed, Front};
use super::http::{self, Message};
use super::server::{Certificates, Image, Layer, NOBODY, OCI_INDEX, OCI_MANIFEST, Registry, noise};

cowl_tests::as_root_and_user!(pulls_and_says_so);

/// Writes a settings file of the machine's user.
pub fn settings(machine: &Machine, text: &str) {
    for name in ["home/.config", "home/.config/cowl"] {
        if !machine.path(name).exists() {
            machine.folder(name);
        }
    }
    machine.file("home/.config/cowl/daemon.json", text);
}

/// Two small layers, one of them like the fixture's.
fn small() -> Image {
    Image::of(&[("a", b"first".as_slice()), ("b", b"second".as_slice())])
}

fn pulls_and_says_so(machine: &Machine) {
    let registry = Registry::start();
    let image = small();
    let manifest = registry.put_image("team/app", "1.0", &image);
    let name = registry.name("team/app:1.0");
    let short: Vec<String> =
        image.layers.iter().map(|layer| digest(&layer.blob)[..12].to_owned()).collect();

    let said = machine.cowl(["pull", &name]).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"1.0: Pulling from team/app"), "{said}");
    for id in &short {
        for text in ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
        {
            assert!(lines.contains(&format!("{id}: {text}").as_str()), "{id} {text}: {said}");
        }
    }
    let end = [
        format!("Digest: sha256:{manifest}"),
        format!("Status: Downloaded newer image for {name}"),
        name.clone(),
    ];
    assert_eq!(lines[lines.len() - 3..], end, "{said}");

    let again = machine.cowl(["pull", &name]).ok();
    assert!(again.contains(&format!("{}: Already exists", short[0])), "{again}");
    assert!(again.contains(&format!("Status: Image is up to date for {name}")), "{again}");
    assert_eq!(machine.cowl(["image", "pull", "-q", &name]).ok(), format!("{name}\n"));

    // By digest too; then the image has both names, and one line.
    let by_digest = format!("{}@sha256:{manifest}", registry.name("team/app"));
    machine.cowl(["pull", &by_digest]).ok();
    let digests = machine.cowl(["images", "--digests", &registry.name("team/app")]).ok();
    assert_eq!(digests.lines().count(), 2, "{digests}");
    assert!(digests.contains(&manifest) && digests.contains("1.0"), "{digests}");
    assert_eq!(
        machine.cowl(["inspect", "-f", "{{index .RepoDigests 0}}", &by_digest]).ok(),
        format!("{by_digest}\n")
    );

    // The tag moves on: the old image stays, without a tag.
    let newer = Image::of(&[("a", b"first".as_slice()), ("c", b"third".as_slice())]);
    registry.put_image("team/app", "1.0", &newer);
    let said = machine.cowl(["pull", &name]).ok();
    assert!(said.contains(&format!("{}: Already exists", short[0])), "{said}");
    assert!(said.contains("Downloaded newer image"), "{said}");
    let list = machine.cowl(["images", "-q", &registry.name("team/app")]).ok();
    assert_eq!(list.lines().count(), 2, "{list}");

    // What is not there.
    machine.cowl(["pull", &registry.name("team/app:2.0")]).fails(1, "team/app:2.0 not found");
    machine.cowl(["pull", &registry.name("nobody")]).fails(1, "nobody:latest not found");
    machine.cowl(["pull", "UPPER"]).fails(1, "'UPPER' is not a valid image name");
    machine.cowl(["pull", &format!("{NOBODY}/x")]).fails(1, "cannot reach the registry");
    machine.cowl(["rmi", "-f", &by_digest]).ok();
}

#[test]
fn run_gets_what_is_missing() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let archive = format!("docker-archive:{}", machine.path("busybox.tar").display());
        let name = registry.name("box");
        let copied = std::process::Command::new("skopeo")
            .args(["copy", "--dest-tls-verify=false", &archive, &format!("docker://{name}:latest")])
            .output()
            .expect("run skopeo");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        machine.cowl(["run", "--rm", &name, "true"]).fails(125, "No such image");
        let run =
            |when: &str| machine.cowl(["run", "--rm", "--pull", when, &name, "echo", "hello"]);
        let first = run("missing");
        assert_eq!(first.ok(), "hello\n");
        assert!(first.err().contains(&format!("Unable to find image '{name}:latest' locally")));
        assert!(first.err().contains("Downloaded newer image"), "{}", first.err());
        let second = run("missing");
        assert_eq!((second.ok().as_str(), second.err().as_str()), ("hello\n", ""));
        assert!(run("always").err().contains("Image is up to date"));
        drop(registry);
        run("never").ok();
        run("always").ends(125);
    });
}

#[test]
fn all_tags() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        for tag in ["one", "two"] {
            registry.put_image("many", tag, &Image::of(&[("f", tag.as_bytes())]));
        }
        machine.cowl(["pull", "-a", &registry.name("many")]).ok();
        for tag in ["one", "two"] {
            let name = registry.name(&format!("many:{tag}"));
            machine.cowl(["image", "inspect", "-f", "{{.Id}}", &name]).ok();
        }
        machine.cowl(["pull", "-a", &registry.name("many:one")]).fails(1, "tag can't be used");
    });
}

#[test]
fn broken_downloads_are_resumed() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let image = Image::of(&[("big", noise(1, 700_000).as_slice()), ("small", b"x".as_slice())]);
        registry.put_image("big", "latest", &image);
        let blob = digest(&image.layers[0].blob);
        let wanted = blob.clone();
        let tries = AtomicUsize::new(0);
        let front = Front::start(registry.address, move |request| {
            let first_three = || tries.fetch_add(1, Ordering::SeqCst) < 3;
            if request.path().contains(&wanted) && first_three() {
                Deed::Cut(200_000)
            } else {
                Deed::Pass
            }
        });
        let name = front.name("big");
        let said = machine.cowl(["pull", &name]).ok();
        assert!(said.contains("Retrying in"), "{said}");
        machine.cowl(["image", "inspect", &name]).ok();
        let of_blob = |request: &Message| request.path().contains(&blob);
        assert_eq!(front.count(of_blob), 4);
        let resumed = |request: &Message| of_blob(request) && request.header("range").is_some();
        assert_eq!(front.count(resumed), 3);
        let last = front.asked.lock().expect("the log");
        let last = last.iter().rfind(|request| of_blob(request)).expect("a request");
        assert_eq!(last.header("range"), Some("bytes=600000-"));
    });
}

#[test]
fn what_never_comes_is_given_up() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let image = Image::of(&[("big", noise(2, 300_000).as_slice())]);
        registry.put_image("big", "latest", &image);
        settings(machine, r#"{"max-download-attempts": 2}"#);
        let front = Front::start(registry.address, |request| {
            if request.path().contains("/blobs/") && request.header("range").is_some() {
                Deed::Cut(0)
            } else if request.path().contains("/blobs/") {
                Deed::Cut(100_000)
            } else {
                Deed::Pass
            }
        });
        // The configuration is small enough to come in one piece.
        let failed = machine.cowl(["pull", &front.name("big")]);
        failed.ends(1);
        assert!(failed.err().contains("broke off"), "{}", failed.err());
        machine.cowl(["image", "inspect", &front.name("big")]).ends(1);
        assert_eq!(fs::read_dir(machine.store().join("tmp")).expect("tmp").count(), 0);
    });
}

#[test]
fn what_is_not_what_it_should_be_is_refused() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let image = Image::of(&[("f", b"content".as_slice())]);
        let manifest = registry.put_image("app", "latest", &image);
        let before = machine.cowl(["images", "-q"]).ok();
        let layer = digest(&image.layers[0].blob);
        let cases = [
            (layer, "app:latest".to_owned()),
            (manifest.clone(), format!("app@sha256:{manifest}")),
        ];
        for (wanted, name) in cases {
            let address = registry.address;
            let front = Front::start(address, move |request| {
                if !request.path().contains(&wanted) {
                    return Deed::Pass;
                }
                let mut answer = http::send(address, request);
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
                Deed::Answer(answer)
            });
            machine.cowl(["pull", &front.name(&name)]).fails(1, "does not match its digest");
        }
        assert_eq!(machine.cowl(["images", "-q"]).ok(), before);
        // The old format of manifests.
        let old = http::Message {
            first: "HTTP/1.1 200 OK".to_owned(),
            body: br#"{"schemaVersion": 1, "name": "app", "tag": "latest", "fsLayers": []}"#
                .to_vec(),
            ..Default::default()
        };
        let front = Front::start(registry.address, move |request| {
            if request.path().contains("/manifests/") {
                Deed::Answer(old.clone())
            } else {
                Deed::Pass
            }
        });
        machine.cowl(["pull", &front.name("app")]).fails(1, "schema 1");
    });
}

#[test]
fn busy_registries_are_asked_again() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        registry.put_image("app", "latest", &small());
        let tries = AtomicUsize::new(0);
        let front = Front::start(registry.address, move |request| {
            if request.path().contains("/manifests/") && tries.fetch_add(1, Ordering::SeqCst) < 2 {
                let first = "HTTP/1.1 503 Service Unavailable".to_owned();
                return Deed::Answer(http::Message { first, ..Default::default() });
            }
            Deed::Pass
        });
        machine.cowl(["pull", &front.name("app")]).ok();
        assert_eq!(front.count(|request| request.path().contains("/manifests/")), 3);
    });
}

#[test]
fn indexes_and_compressions() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        let gzip = Layer::plain("gz", &noise(3, 1000))
            .packed("gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip");
        let zstd = Layer::plain("zst", &noise(4, 1000))
            .packed("zstd", "application/vnd.oci.image.layer.v1.tar+zstd");
        let ours =
            Image { layers: vec![gzip, zstd.clone()], architecture: architecture().to_owned() };
        let other = Image { layers: vec![zstd], architecture: "s390x".to_owned() };
        let mut manifests = Vec::new();
        for (image, tag) in [(&other, "other"), (&ours, "ours")] {
            let digest = registry.put_image("multi", tag, image);
            let size = registry.manifest("multi", tag).to_string().len();
            manifests.push(serde_json::json!({
                "mediaType": OCI_MANIFEST, "digest": format!("sha256:{digest}"), "size": size,
                "platform": { "os": "linux", "architecture": image.architecture },
            }));
        }
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests,
        });
        let digest = registry.put_manifest("multi", "latest", OCI_INDEX, &index.to_string());
        let name = registry.name("multi");
        let said = machine.cowl(["pull", &name]).ok();
        assert!(said.contains("Using default tag: latest"), "{said}");
        assert!(said.contains(&format!("Digest: sha256:{digest}")), "{said}");
        let what = "{{.Architecture}} {{len .RootFS.Layers}}";
        let shown = |machine: &Machine| machine.cowl(["inspect", "-f", what, &name]).ok();
        assert_eq!(shown(machine), format!("{} 2\n", architecture()));
        machine.cowl(["pull", "--platform", "linux/s390x", &name]).ok();
        assert_eq!(shown(machine), "s390x 1\n");
        machine
            .cowl(["pull", "--platform", "linux/riscv64", &name])
            .fails(1, "no matching manifest for linux/riscv64");
        machine.cowl(["pull", "--platform", "a/b/c/d", &name]).fails(1, "invalid platform");
    });
}

#[test]
fn certificates_and_insecure_registries() {
    check(Caller::Root, |machine| {
        let certificates = Certificates::new();
        let registry = Registry::with_tls(&certificates);
        let host = format!("0.0.0.0:{}", registry.address.port());
        let name = format!("{host}/app");
        // Nothing is in it: what counts is who answers.
        machine.cowl(["pull", &name]).fails(1, "signed by an unknown authority");

        let trusted = machine.path(format!("home/.config/cowl/certs.d/{host}"));
        fs::create_dir_all(&trusted).expect("make a directory");
        fs::copy(certificates.path("ca.crt"), trusted.join("ca.crt")).expect("copy");
        machine.cowl(["pull", &name]).fails(1, "not found");
        fs::write(trusted.join("ca.crt"), "no certificate").expect("write");
        machine.cowl(["pull", &name]).fails(1, "ca.crt");
        fs::remove_dir_all(&trusted).expect("remove");

        settings(machine, &format!(r#"{{"insecure-registries": ["{host}"]}}"#));
        machine.cowl(["pull", &name]).fails(1, "not found");

        // Without TLS: only where that is allowed.
        let plain = Registry::without_tls();
        plain.put_image("app", "latest", &small());
        let name = format!("0.0.0.0:{}/app", plain.address.port());
        machine.cowl(["pull", &name]).fails(1, "does not speak TLS");
        settings(machine, r#"{"insecure-registries": ["0.0.0.0/8"]}"#);
        machine.cowl(["pull", &name]).ok();
        settings(machine, "{");
        machine.cowl(["pull", &name]).fails(1, "daemon.json");
    });
}

#[test]
fn mirrors_come_first() {
    check(Caller::Root, |machine| {
        let registry = Registry::start();
        registry.put_image("library/thing", "latest", &small());
        let mirrors = format!(
            r#"{{"registry-mirrors": ["http://{NOBODY}", "http://{}/"]}}"#,
            registry.address
        );
        settings(machine, &mirrors);
        let said = machine.cowl(["pull", "thing"]).ok();
        assert!(said.contains("latest: Pulling from library/thing"), "{said}");
        assert!(said.ends_with("docker.io/library/thing:latest\n"), "{said}");
        machine.cowl(["image", "inspect", "thing"]).ok();
        // Other registries have no mirrors.
        machine.cowl(["pull", &registry.name("library/thing")]).ok();
        settings(machine, r#"{"registry-mirrors": ["mirror"]}"#);
        machine.cowl(["pull", "thing"]).fails(1, "registry mirror 'mirror'");
    });
}
