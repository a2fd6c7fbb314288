//! How a container lives: when it is started again, how it is told to end, what of its streams
//! is kept. A part of its configuration on disk.

use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::log::Limits;

/// Seconds between the stop signal and SIGKILL when nothing else is said: Docker's.
pub const STOP_PATIENCE: i64 = 10;

/// Whether a container that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// When it ended with another code than 0.
    OnFailure {
        /// How often; 0 for without end.
        max: u32,
    },
    /// Always, unless the user ended it.
    Always,
    /// The same, for us: Docker's difference is in what happens when its daemon is started.
    UnlessStopped,
}

impl Restart {
    /// Reads `no`, `on-failure[:max]`, `always` or `unless-stopped`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (name, max) = match text.split_once(':') {
            Some((name, max)) => (name, Some(max)),
            None => (text, None),
        };
        match (name, max) {
            ("" | "no", None) => Ok(Self::No),
            ("always", None) => Ok(Self::Always),
            ("unless-stopped", None) => Ok(Self::UnlessStopped),
            ("on-failure", None) => Ok(Self::OnFailure { max: 0 }),
            ("on-failure", Some(max)) => match max.parse() {
                Ok(max) => Ok(Self::OnFailure { max }),
                Err(_) => Err(Error::RestartCount(text.to_owned())),
            },
            ("no" | "always" | "unless-stopped", Some(_)) => {
                Err(Error::RestartCountNotAllowed(text.to_owned()))
            }
            _ => Err(Error::Restart(text.to_owned())),
        }
    }

    /// Docker's name, without the count.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// How often at most; 0 where there is no such limit.
    pub fn max(self) -> u32 {
        match self {
            Self::OnFailure { max } => max,
            _ => 0,
        }
    }

    /// Whether a container that ended with this code, after so many restarts, is started again.
    pub fn applies(self, exit_code: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { max } => exit_code != 0 && (max == 0 || restarts < max),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

/// Where what the container writes is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum Log {
    /// Nowhere.
    None,
    /// In a file, for `logs`.
    JsonFile {
        /// When the file is full.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_size: Option<u64>,
        /// How many files are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_files: Option<u32>,
    },
}

impl Default for Log {
    fn default() -> Self {
        Self::JsonFile { max_size: None, max_files: None }
    }
}

/// The bound on the log of a container that is removed with its end, where none is given: nobody
/// can read it afterwards, and a gigabyte through a pipeline shall not need one on the disk.
const PASSING: Limits = Limits { max_size: Some(16 << 20), max_files: 2 };

impl Log {
    /// Reads `--log-driver` and the `--log-opt`s.
    pub fn parse(driver: Option<&str>, options: &[String]) -> Result<Self, Error> {
        match driver {
            None | Some("" | "json-file" | "local") => {}
            Some("none") => {
                return match options.first() {
                    None => Ok(Self::None),
                    Some(option) => Err(Error::LogOption(option.clone(), "none")),
                };
            }
            Some(other) => return Err(Error::LogDriver(other.to_owned())),
        }
        let (mut max_size, mut max_files) = (None, None);
        for option in options {
            let bad = || Error::BadLogOption(option.clone());
            match option.split_once('=') {
                Some(("max-size", "-1")) => max_size = None,
                Some(("max-size", text)) => {
                    max_size = Some(size(text).filter(|size| *size > 0).ok_or_else(bad)?);
                }
                Some(("max-file", text)) => {
                    let number = text.parse().ok().filter(|number| *number > 0);
                    max_files = Some(number.ok_or_else(bad)?);
                }
                _ => return Err(Error::LogOption(option.clone(), "json-file")),
            }
        }
        if max_files.is_some_and(|files| files > 1) && max_size.is_none() {
            return Err(Error::FilesWithoutSize);
        }
        Ok(Self::JsonFile { max_size, max_files })
    }

    /// How much the file may hold; none when there is no file.
    pub fn limits(self, passing: bool) -> Option<Limits> {
        match self {
            Self::None => None,
            Self::JsonFile { max_size: None, .. } if passing => Some(PASSING),
            Self::JsonFile { max_size, max_files } => {
                Some(Limits { max_size, max_files: max_files.unwrap_or(1) })
            }
        }
    }
}

/// Reads a size in Docker's form: a number, and a unit of 1024s.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower.get(digits.len()..)? {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// How a container lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// Whether it is started again.
    pub restart: Restart,
    /// What asks it to end, where not SIGTERM.
    pub stop_signal: Option<i32>,
    /// Seconds until SIGKILL; negative for never. None for [`STOP_PATIENCE`].
    pub stop_timeout: Option<i64>,
    /// Where what it writes is kept.
    pub log: Log,
    /// Whether its stdin ends with the first command that was attached to it.
    pub stdin_once: bool,
    /// Which of stdin, stdout, stderr `run` attached: what `inspect` says.
    pub attached: [bool; 3],
}

