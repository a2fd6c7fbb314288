//! `cowl logs`.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use super::{Context, Failure};
use crate::container::{Container, life};
use crate::control::{Connection, Request};
use crate::filter::point;
use crate::log::{self, Entry, Reader, Stream};
use crate::sys;

/// `cowl logs`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with what is written from now on, until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Show the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Show extra details of each line
    #[arg(long)]
    details: bool,
    /// How many of the last lines are shown
    #[arg(
        short = 'n',
        long,
        value_name = "NUMBER",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,
    /// From a time on: a date, seconds since 1970, or a span like 10m before now
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to a time, given in the same way
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// How soon a growing log is looked at again.
const PAUSE: Duration = Duration::from_millis(25);

/// What is shown, and how.
struct Shown {
    timestamps: bool,
    details: bool,
    since: Option<i128>,
    until: Option<i128>,
}

impl Shown {
    /// Prints an entry when it is in the span that is asked for; false when it is beyond.
    fn print(&self, entry: &Entry) -> io::Result<bool> {
        if self.since.is_some() || self.until.is_some() {
            let at = point::parse(&entry.time, 0).unwrap_or(0); // ours always is one
            if self.until.is_some_and(|until| at > until) {
                return Ok(false);
            }
            if self.since.is_some_and(|since| at < since) {
                return Ok(true);
            }
        }
        let mut line = Vec::with_capacity(entry.bytes.len() + 40);
        if self.timestamps {
            line.extend_from_slice(entry.time.as_bytes());
            line.push(b' ');
        }
        if self.details {
            line.push(b' '); // the attributes, of which there are none
        }
        line.extend_from_slice(&entry.bytes);
        match entry.stream {
            Stream::Stdout => io::stdout().write_all(&line)?,
            Stream::Stderr => {
                io::stdout().flush()?;
                io::stderr().write_all(&line)?;
            }
        }
        Ok(true)
    }
}

/// Whether printing failed because nobody reads any more, which is no failure.
fn finished(result: io::Result<()>) -> Result<u8, Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(1, format!("cannot show the log: {error}")))
        }
        _ => Ok(0),
    }
}

fn show(reader: &mut Reader, shown: &Shown, alive: Option<&Connection>) -> io::Result<()> {
    loop {
        // Asked before the log is read, so that what was written last is not missed.
        let mut ended = match alive {
            None => true,
            Some(connection) => {
                let readable = sys::descriptor::readable_within(connection.as_fd(), Duration::ZERO);
                readable && connection.reply().is_err() // an end, or one of several lives
            }
        };
        let mut any = false;
        while let Some(entry) = reader.next_entry()? {
            any = true;
            if !shown.print(&entry)? {
                return Ok(());
            }
        }
        io::stdout().flush()?;
        if let Some(until) = shown.until {
            ended |= super::now() > until;
        }
        if ended {
            return Ok(());
        }
        if !any && let Some(connection) = alive {
            // The end of the container is noticed at once.
            sys::descriptor::readable_within(connection.as_fd(), PAUSE);
        }
    }
}

fn number(text: &str) -> Result<Option<u64>, Failure> {
    match text {
        "all" | "" => Ok(None),
        text => match text.parse::<i64>() {
            Ok(number) => Ok(u64::try_from(number).ok()), // negative: all, as in Docker
            Err(_) => Err(Failure::new(
                1,
                format!("invalid value for --tail: {text}: give a number or all"),
            )),
        },
    }
}

fn connected(container: &Container) -> Option<Connection> {
    // One that does not run has no more to say.
    let connection = Connection::open(&container.dir).ok()?;
    connection.ask(&Request::Wait, &[]).ok()?;
    Some(connection)
}

/// Shows what a container has written.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let now = super::now();
    let read = |text: &Option<String>, what: &str| -> Result<Option<i128>, Failure> {
        let Some(text) = text else { return Ok(None) };
        let bad = || Failure::new(1, format!("invalid value for {what:?}: {text:?} is no time"));
        point::parse(text, now).map(Some).ok_or_else(bad)
    };
    let shown = Shown {
        timestamps: args.timestamps,
        details: args.details,
        since: read(&args.since, "since")?,
        until: read(&args.until, "until")?,
    };
    let tail = number(&args.tail)?;
    let container = context.containers()?.find(&args.container)?;
    if container.config.life.log == life::Log::None {
        return Err(Failure::new(
            1,
            "configured logging driver does not support reading: the container was made with \
             --log-driver none",
        ));
    }
    let alive = if args.follow { connected(&container) } else { None };
    let path = log::place(&container.dir, container.config.id.as_str());
    let opened = Reader::open(&path).and_then(|mut reader| {
        if let Some(count) = tail {
            reader.tail(count)?;
        }
        Ok(reader)
    });
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => return finished(Err(error)),
    };
    finished(show(&mut reader, &shown, alive.as_ref()))
}
