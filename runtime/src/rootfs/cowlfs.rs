//! A root filesystem mounted by cowlfs, a child process of the monitor.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};

use super::{Driver, Error, Lower, PATIENCE, PROGRAM_VARIABLE, Rootfs};
use crate::sys::process::Child;
use crate::{executable, sys, userns};

/// Escapes what has a meaning in the option list.
fn escape(path: &Path, into: &mut OsString) {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    into.push(OsString::from_vec(bytes));
}

/// The `-o` argument for a container in `dir`.
fn options(lower: &Lower, dir: &Path) -> OsString {
    let mut text = OsString::from("lowerdir=");
    match lower {
        Lower::Layers { directories, .. } => {
            for (number, layer) in directories.iter().enumerate() {
                if number > 0 {
                    text.push(":");
                }
                escape(layer, &mut text);
            }
        }
        Lower::Machine { .. } => text.push("/"),
    }
    for (key, part) in [("upperdir", "upper"), ("workdir", "work")] {
        text.push(format!(",{key}="));
        escape(&dir.join(part), &mut text);
    }
    match lower {
        // Nobody else uses this upper, and layers of the store never change (the machine does).
        Lower::Layers { owners_kept: false, .. } => text.push(",copyup=block"),
        Lower::Layers { owners_kept: true, .. } => {
            // An owner that the namespace does not have is kept, and shown as root's: the kernel
            // lets nobody, root included, write to a file whose owner it cannot name.
            text.push(",copyup=block,xattr_permissions=2,unmapped_to_root");
            if userns::single_id() {
                text.push(",chown_xattr"); // see `sandbox::emulation`
            }
        }
        Lower::Machine { store, unmapped_to_root } => {
            text.push(",one_file_system,hide=");
            escape(store, &mut text);
            if *unmapped_to_root {
                text.push(",unmapped_to_root");
            }
        }
    }
    text
}

/// Finds the mount program: the environment's, else beside this one, else in PATH.
pub fn program() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE).filter(|name| !name.is_empty()) {
        return Ok(named.into());
    }
    let beside =
        executable::places().into_iter().filter_map(|me| Some(me.parent()?.join("cowlfs")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("cowlfs"));
    beside.chain(in_path).find(|file| file.is_file()).ok_or(Error::NoProgram)
}

/// Starts cowlfs for the container in `dir`. It inherits `lock` and thereby keeps the container
/// locked as long as it lives. `interrupt` becoming readable gives up.
pub(super) fn mount(
    lower: &Lower,
    dir: &Path,
    lock: BorrowedFd<'_>,
    interrupt: BorrowedFd<'_>,
) -> Result<Rootfs, Error> {
    let program = program()?;
    let mountpoint = dir.join("rootfs");
    let log_path = dir.join("cowlfs.log");
    let start = |source| Error::Start { program: program.clone(), source };
    let log = File::create(&log_path).map_err(start)?;
    let (ready, ready_writer) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::System("make a pipe", errno))?;
    let mut command = Command::new(&program);
    command
        .arg("-f")
        .arg("--ready-fd")
        .arg(std::os::fd::AsRawFd::as_raw_fd(&ready_writer).to_string())
        .arg("-o")
        .arg(options(lower, dir))
        .arg(&mountpoint)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    // SIGTERM: it unmounts and writes back what it holds when the monitor is killed.
    sys::descriptor::attend(&mut command, &[lock, ready_writer.as_fd()], Signal::SIGTERM);
    let child = command.spawn().map_err(start)?;
    drop(ready_writer);
    let pid = Pid::from_raw(child.id().cast_signed());
    let fd = sys::process::open(pid)
        .map_err(|errno| Error::System("open the process of cowlfs", errno))?;
    let mut mounted = Rootfs { mountpoint, server: Child { pid, fd }, driver: Driver::Cowlfs };
    match wait_until_ready(ready, interrupt) {
        Ok(true) => Ok(mounted),
        Ok(false) => {
            // Its sentence is complete only when it has ended.
            if !mounted.ended_within(PATIENCE) {
                sys::process::kill(mounted.as_fd(), Signal::SIGKILL as i32).ok();
            }
            let status =
                mounted.server.wait().map_err(|errno| Error::System("wait for cowlfs", errno))?;
            Err(Error::Mount(last_words(&log_path, &format!("exit code {status}"))))
        }
        Err(error) => {
            mounted.stop()?;
            Err(error)
        }
    }
}

/// Whether the byte came.
fn wait_until_ready(ready: OwnedFd, interrupt: BorrowedFd<'_>) -> Result<bool, Error> {
    loop {
        let mut fds = [
            PollFd::new(ready.as_fd(), PollFlags::POLLIN),
            PollFd::new(interrupt, PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::System("wait for cowlfs", errno)),
            Ok(_) => {
                let [ready_now, interrupted] = fds.map(|fd| fd.any().unwrap_or(false));
                if ready_now {
                    let mut byte = [0];
                    let got = File::from(ready).read(&mut byte);
                    return Ok(matches!(got, Ok(1)));
                }
                if interrupted {
                    return Err(Error::Interrupted);
                }
            }
        }
    }
}

/// The last line that cowlfs wrote, for our own sentence.
fn last_words(log: &Path, status: &str) -> String {
    let text = fs::read(log).unwrap_or_default();
    let line = text
        .split(|byte| *byte == b'\n')
        .rev()
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty());
    match line {
        Some(line) => {
            let line = line.strip_prefix(b"cowlfs: ").unwrap_or(line);
            OsStr::from_bytes(line).display().to_string()
        }
        None => format!("it ended without a word ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_escaped() {
        let directories = vec!["/a,b".into(), "/c:d\\e".into()];
        let lower = Lower::Layers { directories, owners_kept: true };
        assert_eq!(
            options(&lower, Path::new("/x")),
            "lowerdir=/a\\,b:/c\\:d\\\\e,upperdir=/x/upper,workdir=/x/work,\
             copyup=block,xattr_permissions=2,unmapped_to_root"
        );
        let machine = Lower::Machine { store: "/s,t".into(), unmapped_to_root: true };
        assert_eq!(
            options(&machine, Path::new("/s,t/c")),
            "lowerdir=/,upperdir=/s\\,t/c/upper,workdir=/s\\,t/c/work,one_file_system,\
             hide=/s\\,t,unmapped_to_root"
        );
    }

    #[test]
    fn last_words_are_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_words(&log, "exit status: 1"), "it ended without a word (exit status: 1)");
        fs::write(&log, "cowlfs: warning\ncowlfs: no such directory: /a\n\n").unwrap();
        assert_eq!(last_words(&log, ""), "no such directory: /a");
    }
}
