//! `cowl commit`

use std::ffi::OsString;

use serde_json::{Map, Value, json};

use super::{Context, Failure, print};
use crate::access::Access;
use crate::archive::change::Change;
use crate::archive::commit::{Commit, command_line, commit};
use crate::container::record::Bytes;
use crate::container::{Container, diff};
use crate::reference::Reference;

/// Make an image of a container's changes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who made the image
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// Apply a Dockerfile instruction to the image (repeatable)
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Message for the image's history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Name or id of the container
    container: String,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

impl Args {
    /// The container that it is about.
    pub fn container(&self) -> Option<&str> {
        Some(&self.container)
    }
}

/// Runs the command.
///
/// # Errors
/// When the container cannot be committed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let name = args.name.as_deref().map(str::parse::<Reference>).transpose()?;
    if let Some(name) = name.as_ref().filter(|name| name.digest().is_some()) {
        return Err(Failure::new(
            1,
            format!("cannot name an image '{}': its digest is not known yet", name.familiar()),
        ));
    }
    let instructions: Vec<Change> =
        args.change.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let container = context.containers()?.find(&args.container)?;
    let Some(image_id) = &container.config.image_id else {
        return Err(Failure::new(
            1,
            format!(
                "container {} runs on this machine's own files, there is no image below it: use `cowl export`",
                container.config.name
            ),
        ));
    };
    let store = context.store()?;
    let kept = store.lock_shared()?;
    let image = store.resolve(image_id)?;
    drop(kept);
    let files = Access::files(&container, &context.root)?;
    let result = diff::changes(&container).map_err(Failure::from).and_then(|changes| {
        let words: Vec<OsString> = words(&container);
        let command = command_line(words.iter().map(OsString::as_os_str));
        let request = Commit {
            image: &image,
            changes: &changes,
            files: &files,
            name,
            settings: settings(&container),
            instructions: &instructions,
            author: &args.author,
            message: &args.message,
            command: &command,
            container: container.config.id.as_str(),
        };
        commit(&store, &request).map_err(Failure::from)
    });
    files.close()?;
    let (id, renamed) = result?;
    super::image::remark(&renamed);
    print(format!("{id}\n").as_bytes())?;
    Ok(0)
}

fn words(container: &Container) -> Vec<OsString> {
    container.config.process.command().map(OsString::from).collect()
}

/// What the container's own settings say about containers of the new image.
fn settings(container: &Container) -> Map<String, Value> {
    /// Given to every container; not part of an image.
    const OWN: [&str; 3] = ["HOSTNAME=", "HOME=", "TERM="];
    let config = &container.config;
    let process = &config.process;
    let text = |bytes: &Bytes| OsString::from(bytes).to_string_lossy().into_owned();
    let list = |words: &[Bytes]| words.iter().map(text).collect::<Vec<String>>();
    let environment: Vec<String> = list(&process.environment)
        .into_iter()
        .filter(|variable| !OWN.iter().any(|own| variable.starts_with(own)))
        .collect();
    let entrypoint = match list(&process.entrypoint) {
        words if words.is_empty() => Value::Null,
        words => json!(words),
    };
    let mut settings = Map::new();
    settings.insert("Entrypoint".to_owned(), entrypoint);
    settings.insert("Cmd".to_owned(), json!(list(&process.arguments)));
    settings.insert("Env".to_owned(), json!(environment));
    settings.insert("User".to_owned(), json!(process.user));
    settings.insert("WorkingDir".to_owned(), json!(text(&process.working_dir)));
    if !config.labels.is_empty() {
        settings.insert("Labels".to_owned(), json!(config.labels));
    }
    settings
}
