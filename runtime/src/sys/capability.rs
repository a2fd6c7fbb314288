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

/// Makes permitted and effective equal `set` (as far as permitted allows), and inheritable empty.
pub fn limit(set: CapabilitySet) -> nix::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes two Data words, which `data` has room for.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(got)?;
    let wanted = [set.0 as u32, (set.0 >> 32) as u32];
    for (word, wanted) in data.iter_mut().zip(wanted) {
        word.permitted &= wanted;
        word.effective = word.permitted;
        word.inheritable = 0;
    }
    header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: as above; capset only reads.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
        .map(drop)
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