impl Life {
    /// The signal that asks it to end.
    pub fn stop_signal(&self) -> i32 {
        self.stop_signal.unwrap_or(Signal::SIGTERM as i32)
    }

    /// Seconds until SIGKILL.
    pub fn stop_timeout(&self) -> i64 {
        self.stop_timeout.unwrap_or(STOP_PATIENCE)
    }
}

/// Why a life cannot be like this. Docker's sentences.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such policy.
    #[error(
        "invalid restart policy: unknown policy '{0}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
    )]
    Restart(String),
    /// The count is no number.
    #[error("invalid restart policy format: maximum retry count must be an integer: {0}")]
    RestartCount(String),
    /// A count where none belongs.
    #[error("invalid restart policy: maximum retry count can only be used with 'on-failure': {0}")]
    RestartCountNotAllowed(String),
    /// No such signal.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// No such log driver.
    #[error("logger: no log driver named '{0}' is registered: use json-file or none")]
    LogDriver(String),
    /// An option that the driver does not know.
    #[error("unknown log opt '{0}' for {1} log driver")]
    LogOption(String, &'static str),
    /// An option with a value that it cannot have.
    #[error(
        "invalid log opt '{0}': give max-size as a size like 10m and max-file as a number from 1"
    )]
    BadLogOption(String),
    /// Several files, none of which is ever full.
    #[error("invalid log opts: max-file needs max-size")]
    FilesWithoutSize,
}

/// A signal by its number or name, with or without `SIG`; also `RTMIN+n` and `RTMAX-n`.
pub fn signal(text: &str) -> Result<i32, Error> {
    let bad = || Error::Signal(text.to_owned());
    let (first, last) = (nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX());
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=last).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str, sign| match text.strip_prefix(sign) {
        None => text.is_empty().then_some(0),
        Some(number) => number.parse::<i32>().ok(),
    };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        Some(offset(rest, '+').map(|offset| first.saturating_add(offset)))
    } else {
        name.strip_prefix("RTMAX")
            .map(|rest| offset(rest, '-').map(|offset| last.saturating_sub(offset)))
    };
    match real_time {
        Some(number) => number.filter(|n| (first..=last).contains(n)).ok_or_else(bad),
        None => {
            let name = match name {
                "CLD" => "CHLD",
                "POLL" => "IO",
                other => other,
            };
            format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| bad())
        }
    }
}

/// A signal's name, or its number where it has none.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number)
        .map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

impl fmt::Display for Restart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max() {
            0 => out.write_str(self.name()),
            max => write!(out, "{}:{max}", self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_read_as_in_docker() {
        for (text, policy) in [
            ("no", Restart::No),
            ("always", Restart::Always),
            ("unless-stopped", Restart::UnlessStopped),
            ("on-failure", Restart::OnFailure { max: 0 }),
            ("on-failure:3", Restart::OnFailure { max: 3 }),
        ] {
            assert_eq!(Restart::parse(text), Ok(policy));
            assert_eq!(policy.to_string(), text);
        }
        for bad in ["never", "on-failure:x", "on-failure:-1", "always:2", "no:1"] {
            assert!(Restart::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_apply() {
        assert!(!Restart::No.applies(1, 0));
        assert!(Restart::Always.applies(0, 1000));
        let failure = Restart::OnFailure { max: 2 };
        assert!(!failure.applies(0, 0));
        assert!(failure.applies(1, 1));
        assert!(!failure.applies(1, 2));
        assert!(Restart::OnFailure { max: 0 }.applies(1, 1000));
    }

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("usr1", 10)]
        {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        let first = nix::libc::SIGRTMIN();
        assert_eq!(signal("RTMIN+3"), Ok(first + 3));
        assert_eq!(signal("SIGRTMIN"), Ok(first));
        assert_eq!(signal("RTMAX"), Ok(nix::libc::SIGRTMAX()));
        for bad in ["", "0", "65", "-1", "NOPE", "SIG", "RTMIN+99", "RTMINX"] {
            assert_eq!(signal(bad), Err(Error::Signal(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn log_options_are_checked() {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let log = Log::parse(None, &words(&["max-size=10m", "max-file=3"])).unwrap();
        let limits = log.limits(true).unwrap();
        assert_eq!(limits, Limits { max_size: Some(10 << 20), max_files: 3 });
        assert_eq!(Log::parse(Some("none"), &[]).unwrap().limits(true), None);
        assert_eq!(Log::default().limits(false), Some(Limits::NONE));
        assert_eq!(Log::default().limits(true), Some(PASSING));
        for bad in ["max-size=x", "max-size=0", "max-file=0", "max-file=2", "labels=a", "max-size"]
        {
            assert!(Log::parse(None, &words(&[bad])).is_err(), "{bad}");
        }
        assert!(Log::parse(Some("syslog"), &[]).is_err());
        let json = serde_json::to_string(&Life::default()).unwrap();
        assert_eq!(serde_json::from_str::<Life>(&json).unwrap(), Life::default());
        assert_eq!(serde_json::from_str::<Life>("{}").unwrap(), Life::default());
    }
}
