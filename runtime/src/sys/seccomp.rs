//! Filters for system calls.

use nix::errno::Errno;

use crate::seccomp::Program;

/// SECCOMP_SET_MODE_FILTER and SECCOMP_FILTER_FLAG_LOG, in linux/seccomp.h.
const SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_LOG: libc::c_ulong = 2;

/// `struct sock_fprog`.
#[repr(C)]
struct Fprog {
    length: libc::c_ushort,
    filter: *const crate::seccomp::Instruction,
}

/// Puts this process under a filter, for ever. Needs CAP_SYS_ADMIN or no_new_privs.
pub fn install(program: &Program) -> nix::Result<()> {
    let length = libc::c_ushort::try_from(program.instructions.len()).map_err(|_| Errno::E2BIG)?;
    let fprog = Fprog { length, filter: program.instructions.as_ptr() };
    let flags = if program.log { FLAG_LOG } else { 0 };
    // SAFETY: the structure describes instructions that outlive the call; the kernel checks and
    // copies them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const fprog) };
    Errno::result(result).map(drop)
}
