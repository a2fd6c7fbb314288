//! Lower layers of a test as packed layers: the test makes directories, and the mount gets what
//! `cowlfs --pack` makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of a packed layer's index.
pub const INDEX: &str = "layer.index";

/// Which lowers of a mount are packed (`COWL_PACKED=none|all|even|odd`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packed {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Every other one, from the topmost.
    Even,
    /// Every other one, from the second.
    Odd,
}

impl Packed {
    /// As the environment says; none by itself.
    pub fn from_env() -> Packed {
        match std::env::var("COWL_PACKED").as_deref() {
            Err(_) | Ok("" | "none") => Packed::None,
            Ok("all") => Packed::All,
            Ok("even") => Packed::Even,
            Ok("odd") => Packed::Odd,
            Ok(other) => panic!("COWL_PACKED={other}: none, all, even or odd"),
        }
    }

    /// Whether the lower number `i` is packed.
    pub fn takes(self, i: usize) -> bool {
        match self {
            Packed::None => false,
            Packed::All => true,
            Packed::Even => i.is_multiple_of(2),
            Packed::Odd => !i.is_multiple_of(2),
        }
    }
}

/// Packs a directory into a new one; returns the index.
pub fn pack(dir: &Path, out: &Path) -> PathBuf {
    run("--pack", &[dir, out]);
    out.join(INDEX)
}

/// Fails unless a packed layer is as it was written.
pub fn check(index: &Path) {
    run("--check", &[index]);
}

fn run(what: &str, paths: &[&Path]) {
    let done = Command::new(super::jail::program_inside()).arg(what).args(paths).output();
    let done = done.expect("run the filesystem's program");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "cowlfs {what} {paths:?}: {said}");
}
