//! `cowl-fs`: a copy-on-write union filesystem, and `cowlfs`, the program that mounts it.
//!
//! # Architecture in one page
//!
//! Read-only *lower layers* are shown merged under one private *upper*. Reading touches only the
//! layers; the first change of a file copies it up; deletions leave *whiteouts*. A lower layer is
//! never written, whatever happens.
//!
//! One request travels: `/dev/fuse` → [`serve`] → [`overlay`] → { [`inode`], [`merge`] } →
//! [`layer`] or [`upper`] → [`sys`] and back. Dependencies point that way only:
//!
//! | room | idea | may touch |
//! |---|---|---|
//! | [`cli`] | the command line of `cowlfs` | everything below; the only room that prints |
//! | [`options`] | `-o …` as data, parsed and checked | nothing |
//! | [`start`] | from options to an open union: layers, locks, sanity of paths | `overlay`, `layer`, `upper` |
//! | [`serve`] | the FUSE protocol, its policy, mounting | `overlay`; the only room that knows FUSE |
//! | [`overlay`] | the union as typed operations, one file each | all rooms below |
//! | [`inode`] | nodes and the table of them | `merge`, `layer`, `ident` |
//! | [`merge`] | merged names of one directory, with stable positions | `attr`, `ident` |
//! | [`upper`] | the write layer: work directory, publishing, whiteouts | `format`, `sys` |
//! | [`partial`], [`blocks`] | files with part of their data in the upper: record, bitmap | `sys` |
//! | [`layer`] | what a read-only layer answers; host directories, packed layers | `packed`, `format`, `fdcache`, `sys` |
//! | [`packed`] | packed layers: index, data file, objects; writing, reading, checking | `attr`, `sys` |
//! | [`fdcache`] | open descriptors kept while there is room | `ident` |
//! | [`pack`] | from a layer of any kind to a packed one | `layer`, `packed` |
//! | [`format`](mod@format) | names and xattrs that are marks | `sys` |
//! | [`ownership`] | owners and nodes that the host refuses to store | `sys` |
//! | [`acl`], [`idmap`], [`attr`], [`ident`] | small vocabularies | nothing |
//! | [`sys`] | system calls on directory descriptors and names; the only `unsafe` | the kernel |
//!
//! The overlay core runs without a mount: tests and the container engine use it as a library.
//! Locks and their order: `docs/concurrency.md`. What is promised: `docs/semantics.md`. What is
//! stored: `docs/on-disk.md`, and for packed layers `docs/layer-format.md`.

pub mod acl;
pub mod attr;
pub mod blocks;
pub mod cli;
pub mod fdcache;
pub mod format;
pub mod ident;
pub mod idmap;
pub mod inode;
pub mod layer;
pub mod merge;
pub mod options;
pub mod overlay;
pub mod ownership;
pub mod pack;
pub mod packed;
pub mod partial;
pub mod serve;
pub mod start;
pub mod sys;
pub mod upper;
