//! The systems to compare: which are asked for, and which this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Result};
use crate::host::Caller;
use crate::process;

/// Name of the plain directory.
pub const NATIVE: &str = "native";
/// Name of the kernel's union filesystem.
pub const OVERLAY: &str = "overlay";
/// Name of ours.
pub const COWLFS: &str = "cowlfs";
/// Name of the widely used one on FUSE.
pub const FUSE_OVERLAYFS: &str = "fuse-overlayfs";
/// Behind the name of a system that is to run in a user namespace.
const USER: &str = "@u";

/// How a system is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A plain directory: not at all.
    Native,
    /// mount(8) with type `overlay`.
    Overlay,
    /// A program with fuse-overlayfs's command line.
    Fuse(PathBuf),
}

/// One of the systems to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// As in tables, `@u` included.
    pub name: String,
    /// How it is mounted.
    pub kind: Kind,
    /// Mount options besides the layers.
    pub options: String,
    /// Whether it runs in a user namespace.
    pub user: bool,
    /// What it says about itself, or what it is.
    pub version: String,
}

/// What was asked for on the command line.
#[derive(Debug, Default)]
pub struct Wish {
    /// `--systems`.
    pub systems: Vec<String>,
    /// `--add`, as `NAME=WHAT[:OPTIONS]`.
    pub added: Vec<String>,
    /// `--user`: everything in a user namespace.
    pub user: bool,
}

/// Finds the programs. The second list says in a sentence each what was asked for and is not there.
///
/// # Errors
/// For a name that stands for nothing, and an addition that cannot be read.
pub fn find(wish: &Wish, caller: Caller) -> Result<(Vec<System>, Vec<String>)> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    let additions = wish.added.iter().map(|a| addition(a)).collect::<Result<Vec<_>>>()?;
    for asked in wish.systems.iter().filter(|name| !name.is_empty()) {
        let (name, user) = plain(asked, wish.user);
        if additions.iter().any(|a| a.name == *asked) {
            continue;
        }
        match programs(name)? {
            here if here.is_empty() => missing.push(format!("{name}: {}", advice(name))),
            here => found.extend(here.into_iter().map(|(name, kind)| (name, kind, user, ""))),
        }
    }
    for added in &additions {
        let (name, user) = plain(&added.name, wish.user);
        match kinds(&added.what)? {
            here if here.is_empty() => missing.push(format!("{name}: {}", advice(&added.what))),
            here => found.extend(
                here.into_iter().take(1).map(|kind| (name.to_owned(), kind, user, &*added.options)),
            ),
        }
    }
    let mut systems: Vec<System> = Vec::new();
    for (name, kind, user, options) in found {
        // An ordinary user is in a user namespace with everything; a plain directory knows none.
        let mark = user && caller == Caller::Root && kind != Kind::Native;
        let name = if mark { name + USER } else { name };
        let mut options: Vec<&str> = options.split(',').filter(|o| !o.is_empty()).collect();
        if kind == Kind::Overlay && (mark || caller == Caller::User) {
            options.push("userxattr");
        }
        let options = options.join(",");
        if systems.iter().all(|s| s.name != name) {
            let version = version(&kind);
            systems.push(System { name, kind, options, user: mark, version });
        }
    }
    Ok((systems, missing))
}

fn plain(name: &str, user: bool) -> (&str, bool) {
    name.strip_suffix(USER).map_or((name, user), |name| (name, true))
}

#[derive(Debug, PartialEq, Eq)]
struct Addition {
    name: String,
    what: String,
    options: String,
}

fn addition(text: &str) -> Result<Addition> {
    let usage = || Fault(format!("--add {text}: must be NAME=PROGRAM[:OPTIONS]"));
    let (name, what) = text.split_once('=').ok_or_else(usage)?;
    let (what, options) = what.split_once(':').unwrap_or((what, ""));
    if name.trim_end_matches(USER).is_empty() || what.is_empty() {
        return Err(usage());
    }
    Ok(Addition { name: name.into(), what: what.into(), options: options.into() })
}

/// Names and kinds of all that a built-in name stands for.
fn programs(name: &str) -> Result<Vec<(String, Kind)>> {
    let kinds = match name {
        NATIVE | OVERLAY | COWLFS | FUSE_OVERLAYFS => kinds(name)?,
        _ => {
            return Err(Fault(format!(
                "no system '{name}'; there are {NATIVE}, {OVERLAY}, {COWLFS}, {FUSE_OVERLAYFS}, and \
                 what --add adds"
            )));
        }
    };
    let several = kinds.len() > 1;
    let named = |kind: Kind| {
        let name =
            if several { format!("{name}-{}", number(&version(&kind))) } else { name.into() };
        (name, kind)
    };
    Ok(kinds.into_iter().map(named).collect())
}

