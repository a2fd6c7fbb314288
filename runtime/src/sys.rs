//! System calls for which neither the standard library nor nix has a safe wrapper.
//!
//! The only room of this crate with `unsafe`. Each function is a thin, safe face of one call:
//! it takes borrowed descriptors and bytes, returns owned descriptors, and reports the errno.
//! Policy (which mount, which capability, which signal) stands elsewhere.

pub mod attribute;
pub mod capability;
pub mod descriptor;
pub mod listener;
pub mod mount;
pub mod network;
pub mod process;
pub mod seccomp;
pub mod tty;
