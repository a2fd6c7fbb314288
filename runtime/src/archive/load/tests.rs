use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::*;

fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
    .to_string()
    .into_bytes()
}

/// An OCI layout as a directory.
struct Layout {
    top: tempfile::TempDir,
}

impl Layout {
    fn new() -> Layout {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("blobs/sha256")).unwrap();
        fs::write(top.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { top }
    }

    fn blob(&self, media_type: &str, content: &[u8]) -> serde_json::Value {
        let digest = Digest::of(content);
        fs::write(self.top.path().join("blobs/sha256").join(digest.hex()), content).unwrap();
        serde_json::json!({
            "mediaType": media_type, "digest": digest.to_string(), "size": content.len(),
        })
    }

    fn image(&self, layers: &[&[u8]], packed: &[&[u8]]) -> serde_json::Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", &config(layers));
        let layers: Vec<_> = packed
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar", layer))
            .collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    fn index(&self, manifests: &[serde_json::Value]) {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.top.path().join("index.json"), index.to_string()).unwrap();
    }

    fn path(&self) -> &Path {
        self.top.path()
    }

    fn tar(&self) -> PathBuf {
        let path = self.top.path().with_extension("tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        builder.append_dir_all(".", self.top.path()).unwrap();
        builder.finish().unwrap();
        path
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let top = tempfile::tempdir().unwrap();
    let store = Store::open(top.path()).unwrap();
    (top, store)
}

fn assert_untouched(store: &Store) {
    let store = Store::open(store.root()).unwrap();
    assert!(store.images().unwrap().is_empty());
    for directory in ["layers", "tmp", "images", "blobs/sha256"] {
        let count = fs::read_dir(store.root().join(directory)).unwrap().count();
        assert_eq!(count, 0, "{directory}");
    }
}

#[test]
fn layouts_as_directory_file_and_compressed_file() {
    let (a, b, c) = (layer(&[("a", "1")]), layer(&[("b", "2")]), layer(&[("c", "3")]));
    let layout = Layout::new();
    let packed_c = zstd::encode_all(&c[..], 1).unwrap();
    let mut image = layout.image(&[&a, &b, &c], &[&a, &gzip(&b), &packed_c]);
    image["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "app:v1"});
    layout.index(&[image.clone()]);
    let archive = layout.tar();
    let packed = archive.with_extension("tar.gz");
    fs::write(&packed, gzip(&fs::read(&archive).unwrap())).unwrap();
    for path in [layout.path(), &archive, &packed] {
        let (_top, store) = store();
        let outcome = load(&store, Input::Path(path)).unwrap();
        assert_eq!(outcome.images[0].names[0].familiar(), "app:v1");
        let image = store.resolve("app:v1").unwrap();
        assert_eq!(image.config.cmd, ["sh"]);
        let layers = image.layer_dirs();
        assert_eq!(layers.len(), 3);
        for (name, at, wanted) in [("c", 0, &c), ("b", 1, &b), ("a", 2, &a)] {
            let packed = crate::view::open(&layers[at]).unwrap();
            assert!(packed.lookup(name.as_bytes()).unwrap().is_some());
            let mut stream = Vec::new();
            let record = &image.record().layers[2 - at];
            store.layer_stream(record).unwrap().read_to_end(&mut stream).unwrap();
            assert_eq!(&stream, wanted);
        }
        assert_eq!(image.record().layers[1].blob_digest, Digest::of(&gzip(&b)));
        // Again: nothing new, nothing moved.
        assert!(load(&store, Input::Path(path)).unwrap().renamed.is_empty());
        assert_eq!(store.images().unwrap().len(), 1);
    }
    fs::remove_file(archive).unwrap();
    fs::remove_file(packed).unwrap();
}

#[test]
fn indexes_choose_this_machine_and_skip_attestations() {
    let a = layer(&[("a", "1")]);
    let layout = Layout::new();
    let mut ours = layout.image(&[&a], &[&a]);
    ours["platform"] = serde_json::json!({"os": "linux", "architecture": crate::archive::manifest::architecture()});
    let mut other = layout.image(&[], &[]);
    other["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let mut attestation = layout.image(&[], &[]);
    attestation["annotations"] =
        serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
    let nested = serde_json::json!({"manifests": [other, attestation, ours]}).to_string();
    let mut index = layout.blob("application/vnd.oci.image.index.v1+json", nested.as_bytes());
    index["annotations"] =
        serde_json::json!({"io.containerd.image.name": "docker.io/library/multi:1"});
    layout.index(&[index]);
    let (_top, store) = store();
    load(&store, Input::Path(layout.path())).unwrap();
    assert_eq!(store.resolve("multi:1").unwrap().layer_dirs().len(), 1);

    let foreign = serde_json::json!({"manifests": [other, other]}).to_string();
    layout.index(&[layout.blob("application/vnd.oci.image.index.v1+json", foreign.as_bytes())]);
    let error = load(&store, Input::Path(layout.path())).unwrap_err().to_string();
    assert!(error.contains("linux/s390x"), "{error}");
}

/// Whatever byte of whatever blob is changed, cut or missing: an error, and nothing is kept.
#[test]
fn damage_is_found_and_nothing_is_kept() {
    let (a, b) = (layer(&[("a", "1")]), layer(&[("b", "2")]));
    let layout = Layout::new();
    let image = layout.image(&[&a, &b], &[&a, &gzip(&b)]);
    layout.index(&[image]);
    let (_top, store) = store();
    let blobs: Vec<PathBuf> = fs::read_dir(layout.path().join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(blobs.len(), 4);
    for blob in blobs {
        let whole = fs::read(&blob).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            fs::write(&blob, &broken).unwrap();
            let error = load(&store, Input::Path(layout.path())).unwrap_err().to_string();
            let told = ["does not match its digest", "corrupt"].iter().any(|s| error.contains(s));
            assert!(told || at == 0, "{error}");
            fs::write(&blob, &whole[..at]).unwrap();
            load(&store, Input::Path(layout.path())).unwrap_err();
        }
        fs::remove_file(&blob).unwrap();
        let error = load(&store, Input::Path(layout.path())).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
        fs::write(&blob, &whole).unwrap();
        assert_untouched(&store);
    }
    load(&store, Input::Path(layout.path())).unwrap();
}

#[test]
fn a_configuration_that_names_other_layers_is_refused() {
    let (a, b) = (layer(&[("a", "1")]), layer(&[("b", "2")]));
    let layout = Layout::new();
    let (_top, store) = store();
    layout.index(&[layout.image(&[&b], &[&a])]);
    let error = load(&store, Input::Path(layout.path())).unwrap_err().to_string();
    assert!(error.contains("does not match its digest"), "{error}");
    layout.index(&[layout.image(&[&a], &[&a, &b])]);
    let error = load(&store, Input::Path(layout.path())).unwrap_err().to_string();
    assert!(error.contains("names 1 layers"), "{error}");
    assert_untouched(&store);
    // Also when the layer is already there: a wrong one is not taken for it.
    layout.index(&[layout.image(&[&a], &[&a])]);
    load(&store, Input::Path(layout.path())).unwrap();
    layout.index(&[layout.image(&[&a], &[&b])]);
    load(&store, Input::Path(layout.path())).unwrap_err();
}

#[test]
fn docker_archives_with_links_names_and_without() {
    let a = layer(&[("a", "1")]);
    let config = config(&[&a, &a]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let manifest = serde_json::json!([
        {"Config": name, "RepoTags": ["app:1", "reg.io:5000/app:2"],
         "Layers": ["one/layer.tar", "two/layer.tar"]},
        {"Config": name, "RepoTags": null, "Layers": ["one/layer.tar", "two/layer.tar"]},
    ])
    .to_string();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    };
    add("one/VERSION", b"1.0");
    add("one/layer.tar", &a);
    add(&name, &config);
    add("manifest.json", manifest.as_bytes());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "two/layer.tar", "../one/layer.tar").unwrap();
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("saved.tar");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let (_top, store) = store();
    let outcome = load(&store, Input::Path(&path)).unwrap();
    assert_eq!(outcome.images.len(), 2);
    let image = store.resolve("reg.io:5000/app:2").unwrap();
    assert_eq!(image.names().len(), 2);
    // The same layer twice is one directory of the union.
    assert_eq!((image.record().layers.len(), image.layer_dirs().len()), (2, 1));
}

#[test]
fn what_is_no_image_is_refused_with_a_sentence() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("file");
    let (_top, store) = store();
    let plain = layer(&[("hello", "x")]);
    let long = layer(&[("manifest.json", &"x".repeat(5000))]);
    let cases: [(&[u8], &str); 6] = [
        (b"garbage", "not a tar archive"),
        (b"", "no image"),
        (&plain, "neither manifest.json nor index.json"),
        (&layer(&[("manifest.json", "{")]), "cannot be understood"),
        (&layer(&[("manifest.json", r#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]), "missing"),
        (&long[..2000], "truncated"),
    ];
    for (content, expected) in cases {
        fs::write(&path, content).unwrap();
        let error = load(&store, Input::Path(&path)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = load(&store, Input::Path(&top.path().join("absent"))).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
    assert_untouched(&store);
}

/// A layout whose blobs are links to files outside gives nothing of them away.
#[test]
fn links_in_a_directory_do_not_lead_out() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "[]").unwrap();
    let layout = Layout::new();
    std::os::unix::fs::symlink(secret.path(), layout.path().join("manifest.json")).unwrap();
    let (_top, store) = store();
    let error = load(&store, Input::Path(layout.path())).unwrap_err().to_string();
    assert!(error.contains("no image"), "{error}");
}

/// What is saved is loaded again as the same images, and saved again as the same archive.
#[test]
fn what_is_saved_comes_back() {
    use crate::archive::save::{save, select};
    let (a, b, c) = (layer(&[("a", &"1".repeat(200_000))]), layer(&[("b", "2")]), layer(&[]));
    let layout = Layout::new();
    let mut one = layout.image(&[&a, &b], &[&gzip(&a), &b]);
    one["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "app:v1"});
    let mut two = layout.image(&[&a, &c], &[&a, &c]);
    two["annotations"] = serde_json::json!({"io.containerd.image.name": "reg.io:5000/u/app:v2"});
    layout.index(&[one.clone(), two]);
    let (_top, first) = store();
    load(&first, Input::Path(layout.path())).unwrap();
    let targets = ["app".to_owned(), "reg.io:5000/u/app:v2".to_owned()];
    let write = |store: &Store, targets: &[String]| {
        let mut archive = Vec::new();
        save(store, &select(store, targets).unwrap(), &mut archive).unwrap();
        archive
    };
    let archive = write(&first, &targets);
    let (top, second) = store();
    let path = top.path().join("tmp").with_extension("tar");
    fs::write(&path, &archive).unwrap();
    let outcome = load(&second, Input::Path(&path)).unwrap();
    assert_eq!(outcome.images.len(), 2);
    for name in ["app:v1", "reg.io:5000/u/app:v2"] {
        assert_eq!(first.resolve(name).unwrap().id, second.resolve(name).unwrap().id);
    }
    assert!(write(&second, &targets) == archive);
    // By its id an image is saved without a name.
    let id = first.resolve("app:v1").unwrap().id;
    let chosen = select(&first, &[id.short(), "app:v1".to_owned(), id.to_string()]).unwrap();
    assert_eq!(chosen.len(), 1);
    assert_eq!(chosen[0].names.len(), 1);
    assert!(select(&first, &["missing".to_owned()]).is_err());
}

/// A stored layer that was changed behind the store's back is noticed when it is read.
#[test]
fn a_damaged_layer_is_not_saved() {
    let a = layer(&[("a", "content"), ("b", &"large".repeat(50_000))]);
    let layout = Layout::new();
    layout.index(&[layout.image(&[&a], &[&a])]);
    let (_top, store) = store();
    load(&store, Input::Path(layout.path())).unwrap();
    let image = store.images().unwrap().remove(0);
    let record = &image.record().layers[0];
    let read = || {
        std::io::copy(&mut store.layer_stream(record)?, &mut std::io::sink())
            .map_err(|error| StoreError::Packed(error.to_string()))
    };
    read().unwrap();
    let data = store.root().join("layers").join(&record.directory).join("layer.data");
    let mut bytes = fs::read(&data).unwrap();
    let at = bytes.windows(7).position(|window| window == b"content").unwrap();
    bytes[at] ^= 1;
    fs::remove_file(&data).unwrap();
    fs::write(&data, &bytes).unwrap();
    let error = read().unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}
