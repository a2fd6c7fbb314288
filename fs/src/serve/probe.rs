//! Asks the kernel what its FUSE can do, without mounting anything that others could see: a child with
//! its own table of mounts mounts, listens to the kernel's first request, and ends.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::policy::{self, Policy};
use super::session::{self, Hello};
use crate::sys::{self, Errno, Result};

/// What the kernel offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Protocol version.
    pub version: (u32, u32),
    /// Flags of `FUSE_INIT`.
    pub flags: u64,
    /// Read-ahead, bytes.
    pub max_readahead: u32,
    /// Whether it takes files of the host from us, and why not.
    pub passthrough: Result<()>,
}

/// Numbers that the child sends: how it failed, and the offer.
const NUMBERS: usize = 7;

/// Asks. The caller has one thread.
///
/// # Errors
/// `EPERM` where neither mounts nor user namespaces are allowed; `EACCES`, `ENOENT` for /dev/fuse;
/// `EIO` when the child failed otherwise.
pub fn ask_kernel() -> Result<Offer> {
    let (mut reader, mut writer) = std::io::pipe().map_err(|_| Errno::EMFILE)?;
    let Some(child) = sys::process::fork()? else {
        let numbers = match listen() {
            Ok(o) => {
                let refused = o.passthrough.map_or_else(|e| e as u32, |()| 0);
                let (low, high) = (o.flags as u32, (o.flags >> 32) as u32);
                [0, o.version.0, o.version.1, o.max_readahead, refused, low, high]
            }
            Err(e) => [e as u32, 0, 0, 0, 0, 0, 0],
        };
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        let sent = writer.write_all(&bytes).is_ok();
        std::process::exit(if sent { 0 } else { 1 });
    };
    drop(writer);
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes);
    sys::process::wait(child);
    read.map_err(|_| Errno::EIO)?;
    let numbers: Vec<u32> =
        bytes.chunks_exact(4).filter_map(|c| c.try_into().ok().map(u32::from_ne_bytes)).collect();
    let numbers: [u32; NUMBERS] = numbers.try_into().map_err(|_| Errno::EIO)?;
    let [failed, major, minor, max_readahead, refused, low, high] = numbers;
    let errno = |n: u32| if n == 0 { Ok(()) } else { Err(Errno::from_raw(n as i32)) };
    errno(failed)?;
    Ok(Offer {
        version: (major, minor),
        flags: u64::from(low) | (u64::from(high) << 32),
        max_readahead,
        passthrough: errno(refused),
    })
}

/// The child's part.
fn listen() -> Result<Offer> {
    sys::process::own_mounts()?;
    let device = sys::fuse::open_device()?;
    let (uid, gid) = sys::process::ids();
    super::mount::over(&device, Path::new("/"), uid, gid)?;
    let hello: Hello = session::hello(&device)?;
    let mut policy = Policy::new(true, false);
    policy.set_passthrough(true);
    let agreed = policy::negotiate(&policy, hello.offered, hello.max_readahead);
    session::send(&device, hello.unique, 0, agreed.reply().bytes())?;
    let passthrough = if agreed.passthrough {
        sys::file::memory().and_then(|file| {
            let id = sys::fuse::backing_open(device.as_fd(), file.as_fd())?;
            sys::fuse::backing_close(device.as_fd(), id)
        })
    } else {
        Err(Errno::EOPNOTSUPP)
    };
    let version = hello.version;
    Ok(Offer { version, flags: hello.offered, max_readahead: hello.max_readahead, passthrough })
}
