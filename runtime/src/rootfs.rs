//! The root filesystem of a container: layers and a write layer, mounted by cowlfs.
//!
//! cowlfs runs as a child of the monitor and mounts in the monitor's mount namespace, so that
//! nothing of it shows on the machine and everything goes with the namespace, whoever is killed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};

use crate::{executable, sys};

/// The environment variable that names another mount program.
pub const PROGRAM_VARIABLE: &str = "COWLFS";

/// How long cowlfs may take from unmount to exit before it is asked, and then made, to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What lies under the write layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lower {
    /// An image's layers.
    Layers {
        /// Their directories, topmost first.
        directories: Vec<PathBuf>,
        /// Whether what the host refuses to store (owners, devices) is kept in an attribute, as
        /// the layers have it: in a user namespace.
        owners_kept: bool,
    },
    /// This machine's own root filesystem, without what is mounted on it and without the store.
    Machine {
        /// The store, to be hidden.
        store: PathBuf,
        /// Whether ids that this user namespace lacks are shown as root's.
        unmapped_to_root: bool,
    },
}

/// Why there is no root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount program is missing.
    #[error(
        "cannot find the mount program cowlfs: put it beside cowl or into PATH, or name it in the \
         environment variable COWLFS"
    )]
    NoProgram,
    /// It could not be started.
    #[error("cannot start {program}: {source}", program = .program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended before the mount was usable.
    #[error("cowlfs cannot mount the root filesystem: {0}")]
    Mount(String),
    /// The user went away meanwhile.
    #[error("interrupted while the root filesystem was being mounted")]
    Interrupted,
    /// A system call.
    #[error("cannot {0}: {desc}", desc = .1.desc())]
    System(&'static str, Errno),
}

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

/// A mounted root filesystem.
#[derive(Debug)]
pub struct Rootfs {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    child: Child,
    fd: OwnedFd,
}

impl AsFd for Rootfs {
    /// Readable when cowlfs has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Rootfs {
    /// Mounts the layers for the container in `dir`, in this mount namespace. `lock` is inherited
    /// by cowlfs, which thereby keeps the container locked as long as it lives. `interrupt`
    /// becoming readable gives up.
    pub fn mount(
        lower: &Lower,
        dir: &Path,
        lock: BorrowedFd<'_>,
        interrupt: BorrowedFd<'_>,
    ) -> Result<Self, Error> {
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
        let mut mounted = Self { mountpoint, child, fd };
        match mounted.wait_until_ready(ready, interrupt) {
            Ok(true) => Ok(mounted),
            Ok(false) => {
                // Its sentence is complete only when it has ended.
                if !mounted.ended_within(PATIENCE) {
                    mounted.child.kill().ok();
                }
                let status = mounted.child.wait().map_err(start)?;
                Err(Error::Mount(last_words(&log_path, &status.to_string())))
            }
            Err(error) => {
                mounted.stop()?;
                Err(error)
            }
        }
    }

    /// Whether the byte came.
    fn wait_until_ready(&self, ready: OwnedFd, interrupt: BorrowedFd<'_>) -> Result<bool, Error> {
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

    /// cowlfs's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Removes the mountpoints that the engine made, where the container left them empty.
    pub fn remove_mountpoints(&self, made: &[PathBuf]) {
        for path in made.iter().rev() {
            let Ok(inside) = path.strip_prefix("/") else { continue };
            let place = self.mountpoint.join(inside);
            // A container may have replaced anything on the way by a link to somewhere else.
            let canonical = place.parent().and_then(|parent| parent.canonicalize().ok());
            let Some(parent) = canonical.filter(|parent| parent.starts_with(&self.mountpoint))
            else {
                continue;
            };
            let Ok(found) = fs::symlink_metadata(&place) else { continue };
            let before = fs::metadata(&parent).and_then(|parent| {
                Ok(FileTimes::new()
                    .set_accessed(parent.accessed()?)
                    .set_modified(parent.modified()?))
            });
            // Whatever cannot be removed stays as an empty name, which `diff` knows about.
            let removed = if found.is_dir() {
                fs::remove_dir(&place)
            } else if found.is_file() && found.len() == 0 {
                fs::remove_file(&place)
            } else {
                continue;
            };
            if let (Ok(()), Ok(before)) = (removed, before) {
                // The directory's time shall not tell of it.
                File::open(&parent).and_then(|parent| parent.set_times(before)).ok();
            }
        }
    }

    /// Unmounts and waits until cowlfs has written everything and ended.
    pub fn unmount(mut self) -> Result<(), Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        match umount2(&self.mountpoint, MntFlags::empty()) {
            Err(Errno::EBUSY) => {
                umount2(&self.mountpoint, MntFlags::MNT_DETACH)
                    .map_err(|errno| Error::System("unmount the root filesystem", errno))?;
            }
            // Not mounted (any more): cowlfs was killed or never came so far.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOTCONN) => {}
            Err(errno) => return Err(Error::System("unmount the root filesystem", errno)),
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if self.ended_within(PATIENCE) {
                break;
            }
            sys::process::kill(self.fd.as_fd(), signal as i32).ok();
        }
        self.child.wait().map(drop).map_err(|error| {
            Error::System("wait for cowlfs", Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        })
    }

    fn ended_within(&self, patience: Duration) -> bool {
        let start = Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => return false,
                Ok(_) => return true,
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
