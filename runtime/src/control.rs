//! How a command talks to the monitor of a container: a socket in the container's directory.
//!
//! One connection is one request. The monitor answers with one or more [`Reply`]s, descriptors
//! travel with the messages, and the connection's end is the end of the conversation: a monitor
//! that is killed is noticed at once, and so is a command that is. Streams are never sent through
//! this socket; each side hands the other the end of a pipe or of a terminal instead, so that a
//! stream costs no framing and a half-close is a close.
//!
//! Only the container's owner reaches the socket: it has mode 0600.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};

use crate::container::record::Bytes;
use crate::sys;

/// The socket's name in the container's directory.
const NAME: &str = "control";

/// A program to be started beside PID 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    /// Its command line; never empty.
    pub command: Vec<Bytes>,
    /// Variables beyond the container's own, as `NAME=value`.
    pub environment: Vec<Bytes>,
    /// Who runs it, where not the container's user.
    pub user: Option<String>,
    /// Where it starts, where not in the container's working directory.
    pub working_dir: Option<Bytes>,
    /// Whether it gets a terminal; otherwise three streams come with the request.
    pub tty: bool,
    /// Rows and columns of that terminal.
    pub window: Option<(u16, u16)>,
    /// Whether it gets every capability.
    pub privileged: bool,
}

/// What a command asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Copies of the container's output, into the pipes that come with this: first the one for
    /// stdout, then the one for stderr, as far as they are asked for.
    Attach {
        /// Whether a way to write to stdin is asked for, too.
        stdin: bool,
        /// Whether stdout is.
        stdout: bool,
        /// Whether stderr is.
        stderr: bool,
    },
    /// Start a program in the container.
    Exec(Box<Exec>),
    /// Send PID 1 a signal.
    Signal {
        /// The signal.
        number: i32,
        /// Whether the user wants an end: then the restart policy does not bring it back.
        by_user: bool,
    },
    /// End PID 1: with its stop signal, and after a while with SIGKILL.
    Stop {
        /// Another signal than the container's own.
        signal: Option<i32>,
        /// Seconds until SIGKILL; negative for never. None for the container's own.
        patience: Option<i64>,
    },
    /// Freeze every process.
    Pause,
    /// Let them go on.
    Unpause,
    /// Only to be told of the end.
    Wait,
    /// The configuration on disk has changed.
    Reload,
}

/// What the monitor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// PID 1, or the program, runs. With it comes what leads to its stdin: the terminal, or the
    /// end of a pipe, as asked for.
    Started,
    /// It is done.
    Done,
    /// It could not be done, or not be started.
    Failed {
        /// 125, 126 or 127 for a program that could not be started; 1 for the rest.
        exit_code: u8,
        /// One sentence.
        message: String,
    },
    /// PID 1, or the program, has ended, and the state on disk says so.
    Ended {
        /// Its exit code.
        exit_code: u8,
        /// What went wrong, where it was not its own doing.
        error: Option<String>,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: the container does not run.
    #[error("the container is not running")]
    NotRunning,
    /// The monitor ended in the middle.
    #[error("the monitor of the container ended unexpectedly")]
    Gone,
    /// The request is longer than a message can be.
    #[error("the command line and its environment are too long: {0} bytes, at most {max}", max = sys::descriptor::MESSAGE_MAX)]
    TooLong(usize),
    /// A message that is none.
    #[error("the monitor of the container said something odd: {0}")]
    Odd(#[from] serde_json::Error),
    /// A system call.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    System(&'static str, Errno),
}

fn system(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::System(what, errno)
}

/// The socket's address by way of an open directory: paths in addresses are short (108 bytes).
fn address(dir: &Path) -> Result<(OwnedFd, UnixAddr), Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = match open(dir, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::ENOENT) => return Err(Error::NotRunning),
        Err(errno) => return Err(Error::System("open the container's directory", errno)),
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()));
    let address = UnixAddr::new(&path).map_err(system("name the control socket"))?;
    Ok((opened, address))
}

fn new_socket(flags: SockFlag) -> Result<OwnedFd, Error> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .map_err(system("make the control socket"))
}

