//! An OCI runtime: containers from bundles (runtime-spec 1.x), with runc's command line, so that
//! Podman, containerd and Docker can call this program instead of runc.
//!
//! There is no monitor and no image: the caller made the root filesystem, holds the streams and
//! waits for the end. `create` makes the container and leaves its PID 1 waiting at a socket;
//! `start` connects to it; everything else finds the container in the state directory:
//!
//! ```text
//! <root>/<id>/state.json     what is written down
//! <root>/<id>/config.json    the configuration at the time of creation
//! <root>/<id>/start          the socket; gone when the container has been started
//! ```
//!
//! What is asked for and cannot be done is refused, never left out in silence.

pub mod config;
mod create;
mod exec;
mod features;
mod hooks;
mod life;
pub mod state;
mod translate;

use std::io;
use std::path::{Path, PathBuf};

pub use create::{CreateOptions, create, start};
pub use exec::{ExecOptions, exec, read_process};
pub use features::features;
pub use life::{delete, kill, pids};
use nix::errno::Errno;
pub use state::{Bundle, State, Status, list, load};

/// The version of the specification that is followed.
pub const VERSION: &str = "1.1.0";

/// Why a bundle's container could not be made, started, or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `container does not exist`
    #[error("container \"{0}\" does not exist")]
    Unknown(String),
    /// There is one already.
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// Not an id.
    #[error("invalid container ID: {0:?}: letters, digits and the characters _+-. are allowed")]
    BadId(String),
    /// It is in another state than needed.
    #[error("cannot {verb} a container in the {status} state: {id}")]
    Status {
        /// What was wanted.
        verb: &'static str,
        /// What it is.
        status: Status,
        /// Which.
        id: String,
    },
    /// Kill of one that has ended.
    #[error("container not running: {0}")]
    NotRunning(String),
    /// The configuration cannot be carried out by anybody.
    #[error("invalid config.json: {0}")]
    Invalid(String),
    /// The configuration asks for something that this runtime does not have.
    #[error("config.json asks for what cowl cannot do: {0}")]
    Unsupported(String),
    /// A hook failed.
    #[error("error running {kind} hook {path}: {said}", path = path.display())]
    Hook {
        /// Which list.
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// How it ended.
        said: String,
    },
    /// PID 1 could not become the command.
    #[error("{message}")]
    Start {
        /// 125, 126, 127.
        exit_code: u8,
        /// Why.
        message: String,
    },
    /// A system call.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    Step(String, Errno),
    /// The disk.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that does not read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

fn step(what: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Step(what.into(), errno)
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { what, path: path.to_owned(), source }
}
