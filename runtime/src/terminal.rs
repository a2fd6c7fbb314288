//! The caller's side of a container: its streams, its terminal, its signals.
//!
//! Each stream is copied by a thread of its own, because writing to the caller's stdout may block
//! for as long as the caller likes, and must not hold up signals or the other streams. (Its file
//! is shared with other processes, so making it non-blocking is not an option.)

pub mod keys;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{isatty, pipe2, read, write};

use crate::sys::tty::{self, WindowSize};
pub use keys::DetachKeys;

/// How much is copied at a time.
const CHUNK: usize = 256 * 1024;

/// How soon a terminal that nobody in the container has open is looked at again: milliseconds.
const HANGUP_PAUSE: u8 = 10;

/// Signals that are the command line's own business and are not forwarded: child and pipe events,
/// the window size, job control of its own reading and writing, and what cannot be caught.
const OWN: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGURG,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
    Signal::SIGKILL,
    Signal::SIGSTOP,
];

/// Both ends of pipes between a container and the caller.
#[derive(Debug, Default)]
pub struct Pipes {
    /// The ends for the other side: it writes to the first two, and reads the last.
    pub theirs: Ends,
    /// Ours.
    pub ours: Ends,
}

/// One end of each stream that is connected.
#[derive(Debug, Default)]
pub struct Ends {
    /// Stdout.
    pub output: Option<OwnedFd>,
    /// Stderr.
    pub errors: Option<OwnedFd>,
    /// Stdin.
    pub input: Option<OwnedFd>,
}

fn large(pipe: &OwnedFd) {
    // Fewer, larger copies; a user beyond the limit for pipe memory keeps the default.
    fcntl(pipe, FcntlArg::F_SETPIPE_SZ(CHUNK as i32)).ok();
}

/// Makes pipes for a monitor to copy a container's output into: writing to them does not block.
pub fn copies(output: bool, errors: bool) -> nix::Result<Pipes> {
    let pipe = || {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        large(&read);
        fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((read, write))
    };
    let mut pipes = Pipes::default();
    if output {
        let (read, write) = pipe()?;
        (pipes.ours.output, pipes.theirs.output) = (Some(read), Some(write));
    }
    if errors {
        let (read, write) = pipe()?;
        (pipes.ours.errors, pipes.theirs.errors) = (Some(read), Some(write));
    }
    Ok(pipes)
}

/// Makes the streams of a program; without `input` its stdin is /dev/null.
pub fn pipes(input: bool) -> nix::Result<Pipes> {
    let mut pipes = Pipes::default();
    if input {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        large(&read);
        (pipes.theirs.input, pipes.ours.input) = (Some(read), Some(write));
    } else {
        let null = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        pipes.theirs.input = Some(null);
    }
    for (theirs, ours) in [
        (&mut pipes.theirs.output, &mut pipes.ours.output),
        (&mut pipes.theirs.errors, &mut pipes.ours.errors),
    ] {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        large(&read);
        (*ours, *theirs) = (Some(read), Some(write));
    }
    Ok(pipes)
}

/// The streams of a program that nobody is attached to: /dev/null.
pub fn nothing() -> nix::Result<Pipes> {
    let null = || open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let theirs = Ends { output: Some(null()?), errors: Some(null()?), input: Some(null()?) };
    Ok(Pipes { theirs, ours: Ends::default() })
}

/// Whether the caller's stdin is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(io::stdin()).unwrap_or(false)
}

/// The size of the caller's window, when there is one.
pub fn window_size() -> Option<WindowSize> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .find_map(|stream| tty::window_size(stream).ok())
        .filter(|size| size.ws_row > 0 && size.ws_col > 0)
}

/// The caller's terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Switches stdin, when it is a terminal.
    pub fn enter() -> nix::Result<Option<Self>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before).ok();
    }
}

/// Blocks every signal that is to be forwarded, and gives a descriptor to read them from.
pub fn take_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::all();
    for signal in OWN {
        set.remove(signal);
    }
    // Faults are this program's own.
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP]
    {
        set.remove(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Takes only the changes of the window's size from their usual course.
pub fn take_window_changes() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Writes all of a buffer; false when the reader is gone.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(to, PollFlags::POLLOUT),
            Err(_) => return false,
        }
    }
    true
}