/// The monitor's side.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl AsFd for Listener {
    /// Readable when a command has connected.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Listens in the directory of a container whose lock is held. Called while there is one
    /// thread: the mode of what is made meanwhile changes.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        match std::fs::remove_file(dir.join(NAME)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                return Err(Error::System("remove an old control socket", errno));
            }
            _ => {}
        }
        let (_dir, address) = address(dir)?;
        let socket = new_socket(SockFlag::SOCK_NONBLOCK)?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = bind(socket.as_raw_fd(), &address);
        umask(before);
        bound.map_err(system("make the control socket"))?;
        listen(&socket, Backlog::MAXCONN).map_err(system("listen on the control socket"))?;
        Ok(Self(socket))
    }

    /// The next connection, when one waits.
    pub fn accept(&self) -> Option<Connection> {
        sys::descriptor::accept(self.0.as_fd()).ok().map(Connection)
    }
}

/// One conversation.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl AsFd for Connection {
    /// Readable when the other side has said something or is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Connection {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Connection {
    /// Connects to the monitor of the container in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (_dir, address) = address(dir)?;
        let socket = new_socket(SockFlag::empty())?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => return Ok(Self(socket)),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Err(Error::NotRunning),
                Err(errno) => return Err(Error::System("reach the container's monitor", errno)),
            }
        }
    }

    fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let text = serde_json::to_vec(message)?;
        if text.len() > sys::descriptor::MESSAGE_MAX {
            return Err(Error::TooLong(text.len()));
        }
        match sys::descriptor::send(self.0.as_fd(), &text, fds) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(Error::Gone),
            other => other.map_err(system("speak to the container's monitor")),
        }
    }

    /// Asks.
    pub fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.send(request, fds)
    }

    /// Answers; a command that is gone needs no answer.
    pub fn answer(&self, reply: &Reply, fds: &[BorrowedFd<'_>]) -> bool {
        self.send(reply, fds).is_ok()
    }

    /// What the command asks for; none when it is gone, `EAGAIN` when it has said nothing.
    pub fn request(&self) -> Result<Option<(Request, Vec<OwnedFd>)>, Error> {
        let received =
            sys::descriptor::receive(self.0.as_fd()).map_err(system("hear a command"))?;
        let Some((text, fds)) = received else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&text)?, fds)))
    }

    /// The next answer.
    pub fn reply(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let received = sys::descriptor::receive(self.0.as_fd())
            .map_err(system("hear the container's monitor"))?;
        let Some((text, fds)) = received else { return Err(Error::Gone) };
        Ok((serde_json::from_slice(&text)?, fds))
    }
}

/// Asks the monitor of the container in `dir` for something, and waits for its first answer.
pub fn ask(dir: &Path, request: &Request) -> Result<Reply, Error> {
    let connection = Connection::open(dir)?;
    connection.ask(request, &[])?;
    connection.reply().map(|(reply, _)| reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answer_cross_with_descriptors() {
        // Longer than an address of a socket can be.
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        assert!(matches!(Connection::open(&dir), Err(Error::NotRunning)));
        let listener = Listener::open(&dir).unwrap();
        assert!(listener.accept().is_none());
        let client = Connection::open(&dir).unwrap();
        let server = listener.accept().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let request = Request::Attach { stdin: true, stdout: true, stderr: false };
        client.ask(&request, &[null.as_fd()]).unwrap();
        let (heard, fds) = server.request().unwrap().unwrap();
        assert!(matches!(heard, Request::Attach { stdin: true, stdout: true, stderr: false }));
        assert_eq!(fds.len(), 1);
        assert!(server.answer(&Reply::Started, &[]));
        assert!(matches!(client.reply().unwrap(), (Reply::Started, _)));
        drop(server);
        assert!(matches!(client.reply(), Err(Error::Gone)));
        drop(listener);
        assert!(matches!(Connection::open(&dir), Err(Error::NotRunning)));
        // A new monitor takes the place of the old socket.
        Listener::open(&dir).unwrap();
    }

    #[test]
    fn what_is_too_long_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = Listener::open(dir.path()).unwrap();
        let client = Connection::open(dir.path()).unwrap();
        let word = "x".repeat(sys::descriptor::MESSAGE_MAX);
        let exec = Exec {
            command: vec![Bytes::Text(word)],
            environment: Vec::new(),
            user: None,
            working_dir: None,
            tty: false,
            window: None,
            privileged: false,
        };
        let error = client.ask(&Request::Exec(Box::new(exec)), &[]).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
