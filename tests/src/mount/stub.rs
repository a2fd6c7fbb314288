//! A lower layer that fails on demand: a filesystem of a few fixed files, served by a thread of the
//! test itself, which answers a chosen kind of request with `EIO`, or late.
//!
//! Nothing of it is cached by the kernel (no lifetimes, direct I/O), so that a fault shows at once
//! and is gone at once. Works in a user namespace. The protocol is that of `linux/fuse.h`.
// A request whose sender is gone needs no answer.
#![allow(clippy::let_underscore_must_use)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sys::{self, libc};

/// Kinds of requests that can be made to fail; bits of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Finding a name in a directory.
    Lookup = 1,
    /// Attributes.
    GetAttr = 2,
    /// Listing a directory.
    ReadDir = 4,
    /// Reading at or after [`LATE`].
    ReadLate = 8,
    /// Opening a file.
    Open = 16,
    /// The value of an xattr.
    GetXattr = 32,
    /// The names of xattrs.
    ListXattr = 64,
    /// The target of a symlink.
    ReadLink = 128,
    /// Any reading of data.
    Read = 256,
    /// Not an error: reading data waits until this is switched off, as for a slow disk.
    ReadWaits = 512,
}

/// Where [`Fault::ReadLate`] begins.
pub const LATE: usize = 128 << 10;

/// One object; its number is its place in the list plus 1.
#[derive(Debug, Clone)]
struct Object {
    parent: usize,
    name: &'static str,
    mode: u32,
    data: Vec<u8>,
    xattr: Option<(&'static str, &'static [u8])>,
}

/// The objects of a stub.
#[derive(Debug, Clone)]
pub struct Contents(Vec<Object>);

impl Default for Contents {
    /// An empty root directory.
    fn default() -> Contents {
        let root =
            Object { parent: 0, name: "", mode: libc::S_IFDIR | 0o755, data: vec![], xattr: None };
        Contents(vec![root])
    }
}

impl Contents {
    fn add(&mut self, parent: usize, name: &'static str, mode: u32, data: Vec<u8>) -> usize {
        self.0.push(Object { parent, name, mode, data, xattr: None });
        self.0.len()
    }

    /// Adds a directory to the directory `parent` (1 is the root); its number.
    pub fn dir(&mut self, parent: usize, name: &'static str) -> usize {
        self.add(parent, name, libc::S_IFDIR | 0o755, vec![])
    }

    /// Adds a file; its number.
    pub fn file(&mut self, parent: usize, name: &'static str, data: Vec<u8>) -> usize {
        self.add(parent, name, libc::S_IFREG | 0o644, data)
    }

    /// Adds a symlink; its number.
    pub fn link(&mut self, parent: usize, name: &'static str, target: &str) -> usize {
        self.add(parent, name, libc::S_IFLNK | 0o777, target.into())
    }

    /// Gives the object added last an xattr.
    pub fn xattr(&mut self, name: &'static str, value: &'static [u8]) {
        if let Some(last) = self.0.last_mut() {
            last.xattr = Some((name, value));
        }
    }
}

/// Switches faults on and off while the stub is mounted.
#[derive(Debug, Clone, Default)]
pub struct Switch {
    faults: Arc<AtomicU32>,
    waiting: Arc<AtomicU32>,
}

impl Switch {
    /// Only these fail from now on.
    pub fn fail(&self, faults: &[Fault]) {
        self.faults.store(faults.iter().fold(0, |set, f| set | *f as u32), Ordering::SeqCst);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.fail(&[]);
    }

    /// How many requests wait ([`Fault::ReadWaits`]).
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Waits while reading has to.
    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.fails(Fault::ReadWaits) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn fails(&self, fault: Fault) -> bool {
        self.faults.load(Ordering::SeqCst) & fault as u32 != 0
    }
}

/// Mounts a stub at `at`; it is served until the jail ends.
pub fn mount(at: &Path, contents: Contents) -> Switch {
    let device = File::options().read(true).write(true).open("/dev/fuse").expect("open /dev/fuse");
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
    sys::mount("stub", at, "fuse.stub", 0, options.as_bytes()).expect("mount the stub");
    let switch = Switch::default();
    let faults = switch.clone();
    std::thread::spawn(move || serve(device, &contents.0, &faults));
    switch
}

fn serve(mut device: File, objects: &[Object], faults: &Switch) {
    let mut buf = vec![0_u8; 1 << 18];
    loop {
        let n = match device.read(&mut buf) {
            Ok(n) => n,
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return,
            Err(_) => continue,
        };
        let (opcode, unique, node) = (u32_at(&buf, 4), u64_at(&buf, 8), u64_at(&buf, 16) as usize);
        const FORGET: u32 = 2;
        const INTERRUPT: u32 = 36;
        const BATCH_FORGET: u32 = 42;
        if [FORGET, INTERRUPT, BATCH_FORGET].contains(&opcode) {
            continue;
        }
        let answer = answer(opcode, node, &buf[40..n], objects, faults);
        const READ: u32 = 15;
        if opcode == READ && faults.fails(Fault::ReadWaits) {
            let (device, faults) = (device.try_clone().expect("dup"), faults.clone());
            std::thread::spawn(move || {
                faults.wait();
                reply(&device, unique, answer);
            });
            continue;
        }
        reply(&device, unique, answer);
    }
}

