//! A command line that is attached to a container: to PID 1 from its start or later, or to a
//! program started beside it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::{Failure, complain};
use crate::container::{Container, Containers, KILLED};
use crate::control::{self, Connection, Reply, Request};
use crate::monitor::ENGINE_ERROR;
use crate::terminal::{self, Copying, DetachKeys, Feed, Raw};

/// What is attached, and how.
#[derive(Debug)]
pub struct Terms {
    /// Whether the caller's stdin is.
    pub stdin: bool,
    /// Whether the other side is a terminal.
    pub tty: bool,
    /// The keys that part the caller's terminal from it.
    pub keys: DetachKeys,
    /// Whether signals are forwarded.
    pub forward: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With an exit code.
    Ended(u8),
    /// The caller has gone its own way; the container runs on.
    Parted,
}

/// Signals that ask this command to end.
const FATAL: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

fn engine(error: impl ToString) -> Failure {
    Failure::new(ENGINE_ERROR, error)
}

/// Whether a signal asks for the end of what it is sent to, so that no restart policy may bring
/// it back.
pub fn is_an_end(number: i32, stop_signal: i32) -> bool {
    number == stop_signal
        || number == Signal::SIGKILL as i32
        || FATAL.iter().any(|fatal| *fatal as i32 == number)
}

/// What happened next.
enum Event {
    Reply(Reply, Vec<OwnedFd>),
    MonitorGone,
    Signal(i32),
    Keys,
}

/// One conversation with a monitor.
#[derive(Debug)]
pub struct Attached<'a> {
    /// To the monitor.
    pub connection: Connection,
    /// The signals that were taken from their usual course.
    pub signals: Option<SignalFd>,
    /// The container.
    pub container: &'a Container,
    /// Where it lives.
    pub containers: &'a Containers,
}

impl Attached<'_> {
    fn next(&self, copying: Option<&Copying>) -> Result<Event, Failure> {
        loop {
            let mut fds = vec![PollFd::new(self.connection.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.signals.as_ref().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
            fds.extend(copying.map(|copying| PollFd::new(copying.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(engine(format!("cannot wait: {}", errno.desc()))),
                Ok(_) => {}
            }
            let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
            if ready.next().unwrap_or(false) {
                return match self.connection.reply() {
                    Ok((reply, fds)) => Ok(Event::Reply(reply, fds)),
                    Err(control::Error::Gone) => Ok(Event::MonitorGone),
                    Err(error) => Err(engine(error)),
                };
            }
            if let Some(signals) = &self.signals
                && ready.next().unwrap_or(false)
                && let Ok(Some(info)) = signals.read_signal()
                && let Ok(number) = i32::try_from(info.ssi_signo)
            {
                return Ok(Event::Signal(number));
            }
            if ready.next().unwrap_or(false) {
                return Ok(Event::Keys);
            }
        }
    }

    /// Waits until PID 1, or the program, runs. What came with the answer; a failure when it
    /// does not run, and none when a signal asked this command to end before.
    pub fn started(&self) -> Result<Option<Vec<OwnedFd>>, Failure> {
        loop {
            match self.next(None)? {
                Event::Reply(Reply::Started, fds) => return Ok(Some(fds)),
                Event::Reply(Reply::Failed { exit_code, message }, _) => {
                    return Err(Failure::new(exit_code, message));
                }
                Event::Reply(..) | Event::Keys => {}
                Event::MonitorGone => {
                    self.settle()?;
                    return Err(engine("the monitor of the container ended before its start"));
                }
                Event::Signal(number) => {
                    if FATAL.iter().any(|fatal| *fatal as i32 == number) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Copies streams and forwards signals until the end.
    pub fn follow(
        &self,
        output: Option<OwnedFd>,
        errors: Option<OwnedFd>,
        input: Option<OwnedFd>,
        terms: Terms,
    ) -> Result<Outcome, Failure> {
        let mut raw = None;
        if terms.tty && terms.stdin {
            raw = Raw::enter().map_err(|errno| {
                engine(format!("cannot switch the terminal to raw mode: {}", errno.desc()))
            })?;
        }
        let (feed, terminal) = match (input, terms.tty) {
            (Some(terminal), true) => {
                let feed = if terms.stdin { Feed::Terminal(terms.keys) } else { Feed::Nothing };
                (feed, Some(terminal))
            }
            (Some(pipe), false) => (Feed::Pipe(pipe), None),
            (None, _) => (Feed::Nothing, None),
        };
        let copying = terminal::copy_streams(output, errors, feed, terminal)
            .map_err(|errno| engine(format!("cannot copy the streams: {}", errno.desc())))?;
        copying.resize(); // it may have changed since the start
        let mut typing = true;
        loop {
            match self.next(typing.then_some(&copying))? {
                Event::Reply(Reply::Ended { exit_code, error }, _) => {
                    copying.finish();
                    drop(raw);
                    if let Some(error) = error {
                        complain(&error);
                    }
                    return Ok(Outcome::Ended(exit_code));
                }
                Event::Reply(..) => {} // about a signal that came too late, say
                Event::MonitorGone => {
                    copying.finish();
                    drop(raw);
                    return self.without_monitor().map(Outcome::Ended);
                }
                Event::Keys => {
                    if copying.parted() {
                        drop(raw);
                        return Ok(Outcome::Parted);
                    }
                    typing = false;
                }
                Event::Signal(number) if number == Signal::SIGWINCH as i32 => copying.resize(),
                Event::Signal(number) => {
                    let end = is_an_end(number, self.container.config.life.stop_signal());
                    if terms.forward {
                        let request = Request::Signal { number, by_user: end };
                        // A monitor that is gone is noticed above.
                        self.connection.ask(&request, &[]).ok();
                    } else if end {
                        drop(raw);
                        return Ok(Outcome::Ended(128u8.saturating_add(number as u8)));
                    }
                }
            }
        }
    }

    /// Puts the state in order as the next command would.
    fn settle(&self) -> Result<(), Failure> {
        self.containers.wait_for_end(self.container).map_err(engine)?;
        self.containers.reclaim().map_err(engine)
    }

    /// The monitor was killed. PID 1 has been killed too; cowlfs ends by itself.
    fn without_monitor(&self) -> Result<u8, Failure> {
        self.settle()?;
        let short = self.container.config.id.short();
        complain(&format!(
            "the monitor of container {short} was killed, and the container with it"
        ));
        Ok(KILLED)
    }
}
