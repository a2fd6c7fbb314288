//! The process whose call is taken: its memory, its descriptors, its directories.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, fchdir};

use crate::sys::listener::{self, Call};

/// Longest path, with its NUL (linux/limits.h).
const PATH_MAX: usize = 4096;

/// A process that waits.
#[derive(Debug)]
pub struct Caller<'a> {
    /// The machine's `/proc`, as this process sees it.
    pub proc: &'a OwnedFd,
    /// Where the call came from.
    pub listener: &'a OwnedFd,
    /// The call.
    pub call: Call,
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Caller<'_> {
    /// Opens `/proc`, before this process changes its root.
    pub fn open_proc() -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open("/proc", flags, Mode::empty())
    }

    /// Argument `n` as an id or another 32-bit number.
    pub fn number(&self, n: usize) -> u32 {
        self.call.arguments.get(n).copied().unwrap_or(0) as u32
    }

    fn entry(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = format!("{}/{name}", self.call.thread);
        openat(self.proc, path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// The caller is still there, so what was opened by its number was its own.
    fn sure(&self) -> nix::Result<()> {
        if listener::waits(self.listener.as_fd(), self.call.id) {
            Ok(())
        } else {
            Err(Errno::ESRCH)
        }
    }

    /// The string at an address of the caller's.
    pub fn string(&self, address: u64) -> nix::Result<CString> {
        let memory = File::from(self.entry("mem", OFlag::O_RDONLY)?);
        self.sure()?;
        let mut text = Vec::new();
        while text.len() < PATH_MAX {
            // Up to the end of the page: the next one may not be there.
            let at = address.checked_add(text.len() as u64).ok_or(Errno::EFAULT)?;
            let mut piece = vec![0; PATH_MAX - (at as usize % PATH_MAX)];
            let read = memory.read_at(&mut piece, at).map_err(|error| errno(&error))?;
            if read == 0 {
                return Err(Errno::EFAULT);
            }
            piece.truncate(read);
            text.extend_from_slice(&piece);
            if let Ok(found) = CStr::from_bytes_until_nul(&text) {
                return Ok(found.to_owned());
            }
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Writes 32-bit numbers to the addresses that arguments 0, 1, … hold.
    pub fn give(&self, values: &[u32]) -> nix::Result<()> {
        let memory = File::from(self.entry("mem", OFlag::O_WRONLY)?);
        self.sure()?;
        for (address, value) in self.call.arguments.iter().zip(values) {
            memory.write_all_at(&value.to_ne_bytes(), *address).map_err(|error| errno(&error))?;
        }
        Ok(())
    }

    /// From now on paths mean here what they mean to the caller; relative ones start where
    /// `directory` (a descriptor of the caller's, or AT_FDCWD) is.
    pub fn stand_in(&self, directory: i32) -> nix::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = self.entry("root", flags)?;
        let start = match directory {
            libc::AT_FDCWD => self.entry("cwd", flags)?,
            fd => self.entry(&format!("fd/{fd}"), flags)?,
        };
        self.sure()?;
        fchdir(&root)?;
        chroot(Path::new("."))?;
        fchdir(&start)
    }

    /// A path, from here, to what a descriptor of the caller's leads to.
    pub fn descriptor(&self, fd: i32) -> nix::Result<CString> {
        self.entry(&format!("fd/{fd}"), OFlag::O_PATH)?;
        self.sure()?;
        fchdir(self.proc)?;
        let path = format!("{}/fd/{fd}", self.call.thread);
        CString::new(path).map_err(|_| Errno::EINVAL)
    }

    /// A field of the `status` file of a process, the caller's by default.
    pub fn status(&self, process: Option<i32>, field: &str) -> Option<i32> {
        let path = format!("{}/status", process.unwrap_or(self.call.thread));
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(self.proc, path.as_str(), flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    }
}
