//! Registries: Debian's `docker-registry` on loopback, and what can be wrong on the way to it.
//!
//! Every test has a registry of its own, on a port that the kernel chose. Where a test needs a
//! registry that misbehaves or wants tokens, a small server in the test stands in front of it.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod front;
mod http;
mod login;
mod pull;
mod push;
mod server;
