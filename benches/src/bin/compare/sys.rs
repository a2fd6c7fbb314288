//! The one room with `unsafe`: a shared mapping of a file.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A file mapped shared and writable.
///
/// Only for files that nothing truncates meanwhile: touching a page past the end of the file kills
/// the process.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

impl Mapping {
    /// Maps the first `length` bytes.
    ///
    /// # Errors
    /// What mmap(2) answers; EINVAL for a length of zero.
    pub fn new(file: &File, length: usize) -> nix::Result<Mapping> {
        let length = NonZeroUsize::new(length).ok_or(nix::Error::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is asked for, so no mapping of this process is replaced.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Mapping { start: start.cast(), length })
    }

    /// Writes one byte; false past the end of the mapping.
    pub fn put(&mut self, at: usize, byte: u8) -> bool {
        if at >= self.length.get() {
            return false;
        }
        // SAFETY: `at` is inside the mapping, which lives as long as `self`. Volatile, so that the
        // compiler keeps every write.
        unsafe { self.start.add(at).write_volatile(byte) };
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and nothing refers into it any more. It
        // cannot fail for an address and length that mmap gave.
        let _unmapped = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}
