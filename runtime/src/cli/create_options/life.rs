//! Flags about labels, restarts, stopping, logging, and what is attached.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::engine;
use crate::cli::{Failure, shown};
use crate::container::life::{self, Life, Log, Restart};

/// The flags.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Options {
    /// Attach only these of stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM")]
    attach: Vec<String>,
    /// Set a label
    #[arg(short, long = "label", value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Set the labels that a file lists, one a line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Start it again when it has ended: no, on-failure, on-failure:MAX, always, unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: String,
    /// The signal that asks it to stop [default: the image's, else SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL; -1 for without end [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<i64>,
    /// Where what it writes is kept: json-file or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// How much is kept: max-size=SIZE, max-file=NUMBER
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,
    /// Whether nothing is attached: `run -d`.
    #[arg(skip)]
    detached: bool,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// For the configuration.
    pub life: Life,
    labels: Vec<(String, String)>,
}

/// A label as it is written on the command line.
fn label(text: &str) -> (String, String) {
    match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.to_owned(), String::new()),
    }
}

impl Options {
    /// Attaches nothing.
    pub fn detach(&mut self) -> Result<(), Failure> {
        if !self.attach.is_empty() {
            return Err(engine("conflicting options: cannot specify both --attach and --detach"));
        }
        self.detached = true;
        Ok(())
    }

    /// Which of stdin, stdout, stderr are attached.
    pub fn attached(&self, interactive: bool) -> Result<[bool; 3], Failure> {
        if self.detached {
            return Ok([false; 3]);
        }
        if self.attach.is_empty() {
            return Ok([interactive, true, true]);
        }
        let mut all = [false; 3];
        for name in &self.attach {
            let [stdin, stdout, stderr] = &mut all;
            match name.to_ascii_lowercase().as_str() {
                "stdin" => *stdin = true,
                "stdout" => *stdout = true,
                "stderr" => *stderr = true,
                _ => {
                    return Err(engine(
                        "invalid argument for --attach: valid streams are stdin, stdout and stderr",
                    ));
                }
            }
        }
        let [stdin, stdout, stderr] = all;
        Ok([stdin && interactive, stdout, stderr])
    }

    /// Reads the flags.
    pub fn read(&self, interactive: bool, remove: bool) -> Result<Read, Failure> {
        let mut labels = Vec::new();
        for file in &self.label_file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                engine(format!("cannot read the --label-file {}: {error}", shown(file)))
            })?;
            let lines = text.lines().map(str::trim);
            labels.extend(lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(label));
        }
        labels.extend(self.label.iter().map(|text| label(text)));
        let restart = Restart::parse(&self.restart).map_err(engine)?;
        if remove && restart != Restart::No {
            return Err(engine("conflicting options: cannot specify both --restart and --rm"));
        }
        let attached = self.attached(interactive)?;
        let [stdin, ..] = attached;
        let life = Life {
            restart,
            stop_signal: self
                .stop_signal
                .as_deref()
                .map(life::signal)
                .transpose()
                .map_err(engine)?,
            stop_timeout: self.stop_timeout,
            log: Log::parse(self.log_driver.as_deref(), &self.log_opt).map_err(engine)?,
            stdin_once: interactive && stdin,
            attached,
        };
        Ok(Read { life, labels })
    }
}

impl Read {
    /// The image's labels, and over them the user's.
    pub fn labels(&self, mut all: BTreeMap<String, String>) -> BTreeMap<String, String> {
        all.extend(self.labels.iter().cloned());
        all
    }
}
