//! The operations, and how each is made up.
//!
//! Paths come from few names, sizes and offsets gather around 4 KiB borders, so that operations
//! meet each other and the edges of blocks.

use std::fmt::Write as _;

use super::Rng;
use crate::mount::sys::libc;

pub use super::apply::Side;

/// Open handles kept over operations.
pub const SLOTS: usize = 4;
/// Shared mappings kept over operations.
pub const MAPS: usize = 2;

/// One operation on a tree; paths are relative to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the system calls
pub enum Op {
    Open { slot: usize, path: String, flags: i32, mode: u32 },
    Tmpfile { slot: usize, path: String, mode: u32 },
    LinkFd { slot: usize, path: String },
    Close { slot: usize },
    FdRead { slot: usize, off: i64, len: usize },
    FdWrite { slot: usize, off: i64, len: usize, byte: u8 },
    FdAppend { slot: usize, len: usize, byte: u8 },
    FdTruncate { slot: usize, len: i64 },
    FdStat { slot: usize },
    FdChmod { slot: usize, mode: u32 },
    FdChown { slot: usize, uid: u32, gid: u32 },
    FdTimes { slot: usize, sec: i64 },
    FdSync { slot: usize },
    FdFallocate { slot: usize, mode: i32, off: i64, len: i64 },
    FdMap { slot: usize, off: i64, len: usize, byte: u8, sync: bool },
    FdSeek { slot: usize, off: i64, hole: bool },
    FdCopy { from: usize, off: i64, slot: usize, to: i64, len: usize },
    FdSetXattr { slot: usize, name: &'static str, len: usize, byte: u8 },
    FdLock { slot: usize, kind: i32 },
    MapOpen { map: usize, slot: usize },
    MapPut { map: usize, off: i64, len: usize, byte: u8 },
    MapGet { map: usize, off: i64, len: usize },
    Write { path: String, len: usize, byte: u8 },
    Pwrite { path: String, off: i64, len: usize, byte: u8 },
    Append { path: String, len: usize, byte: u8 },
    Truncate { path: String, len: i64 },
    Read { path: String },
    Stat { path: String },
    Access { path: String, mode: i32 },
    List { path: String },
    Readlink { path: String },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Rename { from: String, to: String, flags: u32 },
    Link { from: String, to: String },
    Symlink { target: String, path: String },
    Mksock { path: String, mode: u32 },
    Mkfifo { path: String, mode: u32 },
    Chmod { path: String, mode: u32 },
    Chown { path: String, uid: u32, gid: u32 },
    Times { path: String, sec: i64 },
    SetXattr { path: String, name: &'static str, len: usize, byte: u8, flags: i32 },
    SetAcl { path: String, default: bool, which: usize },
    GetXattr { path: String, name: &'static str },
    ListXattr { path: String },
    RemoveXattr { path: String, name: &'static str },
    Umask { mask: u32 },
    Remount,
    Restack,
    Compare,
}

/// One operation by one of the processes, as one of the users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The process.
    pub who: usize,
    /// The user; 0 is root (of the namespace).
    pub uid: u32,
    /// What it does.
    pub op: Op,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A path of one to three components, from few names, so that operations meet.
pub fn path(rng: &mut Rng) -> String {
    let depth = 1 + [0, 0, 1, 1, 1, 2][rng.below(6)];
    let parts: Vec<_> = (0..depth).map(|_| *rng.pick(&NAMES)).collect();
    let mut p = parts.join("/");
    if rng.one_in(12) {
        // The hard links that the layers have.
        p = p.rsplit_once('/').map_or(String::new(), |(d, _)| format!("{d}/"));
        let _ = write!(p, "h{}", rng.below(3));
    }
    p
}

fn mode(rng: &mut Rng) -> u32 {
    *rng.pick(&[0o644, 0o600, 0o755, 0o444, 0o777, 0o4755, 0o2755, 0o1777, 0o000])
}

/// Around the borders of 4 KiB blocks, near the beginning or up to 3 MiB.
fn offset(rng: &mut Rng) -> i64 {
    let border = match rng.below(10) {
        0..=5 => *rng.pick(&[0, 1, 1, 2, 3, 7, 15, 17, 256]),
        6..=8 => rng.below(64),
        _ => rng.below(768),
    } as i64;
    let beside = match rng.below(4) {
        0 => 0,
        1 => -1,
        2 => 1,
        _ => rng.below(4096) as i64,
    };
    (border * 4096 + beside).max(0)
}

fn length(rng: &mut Rng) -> usize {
    match rng.below(12) {
        0 => 200_000 + rng.below(5000),
        1 => rng.below(20_000),
        _ => *rng.pick(&[0, 1, 7, 100, 4095, 4096, 4097, 8192, 9000, 40_000]),
    }
}

fn byte(rng: &mut Rng) -> u8 {
    b'A' + rng.below(50) as u8
}

fn seconds(rng: &mut Rng) -> i64 {
    *rng.pick(&[-2_000_000, -1, 0, 1, 12_345_678, 1_000_000_000]) + rng.below(1000) as i64
}

fn owner(rng: &mut Rng) -> u32 {
    *rng.pick(&[0, 1, 2, u32::MAX])
}

/// A random step of one of `processes`; `privileged` allows what only real root may do.
pub fn step(rng: &mut Rng, privileged: bool, processes: usize) -> Step {
    let op = random(rng, privileged);
    let who = rng.below(processes);
    // Stores through a mapping are followed by a `utimensat` that only the owner may do.
    let owner_only = matches!(op, Op::FdMap { .. } | Op::MapPut { .. } | Op::FdFallocate { .. });
    let uid = if owner_only || !rng.one_in(7) { 0 } else { 1 + rng.below(2) as u32 };
    Step { who, uid, op }
}

/// A random operation; `privileged` allows what only real root may do.
pub fn random(rng: &mut Rng, privileged: bool) -> Op {
    match rng.below(130) {
        0..=9 => open(rng),
        10..=59 => on_handle(rng),
        60..=79 => on_data(rng),
        80..=113 => on_names(rng),
        n => on_attributes(rng, n, privileged),
    }
}

fn open(rng: &mut Rng) -> Op {
    let slot = rng.below(SLOTS);
    if rng.one_in(12) {
        let path = if rng.one_in(3) { ".".into() } else { path(rng) };
        return Op::Tmpfile { slot, path, mode: mode(rng) };
    }
    let access = *rng.pick(&[libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR, libc::O_WRONLY]);
    let more = *rng.pick(&[
        0,
        0,
        0,
        libc::O_CREAT,
        libc::O_CREAT | libc::O_EXCL,
        libc::O_TRUNC,
        libc::O_CREAT | libc::O_TRUNC,
        libc::O_APPEND,
        libc::O_DIRECTORY,
        libc::O_NOFOLLOW,
    ]);
    // No open may wait for anything.
    let flags = access | more | libc::O_NONBLOCK;
    Op::Open { slot, path: path(rng), flags, mode: mode(rng) }
}

fn on_handle(rng: &mut Rng) -> Op {
    let slot = rng.below(SLOTS);
    let map = rng.below(MAPS);
    match rng.below(50) {
        0..=2 => Op::Close { slot },
        3..=8 => Op::FdRead { slot, off: offset(rng), len: length(rng) },
        9..=15 => Op::FdWrite { slot, off: offset(rng), len: length(rng), byte: byte(rng) },
        16..=18 => Op::FdAppend { slot, len: length(rng), byte: byte(rng) },
        19..=21 => Op::FdTruncate { slot, len: offset(rng) },
        22..=24 => Op::FdStat { slot },
        25 => Op::FdChmod { slot, mode: mode(rng) },
        26 => Op::FdChown { slot, uid: owner(rng), gid: owner(rng) },
        27 => Op::FdTimes { slot, sec: seconds(rng) },
        28 => Op::FdSync { slot },
        29..=31 => {
            let keep = libc::FALLOC_FL_KEEP_SIZE;
            let zero = libc::FALLOC_FL_ZERO_RANGE;
            let m = *rng.pick(&[
                0,
                keep,
                keep | libc::FALLOC_FL_PUNCH_HOLE,
                keep | libc::FALLOC_FL_PUNCH_HOLE,
                zero,
                keep | zero,
            ]);
            Op::FdFallocate { slot, mode: m, off: offset(rng), len: length(rng) as i64 }
        }
        32..=34 => {
            let len = 1 + rng.below(6000);
            let sync = rng.one_in(2);
            Op::FdMap { slot, off: offset(rng), len, byte: byte(rng), sync }
        }
        35..=36 => Op::FdSeek { slot, off: offset(rng), hole: rng.one_in(2) },
        37..=38 => {
            let (off, to, len) = (offset(rng), offset(rng), length(rng));
            Op::FdCopy { from: rng.below(SLOTS), off, slot, to, len }
        }
        39 => Op::FdSetXattr { slot, name: "user.a", len: rng.below(300), byte: byte(rng) },
        40..=41 => {
            let kind = *rng.pick(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN]);
            Op::FdLock { slot, kind: kind | libc::LOCK_NB }
        }
        42 => Op::LinkFd { slot, path: path(rng) },
        43..=44 => Op::MapOpen { map, slot },
        45..=46 => Op::MapPut { map, off: offset(rng), len: 1 + rng.below(6000), byte: byte(rng) },
        _ => Op::MapGet { map, off: offset(rng), len: 1 + rng.below(6000) },
    }
}

fn on_data(rng: &mut Rng) -> Op {
    match rng.below(20) {
        0..=4 => Op::Write { path: path(rng), len: length(rng), byte: byte(rng) },
        5..=8 => {
            Op::Pwrite { path: path(rng), off: offset(rng), len: length(rng), byte: byte(rng) }
        }
        9..=10 => Op::Append { path: path(rng), len: length(rng), byte: byte(rng) },
        11..=13 => Op::Truncate { path: path(rng), len: offset(rng) },
        14..=15 => Op::Read { path: path(rng) },
        16..=18 => {
            let p = if rng.one_in(4) { ".".into() } else { path(rng) };
            Op::List { path: p }
        }
        _ => Op::Readlink { path: path(rng) },
    }
}

fn on_names(rng: &mut Rng) -> Op {
    match rng.below(34) {
        0..=5 => Op::Mkdir { path: path(rng), mode: mode(rng) },
        6..=9 => Op::Rmdir { path: path(rng) },
        10..=15 => Op::Unlink { path: path(rng) },
        16..=26 => {
            let flags = *rng.pick(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
            Op::Rename { from: path(rng), to: path(rng), flags }
        }
        27..=29 => Op::Link { from: path(rng), to: path(rng) },
        30..=31 => Op::Symlink { target: path(rng), path: path(rng) },
        32 => Op::Mksock { path: path(rng), mode: mode(rng) },
        _ => Op::Mkfifo { path: path(rng), mode: mode(rng) },
    }
}

fn on_attributes(rng: &mut Rng, n: usize, privileged: bool) -> Op {
    let names: &[&'static str] =
        if privileged { &["user.a", "user.b", "trusted.a"] } else { &["user.a", "user.b"] };
    let name = names[rng.below(names.len())];
    match n {
        114..=115 => Op::Chmod { path: path(rng), mode: mode(rng) },
        116..=117 => Op::Chown { path: path(rng), uid: owner(rng), gid: owner(rng) },
        118..=119 => Op::Times { path: path(rng), sec: seconds(rng) },
        120..=121 => {
            let flags = *rng.pick(&[0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]);
            let len = rng.below(300);
            Op::SetXattr { path: path(rng), name, len, byte: byte(rng), flags }
        }
        122 => Op::SetAcl { path: path(rng), default: rng.one_in(2), which: rng.below(ACLS.len()) },
        123 => Op::GetXattr { path: path(rng), name },
        124 => Op::ListXattr { path: path(rng) },
        125 => {
            let acls = ["system.posix_acl_access", "system.posix_acl_default"];
            let name = [name, acls[0], acls[1]][rng.below(3)];
            Op::RemoveXattr { path: path(rng), name }
        }
        126 => Op::Stat { path: path(rng) },
        127 => Op::Access { path: path(rng), mode: rng.below(8) as i32 },
        128 => {
            if rng.one_in(3) {
                Op::Umask { mask: *rng.pick(&[0o022, 0o077, 0o002, 0]) }
            } else {
                Op::Compare
            }
        }
        _ => {
            if rng.one_in(4) {
                Op::Restack
            } else {
                Op::Remount
            }
        }
    }
}

/// ACLs as (tag, permissions, id): acl(5)'s short and long forms.
pub const ACLS: &[&[(u16, u16, u32)]] = &[
    &[(0x01, 6, NO_ID), (0x04, 4, NO_ID), (0x20, 0, NO_ID)],
    &[(0x01, 7, NO_ID), (0x02, 7, 1), (0x04, 5, NO_ID), (0x10, 5, NO_ID), (0x20, 0, NO_ID)],
    &[(0x01, 6, NO_ID), (0x04, 4, NO_ID), (0x08, 7, 2), (0x10, 7, NO_ID), (0x20, 4, NO_ID)],
];

const NO_ID: u32 = u32::MAX;
