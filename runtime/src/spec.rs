//! What a container runs: the image's configuration and the command line, merged.
//!
//! Pure: nothing here looks at the host or at the container's files, so every rule of Docker's
//! about defaults and precedence is a unit test.

pub mod capability;
pub mod environment;
pub mod mount;
pub mod quantity;
pub mod user;
pub mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

/// The directories searched for commands when neither image nor user says.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// What is executed, before the command.
    pub entrypoint: Vec<OsString>,
    /// The default command, or the entry point's default arguments.
    pub command: Vec<OsString>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<OsString>,
    /// `user[:group]`; empty for root.
    pub user: String,
    /// Where the command starts; empty for `/`.
    pub working_dir: PathBuf,
}

/// Why the command line and the image do not make a container.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither says what to run.
    #[error("no command specified: the image has no default command, give one after its name")]
    NoCommand,
    /// A relative working directory.
    #[error("the working directory '{0}' is invalid, it needs to be an absolute path")]
    RelativeWorkingDir(String),
    /// Not a host name.
    #[error("invalid hostname: {0:?}: it needs 1 to 63 letters, digits, dots or hyphens")]
    BadHostname(String),
}

/// A command line in its two parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// What is executed, before the arguments.
    pub entrypoint: Vec<OsString>,
    /// The command, or the entry point's arguments.
    pub arguments: Vec<OsString>,
}

/// The command line of PID 1. An entry point given by the user drops the image's command as well,
/// as in Docker; an empty one drops just the entry point.
pub fn command(
    defaults: &Defaults,
    entrypoint: Option<OsString>,
    arguments: Vec<OsString>,
) -> Result<Command, Error> {
    let own_entrypoint = entrypoint.is_some();
    let entrypoint = match entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program],
        None => defaults.entrypoint.clone(),
    };
    let arguments =
        if arguments.is_empty() && !own_entrypoint { defaults.command.clone() } else { arguments };
    let command = Command { entrypoint, arguments };
    if command == Command::default() { Err(Error::NoCommand) } else { Ok(command) }
}

/// The working directory: the user's, else the image's, else `/`.
pub fn working_dir(defaults: &Defaults, own: Option<PathBuf>) -> Result<PathBuf, Error> {
    let Some(dir) = own else {
        // An image's relative one starts at the root, as in Docker.
        return Ok(volume::clean(&PathBuf::from("/").join(&defaults.working_dir)));
    };
    if !dir.is_absolute() {
        return Err(Error::RelativeWorkingDir(dir.display().to_string()));
    }
    Ok(volume::clean(&dir))
}

/// Checks a host name.
pub fn hostname(name: String) -> Result<String, Error> {
    let good = (1..=63).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if good { Ok(name) } else { Err(Error::BadHostname(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    #[test]
    fn command_lines_merge_as_in_docker() {
        // entry point and command of the image, --entrypoint, arguments → command line
        type Row<'a> =
            (&'a [&'a str], &'a [&'a str], Option<&'a str>, &'a [&'a str], &'a [&'a str]);
        let table: &[Row<'_>] = &[
            (&[], &["sh"], None, &[], &["sh"]),
            (&[], &["sh"], None, &["ls", "-l"], &["ls", "-l"]),
            (&["init", "--"], &["sh"], None, &[], &["init", "--", "sh"]),
            (&["init", "--"], &["sh"], None, &["ls"], &["init", "--", "ls"]),
            (&["init"], &["sh"], Some("/bin/x"), &[], &["/bin/x"]),
            (&["init"], &["sh"], Some("/bin/x"), &["a"], &["/bin/x", "a"]),
            (&["init"], &["sh"], Some(""), &["a"], &["a"]),
        ];
        for (entry, default, own, arguments, expected) in table {
            let defaults = Defaults {
                entrypoint: words(entry),
                command: words(default),
                ..Defaults::default()
            };
            let got = command(&defaults, own.map(OsString::from), words(arguments));
            let got = got.unwrap();
            assert_eq!([got.entrypoint, got.arguments].concat(), words(expected));
        }
        assert_eq!(command(&Defaults::default(), None, vec![]), Err(Error::NoCommand));
        let image = Defaults { command: words(&["sh"]), ..Defaults::default() };
        assert_eq!(command(&image, Some("".into()), vec![]), Err(Error::NoCommand));
    }

    #[test]
    fn working_dirs_are_absolute_and_clean() {
        let image = Defaults { working_dir: "srv/../app/".into(), ..Defaults::default() };
        assert_eq!(working_dir(&image, None).unwrap(), PathBuf::from("/app"));
        assert_eq!(working_dir(&image, Some("/x/".into())).unwrap(), PathBuf::from("/x"));
        assert_eq!(working_dir(&Defaults::default(), None).unwrap(), PathBuf::from("/"));
        assert!(working_dir(&image, Some("x".into())).is_err());
    }

    #[test]
    fn hostnames_are_checked() {
        assert!(hostname("web-1.example".into()).is_ok());
        for bad in ["", "-a", "a b", "a/b", &"a".repeat(64)] {
            assert!(hostname(bad.into()).is_err(), "{bad}");
        }
    }
}
