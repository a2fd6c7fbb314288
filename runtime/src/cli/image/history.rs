//! `cowl history`

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::list::now;
use crate::cli::table::Format;
use crate::cli::{Context, Failure, age, print, size};
use crate::image::moment;

/// How much of a command is shown.
const COMMAND_WIDTH: usize = 45;
/// What stands for the ids that nobody knows: only the whole image has one.
const MISSING: &str = "<missing>";
/// The fields of a line and their titles.
const TITLES: [(&str, &str); 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// Show the history of an image
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print sizes and dates for people; =false: bytes, and dates in full
    #[arg(
        short = 'H', long, default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL"
    )]
    human: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Show a line as this template, or 'json', or 'table TEMPLATE'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// One step of an image's making, as its configuration has it.
#[derive(Debug, Default, Deserialize)]
struct Step {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    history: Option<Vec<Step>>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such image, or the format is malformed.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let table = match (args.quiet, args.human) {
        (true, _) => "{{.ID}}",
        (_, true) => "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
        _ => "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    };
    let format = match (args.quiet, args.format.as_deref()) {
        (true, None | Some("table")) => Format::parse(Some(table), table)?,
        (_, format) => Format::parse(format, table)?,
    };
    let store = context.store()?;
    let image = store.resolve(&args.image)?;
    let config = store.blob(image.id)?;
    let steps = serde_json::from_slice::<History>(&config).ok().and_then(|found| found.history);
    let mut layers = image.record().layers.iter();
    // Who made it without a history: one step for each layer.
    let steps = steps
        .filter(|steps| !steps.is_empty())
        .unwrap_or_else(|| image.record().layers.iter().map(|_| Step::default()).collect());
    let mut rows = Vec::new();
    for step in &steps {
        let bytes = if step.empty_layer { 0 } else { layers.next().map_or(0, |l| l.size) };
        rows.push(row(args, step, bytes));
    }
    if let Some(Value::Object(last)) = rows.last_mut() {
        let id = if args.no_trunc { image.id.to_string() } else { image.id.short() };
        last.insert("ID".to_owned(), json!(id));
    }
    rows.reverse();
    print(format.render(&TITLES, &rows)?.as_bytes())?;
    Ok(0)
}

fn row(args: &Args, step: &Step, bytes: u64) -> Value {
    let created = step.created.as_deref().unwrap_or_default();
    let at = moment::nanoseconds(created).filter(|_| !created.starts_with("0001-"));
    let since = at.map_or("N/A".to_owned(), |at| {
        let span = u64::try_from((now() - at) / 1_000_000_000).unwrap_or(0);
        format!("{} ago", age::span(Duration::from_secs(span)))
    });
    let at = at.map_or(String::new(), |at| {
        moment::to_second(i64::try_from(at.div_euclid(1_000_000_000)).unwrap_or(0))
    });
    let command = step.created_by.as_deref().unwrap_or_default().replace('\t', " ");
    json!({
        "ID": MISSING,
        "CreatedSince": since,
        "CreatedAt": at,
        "CreatedBy": if args.no_trunc { command } else { shortened(&command) },
        "Size": if args.human { size::short(bytes) } else { bytes.to_string() },
        "Comment": step.comment.as_deref().unwrap_or_default(),
    })
}

fn shortened(command: &str) -> String {
    let command = command.replace('\n', " ");
    if command.chars().count() <= COMMAND_WIDTH {
        return command;
    }
    command.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect()
}
