//! The runtime of cowl: an image store, the container life cycle, and the command line `cowl`.
//!
//! # Architecture in one page
//!
//! One `cowl run`:
//!
//! ```text
//! cli/run ── image reference ──► store (layers) ──► spec (what to run) ──► container (id, state)
//!    │                                                                        │
//!    │ fork                                                                   ▼
//!    ├─► monitor ── rootfs (cowlfs, in the monitor's own mount namespace)  state.json, lock
//!    │      │ clone (pid, mount, uts, ipc, net, cgroup namespaces)
//!    │      └─► sandbox ── exec ──► PID 1, the image's command
//!    └─ terminal (streams, window size, signals)
//! ```
//!
//! The three processes watch each other: the command line ends → the monitor kills the container
//! and cleans up; the monitor ends → the command line and the kernel kill PID 1; cowlfs ends →
//! the monitor kills PID 1; PID 1 ends → the kernel kills everything in its pid namespace. What a
//! `kill -9` of several of them at once leaves behind is reclaimed by the next command.
//!
//! | room | what happens there | it may touch |
//! |---|---|---|
//! | [`cli`] | arguments in, sentences and exit codes out | everything below; only room that prints |
//! | [`reference`](mod@reference), [`digest`], [`image`] | names, digests, what an image's configuration says | nothing: pure |
//! | [`template`], [`filter`] | `--format` and `--filter` | nothing: pure |
//! | [`store`] | content-addressed layers and names of images | the store |
//! | [`archive`], [`pack`] | archives in, packed layers out; every byte of them is untrusted | the store's staging area |
//! | [`access`] | a container's filesystem for `cp`, `export` and `commit` | the container's mounts, or one of its own |
//! | [`view`] | what layers show together, without a mount | the store, reading |
//! | [`container`] | ids, names, configuration and state on disk, locks | the store's `containers/` |
//! | [`spec`] | image configuration + flags → what PID 1 is; volumes, environment, users, capabilities | nothing: pure |
//! | [`launch`] | a container's configuration on disk → all that the kernel is told | reads facts of this machine |
//! | [`rootfs`] | layers → cowlfs command line, mount and unmount | the monitor's mount namespace |
//! | [`monitor`] | one process per container: supervises, keeps the state true | processes, `container` |
//! | [`sandbox`] | what happens between clone and exec: mounts, devices, privileges | the new namespaces |
//! | [`network`] | bridges, addresses, published ports, names; user-mode networking | the machine's and the container's network |
//! | [`seccomp`] | profiles of system calls → programs for the kernel | nothing: pure |
//! | [`oci`] | an OCI runtime: bundles, with runc's command line | its state directory, the new namespaces |
//! | [`cgroup`] | limits, statistics, freezing; versions 1 and 2 | the control groups of containers |
//! | [`volume`] | directories that outlive containers | the store's `volumes/` |
//! | [`userns`] | an ordinary user becomes root of a user namespace, before anything else | this process |
//! | [`executable`] | this program's own file, kept from being written by a container | this process |
//! | [`terminal`] | the caller's terminal and streams | stdin, stdout, stderr |
//! | [`probe`] | what this host allows, for `cowl info` and for choices | reads `/proc`, `/sys` |
//! | [`sys`] | system calls without a safe wrapper; the only room with `unsafe` | – |
//!
//! Names and paths are bytes (`OsStr`), descriptors are owned, and nothing outside `cli` prints.

pub mod access;
pub mod archive;
pub mod cgroup;
pub mod cli;
pub mod container;
pub mod control;
pub mod digest;
pub mod events;
pub mod executable;
pub mod filter;
pub mod image;
pub mod launch;
pub mod log;
pub mod monitor;
pub mod network;
pub mod oci;
pub mod pack;
pub mod probe;
pub mod reference;
pub mod registry;
pub mod rootfs;
pub mod sandbox;
pub mod seccomp;
pub mod spec;
pub mod store;
pub mod sys;
pub mod template;
pub mod terminal;
pub mod unpack;
pub mod userns;
pub mod view;
pub mod volume;
