//! Applications that ask much of a filesystem, each over files of a lower layer that get copied up,
//! as root and in a user namespace, as an ordinary user inside, and again after a remount.
//!
//! The applications judge themselves (`integrity_check`, `fsck`, `pg_amcheck`, `dpkg --audit`) and
//! every change that one of them called done is looked for after the filesystem was killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod archive;
mod dpkg;
mod git;
mod lmdb;
mod postgres;
mod sqlite;

use std::process::{Child, Command};

use cowl_tests::mount::{Mode, Sut, World, jail, sys};

/// An ordinary user inside the jail: `daemon`, as `initdb` wants one with an account.
const USER: u32 = 1;

/// Defines a test that runs as root and as root of a user namespace, with more time than most:
/// it runs programs by the dozen, beside other tests.
macro_rules! app {
    ($(#[$doc:meta])* $name:ident, |$w:ident| $body:block) => {
        $(#[$doc])*
        mod $name {
            use super::*;
            fn body($w: &mut cowl_tests::mount::World) $body
            #[test]
            fn root() {
                crate::run(concat!(module_path!(), "::root"), cowl_tests::mount::Mode::Root, body);
            }
            #[test]
            fn userns() {
                let mode = cowl_tests::mount::Mode::UserNs;
                crate::run(concat!(module_path!(), "::userns"), mode, body);
            }
        }
    };
}
pub(crate) use app;

/// Runs a body in a jail.
fn run(test: &str, mode: Mode, body: fn(&mut World)) {
    jail::run(test, mode, 300, body);
}

/// A shell with the places of a test: `$M` the mount, `$L` the bottom lower layer, `$T` a plain
/// directory. Every failure inside is a failure.
fn shell(w: &World, script: &str) -> Command {
    let mut c = Command::new("bash");
    c.args(["-euo", "pipefail", "-c", script, "test"]).current_dir("/");
    places(w, &mut c);
    c
}

/// The same as an ordinary user.
fn user_shell(w: &World, script: &str) -> Command {
    let id = USER.to_string();
    let mut c = Command::new("setpriv");
    c.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    c.args(["bash", "-euo", "pipefail", "-c", script, "test"]).current_dir("/");
    places(w, &mut c);
    c
}

fn places(w: &World, c: &mut Command) {
    c.env("M", w.m("")).env("L", w.l(1, "")).env("T", w.r("")).env("HOME", w.r(""));
    c.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
}

/// Runs a command to its end; what it said on its standard output.
#[track_caller]
fn said(c: &mut Command) -> String {
    let out = c.output().unwrap_or_else(|e| panic!("{c:?}: {e}"));
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{c:?}: {}\n{text}{err}", out.status);
    text.trim_end().to_owned()
}

/// Runs a shell script as root; what it said.
#[track_caller]
fn sh(w: &World, script: &str) -> String {
    said(&mut shell(w, script))
}

/// Runs a shell script as the ordinary user; what it said.
#[track_caller]
fn ush(w: &World, script: &str) -> String {
    said(&mut user_shell(w, script))
}

/// Gives everything under the plain directory and the bottom layer to the ordinary user.
fn give_to_user(w: &World) {
    sh(w, &format!("chown -hR {USER}:{USER} \"$L\" \"$T\""));
    // The merged root takes its owner from the topmost layer.
    for top in [w.u(""), w.l(0, "")] {
        sys::lchown(top, USER, USER).unwrap();
    }
}

/// Whether there is a process to kill: kernel overlayfs, as a reference, has none.
fn can_be_killed(w: &World) -> bool {
    w.sut != Sut::Overlay
}

/// Kills the filesystem under running programs, waits for their end, and mounts again.
fn kill_under(w: &mut World, mut programs: Vec<Child>) {
    if let Some(pid) = w.server_pid() {
        sys::kill(pid, sys::libc::SIGKILL).unwrap();
    }
    for p in &mut programs {
        // They fail, each in its way, once the filesystem is gone.
        p.wait().unwrap();
    }
    w.crash();
}
