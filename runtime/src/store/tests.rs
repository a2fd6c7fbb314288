use super::*;
use crate::image::LayerRecord;

fn add(store: &Store, label: &str, layers: &[&str], names: &[&str]) -> Digest {
    let config = format!(r#"{{"config":{{"Labels":{{"l":"{label}"}}}}}}"#).into_bytes();
    let mut transaction = store.begin().unwrap();
    let mut records = Vec::new();
    let mut chain = None;
    for layer in layers {
        let diff_id = Digest::of(layer.as_bytes());
        let chain_id = Digest::chain(chain, diff_id);
        chain = Some(chain_id);
        let info = LayerInfo {
            diff_id,
            diff_size: 1,
            size: 10,
            entries: 1,
            depends_on_parents: layer.starts_with('+'),
            lists_root: false,
            blob_digest: diff_id,
            blob_size: 1,
            media_type: String::new(),
        };
        if transaction.find_layer(diff_id, chain_id).unwrap().is_none() {
            let staged = transaction.stage_layer().unwrap();
            let mut writer = staged.writer().unwrap();
            let meta = cowl_fs::packed::Meta::default();
            let content = layer.repeat(LARGE);
            writer
                .file(b"file", &meta, content.len() as u64, None, &mut content.as_bytes())
                .unwrap();
            writer.finish().unwrap();
            transaction.add_layer(staged, info.clone(), chain_id).unwrap();
        }
        records.push(LayerRecord {
            diff_id,
            directory: info.directory(chain_id),
            size: 10,
            blob_digest: diff_id,
            blob_size: 1,
            media_type: String::new(),
            lists_root: false,
        });
    }
    let id = Digest::of(&config);
    let record = ImageRecord { id, manifest: None, layers: records };
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    transaction.add_image(record, config, None, names);
    transaction.commit().unwrap();
    id
}

/// Makes a content large enough to become an object of its own.
const LARGE: usize = 100_000;

/// Every object in the store.
fn objects(store: &Store) -> usize {
    let directories = fs::read_dir(store.path("objects")).unwrap();
    directories.map(|found| fs::read_dir(found.unwrap().path()).unwrap().count()).sum()
}

fn layers(store: &Store) -> usize {
    fs::read_dir(store.path("layers")).unwrap().count()
}

fn rmi(store: &Store, target: &str, force: bool) -> Result<Vec<Removed>, StoreError> {
    store.remove(&Removal { target, force, users: &|_| Ok(Vec::new()) })
}

#[test]
fn images_are_found_by_name_id_and_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let id = add(&store, "a", &["base"], &["debian", "debian:12"]);
    for name in ["debian", "docker.io/library/debian:12", &id.to_string(), &id.hex(), &id.short()] {
        assert_eq!(store.resolve(name).unwrap().id, id, "{name}");
    }
    assert!(matches!(store.resolve("debian:13"), Err(StoreError::NoSuchImage(_))));
    assert!(matches!(store.resolve("UPPER"), Err(StoreError::Reference(_))));
    let image = store.resolve("debian").unwrap();
    assert_eq!(image.size(), 10);
    assert_eq!(image.layer_dirs().len(), 1);
    assert!(crate::view::open(&image.layer_dirs()[0]).unwrap().lookup(b"file").unwrap().is_some());
    add(&store, "b", &["base"], &[]);
    assert!(matches!(store.resolve(""), Err(StoreError::Reference(_))));
}

