//! Capability sets of this process.

use nix::errno::Errno;

/// A set of capabilities, one bit each, numbered as in linux/capability.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// Whether capability number `number` is in the set.
    pub fn contains(self, number: u8) -> bool {
        self.0 >> number & 1 == 1
    }
}

// _LINUX_CAPABILITY_VERSION_3: two 32-bit words per set.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// This process's effective capabilities.
pub fn effective() -> nix::Result<CapabilitySet> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes two Data words, which `data` has room for.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result)?;
    let [low, high] = data;
    Ok(CapabilitySet(u64::from(low.effective) | u64::from(high.effective) << 32))
}

/// Keeps the permitted set when the user changes from root to another.
pub fn keep_over_setuid() -> nix::Result<()> {
    // SAFETY: prctl with plain numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }).map(drop)
}

/// Sets this process's sets, each as far as what is permitted now allows; of the ambient ones
/// those that are permitted and inheritable.
pub fn set(
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
) -> nix::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes two Data words, which `data` has room for.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(got)?;
    for (word, shift) in data.iter_mut().zip([0, 32]) {
        let part = |set: CapabilitySet| (set.0 >> shift) as u32;
        word.inheritable = part(inheritable) & word.permitted;
        word.permitted &= part(permitted);
        word.effective = part(effective) & word.permitted;
    }
    header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: as above; capset only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    for number in (0..64u8).filter(|number| ambient.contains(*number)) {
        // SAFETY: prctl with plain numbers.
        let result = unsafe {
            let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
            libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(number), 0, 0)
        };
        match Errno::result(result) {
            // Not permitted or not inheritable: then it cannot be ambient.
            Ok(_) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Drops everything outside `set` from the bounding set, and clears the ambient set.
pub fn bound(set: CapabilitySet) -> nix::Result<()> {
    for number in 0..64u8 {
        // SAFETY: prctl with plain numbers.
        let known =
            unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number), 0, 0, 0) };
        if known < 0 {
            break; // beyond the kernel's last capability
        }
        if known == 1 && !set.contains(number) {
            // SAFETY: prctl with plain numbers.
            let result =
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
            Errno::result(result)?;
        }
    }
    // SAFETY: prctl with plain numbers.
    let result = unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0)
    };
    Errno::result(result).map(drop)
}
