//! `cowl commit`: a container's changes as one more layer on its image.
//!
//! Only what the container changed is read: its write layer says which names those are, and the
//! mounted filesystem what they are like. Nothing is written down twice; the changes are streamed
//! into a packed layer as if they came from an archive.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use serde_json::{Map, Value, json};

use super::change::Change;
use super::intake::{layer_info, layer_record, pack_stream};
use super::load::LoadError;
use super::stream::LayerStream;
use super::tar::{Entry, Kind, Time, show};
use super::walk::{self, WalkError, Walker};
use crate::access::Access;
use crate::container::diff::{self, Changes};
use crate::digest::Digest;
use crate::image::{Image, ImageRecord, moment};
use crate::reference::Reference;
use crate::store::{Renamed, Store};
use crate::view::View;

/// Mark of a deleted name, and of an opaque directory.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why a container cannot be committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The changes cannot be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A name means something else in a layer.
    #[error(
        "'/{}' cannot be kept in an image: names that begin with .wh. mean deletions there; rename or remove it",
        show(.0)
    )]
    Name(Vec<u8>),
    /// The new layer or image cannot be stored.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The image below is damaged.
    #[error("the configuration of the container's image cannot be read: {0}")]
    Config(serde_json::Error),
    /// A thread or a pipe cannot be made.
    #[error("cannot start writing the layer: {0}")]
    Start(io::Error),
}

impl From<crate::store::StoreError> for CommitError {
    fn from(error: crate::store::StoreError) -> CommitError {
        CommitError::Load(error.into())
    }
}

/// What to make of a container.
pub struct Commit<'a> {
    /// The image it was made from.
    pub image: &'a Image,
    /// What it changed.
    pub changes: &'a Changes,
    /// Its filesystem.
    pub files: &'a Access,
    /// The new image's name.
    pub name: Option<Reference>,
    /// How containers of the new image run: what the container's own settings say.
    pub settings: Map<String, Value>,
    /// Instructions that change that.
    pub instructions: &'a [Change],
    /// Who made it.
    pub author: &'a str,
    /// Why.
    pub message: &'a str,
    /// The command line that the container ran.
    pub command: &'a str,
    /// The container's id.
    pub container: &'a str,
}

/// Commits a container; the new image's id, and the names that were taken from others.
///
/// # Errors
/// When something cannot be read or stored; the store is then as it was.
pub fn commit(store: &Store, commit: &Commit<'_>) -> Result<(Digest, Vec<Renamed>), CommitError> {
    let base = store.blob(commit.image.id)?;
    let base: Map<String, Value> = serde_json::from_slice(&base).map_err(CommitError::Config)?;
    let mut transaction = store.begin()?;
    let staged = transaction.stage_layer()?;
    let (reader, writer) = io::pipe().map_err(CommitError::Start)?;
    let stream = LayerStream::start(Box::new(reader)).map_err(CommitError::Start)?;
    let label = "of the container's changes";
    let (packed, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write_layer(commit.files, commit.changes, writer));
        let packed = pack_stream(&staged, stream, &View::default(), label, |_| Ok(()));
        (packed, writing.join())
    });
    match written {
        Ok(written) => written?,
        Err(_) => {
            let died = io::Error::other("the thread reading the changes died");
            return Err(CommitError::Start(died));
        }
    }
    let (report, digests) = packed?;
    let info = layer_info(&report, &digests, None);
    let chain = commit
        .image
        .record()
        .layers
        .iter()
        .fold(None, |chain, layer| Some(Digest::chain(chain, layer.diff_id)));
    let chain = Digest::chain(chain, digests.diff_id);
    let record = layer_record(&info, &digests, None, chain);
    if transaction.find_layer(digests.diff_id, chain)?.is_none() {
        transaction.add_layer(staged, info, chain)?;
    }
    let config = configuration(base, commit, digests.diff_id);
    let id = Digest::of(&config);
    let mut layers = commit.image.record().layers.clone();
    layers.push(record);
    let names = commit.name.iter().cloned().collect();
    let record = ImageRecord { id, manifest: None, layers };
    transaction.add_image(record, config, None, names);
    Ok((id, transaction.commit()?))
}

/// The layer's archive.
fn write_layer(
    files: &Access,
    changes: &Changes,
    output: io::PipeWriter,
) -> Result<(), CommitError> {
    let mut walker = Walker::new(io::BufWriter::with_capacity(1 << 16, output));
    for (path, change) in changes {
        let path = path.as_os_str().as_bytes();
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (path.get(..at).unwrap_or(&[]), path.get(at + 1..).unwrap_or(&[])),
            None => (&b""[..], path),
        };
        let beside = |name: &[u8]| {
            if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
        };
        if name.starts_with(WHITEOUT) {
            return Err(CommitError::Name(path.to_vec()));
        }
        if change.kind == diff::Kind::Deleted {
            walker.plain(&mark(beside(&[WHITEOUT, name].concat())))?;
            continue;
        }
        let directory = match walk::directory(files.root(), parent) {
            Ok(directory) => directory,
            // Gone since the changes were listed.
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            Err(source) => return Err(WalkError::Read { path: path.to_vec(), source }.into()),
        };
        walker.one(directory.as_fd(), name, path)?;
        if change.opaque {
            walker.plain(&mark([path, b"/", OPAQUE].concat()))?;
        }
    }
    walker.finish()?;
    Ok(())
}

/// An empty file that says something about the layers below.
fn mark(path: Vec<u8>) -> Entry {
    Entry {
        path,
        link: Vec::new(),
        kind: Kind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Time::default(),
        atime: None,
        device: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
        data_offset: 0,
    }
}

fn configuration(mut document: Map<String, Value>, commit: &Commit<'_>, layer: Digest) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let created = moment::format(seconds, now.subsec_nanos());
    let mut config = match document.remove("config") {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    config.extend(commit.settings.clone());
    commit.instructions.iter().for_each(|change| change.apply(&mut config));
    document.insert("config".to_owned(), Value::Object(config));
    document.insert("created".to_owned(), json!(created));
    document.insert("container".to_owned(), json!(commit.container));
    if !commit.author.is_empty() {
        document.insert("author".to_owned(), json!(commit.author));
    }
    let mut step = json!({ "created": created, "created_by": commit.command });
    if let Some(step) = step.as_object_mut() {
        for (key, text) in [("author", commit.author), ("comment", commit.message)] {
            if !text.is_empty() {
                step.insert(key.to_owned(), json!(text));
            }
        }
    }
    match document.entry("history").or_insert_with(|| json!([])) {
        Value::Array(history) => history.push(step),
        other => *other = json!([step]),
    }
    let mut ids: Vec<String> =
        commit.image.record().layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    ids.push(layer.to_string());
    document.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": ids }));
    Value::Object(document).to_string().into_bytes()
}

/// A container's command line as one text, for the history.
pub fn command_line<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> String {
    let words: Vec<String> =
        words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}
