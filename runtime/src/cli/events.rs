//! `cowl events`.

use std::time::Duration;

use super::{Context, Failure, print};
use crate::events::{Event, Reader};
use crate::filter::{Filters, point};
use crate::image::moment;
use crate::template::Template;

/// `cowl events`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only some events: NAME=VALUE with container, event, image, label, network, scope, type,
    /// volume
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// A Go template for each event, or json
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// From a time on: a date, seconds since 1970, or a span like 10m before now
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to a time, given in the same way
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// How soon the file is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

const KEYS: [&str; 8] =
    ["container", "event", "image", "label", "network", "scope", "type", "volume"];

fn passes(filters: &Filters, event: &Event) -> bool {
    let attribute = |key: &str| event.actor.attributes.get(key).map(String::as_str);
    // An id (or its beginning), or a name, of something of a kind.
    let named = |kind: &str| {
        filters.passes(kind, |wanted| {
            event.kind == kind
                && (event.actor.id.starts_with(wanted) || attribute("name") == Some(wanted))
        })
    };
    let image = filters.passes("image", |wanted| {
        let of = if event.kind == "image" { attribute("name") } else { attribute("image") };
        let bare = |name: &str| name.split(':').next().unwrap_or_default().to_owned();
        of.is_some_and(|of| of == wanted || bare(of) == wanted)
            || (event.kind == "image" && event.actor.id.starts_with(wanted))
    });
    // `exec_start: sh` passes for `exec_start`.
    let action = event.action.split(':').next().unwrap_or_default();
    let event_passes = filters.passes("event", |wanted| wanted == action || wanted == event.action);
    event_passes
        && image
        && filters.is("type", &event.kind)
        && filters.is("scope", &event.scope)
        && ["container", "network", "volume"].into_iter().all(named)
        && filters.labels(attribute)
}

/// Docker's line for an event.
fn line(event: &Event) -> String {
    let attributes: Vec<String> =
        event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let nanoseconds = u32::try_from(event.nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0);
    let time = moment::format(event.time, nanoseconds);
    let mut line = format!("{time} {} {} {}", event.kind, event.action, event.actor.id);
    if !attributes.is_empty() {
        line = format!("{line} ({})", attributes.join(", "));
    }
    line
}

/// An event for templates and as JSON: with Docker's older names of the same things as well.
fn value(event: &Event) -> Result<serde_json::Value, Failure> {
    let mut all = serde_json::Map::new();
    all.insert("status".into(), event.action.clone().into());
    all.insert("id".into(), event.actor.id.clone().into());
    if let Some(image) = event.actor.attributes.get("image") {
        all.insert("from".into(), image.clone().into());
    }
    if let serde_json::Value::Object(fields) = serde_json::to_value(event)? {
        all.extend(fields);
    }
    Ok(all.into())
}

/// Shows what happens, until the time that is given or without end.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let now = super::now();
    let read = |text: Option<&String>, what: &str| -> Result<Option<i128>, Failure> {
        let Some(text) = text else { return Ok(None) };
        let bad = || Failure::new(1, format!("invalid value for {what:?}: {text:?} is no time"));
        point::parse(text, now).map(Some).ok_or_else(bad)
    };
    let since = read(args.since.as_ref(), "since")?;
    let until = read(args.until.as_ref(), "until")?;
    let filters = Filters::parse(&args.filter, &KEYS)?;
    let template = match args.format.as_deref() {
        None | Some("") => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(text)?),
    };
    context.store()?; // a store that is not ours has no events
    let failed = |error| Failure::new(1, format!("cannot read the events: {error}"));
    let mut reader = Reader::open(&context.root).map_err(failed)?;
    // Without a time to begin with, what happens from now on; with an end only, too.
    let from = since.unwrap_or(now);
    loop {
        let over = until.is_some_and(|until| super::now() > until);
        while let Some(event) = reader.next_event().map_err(failed)? {
            let at = i128::from(event.nanoseconds);
            if until.is_some_and(|until| at > until) {
                return Ok(0);
            }
            if at < from || !passes(&filters, &event) {
                continue;
            }
            let text = match &template {
                None => line(&event),
                Some(template) => template.render(&value(&event)?)?,
            };
            print(format!("{text}\n").as_bytes())?;
        }
        if over {
            return Ok(0);
        }
        std::thread::sleep(PAUSE);
    }
}
