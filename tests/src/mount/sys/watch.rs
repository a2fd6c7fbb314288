//! inotify(7).

use std::ffi::OsString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::{R, c, ck, libc, read};

/// A set of watches.
pub struct Watches(OwnedFd);

/// What happened: to which watch, what (`IN_*`), and to which name in a watched directory.
pub type Event = (i32, u32, OsString);

impl Watches {
    /// An empty set.
    pub fn new() -> R<Watches> {
        // SAFETY: plain integers.
        let fd = ck(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: the kernel just returned this descriptor.
        Ok(Watches(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches a name for everything but opening, reading and closing without a write; its number
    /// counts from 1.
    pub fn add(&self, p: impl AsRef<Path>) -> R<i32> {
        let quiet = libc::IN_OPEN | libc::IN_ACCESS | libc::IN_CLOSE_NOWRITE;
        let p = c(p);
        // SAFETY: the string is NUL-terminated and outlives the call.
        ck(unsafe {
            libc::inotify_add_watch(self.0.as_raw_fd(), p.as_ptr(), libc::IN_ALL_EVENTS & !quiet)
        })
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Ok(b) = read(&self.0, 65_536) {
            let mut at = 0;
            while at + 16 <= b.len() {
                let word = |i: usize| {
                    u32::from_ne_bytes(b[at + i..at + i + 4].try_into().expect("4 bytes"))
                };
                let len = word(12) as usize;
                let name = b[at + 16..at + 16 + len].split(|b| *b == 0).next().unwrap_or_default();
                all.push((word(0) as i32, word(4), OsString::from_vec(name.to_vec())));
                at += 16 + len;
            }
        }
        all
    }
}
