//! Which system calls a container may make: profiles in Docker's format (which holds the OCI's),
//! compiled to the kernel's filter programs.
//!
//! [`Profile::parse`] reads the text, [`Profile::compile`] decides what depends on the container's
//! capabilities and on this machine, and [`Program`] is what the kernel takes. No library: the
//! filter is a binary search over ranges of numbers, one for each architecture, with the
//! comparisons of arguments at its leaves.
//!
//! A filter never lets a call through that its profile does not: a name that this version does not
//! know is left to the default action, and an architecture that is not named gets it too. Calls
//! of the x32 kind, which no program of today uses, fail with ENOSYS.

mod assemble;
mod numbers;
mod profile;

pub use assemble::{Instruction, Program};
pub use profile::{Conditions, Error, Profile, Rule};

/// The profile that containers have unless another is asked for: what Docker's permits.
const DEFAULT: &str = include_str!("seccomp/default.json");

/// The default profile.
pub fn default() -> Result<Profile, Error> {
    Profile::parse(DEFAULT)
}
