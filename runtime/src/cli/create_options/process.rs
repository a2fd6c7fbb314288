//! Flags about PID 1: what it is, who runs it, where, with which environment and streams.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Args;

use super::engine;
use crate::cli::{Failure, shown};
use crate::container::config;
use crate::container::record::Bytes;
use crate::executable;
use crate::spec::{self, Defaults, environment};

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Connect stdin
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; without value the caller's
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Set the environment variables that a file lists, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Where the command starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Who runs it: names from the image, or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Add a group to the user's
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Replace the image's entry point; "" for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<OsString>,
    /// The container's host name
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// The container's NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
}

/// What was read.
pub struct Read {
    /// For the configuration; HOSTNAME is set when the host name is known.
    pub process: config::Process,
    /// As asked for.
    pub hostname: Option<String>,
    /// As asked for.
    pub domainname: Option<String>,
}

/// The variables that a file lists.
pub fn env_file(file: &Path) -> Result<Vec<OsString>, Failure> {
    let text = std::fs::read(file)
        .map_err(|error| engine(format!("cannot read the --env-file {}: {error}", shown(file))))?;
    environment::parse_file(&text)
        .map_err(|error| engine(format!("the --env-file {} is refused: {error}", shown(file))))
}

/// Stands for the host name until that is known; nobody can write it in a variable.
const UNKNOWN: &str = "\0";

/// A variable of the caller.
fn callers(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name).filter(|_| name != executable::ROOT_VARIABLE)
}

impl Options {
    /// Refuses what can be refused before anything is looked up.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(hostname) = &self.hostname {
            spec::hostname(hostname.clone()).map_err(engine)?;
        }
        Ok(())
    }

    fn variables(&self) -> Result<Vec<OsString>, Failure> {
        let mut all = Vec::new();
        for file in &self.env_file {
            all.extend(env_file(file)?);
        }
        all.extend(self.env.iter().cloned());
        Ok(all)
    }

    /// Merges the flags with what the image says.
    pub fn read(self, defaults: &Defaults, arguments: Vec<OsString>) -> Result<Read, Failure> {
        let variables = self.variables()?;
        let command =
            spec::command(defaults, self.entrypoint.clone(), arguments).map_err(engine)?;
        let merged =
            environment::merge(&defaults.environment, &variables, callers, UNKNOWN, self.tty)
                .map_err(engine)?;
        let working_dir = spec::working_dir(defaults, self.workdir).map_err(engine)?;
        let bytes = |list: Vec<OsString>| list.into_iter().map(Bytes::from).collect::<Vec<_>>();
        Ok(Read {
            process: config::Process {
                entrypoint: bytes(command.entrypoint),
                arguments: bytes(command.arguments),
                environment: bytes(merged),
                user: self.user.unwrap_or_else(|| defaults.user.clone()),
                groups: self.group_add,
                working_dir: working_dir.into(),
                tty: self.tty,
                stdin: self.interactive,
                init: false,
            },
            hostname: self.hostname,
            domainname: self.domainname,
        })
    }
}

impl Read {
    /// HOSTNAME, unless image or user set it.
    pub fn set_hostname(&mut self, hostname: &str) {
        for variable in &mut self.process.environment {
            if *variable == Bytes::Text(format!("HOSTNAME={UNKNOWN}")) {
                *variable = Bytes::Text(format!("HOSTNAME={hostname}"));
            }
        }
    }
}
