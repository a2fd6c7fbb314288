//! The streams of PID 1 as the monitor holds them: what it writes goes to the log and to every
//! command that is attached; what is written to it comes from those commands directly.
//!
//! One thread serves everything, so nothing here blocks. A command that does not read holds up
//! the container, as a pipe without us would: the stream is not read again until the command has
//! taken what there is. One that is gone is forgotten.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, read, write};

use crate::log::{self, Stream};
use crate::sandbox::Streams;
use crate::sys;
use crate::sys::tty::WindowSize;

/// How much is read at a time, and how much the pipes hold.
pub const CHUNK: usize = 128 * 1024;

/// A command that gets a copy of a stream.
#[derive(Debug)]
struct Sink {
    connection: u64,
    stream: Stream,
    pipe: OwnedFd,
    /// What it has not taken yet.
    pending: Vec<u8>,
}

impl Sink {
    /// Writes what it takes; false when it is gone.
    fn push(&mut self) -> bool {
        while !self.pending.is_empty() {
            match write(&self.pipe, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Gives it what is new; false when it is gone.
    fn give(&mut self, bytes: &[u8]) -> bool {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            return self.push();
        }
        match write(&self.pipe, bytes) {
            Ok(written) => {
                self.pending.extend_from_slice(bytes.get(written..).unwrap_or_default());
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {
                self.pending.extend_from_slice(bytes);
                true
            }
            Err(_) => false,
        }
    }
}

/// What leads to the stdin of PID 1.
#[derive(Debug)]
enum Input {
    /// Nothing.
    Closed,
    /// A pipe, whose writing end each attached command gets. With `once`, the first one gets the
    /// only one, so that its end is the end of the stream.
    Pipe { end: OwnedFd, once: bool },
    /// The terminal.
    Terminal,
}

/// How the container wants its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// A terminal.
    pub tty: bool,
    /// A stdin that can be written to.
    pub input: bool,
    /// It ends with the first command that was attached.
    pub once: bool,
}

/// The monitor's ends of the streams of one life of PID 1.
#[derive(Debug)]
pub struct Outputs {
    sources: [Option<OwnedFd>; 2],
    /// The container's side of the terminal: while this is open, the container may close its
    /// own and open it again without our side seeing an end.
    terminal: Option<OwnedFd>,
    input: Input,
    sinks: Vec<Sink>,
    log: Option<log::Writer>,
    buffer: Vec<u8>,
}

/// What there is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// The container's stream to become readable.
    Source(Stream),
    /// A command to take more.
    Sink(usize),
}

fn large(pipe: &OwnedFd) {
    // Fewer, larger copies; a user beyond the limit for pipe memory keeps the default.
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(CHUNK as i32)).ok();
}

impl Outputs {
    /// The streams of a PID 1 that is not there.
    pub fn none() -> Self {
        Self {
            sources: [None, None],
            terminal: None,
            input: Input::Closed,
            sinks: Vec::new(),
            log: None,
            buffer: Vec::new(),
        }
    }