/// For a stream that its owner made non-blocking.
fn wait_for(fd: BorrowedFd<'_>, event: PollFlags) {
    let mut fds = [PollFd::new(fd, event)];
    // Interrupted or not, the caller tries again.
    poll(&mut fds, PollTimeout::NONE).ok();
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing more to read.
    Eof,
    /// Reading failed; EIO from a terminal means that nobody has its other side open.
    Unreadable(Errno),
    /// Nobody reads what is written.
    Unwritable,
}

/// Whether splice(2) may write to `to`. Not to a file: it takes the file's position when it is
/// called, waits for data, and puts the position back afterwards, over what others (the thread
/// that copies stderr into the same file, say) have written meanwhile.
fn spliceable(to: BorrowedFd<'_>) -> bool {
    fstat(to).is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits())
}

/// Copies until one side ends: from pipe to pipe inside the kernel.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> End {
    let mut direct = spliceable(to);
    let mut buffer = Vec::new();
    loop {
        if let Some(end) = move_some(from, to, &mut direct, &mut buffer) {
            return end;
        }
    }
}

/// Copies what there is, at least once waiting for it; the end, when it has come.
fn move_some(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    direct: &mut bool,
    buffer: &mut Vec<u8>,
) -> Option<End> {
    if *direct {
        match splice(from, None, to, None, CHUNK, SpliceFFlags::SPLICE_F_MOVE) {
            Ok(0) => return Some(End::Eof),
            Ok(_) | Err(Errno::EINTR) => return None,
            Err(Errno::EPIPE) => return Some(End::Unwritable),
            // Some terminals, non-blocking streams: by hand.
            Err(_) => *direct = false,
        }
    }
    buffer.resize(CHUNK, 0);
    match read(from, buffer) {
        Ok(0) => Some(End::Eof),
        Ok(length) => {
            let whole = write_all(to, buffer.get(..length).unwrap_or_default());
            (!whole).then_some(End::Unwritable)
        }
        Err(Errno::EINTR) => None,
        Err(Errno::EAGAIN) => {
            wait_for(from, PollFlags::POLLIN);
            None
        }
        Err(errno) => Some(End::Unreadable(errno)),
    }
}

/// The threads that copy.
#[derive(Debug)]
pub struct Copying {
    outputs: Vec<JoinHandle<()>>,
    /// Closed when there will be no more output.
    ended: OwnedFd,
    /// Readable when the caller has typed the keys that part it from the container.
    parted: OwnedFd,
    /// The container's terminal, for its window size.
    terminal: Option<Arc<OwnedFd>>,
}

/// Where what the caller types goes.
#[derive(Debug)]
pub enum Feed {
    /// Nowhere.
    Nothing,
    /// Into a pipe; its end is the end of that.
    Pipe(OwnedFd),
    /// Into a terminal, but for the keys that part from it.
    Terminal(DetachKeys),
}