fn reply(mut device: &File, unique: u64, answer: Result<Vec<u8>, i32>) {
    let (error, body) = match answer {
        Ok(body) => (0, body),
        Err(e) => (-e, vec![]),
    };
    let mut reply = Vec::with_capacity(16 + body.len());
    reply.extend((16 + body.len() as u32).to_ne_bytes());
    reply.extend(error.to_ne_bytes());
    reply.extend(unique.to_ne_bytes());
    reply.extend(body);
    let _: std::io::Result<usize> = device.write(&reply);
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(b[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(b[at..at + 8].try_into().expect("8 bytes"))
}

fn answer(
    opcode: u32,
    node: usize,
    body: &[u8],
    objects: &[Object],
    faults: &Switch,
) -> Result<Vec<u8>, i32> {
    let object = objects.get(node.wrapping_sub(1)).ok_or(libc::ENOENT);
    let check = |f: Fault| if faults.fails(f) { Err(libc::EIO) } else { Ok(()) };
    let text = || body.split(|b| *b == 0).next().unwrap_or_default();
    match opcode {
        // LOOKUP
        1 => {
            check(Fault::Lookup)?;
            let at = objects
                .iter()
                .position(|o| o.parent == node && o.name.as_bytes() == text())
                .ok_or(libc::ENOENT)?;
            let mut out = Vec::new();
            out.extend((at as u64 + 1).to_ne_bytes());
            out.extend([0; 32]); // generation, and no lifetimes
            attr(&mut out, at + 1, &objects[at]);
            Ok(out)
        }
        // GETATTR
        3 => {
            check(Fault::GetAttr)?;
            let mut out = vec![0; 16];
            attr(&mut out, node, object?);
            Ok(out)
        }
        // READLINK
        5 => {
            check(Fault::ReadLink)?;
            Ok(object?.data.clone())
        }
        // OPEN
        14 => {
            check(Fault::Open)?;
            const DIRECT_IO: u32 = 1;
            let mut out = vec![0; 16];
            out[8..12].copy_from_slice(&DIRECT_IO.to_ne_bytes());
            Ok(out)
        }
        // READ
        15 => {
            let (offset, size) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
            let data = &object?.data;
            check(Fault::Read)?;
            if offset + size > LATE {
                check(Fault::ReadLate)?;
            }
            let end = (offset + size).min(data.len());
            Ok(data.get(offset..end).unwrap_or_default().to_vec())
        }
        // STATFS
        17 => Ok([vec![0; 40], 4096_u32.to_ne_bytes().to_vec(), 255_u32.to_ne_bytes().to_vec()]
            .into_iter()
            .chain([vec![0; 32]])
            .flatten()
            .collect()),
        // GETXATTR
        22 => {
            check(Fault::GetXattr)?;
            let size = u32_at(body, 0) as usize;
            let name = body.get(8..).unwrap_or_default().split(|b| *b == 0).next();
            match object?.xattr {
                Some((n, value)) if Some(n.as_bytes()) == name => sized(value, size),
                _ => Err(libc::ENODATA),
            }
        }
        // LISTXATTR
        23 => {
            check(Fault::ListXattr)?;
            let mut list = Vec::new();
            if let Some((name, _)) = object?.xattr {
                list.extend(name.as_bytes());
                list.push(0);
            }
            sized(&list, u32_at(body, 0) as usize)
        }
        // RELEASE, FLUSH, RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => Ok(vec![]),
        // INIT: protocol 7.31, nothing special
        26 => {
            let mut out = Vec::new();
            for v in [7_u32, 31, 1 << 17, 0] {
                out.extend(v.to_ne_bytes());
            }
            out.extend([0; 4]);
            out.extend((1_u32 << 17).to_ne_bytes());
            out.extend(1_u32.to_ne_bytes());
            out.extend([0; 36]);
            Ok(out)
        }
        // OPENDIR
        27 => Ok(vec![0; 16]),
        // READDIR
        28 => {
            check(Fault::ReadDir)?;
            Ok(listing(objects, node, u64_at(body, 8), u32_at(body, 16) as usize))
        }
        _ => Err(libc::ENOSYS),
    }
}

fn sized(value: &[u8], room: usize) -> Result<Vec<u8>, i32> {
    match room {
        0 => Ok([(value.len() as u32).to_ne_bytes(), [0; 4]].concat()),
        n if n < value.len() => Err(libc::ERANGE),
        _ => Ok(value.to_vec()),
    }
}

/// `struct fuse_attr`.
fn attr(out: &mut Vec<u8>, number: usize, o: &Object) {
    let size = o.data.len() as u64;
    for v in [number as u64, size, size.div_ceil(512), 1_000_000_000, 1_000_000_000, 1_000_000_000]
    {
        out.extend(v.to_ne_bytes());
    }
    let links = if o.mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
    for v in [0, 0, 0, o.mode, links, 0, 0, 0, 4096, 0] {
        out.extend(v.to_ne_bytes());
    }
}

/// `struct fuse_dirent`, as many as have room.
fn listing(objects: &[Object], dir: usize, from: u64, room: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let entries = objects.iter().enumerate().filter(|(_, o)| o.parent == dir);
    for (n, (i, o)) in entries.enumerate().skip(from as usize) {
        let len = (24 + o.name.len()).next_multiple_of(8);
        if out.len() + len > room {
            break;
        }
        out.extend((i as u64 + 1).to_ne_bytes());
        out.extend((n as u64 + 1).to_ne_bytes());
        out.extend((o.name.len() as u32).to_ne_bytes());
        out.extend(((o.mode & libc::S_IFMT) >> 12).to_ne_bytes());
        out.extend(o.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}
