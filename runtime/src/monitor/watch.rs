//! Waiting: for PID 1, cowlfs, signals, commands, streams and programs, all at once.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::streams::Interest;
use super::{End, Failure, Monitor, failed};
use crate::container::KILLED;
use crate::control::Reply;
use crate::sys;

/// How long a command that stopped reading may hold up a restart.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    InitEnded,
    FilesystemEnded,
    Signal,
    Connected,
    Client(u64),
    Stream(Interest),
    ProgramEnded(u64),
    ProgramOutput(u64),
}

/// What was noticed that ends the life of PID 1.
enum Lost {
    Filesystem,
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up: not to look again before the time has come.
    let left = left.saturating_add(Duration::from_millis(1));
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// Waits; nothing when the deadline came first.
fn wait(
    watched: &[(Event, BorrowedFd<'_>, PollFlags)],
    deadline: Option<Instant>,
) -> nix::Result<Vec<Event>> {
    let mut fds: Vec<PollFd<'_>> =
        watched.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
    match poll(&mut fds, timeout(deadline)) {
        Err(Errno::EINTR) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
        Ok(_) => {}
    }
    let events = watched.iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(false));
    Ok(events.map(|((event, ..), _)| *event).collect())
}

impl Monitor {
    fn wait(&self, deadline: Option<Instant>) -> nix::Result<Vec<Event>> {
        let mut watched = Vec::new();
        if let Some(init) = &self.init {
            watched.push((Event::InitEnded, init.as_fd(), PollFlags::POLLIN));
        }
        if let Some(rootfs) = &self.rootfs {
            watched.push((Event::FilesystemEnded, rootfs.as_fd(), PollFlags::POLLIN));
        }
        watched.push((Event::Signal, self.signals.as_fd(), PollFlags::POLLIN));
        watched.push((Event::Connected, self.listener.as_fd(), PollFlags::POLLIN));
        for client in &self.clients {
            let event = Event::Client(client.number);
            watched.push((event, client.connection.as_fd(), PollFlags::POLLIN));
        }
        for (interest, fd) in self.outputs.interests() {
            let flags = match interest {
                Interest::Source(_) => PollFlags::POLLIN,
                Interest::Sink(_) => PollFlags::POLLOUT,
            };
            watched.push((Event::Stream(interest), fd, flags));
        }
        for program in &self.programs {
            if let Some(child) = program.child() {
                let event = Event::ProgramEnded(program.number);
                watched.push((event, child.as_fd(), PollFlags::POLLIN));
            }
            if let Some(terminal) = program.abandoned() {
                let event = Event::ProgramOutput(program.number);
                watched.push((event, terminal, PollFlags::POLLIN));
            }
        }
        wait(&watched, deadline)
    }

    /// Serves until PID 1 has ended, bringing it about when that is asked for or when the
    /// filesystem ends.
    pub(super) fn watch(&mut self) -> End {
        let mut lost: Option<Lost> = None;
        let mut error: Option<String> = None;
        loop {
            let deadline = self.stopping.as_ref().and_then(|stopping| stopping.deadline);
            let events = match self.wait(deadline) {
                Ok(events) => events,
                Err(errno) => {
                    error = Some(format!("the monitor cannot wait: {}", errno.desc()));
                    self.kill_init();
                    break;
                }
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.kill_init();
            }
            if events.contains(&Event::InitEnded) {
                break;
            }
            if events.contains(&Event::FilesystemEnded) {
                lost = Some(Lost::Filesystem);
                self.kill_init();
                break;
            }
            self.serve(&events);
        }
        let code = match self.reap() {
            Ok(code) => code.unwrap_or(KILLED),
            Err(failure) => {
                error = error.or(Some(failure.message));
                KILLED
            }
        };
        if let Some(Lost::Filesystem) = lost {
            let text = "the container's filesystem (cowlfs) ended unexpectedly, so the container \
                        was killed";
            return (KILLED, Some(text.to_owned()));
        }
        (code, error)
    }

    /// Serves while PID 1 is down, for a while; false when it shall stay down.
    pub(super) fn rest(&mut self, delay: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + delay;
        while Instant::now() < deadline {
            let events = self.wait(Some(deadline)).map_err(failed("wait"))?;
            if events.contains(&Event::FilesystemEnded) {
                return Err(Failure::engine(
                    "the container's filesystem (cowlfs) ended unexpectedly",
                ));
            }
            self.serve(&events);
            if self.container.state.stopped_by_user {
                return Ok(false);
            }
        }
        Ok(!self.container.state.stopped_by_user)
    }

    fn serve(&mut self, events: &[Event]) {
        let streams: Vec<Interest> = events
            .iter()
            .filter_map(|event| match event {
                Event::Stream(interest) => Some(*interest),
                _ => None,
            })
            .collect();
        self.outputs.serve(&streams);
        for event in events {
            match event {
                Event::Signal => self.signalled(),
                Event::Connected => {
                    while let Some(connection) = self.listener.accept() {
                        self.welcome(connection);
                    }
                }
                Event::Client(number) => self.hear(*number),
                Event::ProgramEnded(number) => self.program_ended(*number),
                Event::ProgramOutput(number) => self.discard(*number),
                Event::InitEnded | Event::FilesystemEnded | Event::Stream(_) => {}
            }
        }
    }

    fn signalled(&mut self) {
        let mut any = false;
        while let Ok(Some(_)) = self.signals.read_signal() {
            any = true;
        }
        if !any {
            return;
        }
        if self.stopping.is_some() {
            self.kill_init();
        } else {
            self.stop(None, None);
        }
    }

    /// Sends SIGKILL to PID 1; one that has just ended needs none.
    pub(super) fn kill_init(&mut self) {
        if let Some(init) = &self.init {
            sys::process::kill(init.as_fd(), Signal::SIGKILL as i32).ok();
        }
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = None;
        }
    }

    /// Tells everybody who waits that PID 1 has ended, after what it wrote has been taken.
    pub(super) fn tell_ended(&mut self, exit_code: u8, error: Option<&str>) {
        let reply = Reply::Ended { exit_code, error: error.map(str::to_owned) };
        let deadline = self.lock.is_some().then(|| Instant::now() + FLUSH_PATIENCE);
        let (mut waiting, staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.clients).into_iter().partition(|client| client.waits);
        self.clients = staying;
        loop {
            let pending = self.outputs.pending();
            let owed = |number| self.outputs.owes(number);
            for client in waiting.iter().filter(|client| !owed(client.number)) {
                client.connection.answer(&reply, &[]);
            }
            let mut watched: Vec<_> = pending
                .into_iter()
                .map(|(interest, fd)| (Event::Stream(interest), fd, PollFlags::POLLOUT))
                .collect();
            if watched.is_empty() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            let owing: Vec<u64> = waiting.iter().map(|c| c.number).filter(|n| owed(*n)).collect();
            for client in waiting.iter().filter(|client| owing.contains(&client.number)) {
                let event = Event::Client(client.number);
                watched.push((event, client.connection.as_fd(), PollFlags::POLLIN));
            }
            let Ok(events) = wait(&watched, deadline) else { break };
            drop(watched);
            waiting.retain(|client| owing.contains(&client.number));
            let mut ready = Vec::new();
            for event in events {
                match event {
                    Event::Stream(interest) => ready.push(interest),
                    // It says nothing any more but that it goes.
                    Event::Client(number) => {
                        if let Some(client) = waiting.iter().find(|c| c.number == number)
                            && matches!(client.connection.request(), Ok(None) | Err(_))
                        {
                            self.outputs.detach(number);
                        }
                    }
                    _ => {}
                }
            }
            // Numbers of sinks change when one goes: those are served the next time round.
            if !ready.is_empty() {
                self.outputs.serve(&ready);
            }
        }
        self.outputs.detach_all();
    }
}
