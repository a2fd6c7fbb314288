//! What commands ask of a monitor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Client, ENGINE_ERROR, Failure, Monitor, Stopping};
use crate::container::{Containers, Status};
use crate::control::{Connection, Exec, Reply, Request};
use crate::log::Stream;
use crate::sys;
use crate::sys::process::Child;

/// A program that was started beside PID 1.
#[derive(Debug)]
pub(super) struct Program {
    /// The number of the client that started it.
    pub(super) number: u64,
    child: Option<Child>,
    terminal: Option<OwnedFd>,
    /// Whether nobody is there any more who would read its terminal.
    abandoned: bool,
}

impl Program {
    /// Its process, until it has ended.
    pub(super) fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Its terminal, when we must read it so that it does not block.
    pub(super) fn abandoned(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().filter(|_| self.abandoned).map(AsFd::as_fd)
    }
}

fn refused(message: impl ToString) -> Reply {
    Reply::Failed { exit_code: 1, message: message.to_string() }
}

impl Monitor {
    /// A command has connected.
    pub(super) fn welcome(&mut self, connection: Connection) {
        let number = self.next_client;
        self.next_client += 1;
        self.clients.push(Client { number, connection, waits: false });
    }

    /// A command has said something, or is gone.
    pub(super) fn hear(&mut self, number: u64) {
        let Some(client) = self.clients.iter().find(|client| client.number == number) else {
            return;
        };
        match client.connection.request() {
            Ok(Some((request, fds))) => {
                if let Some((reply, fds)) = self.answer(number, request, fds) {
                    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                    if let Some(client) = self.clients.iter().find(|c| c.number == number) {
                        client.connection.answer(&reply, &fds);
                    }
                }
            }
            Err(crate::control::Error::System(_, nix::errno::Errno::EAGAIN)) => {}
            Ok(None) | Err(_) => self.forget(number),
        }
    }

    fn forget(&mut self, number: u64) {
        self.clients.retain(|client| client.number != number);
        self.outputs.detach(number);
        for program in &mut self.programs {
            if program.number == number {
                program.abandoned = true;
            }
        }
        self.programs.retain(|program| program.child.is_some());
    }

