//! `cowl import`: an image of one layer from the archive of a root filesystem.

use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::change::Change;
use super::intake::{layer_info, layer_record, pack_stream};
use super::load::{LoadError, Loaded, Outcome};
use super::manifest::architecture;
use super::source::{Input, open_file};
use super::stream::LayerStream;
use super::tar::TarError;
use crate::digest::Digest;
use crate::image::{ImageRecord, moment};
use crate::reference::Reference;
use crate::store::Store;
use crate::view::View;

/// What to make of the archive.
#[derive(Debug)]
pub struct Import<'a> {
    /// The archive, compressed or not.
    pub input: Input<'a>,
    /// The new image's name.
    pub name: Option<Reference>,
    /// Changes to the empty configuration.
    pub changes: &'a [Change],
    /// Message kept in the image's history.
    pub message: &'a str,
}

/// Imports a root filesystem.
///
/// # Errors
/// When the archive is damaged or the store refuses; the store is then as it was.
pub fn import(store: &Store, request: &Import<'_>) -> Result<Outcome, LoadError> {
    let mut transaction = store.begin()?;
    let raw: Box<dyn Read + Send> = match request.input {
        Input::Stdin => Box::new(io::stdin()),
        Input::Path(path) => Box::new(open_file(path)?),
    };
    let shown = match request.input {
        Input::Stdin => "from standard input".to_owned(),
        Input::Path(path) => format!("in {}", path.display()),
    };
    let read = |source| LoadError::Read { layer: shown.clone(), source };
    let staged = transaction.stage_layer()?;
    let stream = LayerStream::start(raw).map_err(read)?;
    let (report, digests) = pack_stream(&staged, stream, &View::default(), &shown, |_| Ok(()))?;
    if !report.saw_end {
        // There is no digest that would tell a truncated archive from a whole one.
        return Err(match report.entries {
            0 => LoadError::Pack { layer: shown, source: TarError::NotTar.into() },
            _ => LoadError::NoEnd,
        });
    }
    let info = layer_info(&report, &digests, None);
    let record = layer_record(&info, &digests, None, digests.diff_id);
    transaction.add_layer(staged, info, digests.diff_id)?;

    let config = configuration(request, digests.diff_id);
    let id = Digest::of(&config);
    let names: Vec<Reference> = request.name.iter().cloned().collect();
    let image = ImageRecord { id, manifest: None, layers: vec![record] };
    transaction.add_image(image, config, None, names.clone());
    let renamed = transaction.commit()?;
    Ok(Outcome { images: vec![Loaded { id, names }], renamed })
}

fn configuration(request: &Import<'_>, diff_id: Digest) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let created = moment::format(seconds, now.subsec_nanos());
    let mut config = serde_json::Map::new();
    for change in request.changes {
        change.apply(&mut config);
    }
    let document = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        "history": [{ "created": created, "comment": request.message }],
    });
    document.to_string().into_bytes()
}
