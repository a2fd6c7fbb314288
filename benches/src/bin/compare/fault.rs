//! The one error of this program: a sentence for who started it.

use std::fmt;

/// What could not be done, and why.
#[derive(Debug, Clone)]
pub struct Fault(pub String);

/// A result whose error is a sentence.
pub type Result<T> = std::result::Result<T, Fault>;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<nix::Error> for Fault {
    fn from(errno: nix::Error) -> Fault {
        Fault(errno.desc().to_owned())
    }
}

/// Says what was being done when an error came.
pub trait Doing<T> {
    /// The error becomes `WHAT: ERROR`.
    fn doing<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing<S: fmt::Display>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Fault(format!("{}: {error}", what())))
    }
}

/// Fails with a sentence unless the condition holds: how workloads check their effect.
pub fn check(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Fault(what())) }
}
