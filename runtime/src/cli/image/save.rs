//! `cowl save`

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::archive::save::{save, select};
use crate::cli::{Context, Failure, shown};

/// Save images to an archive that `cowl load`, Docker and Podman load
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names or ids; a name without a tag stands for all tags of that name
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such image, or the archive cannot be written.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::new(
            1,
            "cowardly refusing to save to a terminal: use the -o flag or redirect",
        ));
    }
    let store = context.store()?;
    let _kept = store.lock_shared()?;
    let images = select(&store, &args.images)?;
    to_file(args.output.as_deref(), |output| save(&store, &images, output))?;
    Ok(0)
}

/// Gives `write` the file, or standard output. A file takes the name only once it is complete.
pub(in crate::cli) fn to_file<E: Into<Failure>>(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), Failure> {
    let Some(path) = path else {
        let mut output = io::stdout().lock();
        return write(&mut output).map_err(Into::into);
    };
    let failed =
        |error: io::Error| Failure::new(1, format!("cannot write {}: {error}", shown(path)));
    // Pipes and devices are written to as they are.
    let special = fs::metadata(path).is_ok_and(|found| {
        let kind = found.file_type();
        kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
    });
    if special {
        let mut output = File::options().write(true).open(path).map_err(failed)?;
        return write(&mut output).map_err(Into::into);
    }
    let name = path.file_name().ok_or_else(|| {
        Failure::new(1, format!("cannot write {}: it is a directory", shown(path)))
    })?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let result = (|| {
        let mut output = BufWriter::with_capacity(
            1 << 20,
            File::options().write(true).create_new(true).open(&beside).map_err(failed)?,
        );
        write(&mut output).map_err(Into::into)?;
        output.flush().map_err(failed)?;
        fs::rename(&beside, path).map_err(failed)
    })();
    if result.is_err() {
        // What is told is why it failed, not why a part of it stays.
        fs::remove_file(&beside).ok();
    }
    result
}
