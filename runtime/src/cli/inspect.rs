//! `cowl inspect`, and what the `inspect` of every kind of object shares.
//!
//! An object is looked for among the kinds in their order. Objects that were found are shown even
//! when others are missing; the exit code then is 1.

use std::io;

use serde::Serialize;
use serde_json::Value;

use super::{Context, Failure, container, image, network, print, volume};
use crate::template::Template;

/// Exit code of Docker's `inspect` for a template that is none.
const BAD_TEMPLATE: u8 = 64;

/// A kind of object.
pub struct Kind {
    /// Its name for `--type`.
    pub name: &'static str,
    /// How it is found by name or id, with its sizes if they are wanted; `None`: there is none.
    pub find: fn(&Context, &str, bool) -> Result<Option<Value>, Failure>,
}

/// All kinds, in the order in which they are tried.
const KINDS: [Kind; 4] = [
    Kind { name: "container", find: container::inspect::find },
    Kind { name: "image", find: image::inspect::find },
    Kind { name: "network", find: network::find },
    Kind { name: "volume", find: volume::find },
];

/// `cowl inspect`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show this template of each object instead of JSON
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Show the sizes of containers
    #[arg(short, long)]
    size: bool,
    /// Look only for objects of this kind
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    objects: Vec<String>,
}

/// Shows objects of any kind.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let kinds: Vec<&Kind> = KINDS
        .iter()
        .filter(|kind| args.kind.as_ref().is_none_or(|wanted| wanted == kind.name))
        .collect();
    if let (Some(kind), []) = (&args.kind, kinds.as_slice()) {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let known = known.join(", ");
        return Err(Failure::new(
            1,
            format!("\"{kind}\" is not a valid value for --type: give one of {known}"),
        ));
    }
    show(args.format.as_deref(), &args.objects, |name| {
        for kind in &kinds {
            if let Some(found) = (kind.find)(context, name, args.size)? {
                return Ok(found);
            }
        }
        Err(Failure::new(
            1,
            match &args.kind {
                None => format!("No such object: {name}"),
                Some(kind) => format!("No such {kind}: {name}"),
            },
        ))
    })
}

/// Shows the objects of these names, each found by `find`, as JSON or by a template.
///
/// # Errors
/// When the template does not fit, or any object was not found (after the others were shown).
pub fn show(
    format: Option<&str>,
    names: &[String],
    mut find: impl FnMut(&str) -> Result<Value, Failure>,
) -> Result<u8, Failure> {
    let template = match format {
        None | Some("") => None,
        Some("json") => Some("{{json .}}"),
        Some(text) => Some(text),
    };
    let template = template
        .map(Template::parse)
        .transpose()
        .map_err(|error| Failure::new(BAD_TEMPLATE, error))?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match find(name) {
            Ok(object) => found.push(object),
            Err(failure) => failures.push(failure.message),
        }
    }
    match template {
        Some(template) => {
            for object in &found {
                match template.render(object) {
                    Ok(text) => print(format!("{text}\n").as_bytes())?,
                    Err(error) => failures.push(error.to_string()),
                }
            }
        }
        None => print(&pretty(&found)?)?,
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::new(1, failures.join("\ncowl: "))) }
}

/// JSON with Docker's four spaces.
fn pretty(objects: &[Value]) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    objects.serialize(&mut serializer).map_err(|error| Failure::new(1, io::Error::from(error)))?;
    text.push(b'\n');
    Ok(text)
}