    fn waits(&mut self, number: u64) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.number == number) {
            client.waits = true;
        }
    }

    fn answer(
        &mut self,
        number: u64,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Option<(Reply, Vec<OwnedFd>)> {
        let done = |result: Result<(), Failure>| match result {
            Ok(()) => Some((Reply::Done, Vec::new())),
            Err(failure) => Some((refused(failure.message), Vec::new())),
        };
        match request {
            Request::Attach { stdin, stdout, stderr } => {
                let reply = self.attach(number, [stdout, stderr], stdin, fds);
                Some(reply.unwrap_or_else(|failure| (refused(failure.message), Vec::new())))
            }
            Request::Exec(exec) => Some(match self.exec(number, &exec, fds) {
                Ok(terminal) => (Reply::Started, terminal.into_iter().collect()),
                Err(Failure { exit_code, message }) => {
                    (Reply::Failed { exit_code, message }, Vec::new())
                }
            }),
            Request::Signal { number, by_user } => done(self.signal(number, by_user)),
            Request::Stop { signal, patience } => {
                self.waits(number);
                self.stop(signal, patience);
                None // the answer is the end
            }
            Request::Wait => {
                self.waits(number);
                None
            }
            Request::Pause => done(self.pause()),
            Request::Unpause => done(self.unpause()),
            Request::Reload => done(self.reload()),
        }
    }

    /// The id for messages.
    fn id(&self) -> &str {
        self.container.config.id.as_str()
    }

    /// That PID 1 is there and not frozen, for doing something with it.
    fn active(&self, verb: &str) -> Result<(), Failure> {
        match self.container.state.status {
            Status::Running(_) => Ok(()),
            Status::Paused(_) => Err(Failure {
                exit_code: 1,
                message: format!(
                    "Container {} is paused, unpause the container before {verb}",
                    self.id()
                ),
            }),
            Status::Restarting { .. } => Err(Failure {
                exit_code: 1,
                message: format!(
                    "Container {} is restarting, wait until the container is running",
                    self.id()
                ),
            }),
            Status::Created { .. } | Status::Exited { .. } => Err(Failure {
                exit_code: 1,
                message: format!("Container {} is not running", self.id()),
            }),
        }
    }

    fn attach(
        &mut self,
        number: u64,
        outputs: [bool; 2],
        stdin: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        self.active("attach")?;
        let mut fds = fds.into_iter();
        for (wanted, stream) in outputs.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            if wanted && let Some(pipe) = fds.next() {
                self.outputs.attach(number, stream, pipe);
            }
        }
        let input = if stdin || self.outputs.has_terminal() {
            self.outputs.input().map_err(super::failed("hand over the container's input"))?
        } else {
            None
        };
        self.waits(number);
        Ok((Reply::Started, input.into_iter().collect()))
    }

    /// Starts a program; its terminal, when it has one.
    fn exec(
        &mut self,
        number: u64,
        exec: &Exec,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Failure> {
        self.active("exec")?;
        let Some(init) = &self.init else {
            return Err(Failure::engine(format!("Container {} is not running", self.id())));
        };
        let (child, terminal) =
            super::exec::start(&self.container, &self.namespaces, init, exec, fds)?;
        let copy = match &terminal {
            Some(terminal) => Some(
                sys::descriptor::copy(terminal)
                    .map_err(super::failed("hand over the program's terminal"))?,
            ),
            None => None,
        };
        self.programs.push(Program { number, child: Some(child), terminal, abandoned: false });
        Ok(copy)
    }

    fn signal(&mut self, number: i32, by_user: bool) -> Result<(), Failure> {
        if by_user {
            self.container.state.stopped_by_user = true;
        }
        let Some(init) = &self.init else {
            // Between two lives: there will be no other.
            return if by_user { Ok(()) } else { self.active("sending signals") };
        };
        sys::process::kill(init.as_fd(), number).map_err(super::failed("send the signal"))?;
        self.note("kill", &[("signal", &number.to_string())]);
        if number == Signal::SIGKILL as i32
            && matches!(self.container.state.status, Status::Paused(_))
        {
            // A frozen process ends only when it goes on.
            self.unpause()?;
        }
        Ok(())
    }

    /// Asks PID 1 to end.
    pub(super) fn stop(&mut self, signal: Option<i32>, patience: Option<i64>) {
        self.container.state.stopped_by_user = true;
        let life = &self.container.config.life;
        let signal = signal.unwrap_or_else(|| life.stop_signal());
        let patience = patience.unwrap_or_else(|| life.stop_timeout());
        if matches!(self.container.state.status, Status::Paused(_)) {
            // If that fails, the deadline comes all the same.
            self.unpause().ok();
        }
        self.stop_asked = true;
        let Some(init) = &self.init else { return };
        if patience != 0 {
            sys::process::kill(init.as_fd(), signal).ok(); // one that has ended needs none
        }
        let deadline = match u64::try_from(patience) {
            Ok(seconds) => Instant::now().checked_add(Duration::from_secs(seconds)),
            Err(_) => None, // negative: as long as it takes
        };
        self.stopping = Some(Stopping { deadline });
    }

    fn reload(&mut self) -> Result<(), Failure> {
        if let Some(config) = Containers::configuration(&self.container.dir)? {
            self.container.config = config;
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Failure> {
        match self.container.state.status {
            Status::Paused(_) => {
                let message = format!("Container {} is already paused", self.id());
                Err(Failure { exit_code: 1, message })
            }
            Status::Running(live) => {
                super::freeze::freeze(&self.container, &live, true)?;
                self.container.state.status = Status::Paused(live);
                self.container.save()?;
                self.note("pause", &[]);
                Ok(())
            }
            _ => self.active("pausing it"),
        }
    }

    pub(super) fn unpause(&mut self) -> Result<(), Failure> {
        let Status::Paused(live) = self.container.state.status else {
            let message = format!("Container {} is not paused", self.id());
            return Err(Failure { exit_code: 1, message });
        };
        super::freeze::freeze(&self.container, &live, false)?;
        self.container.state.status = Status::Running(live);
        self.container.save()?;
        self.note("unpause", &[]);
        Ok(())
    }

    /// A program has ended: tells who started it.
    pub(super) fn program_ended(&mut self, number: u64) {
        let Some(program) = self.programs.iter_mut().find(|p| p.number == number) else {
            return;
        };
        let Some(child) = program.child.take() else { return };
        let exit_code = child.wait().unwrap_or(ENGINE_ERROR);
        self.programs.retain(|program| program.number != number);
        if let Some(client) = self.clients.iter().find(|client| client.number == number) {
            client.connection.answer(&Reply::Ended { exit_code, error: None }, &[]);
        }
    }

    /// PID 1 has ended, and every program with it.
    pub(super) fn end_programs(&mut self) {
        let numbers: Vec<u64> = self.programs.iter().map(|program| program.number).collect();
        for number in numbers {
            self.program_ended(number);
        }
    }

    /// Reads away what a program writes to a terminal that nobody looks at.
    pub(super) fn discard(&mut self, number: u64) {
        let mut gone = false;
        if let Some(program) = self.programs.iter_mut().find(|p| p.number == number)
            && let Some(terminal) = &program.terminal
        {
            let mut buffer = [0; 4096];
            gone = !matches!(nix::unistd::read(terminal, &mut buffer), Ok(1..));
            if gone {
                program.terminal = None;
            }
        }
        if gone {
            self.programs.retain(|program| program.child.is_some());
        }
    }
}
