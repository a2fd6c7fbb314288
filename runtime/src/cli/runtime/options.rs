//! The options of `create`, `run` and `exec`.

use std::path::PathBuf;

use clap::Args;

use super::super::Failure;
use crate::oci::config::{Capabilities, Process};
use crate::oci::{Bundle, CreateOptions, ExecOptions, read_process};

/// `create`
#[derive(Debug, Args)]
pub struct Create {
    /// The bundle: a directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// A socket to which the container's terminal is sent
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// A file for the number of its first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on it inherits
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preserve_fds: u32,
    /// Accepted: the root is changed with pivot_root, which works on every root here
    #[arg(long)]
    no_pivot: bool,
    /// Accepted: no session keyring is made
    #[arg(long)]
    no_new_keyring: bool,
    /// Its id
    #[arg(value_name = "ID")]
    pub id: String,
}

impl Create {
    /// For the runtime.
    pub fn options(&self) -> CreateOptions {
        CreateOptions {
            bundle: self.bundle.clone(),
            pid_file: self.pid_file.clone(),
            console_socket: self.console_socket.clone(),
            preserve_fds: self.preserve_fds,
        }
    }
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete it at its end
    #[arg(long)]
    pub keep: bool,
}

/// `exec`
#[derive(Debug, Args)]
pub struct Exec {
    /// What runs, as a file with an OCI process
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Where it starts
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// One more environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Who runs it, in numbers
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// One more group
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// One more capability
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,
    /// Set-user-ID programs give nothing
    #[arg(long)]
    no_new_privs: bool,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// A file for its number
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// A socket to which its terminal is sent
    #[arg(long, value_name = "PATH")]
    console_socket: Option<PathBuf>,
    /// How many descriptors from 3 on it inherits
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preserve_fds: u32,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    /// For the runtime: what the flags say, on top of the container's own process.
    pub fn options(&self, bundle: &Bundle) -> Result<ExecOptions, Failure> {
        let process = match &self.process {
            Some(path) => read_process(path)?,
            None => self.flagged(bundle)?,
        };
        Ok(ExecOptions {
            process,
            pid_file: self.pid_file.clone(),
            console_socket: self.console_socket.clone(),
            preserve_fds: self.preserve_fds,
        })
    }

    fn flagged(&self, bundle: &Bundle) -> Result<Process, Failure> {
        if self.command.is_empty() {
            return Err(Failure::new(1, "process args cannot be empty: give a command"));
        }
        let mut process = bundle.config()?.process.unwrap_or_default();
        process.args.clone_from(&self.command);
        process.terminal = self.tty;
        process.env.extend(self.env.iter().cloned());
        process.no_new_privileges |= self.no_new_privs;
        if let Some(cwd) = &self.cwd {
            process.cwd.clone_from(cwd);
        }
        if let Some(user) = &self.user {
            let wrong = || Failure::new(1, format!("invalid user {user}: give UID[:GID]"));
            let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
            process.user.uid = uid.parse().map_err(|_| wrong())?;
            process.user.gid = gid.parse().map_err(|_| wrong())?;
        }
        process.user.additional_gids.extend(&self.additional_gids);
        if !self.cap.is_empty() {
            let sets = process.capabilities.get_or_insert_with(Capabilities::default);
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.extend(self.cap.iter().cloned());
            }
        }
        Ok(process)
    }
}