/// Starts copying between the caller's streams and a container's. `terminal` is the container's;
/// `output` may be the terminal as well.
pub fn copy_streams(
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    feed: Feed,
    terminal: Option<OwnedFd>,
) -> nix::Result<Copying> {
    let (ended_reader, ended) = pipe2(OFlag::O_CLOEXEC)?;
    let (parted, parted_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let terminal = terminal.map(Arc::new);
    let ended_reader = Arc::new(ended_reader);
    let mut outputs = Vec::new();
    if let Some(output) = output {
        let ended = Arc::clone(&ended_reader);
        outputs.push(std::thread::spawn(move || drain(&output, io::stdout().as_fd(), &ended)));
    }
    if let Some(errors) = errors {
        let ended = Arc::clone(&ended_reader);
        outputs.push(std::thread::spawn(move || drain(&errors, io::stderr().as_fd(), &ended)));
    }
    // The thread that reads is never joined: it may wait for the caller's keyboard for ever.
    match (feed, &terminal) {
        (Feed::Pipe(input), _) => {
            std::thread::spawn(move || {
                copy(io::stdin().as_fd(), input.as_fd());
                drop(parted_writer);
                // Dropping the pipe is the half-close that the container sees.
            });
        }
        (Feed::Terminal(keys), Some(terminal)) => {
            let terminal = Arc::clone(terminal);
            std::thread::spawn(move || type_into(&terminal, keys, &parted_writer));
        }
        _ => {}
    }
    Ok(Copying { outputs, ended, parted, terminal })
}

/// Passes on what is typed until the end or the keys that part.
fn type_into(terminal: &OwnedFd, mut keys: DetachKeys, parted: &OwnedFd) {
    let mut typed = [0; 4096];
    let mut passed = Vec::new();
    loop {
        let length = match read(io::stdin(), &mut typed) {
            Ok(0) => {
                // End of file, as typed: a terminal has no half-close.
                write_all(terminal.as_fd(), &[4]);
                return;
            }
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => {
                wait_for(io::stdin().as_fd(), PollFlags::POLLIN);
                continue;
            }
            Err(_) => return,
        };
        passed.clear();
        let part = keys.filter(typed.get(..length).unwrap_or_default(), &mut passed);
        if !write_all(terminal.as_fd(), &passed) {
            return;
        }
        if part {
            write_all(parted.as_fd(), b"p");
            return;
        }
    }
}

/// Copies a container's output until its end; once `ended` is closed, only what is there. A
/// caller that stopped reading closes the pipe, so that the container notices as it would
/// without us.
fn drain(from: &OwnedFd, to: BorrowedFd<'_>, ended: &OwnedFd) {
    let mut direct = spliceable(to);
    let mut buffer = Vec::new();
    loop {
        let mut fds = [
            PollFd::new(from.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let [from_events, ended_events] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if !from_events.contains(PollFlags::POLLIN) {
            let hung_up = from_events.contains(PollFlags::POLLHUP);
            if !ended_events.is_empty() || (hung_up && !isatty(from).unwrap_or(false)) {
                return;
            }
            // A terminal that nobody in the container has open: somebody may open it again.
            let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(HANGUP_PAUSE)).ok(); // in any case it is looked at again
            continue;
        }
        match move_some(from.as_fd(), to, &mut direct, &mut buffer) {
            None => {}
            Some(End::Unreadable(Errno::EIO)) => {}
            Some(_) => return,
        }
    }
}

impl AsFd for Copying {
    /// Readable when the caller has typed the keys that part it from the container, or can type
    /// nothing more.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.parted.as_fd()
    }
}

impl Copying {
    /// Whether the keys that part were typed; asked when readable. Without them, the caller's
    /// stdin has ended.
    pub fn parted(&self) -> bool {
        let mut byte = [0];
        matches!(read(&self.parted, &mut byte), Ok(1))
    }

    /// Tells the container's terminal the size of the caller's.
    pub fn resize(&self) {
        if let (Some(terminal), Some(size)) = (&self.terminal, window_size()) {
            // A container that is ending has no use for it.
            tty::set_window_size((**terminal).as_fd(), &size).ok();
        }
    }

    /// Waits until everything that the container wrote has been written. Called when it has
    /// ended, so that all of it is in the streams.
    pub fn finish(self) {
        drop(self.ended);
        for thread in self.outputs {
            // A panicking thread has said so itself.
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::time::Duration;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC).unwrap()
    }

    #[test]
    fn copies_to_pipes_and_files() {
        let data: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let feed = |write: OwnedFd| {
            let data = data.clone();
            std::thread::spawn(move || File::from(write).write_all(&data).unwrap())
        };
        let (from, write) = pipe();
        let writer = feed(write);
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(copy(from.as_fd(), file.as_fd()), End::Eof);
        writer.join().unwrap();
        let mut got = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut got).unwrap();
        assert!(got == data);

        let (from, write) = pipe();
        let (result, to) = pipe();
        let writer = feed(write);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            File::from(result).read_to_end(&mut got).unwrap();
            got
        });
        assert_eq!(copy(from.as_fd(), to.as_fd()), End::Eof);
        drop(to);
        writer.join().unwrap();
        assert!(reader.join().unwrap() == data);
    }

    #[test]
    fn two_streams_into_one_file_do_not_overwrite_each_other() {
        let mut file = tempfile::tempfile().unwrap();
        let ((one, feed_one), (two, feed_two)) = (pipe(), pipe());
        let target = file.try_clone().unwrap(); // the same open file, as after `2>&1`
        let idle = std::thread::spawn(move || copy(two.as_fd(), target.as_fd()));
        std::thread::sleep(Duration::from_millis(50));
        File::from(feed_one).write_all(b"first").unwrap();
        copy(one.as_fd(), file.as_fd());
        drop(feed_two);
        idle.join().unwrap();
        file.write_all(b" second").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut got = String::new();
        file.read_to_string(&mut got).unwrap();
        assert_eq!(got, "first second");
    }

    #[test]
    fn an_appending_file_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old ").unwrap();
        let append = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let (from, write) = pipe();
        File::from(write).write_all(b"new").unwrap();
        assert_eq!(copy(from.as_fd(), append.as_fd()), End::Eof);
        assert_eq!(std::fs::read(&path).unwrap(), b"old new");
    }
}