fn kinds(what: &str) -> Result<Vec<Kind>> {
    Ok(match what {
        NATIVE => vec![Kind::Native],
        OVERLAY => vec![Kind::Overlay],
        COWLFS => cowlfs().map(Kind::Fuse).into_iter().collect(),
        FUSE_OVERLAYFS => fuse_overlayfs().into_iter().map(Kind::Fuse).collect(),
        path if Path::new(path).is_file() => vec![Kind::Fuse(path.into())],
        name if !name.contains('/') => {
            in_path(|file| file == name).pop().map(Kind::Fuse).into_iter().collect()
        }
        path => return Err(Fault(format!("there is no program {path}"))),
    })
}

fn advice(name: &str) -> &'static str {
    match name {
        COWLFS => {
            "not found; build it with `cargo build --release -p cowl-fs`, or name it in COWLFS"
        }
        _ => "not found in PATH",
    }
}

/// `COWLFS`, or what lies beside this program, or in PATH.
fn cowlfs() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("COWLFS") {
        return Some(path.into());
    }
    let beside = std::env::current_exe().ok()?.parent()?.join(COWLFS);
    if beside.is_file() { Some(beside) } else { in_path(|file| file == COWLFS).pop() }
}

/// Every one in PATH, also with a version in its name, of each version one.
fn fuse_overlayfs() -> Vec<PathBuf> {
    let mut versions: Vec<String> = Vec::new();
    in_path(|file| {
        file.strip_prefix(FUSE_OVERLAYFS)
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.'))
    })
    .into_iter()
    .filter(|path| {
        let version = version(&Kind::Fuse(path.clone()));
        let new = !versions.contains(&version);
        versions.push(version);
        new
    })
    .collect()
}

fn in_path(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for directory in std::env::split_paths(&path).chain(["/usr/local/bin".into()]) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let right = entry.file_name().to_str().is_some_and(&wanted);
            if let (true, Ok(path)) = (right, entry.path().canonicalize())
                && !found.contains(&path)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn version(kind: &Kind) -> String {
    match kind {
        Kind::Native => "plain directory".into(),
        Kind::Overlay => "kernel overlayfs".into(),
        Kind::Fuse(path) => {
            let mut command = Command::new(path);
            command.arg("--version");
            let said = process::run(command, "--version", Duration::from_secs(5));
            let said = said.unwrap_or_default();
            // Some print the versions of their libraries first.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let own = said.lines().find(|line| line.starts_with(name.as_ref()));
            own.or(said.lines().next()).unwrap_or(&name).to_owned()
        }
    }
}

/// The number in what a program says about its version.
fn number(version: &str) -> &str {
    version
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(systems: &[&str], added: &[&str], user: bool) -> Wish {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Wish { systems: own(systems), added: own(added), user }
    }

    fn names(wish: &Wish, caller: Caller) -> Vec<(String, String, bool)> {
        let (found, _) = find(wish, caller).unwrap();
        found.into_iter().map(|s| (s.name, s.options, s.user)).collect()
    }

    #[test]
    fn names_and_options() {
        let w = wish(&["native", "overlay", "overlay@u"], &["x@u=overlay:metacopy=on"], false);
        let entry = |name: &str, options: &str, user| (name.to_owned(), options.to_owned(), user);
        assert_eq!(
            names(&w, Caller::Root),
            [
                entry("native", "", false),
                entry("overlay", "", false),
                entry("overlay@u", "userxattr", true),
                entry("x@u", "metacopy=on,userxattr", true),
            ]
        );
        assert_eq!(
            names(&wish(&["native", "overlay"], &[], true), Caller::User),
            [entry("native", "", false), entry("overlay", "userxattr", false)]
        );
    }

    #[test]
    fn any_program_can_be_added() {
        let w = wish(&[], &["mine=/bin/sh:a=1,b"], false);
        let (found, missing) = find(&w, Caller::Root).unwrap();
        assert_eq!(found[0].kind, Kind::Fuse("/bin/sh".into()));
        assert_eq!((found[0].options.as_str(), missing.len()), ("a=1,b", 0));
    }

    #[test]
    fn what_is_not_there_is_said() {
        for bad in ["x", "=y", "x=", "@u=overlay"] {
            let error = find(&wish(&[], &[bad], false), Caller::Root).unwrap_err();
            assert!(error.0.contains("NAME=PROGRAM"), "{error}");
        }
        assert!(find(&wish(&["nothing"], &[], false), Caller::Root).is_err());
        assert!(find(&wish(&[], &["x=/no/such"], false), Caller::Root).is_err());
        let (found, missing) =
            find(&wish(&[], &["x=no-such-program"], false), Caller::Root).unwrap();
        assert_eq!(
            (found.len(), missing.as_slice()),
            (0, &["x: not found in PATH".to_owned()][..])
        );
    }

    #[test]
    fn numbers_of_versions() {
        assert_eq!(number("fuse-overlayfs: version 1.10"), "1.10");
        assert_eq!(number("odd"), "unknown");
    }
}
