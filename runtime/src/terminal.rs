//! The caller's side of a container: its streams, its terminal, its signals.
//!
//! Each stream is copied by a thread of its own, because writing to the caller's stdout may block
//! for as long as the caller likes, and must not hold up signals or the other streams. (Its file
//! is shared with other processes, so making it non-blocking is not an option.)

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, splice};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{isatty, pipe2, read, write};

use crate::sys::tty::{self, WindowSize};

/// How much is copied at a time.
const CHUNK: usize = 256 * 1024;

/// How soon a terminal that nobody in the container has open is looked at again.
const HANGUP_PAUSE: Duration = Duration::from_millis(10);

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

/// Both ends of the streams of a container without a terminal.
#[derive(Debug)]
pub struct Pipes {
    /// The container's ends: stdin, stdout, stderr.
    pub theirs: [OwnedFd; 3],
    /// Ours.
    pub ours: OurEnds,
}

/// The caller's ends.
#[derive(Debug)]
pub struct OurEnds {
    input: Option<OwnedFd>,
    output: OwnedFd,
    errors: OwnedFd,
}

/// Makes the pipes; without `interactive` the container's stdin is /dev/null.
pub fn pipes(interactive: bool) -> nix::Result<Pipes> {
    let (stdin, input) = if interactive {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        (read, Some(write))
    } else {
        (open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?, None)
    };
    let (output, stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (errors, stderr) = pipe2(OFlag::O_CLOEXEC)?;
    for pipe in [&output, &errors].into_iter().chain(&input) {
        // Fewer, larger copies; a user beyond the limit for pipe memory keeps the default.
        fcntl(pipe, FcntlArg::F_SETPIPE_SZ(CHUNK as i32)).ok();
    }
    Ok(Pipes { theirs: [stdin, stdout, stderr], ours: OurEnds { input, output, errors } })
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

/// Writes all of a buffer; false when the reader is gone.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(to, nix::poll::PollFlags::POLLOUT),
            Err(_) => return false,
        }
    }
    true
}

/// For a stream that its owner made non-blocking.
fn wait_for(fd: BorrowedFd<'_>, event: nix::poll::PollFlags) {
    let mut fds = [nix::poll::PollFd::new(fd, event)];
    // Interrupted or not, the caller tries again.
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).ok();
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
        if direct {
            match splice(from, None, to, None, CHUNK, SpliceFFlags::SPLICE_F_MOVE) {
                Ok(0) => return End::Eof,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EPIPE) => return End::Unwritable,
                // Some terminals, non-blocking streams: by hand.
                Err(_) => direct = false,
            }
            continue;
        }
        buffer.resize(CHUNK, 0);
        match read(from, &mut buffer) {
            Ok(0) => return End::Eof,
            Ok(length) => {
                if !write_all(to, buffer.get(..length).unwrap_or_default()) {
                    return End::Unwritable;
                }
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(from, nix::poll::PollFlags::POLLIN),
            Err(errno) => return End::Unreadable(errno),
        }
    }
}

/// The threads that copy.
#[derive(Debug)]
pub struct Copying {
    outputs: Vec<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
    /// The container's terminal, for its window size.
    terminal: Option<Arc<OwnedFd>>,
}

/// Starts copying between the caller's streams and a container's pipes.
pub fn copy_pipes(ours: OurEnds) -> Copying {
    let OurEnds { input, output, errors } = ours;
    if let Some(input) = input {
        // Never joined: it may wait for the caller's keyboard for ever. Dropping the pipe at the
        // end is the half-close that the container sees.
        std::thread::spawn(move || {
            copy(io::stdin().as_fd(), input.as_fd());
        });
    }
    let out = std::thread::spawn(move || drain(&output, io::stdout().as_fd()));
    let err = std::thread::spawn(move || drain(&errors, io::stderr().as_fd()));
    Copying { outputs: vec![out, err], ended: Arc::default(), terminal: None }
}

/// Copies a container's output. A caller that stopped reading closes the pipe, so that the
/// container notices as it would without us.
fn drain(from: &OwnedFd, to: BorrowedFd<'_>) {
    copy(from.as_fd(), to);
}

/// Starts copying between the caller's terminal and a container's.
pub fn copy_terminal(master: OwnedFd, interactive: bool) -> Copying {
    let master = Arc::new(master);
    let ended = Arc::new(AtomicBool::new(false));
    if interactive {
        let master = Arc::clone(&master);
        std::thread::spawn(move || {
            let end = copy(io::stdin().as_fd(), master.as_fd());
            if end == End::Eof {
                // End of file, as typed: a terminal has no half-close.
                write_all(master.as_fd(), &[4]);
            }
        });
    }
    let out = {
        let (master, ended) = (Arc::clone(&master), Arc::clone(&ended));
        std::thread::spawn(move || {
            // While the container lives, it may close its terminal and open it again.
            while copy(master.as_fd(), io::stdout().as_fd()) == End::Unreadable(Errno::EIO)
                && !ended.load(Ordering::Acquire)
            {
                std::thread::sleep(HANGUP_PAUSE);
            }
        })
    };
    Copying { outputs: vec![out], ended, terminal: Some(master) }
}

impl Copying {
    /// Tells the container's terminal the size of the caller's.
    pub fn resize(&self) {
        if let (Some(terminal), Some(size)) = (&self.terminal, window_size()) {
            // A container that is ending has no use for it.
            tty::set_window_size((**terminal).as_fd(), &size).ok();
        }
    }

    /// Waits until everything that the container wrote has been written. Called when it has
    /// ended, so that the streams are at their end.
    pub fn finish(self) {
        self.ended.store(true, Ordering::Release);
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