    /// Makes the streams: ours, and PID 1's. A terminal is PID 1's own; it comes with `connect`.
    pub fn new(
        wanted: Wanted,
        window: Option<WindowSize>,
        log: Option<log::Writer>,
    ) -> nix::Result<(Self, Streams)> {
        let mut ours = Self { log, ..Self::none() };
        if wanted.tty {
            return Ok((ours, Streams::Terminal(window)));
        }
        let stdin = if wanted.input {
            let (read, end) = pipe2(OFlag::O_CLOEXEC)?;
            large(&end);
            ours.input = Input::Pipe { end, once: wanted.once };
            read
        } else {
            open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?
        };
        let (output, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (errors, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        large(&output);
        large(&errors);
        for source in [&output, &errors] {
            fcntl(source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        ours.sources = [Some(output), Some(errors)];
        Ok((ours, Streams::Separate([stdin, stdout, stderr])))
    }

    /// Takes the terminal of PID 1.
    pub fn connect(&mut self, master: OwnedFd) -> nix::Result<()> {
        self.terminal = Some(sys::tty::open_peer(master.as_fd())?);
        self.sources = [Some(master), None];
        self.input = Input::Terminal;
        Ok(())
    }

    /// Adds a command's pipe, whose writing end does not block.
    pub fn attach(&mut self, connection: u64, stream: Stream, pipe: OwnedFd) {
        self.sinks.push(Sink { connection, stream, pipe, pending: Vec::new() });
    }

    /// What leads to stdin, for a command: the terminal, or the end of the pipe.
    pub fn input(&mut self) -> nix::Result<Option<OwnedFd>> {
        match &self.input {
            Input::Closed => Ok(None),
            Input::Terminal => {
                self.sources.first().and_then(Option::as_ref).map(sys::descriptor::copy).transpose()
            }
            Input::Pipe { end, once: false } => sys::descriptor::copy(end).map(Some),
            Input::Pipe { once: true, .. } => {
                match std::mem::replace(&mut self.input, Input::Closed) {
                    Input::Pipe { end, .. } => Ok(Some(end)),
                    _ => Ok(None),
                }
            }
        }
    }

    /// The terminal, for its window size.
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// A command is gone.
    pub fn detach(&mut self, connection: u64) {
        self.sinks.retain(|sink| sink.connection != connection);
    }

    /// Every command is gone.
    pub fn detach_all(&mut self) {
        self.sinks.clear();
    }

    /// Whether a command has not taken everything.
    pub fn owes(&self, connection: u64) -> bool {
        self.sinks.iter().any(|sink| sink.connection == connection && !sink.pending.is_empty())
    }

    /// What to wait for, with what to wait on; for a sink, until it is writable.
    pub fn interests(&self) -> Vec<(Interest, BorrowedFd<'_>)> {
        let mut all = Vec::new();
        for (stream, source) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&self.sources) {
            let waiting =
                self.sinks.iter().any(|sink| sink.stream == stream && !sink.pending.is_empty());
            if let Some(source) = source
                && !waiting
            {
                all.push((Interest::Source(stream), source.as_fd()));
            }
        }
        all.extend(self.pending());
        all
    }

    /// The commands that have not taken everything.
    pub fn pending(&self) -> Vec<(Interest, BorrowedFd<'_>)> {
        let sinks = self.sinks.iter().enumerate().filter(|(_, sink)| !sink.pending.is_empty());
        sinks.map(|(number, sink)| (Interest::Sink(number), sink.pipe.as_fd())).collect()
    }

    /// Serves what has become ready.
    pub fn serve(&mut self, ready: &[Interest]) {
        let mut gone = Vec::new();
        for interest in ready {
            match interest {
                Interest::Source(stream) => {
                    self.pump(*stream);
                }
                Interest::Sink(number) => {
                    if let Some(sink) = self.sinks.get_mut(*number)
                        && !sink.push()
                    {
                        gone.push(*number);
                    }
                }
            }
        }
        // `pump` only marks what is gone, so the numbers still hold.
        for number in gone {
            if let Some(sink) = self.sinks.get_mut(number) {
                sink.pending.clear();
                sink.connection = GONE;
            }
        }
        self.sinks.retain(|sink| sink.connection != GONE);
    }

    /// Moves one chunk of a stream; false when there is none.
    fn pump(&mut self, stream: Stream) -> bool {
        let [out, err] = &mut self.sources;
        let source = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        let Some(from) = source else { return false };
        self.buffer.resize(CHUNK, 0);
        let length = loop {
            match read(&*from, &mut self.buffer) {
                Ok(0) => break None,
                Ok(length) => break Some(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return false,
                Err(_) => break None,
            }
        };
        let Some(bytes) = length.and_then(|length| self.buffer.get(..length)) else {
            *source = None;
            return false;
        };
        for sink in self.sinks.iter_mut().filter(|sink| sink.stream == stream) {
            if !sink.give(bytes) {
                sink.connection = GONE;
                sink.pending.clear();
            }
        }
        if let Some(log) = &mut self.log {
            // A full disk must not stop the container.
            log.write(stream, bytes).ok();
        }
        true
    }

    /// PID 1 and everything beside it has ended: takes what is still in the streams.
    pub fn drain(&mut self) {
        self.input = Input::Closed;
        let terminal = self.terminal.take().is_some();
        for stream in [Stream::Stdout, Stream::Stderr] {
            loop {
                // What was written to a terminal arrives a little later. Its end comes as soon as
                // nobody has it open; somebody outside of the container could, for ever.
                if terminal
                    && let Some(Some(master)) = self.sources.first()
                    && !sys::descriptor::readable_within(master.as_fd(), TERMINAL_GRACE)
                {
                    break;
                }
                if !self.pump(stream) {
                    break;
                }
            }
        }
        self.sources = [None, None];
        self.sinks.retain(|sink| sink.connection != GONE);
        if let Some(log) = &mut self.log {
            log.finish().ok(); // as above
        }
        self.buffer = Vec::new();
    }
}

/// A sink that is to be forgotten; no connection has this number.
const GONE: u64 = u64::MAX;

/// How long a terminal that somebody else keeps open may be silent before it counts as drained.
const TERMINAL_GRACE: std::time::Duration = std::time::Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    const WANTED: Wanted = Wanted { tty: false, input: true, once: true };

    fn sink() -> (File, OwnedFd) {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (read.into(), write)
    }

    #[test]
    fn output_goes_to_the_log_and_to_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = log::Writer::open(path.clone(), log::Limits::NONE).unwrap();
        let (mut outputs, streams) = Outputs::new(WANTED, None, Some(log)).unwrap();
        let Streams::Separate([_, stdout, stderr]) = streams else { panic!("a terminal") };
        let (mut one, pipe) = sink();
        outputs.attach(1, Stream::Stdout, pipe);
        let (two, pipe) = sink();
        outputs.attach(2, Stream::Stdout, pipe);
        let (mut three, pipe) = sink();
        outputs.attach(1, Stream::Stderr, pipe);
        drop(two); // gone without a word
        File::from(stdout).write_all(b"out\n").unwrap();
        File::from(stderr).write_all(b"err").unwrap();
        outputs.drain();
        drop(outputs);
        let mut text = String::new();
        one.read_to_string(&mut text).unwrap();
        assert_eq!(text, "out\n");
        text.clear();
        three.read_to_string(&mut text).unwrap();
        assert_eq!(text, "err");
        let mut reader = log::Reader::open(&path).unwrap();
        let mut logged = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            logged.push((entry.stream, entry.bytes));
        }
        assert_eq!(
            logged,
            [(Stream::Stdout, b"out\n".to_vec()), (Stream::Stderr, b"err".to_vec())]
        );
    }

    #[test]
    fn a_command_that_does_not_read_holds_the_stream_up() {
        let (mut outputs, streams) = Outputs::new(WANTED, None, None).unwrap();
        let Streams::Separate([_, stdout, _]) = streams else { panic!("a terminal") };
        fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let (mut reader, pipe) = sink();
        outputs.attach(7, Stream::Stdout, pipe);
        let sourced = |outputs: &Outputs| {
            outputs.interests().iter().any(|(i, _)| *i == Interest::Source(Stream::Stdout))
        };
        let mut written = 0;
        while sourced(&outputs) {
            written += write(&stdout, &[b'x'; 4096]).unwrap();
            outputs.serve(&[Interest::Source(Stream::Stdout)]);
        }
        // It reads: everything comes, and the stream goes on.
        let mut got = 0;
        let mut buffer = vec![0; 1 << 20];
        while got < written {
            got += reader.read(&mut buffer).unwrap();
            outputs.serve(&[Interest::Sink(0)]);
        }
        assert_eq!(got, written);
        assert!(sourced(&outputs));
        // And when it is gone, too.
        outputs.detach(7);
        assert!(outputs.pending().is_empty());
    }

    #[test]
    fn stdin_is_given_once_or_shared() {
        let (mut outputs, _streams) = Outputs::new(WANTED, None, None).unwrap();
        assert!(outputs.input().unwrap().is_some());
        assert!(outputs.input().unwrap().is_none());
        let shared = Wanted { once: false, ..WANTED };
        let (mut outputs, _streams) = Outputs::new(shared, None, None).unwrap();
        assert!(outputs.input().unwrap().is_some());
        assert!(outputs.input().unwrap().is_some());
        let (mut outputs, _streams) =
            Outputs::new(Wanted { input: false, ..WANTED }, None, None).unwrap();
        assert!(outputs.input().unwrap().is_none());
    }
}
