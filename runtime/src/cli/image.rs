//! Commands on images: `load`, `import`, `images`, `rmi`.

pub mod import;
pub mod list;
pub mod load;
pub mod rmi;

use std::io::{self, Write};
use std::path::Path;

use super::Failure;
use crate::archive::load::Outcome;
use crate::archive::source::Input;

/// What Docker's `-` stands for.
fn input(path: &Path) -> Input<'_> {
    if path == Path::new("-") { Input::Stdin } else { Input::Path(path) }
}

/// A terminal on stdin means that somebody forgot to name the archive.
fn check_stdin(input: Input<'_>, hint: &str) -> Result<(), Failure> {
    use std::io::IsTerminal;
    if matches!(input, Input::Stdin) && io::stdin().is_terminal() {
        return Err(Failure::new(1, format!("standard input is a terminal: {hint}")));
    }
    Ok(())
}

/// Tells on stderr what the store could not keep, and which names moved.
fn remark(outcome: &Outcome) {
    let mut stderr = io::stderr().lock();
    for warning in &outcome.warnings {
        writeln!(stderr, "cowl: warning: {warning}").ok();
    }
    for renamed in &outcome.renamed {
        writeln!(
            stderr,
            "The image {} already exists, renaming the old one with ID {} to empty string",
            renamed.name.familiar(),
            renamed.old
        )
        .ok();
    }
}
