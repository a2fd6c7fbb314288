//! Files mapped into memory for reading.
//!
//! A mapped file that somebody cuts short would kill the process with `SIGBUS` when a page beyond its
//! new end is touched. Here such a page is replaced by one of zeros, and the map counts as broken from
//! then on ([`Map::broken`]): what it says is no longer to be believed, but nothing dies. The handler
//! passes signals that concern no map to whoever handled them before.

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use super::{Errno, Result, raw};

/// A file mapped for reading; never written through.
#[derive(Debug)]
pub struct Map {
    start: *mut libc::c_void,
    len: usize,
    place: &'static Place,
}

// SAFETY: the memory is only ever read, and belongs to the value until it is dropped.
unsafe impl Send for Map {}
// SAFETY: as above; reading needs no order.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `len` bytes of a file, which must have so many.
    ///
    /// # Errors
    /// `EINVAL` for no bytes at all; `ENOMEM`; other errors of mmap(2).
    pub fn of(fd: BorrowedFd<'_>, len: usize) -> Result<Map> {
        install()?;
        // SAFETY: a new map at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                raw(fd),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let place = Place::take(start as usize, len);
        Ok(Map { start, len, place })
    }

    /// All of it. Bytes beyond the end of a file that was cut short are zero.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading over this length until dropped. The file is by contract not
        // changed while it is mapped; if it is, bytes may be seen old or new, and every use of them
        // checks its bounds anew.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    /// Whether some of it was found to be gone.
    pub fn broken(&self) -> bool {
        self.place.broken.load(Ordering::Acquire)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.place.give_back();
        // SAFETY: mapped by `of`, and no reference to it outlives the value.
        let _cannot_fail_for_a_whole_map = unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Where a map is, for the signal handler. Places are never freed, only used again.
#[derive(Debug)]
struct Place {
    /// Address of the first byte; 0: not in use.
    start: AtomicUsize,
    len: AtomicUsize,
    broken: AtomicBool,
    next: AtomicPtr<Place>,
}

/// The first of all places.
static PLACES: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());

impl Place {
    fn take(start: usize, len: usize) -> &'static Place {
        for place in places() {
            // The length first: the handler looks at a place as soon as it has a start.
            if place.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                place.set(start, len);
                return place;
            }
        }
        let place = Box::leak(Box::new(Place {
            start: AtomicUsize::new(1),
            len: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            next: AtomicPtr::new(std::ptr::null_mut()),
        }));
        place.set(start, len);
        let mut first = PLACES.load(Ordering::Acquire);
        loop {
            place.next.store(first, Ordering::Release);
            let put =
                PLACES.compare_exchange_weak(first, place, Ordering::AcqRel, Ordering::Acquire);
            match put {
                Ok(_) => return place,
                Err(now) => first = now,
            }
        }
    }

    fn set(&self, start: usize, len: usize) {
        self.broken.store(false, Ordering::Release);
        self.len.store(len, Ordering::Release);
        self.start.store(start, Ordering::Release);
    }

    fn give_back(&self) {
        self.len.store(0, Ordering::Release);
        self.start.store(0, Ordering::Release);
    }

    fn holds(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        address >= start && address - start < self.len.load(Ordering::Acquire)
    }
}

fn places() -> impl Iterator<Item = &'static Place> {
    // SAFETY: a place that was ever in the list stays allocated for ever.
    let mut next = unsafe { PLACES.load(Ordering::Acquire).as_ref() };
    std::iter::from_fn(move || {
        let place = next?;
        // SAFETY: as above.
        next = unsafe { place.next.load(Ordering::Acquire).as_ref() };
        Some(place)
    })
}

/// What handled `SIGBUS` before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
/// Size of a page.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Puts the handler in place, once.
fn install() -> Result<()> {
    static DONE: OnceLock<Result<()>> = OnceLock::new();
    *DONE.get_or_init(|| {
        // SAFETY: plain call.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).map_err(|_| Errno::EINVAL)?, Ordering::Release);
        // SAFETY: an all-zero sigaction is a valid value for the kernel to fill.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: asks only; valid pointer.
        super::check_int(unsafe {
            libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before)
        })?;
        BEFORE.get_or_init(|| before);
        // SAFETY: an all-zero sigaction is a valid start.
        let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            on_sigbus;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: a handler that makes only calls that are safe in one (signal-safety(7)).
        super::check_int(unsafe {
            libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut())
        })
        .map(drop)
    })
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let page = PAGE.load(Ordering::Acquire);
    if let Some(place) = places().find(|place| place.holds(address)) {
        let at = address & !(page - 1);
        // SAFETY: replaces one page of a map of ours, which is only read, by zeros.
        let zeros = unsafe {
            libc::mmap(
                at as *mut libc::c_void,
                page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if zeros != libc::MAP_FAILED {
            place.broken.store(true, Ordering::Release);
            return;
        }
    }
    let Some(before) = BEFORE.get() else { return };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: gives the signal back; the faulting instruction then meets it again.
            unsafe { libc::sigaction(signal, &raw const *before, std::ptr::null_mut()) };
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it was registered as a handler with this signature.
            let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            call(signal, info, context);
        }
        handler => {
            // SAFETY: it was registered as a handler with this signature.
            let call: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            call(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_cut_short_reads_as_zeros_and_is_known_to_be_broken() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * 65536]).unwrap();
        let map = Map::of(file.as_fd(), 3 * 65536).unwrap();
        let other = Map::of(file.as_fd(), 65536).unwrap();
        assert!(map.bytes().iter().all(|b| *b == 7));
        assert!(!map.broken());
        file.set_len(65536).unwrap();
        assert_eq!(map.bytes()[65536 * 2], 0);
        assert!(map.broken());
        assert_eq!(map.bytes()[65535], 7);
        assert!(!other.broken());
        drop(map);
        // A place that is used again starts afresh.
        let again = Map::of(file.as_fd(), 65536).unwrap();
        assert!(!again.broken());
    }

    #[test]
    fn nothing_cannot_be_mapped() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Map::of(file.as_fd(), 0).unwrap_err(), Errno::EINVAL);
    }
}
