//! `cowl top`: what `ps` says about the processes of a container.

use std::ffi::OsString;
use std::process::Command;

use super::{Context, Failure, print, table};
use crate::container::processes;

/// `cowl top`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Options of ps(1), as it is installed on this machine [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ps OPTIONS")]
    options: Vec<OsString>,
}

/// The column of the process numbers in the heading of ps.
fn pid_column(heading: &str) -> Option<usize> {
    heading.split_whitespace().position(|title| title == "PID")
}

/// Shows the processes of a container.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let containers = context.containers()?;
    let container = containers.find(&args.container)?;
    let Some(live) = container.state.status.live() else {
        let id = container.config.id.as_str();
        return Err(Failure::new(1, format!("container {id} is not running")));
    };
    let inside = processes::inside(live);
    let options = if args.options.is_empty() { vec!["-ef".into()] } else { args.options.clone() };
    let output = Command::new("ps").args(&options).output().map_err(|error| {
        Failure::new(1, format!("cannot run ps, which shows the processes: {error}"))
    })?;
    if !output.status.success() {
        let said =
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(Failure::new(1, format!("ps: {said}")));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = pid_column(heading) else {
        return Err(Failure::new(1, "Couldn't find PID field in ps output"));
    };
    let columns = heading.split_whitespace().count();
    let mut rows = vec![cells(heading, columns)];
    for line in lines {
        let row = cells(line, columns);
        let pid = row.get(column).and_then(|cell| cell.parse().ok());
        if pid.is_some_and(|pid| inside.contains(&pid)) {
            rows.push(row);
        }
    }
    print(table::layout(&rows).as_bytes())?;
    Ok(0)
}

/// A line of ps in cells; the last one takes the rest, as a command has spaces.
fn cells(line: &str, columns: usize) -> Vec<String> {
    let mut cells = Vec::new();
    let mut rest = line.trim();
    for number in 1..=columns {
        if number == columns {
            cells.push(rest.to_owned());
            break;
        }
        match rest.split_once(char::is_whitespace) {
            Some((cell, tail)) => {
                cells.push(cell.to_owned());
                rest = tail.trim_start();
            }
            None => {
                cells.push(std::mem::take(&mut rest).to_owned());
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ps_are_cut_into_cells() {
        let heading = "UID          PID    PPID CMD";
        assert_eq!(pid_column(heading), Some(1));
        assert_eq!(cells("root  5   1 sh -c  x", 4), ["root", "5", "1", "sh -c  x"]);
        assert_eq!(cells("root 5", 4), ["root", "5", "", ""]);
        assert_eq!(pid_column("CMD"), None);
    }
}
