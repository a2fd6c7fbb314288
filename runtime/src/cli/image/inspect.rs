//! `cowl image inspect`: everything about an image, in the shape of Docker's API.

use serde_json::{Map, Value, json};

use crate::cli::{Context, Failure, inspect};
use crate::image::Image;
use crate::store::{Store, StoreError};

/// What Docker's clock says when it does not know.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// A field of `Config`, and what it is when an image does not say.
type Field = (&'static str, fn() -> Value);
const TEXT: fn() -> Value = || json!("");
const NO: fn() -> Value = || json!(false);
const NULL: fn() -> Value = || Value::Null;
/// The fields of `Config`, in Docker's order.
const CONFIG: [Field; 14] = [
    ("Hostname", TEXT),
    ("Domainname", TEXT),
    ("User", TEXT),
    ("AttachStdin", NO),
    ("AttachStdout", NO),
    ("AttachStderr", NO),
    ("Tty", NO),
    ("OpenStdin", NO),
    ("StdinOnce", NO),
    ("Env", NULL),
    ("Cmd", NULL),
    ("Image", TEXT),
    ("Volumes", NULL),
    ("WorkingDir", TEXT),
];
/// Those that come after them, without the optional ones.
const CONFIG_END: [&str; 3] = ["Entrypoint", "OnBuild", "Labels"];

/// Show everything about images
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show this template of each image instead of JSON
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When an image is missing, or the template does not fit.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let store = context.store()?;
    inspect::show(args.format.as_deref(), &args.images, |name| {
        Ok(object(&store, &store.resolve(name)?)?)
    })
}

/// The image of this name or id, for `cowl inspect`.
pub fn find(context: &Context, name: &str, _size: bool) -> Result<Option<Value>, Failure> {
    let store = context.store()?;
    match store.resolve(name) {
        Ok(image) => Ok(Some(object(&store, &image)?)),
        // What is no image name may be the name of something else.
        Err(StoreError::NoSuchImage(_) | StoreError::Reference(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn object(store: &Store, image: &Image) -> Result<Value, StoreError> {
    let text = store.blob(image.id)?;
    let document: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
    let text_of = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    let history = document.get("history").and_then(Value::as_array);
    let comment =
        history.and_then(|history| history.last()?.get("comment")?.as_str()).unwrap_or_default();
    let tags: Vec<String> = image.names().iter().map(|name| name.familiar()).collect();
    let created = if image.created.is_empty() { NO_TIME } else { &image.created };

    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("Id", json!(image.id.to_string()));
    put("RepoTags", json!(tags));
    put("RepoDigests", json!(digests(image)));
    put("Parent", json!(""));
    put("Comment", json!(comment));
    put("Created", json!(created));
    put("DockerVersion", json!(text_of("docker_version")));
    put("Author", json!(text_of("author")));
    put("Config", config(document.get("config")));
    put("Architecture", json!(image.architecture));
    if let Some(variant) = document.get("variant").filter(|variant| variant.is_string()) {
        put("Variant", variant.clone());
    }
    put("Os", json!(image.os));
    put("Size", json!(image.size()));
    put("GraphDriver", driver(image));
    let layers: Vec<String> =
        image.record().layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    put("RootFS", json!({ "Type": "layers", "Layers": layers }));
    put("Metadata", json!({ "LastTagTime": NO_TIME }));
    Ok(Value::Object(object))
}

/// `repository@digest` for every repository that it is known to be in.
fn digests(image: &Image) -> Vec<String> {
    let mut found: Vec<String> = image.digests().iter().map(|name| name.familiar()).collect();
    let Some(manifest) = image.record().manifest else { return found };
    for name in image.names() {
        let known = image.digests().iter().any(|other| other.repository() == name.repository());
        let text = name.at_digest(manifest).familiar();
        if !known && !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// The configuration with every field that Docker always shows, in Docker's order.
fn config(given: Option<&Value>) -> Value {
    let empty = Map::new();
    let given = given.and_then(Value::as_object).unwrap_or(&empty);
    let mut config = Map::new();
    for (name, default) in CONFIG {
        // Optional ones stand where Docker's structure has them.
        if name == "Env" {
            copy(given, &mut config, &["ExposedPorts"]);
        }
        if name == "Image" {
            copy(given, &mut config, &["Healthcheck", "ArgsEscaped"]);
        }
        let value = given.get(name).filter(|value| !value.is_null()).cloned();
        config.insert(name.to_owned(), value.unwrap_or_else(default));
    }
    for name in CONFIG_END {
        config.insert(name.to_owned(), given.get(name).cloned().unwrap_or(Value::Null));
    }
    copy(given, &mut config, &["StopSignal", "StopTimeout", "Shell"]);
    Value::Object(config)
}

fn copy(given: &Map<String, Value>, config: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = given.get(*name).filter(|value| !value.is_null()) {
            config.insert((*name).to_owned(), value.clone());
        }
    }
}

/// Where its layers are.
fn driver(image: &Image) -> Value {
    let layers: Vec<String> =
        image.layer_dirs().iter().map(|path| path.display().to_string()).collect();
    json!({ "Data": { "LowerDir": layers.join(":") }, "Name": "cowlfs" })
}
