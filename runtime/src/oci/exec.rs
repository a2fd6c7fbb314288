//! `exec`: one more process in a running container.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::os::fd::AsFd;

use super::config::Process;
use super::create::{own_streams, send_terminal, write_pid};
use super::state::{Bundle, Status};
use super::{Error, hooks, io_error, step, translate};
use crate::sandbox::{self, Streams, Word};
use crate::sys;
use crate::sys::process::{Child, Side};
use crate::sys::tty::WindowSize;

/// How `exec` is called.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    /// What runs.
    pub process: Process,
    /// Where its number is written.
    pub pid_file: Option<PathBuf>,
    /// The socket to which the terminal is sent.
    pub console_socket: Option<PathBuf>,
    /// Descriptors from 3 on that it inherits.
    pub preserve_fds: u32,
}

/// Reads a process from a file.
pub fn read_process(path: &Path) -> Result<Process, Error> {
    let text = fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// Runs a process in a container, as a child of this one.
pub fn exec(bundle: &Bundle, options: &ExecOptions) -> Result<Child, Error> {
    let status = bundle.status();
    if status == Status::Stopped {
        return Err(Error::Status { verb: "exec in", status, id: bundle.id.clone() });
    }
    let wanted = &options.process;
    let mut process = translate::process(wanted)?;
    process.inherited = options.preserve_fds;
    process.seccomp = translate::calls(&bundle.config()?.linux, &process)?;
    if wanted.terminal != options.console_socket.is_some() {
        return Err(Error::Invalid("a terminal and --console-socket need each other".to_owned()));
    }
    let streams = if wanted.terminal {
        Streams::Terminal(wanted.console_size.map(|size| WindowSize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }))
    } else {
        own_streams()?
    };
    let pid = bundle.init.pid;
    let init = bundle.init.open().ok_or_else(|| Error::NotRunning(bundle.id.clone()))?;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(step("make a socket"))?;
    let numbers = PathBuf::from(format!("/proc/{pid}/ns/pid"));
    let side = sys::process::fork_beside(&numbers, CloneFlags::empty())
        .map_err(step("enter the container"))?;
    let child = match side {
        Side::Child => {
            drop(ours);
            if let Err(errno) = hooks::join(&init, pid) {
                fail(&theirs, &format!("cannot enter the container: {}", errno.desc()));
                sys::process::exit(125);
            }
            let error = sandbox::process::enter(&process, streams, &theirs);
            sys::process::exit(error.exit_code());
        }
        Side::Parent(child) => child,
    };
    drop(theirs);
    drop(streams);
    let mut terminal = None;
    loop {
        match sys::descriptor::receive(ours.as_fd()).map_err(step("hear the process"))? {
            None => break,
            Some((text, fds)) => match serde_json::from_slice::<Word>(&text) {
                Ok(Word::Made { .. }) => terminal = fds.into_iter().next(),
                Ok(Word::Failed { exit_code, message }) => {
                    child.wait().map_err(step("wait for the process"))?;
                    return Err(Error::Start { exit_code, message });
                }
                Err(_) => {
                    let message = "the process said something odd".to_owned();
                    return Err(Error::Start { exit_code: 125, message });
                }
            },
        }
    }
    if let (Some(socket), Some(master)) = (&options.console_socket, &terminal) {
        send_terminal(socket, master)?;
    }
    if let Some(path) = &options.pid_file {
        write_pid(path, child.pid.as_raw())?;
    }
    Ok(child)
}

fn fail(channel: &OwnedFd, message: &str) {
    let word = Word::Failed { exit_code: 125, message: message.to_owned() };
    if let Ok(text) = serde_json::to_vec(&word) {
        // Who started this may be gone; it ends in any case.
        sys::descriptor::send(channel.as_fd(), &text, &[]).ok();
    }
}