#[test]
fn shared_layers_go_with_their_last_image() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    add(&store, "a", &["base", "one"], &["a"]);
    add(&store, "b", &["base", "two"], &["b"]);
    assert_eq!((layers(&store), objects(&store)), (3, 3));
    let removed = rmi(&store, "a", false).unwrap();
    assert_eq!(removed.len(), 3, "{removed:?}");
    assert_eq!(removed[0], Removed::Untagged("a:latest".to_owned()));
    assert_eq!((layers(&store), objects(&store)), (2, 2));
    rmi(&store, "b", false).unwrap();
    assert_eq!((layers(&store), objects(&store)), (0, 0));
    assert_eq!(fs::read_dir(store.path("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
    assert!(!store.path("dirty").exists());
}

#[test]
fn a_layer_that_depends_on_its_parents_is_kept_per_chain() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    add(&store, "a", &["base", "+dependent"], &["a"]);
    add(&store, "b", &["other", "+dependent"], &["b"]);
    assert_eq!(layers(&store), 4);
    add(&store, "c", &["+dependent"], &["c"]);
    assert_eq!(layers(&store), 5);
    add(&store, "d", &["base", "+dependent"], &["d"]);
    assert_eq!(layers(&store), 5);
}

#[test]
fn names_move_and_images_in_use_stay() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let old = add(&store, "a", &["base"], &["app", "x/other"]);
    let new = add(&store, "b", &["base"], &["app"]);
    assert_eq!(store.resolve("app").unwrap().id, new);
    let users = |_: &Digest| Ok(vec!["0123456789abcdef".to_owned()]);
    let removal = Removal { target: "app", force: false, users: &users };
    let error = store.remove(&removal).unwrap_err().to_string();
    assert!(error.contains("container 0123456789ab is using"), "{error}");
    let removal = Removal { force: true, ..removal };
    assert_eq!(store.remove(&removal).unwrap(), [Removed::Untagged("app:latest".to_owned())]);
    assert!(store.resolve(&new.hex()).unwrap().names().is_empty());
    add(&store, "a", &["base"], &["app"]);
    assert!(matches!(rmi(&store, &old.hex(), false), Err(StoreError::Conflict(_))));
    assert_eq!(rmi(&store, "app", false).unwrap().len(), 1);
    assert_eq!(rmi(&store, &old.hex(), false).unwrap().len(), 2);
}

#[test]
fn what_a_killed_load_left_is_reclaimed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    add(&store, "a", &["base"], &["a"]);
    // As after kill -9: staged files, a published layer without its image, the note.
    fs::create_dir_all(store.path("tmp/1-1-1/layer-0/deep")).unwrap();
    fs::create_dir(store.path("layers").join(Digest::of(b"x").hex())).unwrap();
    fs::create_dir(store.path("objects/zz")).unwrap();
    fs::write(store.path("objects/zz/orphan"), "").unwrap();
    fs::write(store.path("dirty"), "").unwrap();
    // Not while another command is loading.
    let other = store.begin().unwrap();
    Store::open(directory.path()).unwrap();
    assert_eq!(layers(&store), 2);
    drop(other);
    Store::open(directory.path()).unwrap();
    assert_eq!((layers(&store), objects(&store)), (1, 1));
    assert_eq!(fs::read_dir(store.path("tmp")).unwrap().count(), 0);
}

#[test]
fn other_directories_and_newer_stores_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious"), "").unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::NotAStore(_))));
    let directory = tempfile::tempdir().unwrap();
    Store::open(directory.path()).unwrap();
    let version = r#"{"format":"cowl-store","version":3}"#;
    fs::write(directory.path().join("version.json"), version).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { .. })));
    fs::write(directory.path().join("version.json"), version.replace('3', "1")).unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("unpacked layers") && error.contains("--root"), "{error}");
}

#[test]
fn trees_of_any_depth_are_removed() {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    use std::os::fd::{AsFd, OwnedFd};
    let directory = tempfile::tempdir().unwrap();
    let top = fs::File::open(directory.path()).unwrap();
    let mut current: OwnedFd = top.try_clone().unwrap().into();
    for _ in 0..3000 {
        mkdirat(&current, "d", Mode::S_IRWXU).unwrap();
        mkdirat(&current, "e", Mode::S_IRWXU).unwrap();
        current = openat(&current, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
    }
    remove_tree(top.as_fd(), c"d").unwrap();
    remove_tree(top.as_fd(), c"e").unwrap();
    remove_tree(top.as_fd(), c"missing").unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
