//! `cowl diff`.

use std::os::unix::ffi::OsStrExt;

use super::{Context, Failure, print};
use crate::container::diff;

/// `cowl diff`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id
    container: String,
}

/// Lists what the container added (A), changed (C) and deleted (D).
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let container = context.containers()?.find(&args.container)?;
    let mut text = Vec::new();
    for (kind, path) in diff::diff(&container)? {
        text.extend_from_slice(format!("{kind} ").as_bytes());
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(b'\n');
    }
    print(&text)?;
    Ok(0)
}
