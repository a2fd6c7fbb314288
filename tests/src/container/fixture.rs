//! What the tests are given: the programs and the images.
//!
//! `tools/test` builds both before the tests; a test that finds one missing fails and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Machine;

/// A program of ours: in `COWL_BIN_DIR`, or where cargo built it.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("COWL_BIN_DIR") {
        return Path::new(&directory).join(name);
    }
    // target/debug/deps/test-0123 -> target/debug
    let test = std::env::current_exe().expect("the path of this test");
    test.ancestors().nth(2).expect("cargo's target directory").join(name)
}

/// The busybox image as a `docker save` archive, made for this machine.
pub fn busybox(machine: &Machine) -> PathBuf {
    let out = machine.path("busybox.tar");
    build("image-busybox", &[out.as_path()]);
    out
}

/// The busybox image as an OCI layout whose layers are compressed in this way.
pub fn busybox_layout(machine: &Machine, compression: &str) -> PathBuf {
    let out = machine.path(format!("busybox-{compression}"));
    build("image-busybox", &[out.as_path(), Path::new(compression)]);
    out
}

/// The Debian image: a directory with `docker.tar`, `oci` and `rootfs.tar.zst`.
pub fn debian() -> PathBuf {
    let directory = std::env::var_os("COWL_FIXTURES")
        .map_or_else(|| root().join("tests/fixtures"), PathBuf::from)
        .join("debian");
    assert!(
        directory.join("key").exists(),
        "{} is missing: tools/test builds it, or run tools/image-debian {0}",
        directory.display()
    );
    directory
}

/// Gives the caller of a machine an own view of a fixture that may be out of its reach.
pub fn lend(machine: &Machine, source: &Path, name: &str) -> PathBuf {
    let target = machine.path(name);
    let mut copy = Command::new("cp");
    // A hard link costs nothing; where it cannot be made, a copy is as good.
    let linked = copy.arg("-rlL").arg(source).arg(&target).output().expect("run cp");
    if !linked.status.success() {
        if target.is_dir() {
            fs::remove_dir_all(&target).expect("remove a half copy");
        }
        let copied = Command::new("cp").arg("-rL").arg(source).arg(&target).status();
        assert!(copied.expect("run cp").success(), "copy {}", source.display());
    }
    target
}

fn build(tool: &str, arguments: &[&Path]) {
    let output = Command::new(root().join("tools").join(tool))
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("run tools/{tool}: {e}"));
    assert!(
        output.status.success(),
        "tools/{tool}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}
