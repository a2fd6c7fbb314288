//! `list` and `ps`.

use std::path::Path;
use std::process::Command;

use clap::{Args as ClapArgs, ValueEnum};
use serde_json::json;

use super::super::{Failure, print, table};
use crate::oci;

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// `list`
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
}

/// `ps`
#[derive(Debug, ClapArgs)]
pub struct Processes {
    /// How
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
    /// Options of ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<String>,
}

/// Lists containers.
pub fn run(root: &Path, args: &Args) -> Result<(), Failure> {
    let all: Vec<_> = oci::list(root)?.iter().map(oci::Bundle::state).collect();
    if args.quiet {
        let ids: String = all.iter().map(|state| format!("{}\n", state.id)).collect();
        return print(ids.as_bytes());
    }
    if args.format == Format::Json {
        return print(format!("{}\n", serde_json::to_string(&all)?).as_bytes());
    }
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(all.into_iter().map(|state| {
        vec![
            state.id,
            state.pid.to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state.created,
            state.owner,
        ]
    }));
    print(table::layout(&rows).as_bytes())
}

/// Lists processes: what ps(1) says about those that are in the container.
pub fn processes(root: &Path, args: &Processes) -> Result<(), Failure> {
    let bundle = oci::load(root, &args.id)?;
    let pids = oci::pids(&bundle)?;
    if args.format == Format::Json {
        return print(format!("{}\n", json!(pids)).as_bytes());
    }
    let options = match args.options.as_slice() {
        [] => vec!["-ef".to_owned()],
        given => given.to_vec(),
    };
    let failed = |error| Failure::new(1, format!("cannot run ps: {error}"));
    let output = Command::new("ps").args(&options).output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|title| title == "PID");
    let Some(column) = column else {
        return Err(Failure::new(1, "ps shows no column PID with these options"));
    };
    let mut shown = format!("{header}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|text| text.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    print(shown.as_bytes())
}
