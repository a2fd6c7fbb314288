//! The merged names of one directory.
//!
//! Computed once from the upper and all lowers, then kept up to date by our own operations: we are
//! the only writer. It answers "is there such a name, and where" without a system call, also for
//! names that are not there, and gives each entry a position ("cookie") that stays valid while
//! others come and go, so a listing can go on over changes without an open-directory snapshot.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::attr::Kind;
use crate::ident::NodeId;

/// Facts about one name, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// The upper holds an object (not a whiteout) of this name.
    pub const UPPER: Flags = Flags(1);
    /// The upper holds a whiteout of this name.
    pub const WHITEOUT: Flags = Flags(2);
    /// A lower's object would show if the upper held nothing: removal needs a whiteout.
    pub const LOWER: Flags = Flags(4);
    /// What the lowers say of this name is known; deeper layers no longer matter.
    const DECIDED: Flags = Flags(8);
    /// No deeper directory merges into this one.
    const CLOSED: Flags = Flags(16);
    /// The slot is no longer in use.
    const DEAD: Flags = Flags(32);

    /// Whether all of `other` are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    fn set(&mut self, other: Flags, on: bool) {
        if on {
            self.0 |= other.0;
        } else {
            self.0 &= !other.0;
        }
    }
}

/// No lower layer holds the name.
const NO_LOWER: u16 = u16::MAX;
/// Position of the first scanned entry. Scanned entries follow upwards; entries made later get
/// positions downwards from here, so they come before all that any listing under way has still to
/// show: a listing ends however much is made meanwhile. 0, 1 and 2 are the start, `.` and `..`.
const FIRST_COOKIE: u64 = 1 << 40;
/// Fewer dead slots than this are never worth a compaction.
const COMPACT_AT: usize = 64;

/// A number below 2^48 in six bytes: node numbers and positions. A mount that makes a million files
/// a second would take nine years to use them up.
#[derive(Clone, Copy, Debug, Default)]
struct Six([u16; 3]);

impl Six {
    fn new(n: u64) -> Six {
        Six([n as u16, (n >> 16) as u16, (n >> 32) as u16])
    }

    fn get(self) -> u64 {
        let [a, b, c] = self.0.map(u64::from);
        a | (b << 16) | (c << 32)
    }
}

/// What is known of one name; there are as many as there are names, so without gaps: 32 bytes.
#[derive(Clone, Debug)]
struct Slot {
    ino: u64,
    name_at: u32,
    cookie: Six,
    node: Six,
    lower: u16,
    name_len: u8,
    kind: Kind,
    flags: Flags,
}

/// What is known of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the slot is, valid until the next change of the directory.
    pub slot: usize,
    /// Type of the visible object.
    pub kind: Kind,
    /// Where it is.
    pub flags: Flags,
    /// Shown inode number, 0 when not known yet.
    pub ino: u64,
    /// The node last made for it, 0 when none.
    pub node: u64,
    /// Which of the directory's lowers holds the topmost lower object, if any does.
    pub lower: Option<u16>,
}

impl Entry {
    /// Whether users see the name.
    pub fn visible(&self) -> bool {
        self.flags.has(Flags::UPPER)
            || (self.flags.has(Flags::LOWER) && !self.flags.has(Flags::WHITEOUT))
    }
}

/// The merged names of one directory.
#[derive(Debug, Default)]
pub struct Merged {
    slots: Vec<Slot>,
    names: Vec<u8>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// For directories that several lowers hold: all of them, topmost first.
    stacks: HashMap<u32, Vec<u16>>,
    /// How many of the slots, from the first, were scanned; the rest was made later.
    scanned: usize,
    /// Position of the entry made last, or of the first scanned one.
    lowest_cookie: u64,
    visible: usize,
    subdirs: u32,
    dead: usize,
    /// Where the directory's link count is shown without its lock: 2 and one for each subdirectory.
    links: Arc<AtomicU32>,
}

impl Merged {
    /// An empty directory that shows its link count in `links`.
    pub fn new(links: Arc<AtomicU32>) -> Merged {
        Merged { lowest_cookie: FIRST_COOKIE, links, ..Merged::default() }
    }

    fn show_links(&self) {
        self.links.store(2 + self.subdirs, Ordering::Relaxed);
    }

    fn slot_name<'a>(names: &'a [u8], slot: &Slot) -> &'a [u8] {
        let at = slot.name_at as usize;
        names.get(at..at + usize::from(slot.name_len)).unwrap_or_default()
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.index
            .find(hash, |&i| {
                self.slots.get(i as usize).is_some_and(|s| Self::slot_name(&self.names, s) == name)
            })
            .map(|&i| i as usize)
    }

    fn entry(&self, slot: usize) -> Option<Entry> {
        let s = self.slots.get(slot)?;
        Some(Entry {
            slot,
            kind: s.kind,
            flags: s.flags,
            ino: s.ino,
            node: s.node.get(),
            lower: (s.lower != NO_LOWER).then_some(s.lower),
        })
    }

    /// What is known of `name`; `None` when no layer has it.
    pub fn get(&self, name: &[u8]) -> Option<Entry> {
        self.position(name).and_then(|i| self.entry(i))
    }

    /// Like [`Merged::get`], for names that users see.
    pub fn visible(&self, name: &[u8]) -> Option<Entry> {
        self.get(name).filter(Entry::visible)
    }

    /// Number of visible names.
    pub fn len(&self) -> usize {
        self.visible
    }

    /// Whether users see an empty directory.
    pub fn is_empty(&self) -> bool {
        self.visible == 0
    }

    /// Number of visible subdirectories (for the link count).
    pub fn subdirs(&self) -> u32 {
        self.subdirs
    }

    /// Names of which the upper holds a whiteout.
    pub fn whiteouts(&self) -> Vec<Vec<u8>> {
        self.slots
            .iter()
            .filter(|s| !s.flags.has(Flags::DEAD) && s.flags.has(Flags::WHITEOUT))
            .map(|s| Self::slot_name(&self.names, s).to_vec())
            .collect()
    }

    /// The lowers of a directory entry that merge into it, topmost first.
    pub fn lower_stack(&self, entry: &Entry) -> Vec<u16> {
        match self.stacks.get(&(entry.slot as u32)) {
            Some(stack) => stack.clone(),
            None => entry.lower.into_iter().collect(),
        }
    }

    /// Adds a slot at a position of its own, below all others.
    fn insert_new(&mut self, name: &[u8], kind: Kind) -> usize {
        self.lowest_cookie -= 1;
        self.insert(name, kind, self.lowest_cookie)
    }

    /// Adds a slot while scanning.
    fn insert_scanned(&mut self, name: &[u8], kind: Kind) -> usize {
        self.scanned += 1;
        self.insert(name, kind, FIRST_COOKIE + self.slots.len() as u64)
    }

    fn insert(&mut self, name: &[u8], kind: Kind, cookie: u64) -> usize {
        let at = self.slots.len();
        let name_at = self.names.len() as u32;
        self.names.extend_from_slice(name);
        self.slots.push(Slot {
            ino: 0,
            name_at,
            cookie: Six::new(cookie),
            node: Six::default(),
            lower: NO_LOWER,
            name_len: name.len() as u8,
            kind,
            flags: Flags::default(),
        });
        let hash = self.hasher.hash_one(name);
        let (slots, names, hasher) = (&self.slots, &self.names, &self.hasher);
        self.index.insert_unique(hash, at as u32, |&i| {
            slots.get(i as usize).map_or(0, |s| hasher.hash_one(Self::slot_name(names, s)))
        });
        at
    }

    /// Adds what the upper holds: an object of `kind`, or a whiteout.
    pub fn scan_upper(&mut self, name: &[u8], kind: Option<Kind>, ino: u64) {
        let at = match self.position(name) {
            Some(at) => at,
            None => self.insert_scanned(name, kind.unwrap_or(Kind::Char)),
        };
        if let Some(s) = self.slots.get_mut(at) {
            match kind {
                Some(kind) => {
                    s.kind = kind;
                    s.ino = ino;
                    s.flags.set(Flags::UPPER, true);
                    s.flags.set(Flags::WHITEOUT, false);
                    s.flags.set(Flags::CLOSED, kind != Kind::Dir);
                }
                None if !s.flags.has(Flags::UPPER) => {
                    s.flags.set(Flags::WHITEOUT, true);
                    s.flags.set(Flags::CLOSED, true);
                }
                None => {}
            }
        }
    }

    /// Adds what the lower number `lower` holds; lowers are given topmost first.
    pub fn scan_lower(&mut self, name: &[u8], kind: Option<Kind>, ino: u64, lower: u16) {
        let at = match self.position(name) {
            Some(at) => at,
            None => self.insert_scanned(name, kind.unwrap_or(Kind::Char)),
        };
        let Some(s) = self.slots.get_mut(at) else { return };
        if !s.flags.has(Flags::DECIDED) {
            s.flags.set(Flags::DECIDED, true);
            if let Some(kind) = kind {
                s.flags.set(Flags::LOWER, true);
                if !s.flags.has(Flags::UPPER) && !s.flags.has(Flags::WHITEOUT) {
                    s.kind = kind;
                    s.ino = ino;
                    s.flags.set(Flags::CLOSED, kind != Kind::Dir);
                }
                if kind == Kind::Dir && s.flags.has(Flags::CLOSED) {
                    // Hidden by an upper non-directory or whiteout: shown again only when that goes,
                    // and then it never merges (a re-created directory is opaque).
                } else if s.lower == NO_LOWER && (kind == Kind::Dir || !s.flags.has(Flags::UPPER)) {
                    s.lower = lower;
                    return;
                }
            }
            s.flags.set(Flags::CLOSED, true);
            return;
        }
        if s.flags.has(Flags::CLOSED) {
            return;
        }
        if kind == Some(Kind::Dir) {
            let first = s.lower;
            self.stacks.entry(at as u32).or_insert_with(|| vec![first]).push(lower);
        } else {
            s.flags.set(Flags::CLOSED, true);
        }
    }

    /// Ends the scan: forgets names that only served to hide others, counts what is visible.
    pub fn finish_scan(&mut self) {
        self.visible = 0;
        self.subdirs = 0;
        let mut useless = Vec::new();
        for at in 0..self.slots.len() {
            let Some(e) = self.entry(at) else { continue };
            if e.visible() {
                self.visible += 1;
                self.subdirs += u32::from(e.kind == Kind::Dir);
            } else if !e.flags.has(Flags::WHITEOUT) && !e.flags.has(Flags::LOWER) {
                useless.push(at);
            }
        }
        for at in useless {
            self.remove_slot(at);
        }
        self.compact_if_worth();
        self.slots.shrink_to_fit();
        self.names.shrink_to_fit();
        self.show_links();
    }

    fn remove_slot(&mut self, at: usize) {
        let Some(s) = self.slots.get(at) else { return };
        let hash = self.hasher.hash_one(Self::slot_name(&self.names, s));
        if let Ok(found) = self.index.find_entry(hash, |&i| i as usize == at) {
            found.remove();
        }
        self.stacks.remove(&(at as u32));
        if let Some(s) = self.slots.get_mut(at) {
            s.flags = Flags::DEAD;
            self.dead += 1;
        }
    }

    fn compact_if_worth(&mut self) {
        if self.dead < COMPACT_AT || self.dead < self.slots.len() / 2 {
            return;
        }
        let old = std::mem::take(&mut self.slots);
        let old_names = std::mem::take(&mut self.names);
        let mut old_stacks = std::mem::take(&mut self.stacks);
        let old_scanned = std::mem::take(&mut self.scanned);
        self.index.clear();
        self.dead = 0;
        for (was, mut slot) in old.into_iter().enumerate() {
            if slot.flags.has(Flags::DEAD) {
                continue;
            }
            let name = Self::slot_name(&old_names, &slot).to_vec();
            let at = self.insert(&name, slot.kind, slot.cookie.get());
            self.scanned += usize::from(was < old_scanned);
            if let Some(new) = self.slots.get_mut(at) {
                slot.name_at = new.name_at;
                *new = slot;
            }
            if let Some(stack) = old_stacks.remove(&(was as u32)) {
                self.stacks.insert(at as u32, stack);
            }
        }
    }

    /// Records that the upper now holds an object of `kind` under `name` (created, copied up,
    /// linked or renamed here). `fresh` gives the entry a new position in listings.
    pub fn set_upper(&mut self, name: &[u8], kind: Kind, ino: u64, node: NodeId, fresh: bool) {
        let mut at = self.position(name);
        if let Some(i) = at
            && let Some(e) = self.entry(i)
        {
            if e.visible() {
                self.visible -= 1;
                self.subdirs -= u32::from(e.kind == Kind::Dir);
            }
            if fresh {
                let lower_flags = e.flags.has(Flags::LOWER);
                self.remove_slot(i);
                let new = self.insert_new(name, kind);
                if let Some(s) = self.slots.get_mut(new) {
                    s.flags.set(Flags::LOWER, lower_flags);
                    s.flags.set(Flags::DECIDED, true);
                    s.flags.set(Flags::CLOSED, true);
                }
                at = Some(new);
            }
        }
        let at = at.unwrap_or_else(|| self.insert_new(name, kind));
        if let Some(s) = self.slots.get_mut(at) {
            s.kind = kind;
            s.ino = ino;
            s.node = Six::new(node.0);
            s.flags.set(Flags::UPPER, true);
            s.flags.set(Flags::WHITEOUT, false);
        }
        self.visible += 1;
        self.subdirs += u32::from(kind == Kind::Dir);
        self.show_links();
        self.compact_if_worth();
    }

    /// Records that `name` is gone from view; `whiteout` says whether the upper now holds one.
    pub fn set_removed(&mut self, name: &[u8], whiteout: bool) {
        let Some(e) = self.get(name) else { return };
        if e.visible() {
            self.visible -= 1;
            self.subdirs -= u32::from(e.kind == Kind::Dir);
            self.show_links();
        }
        if !whiteout && !e.flags.has(Flags::LOWER) {
            self.remove_slot(e.slot);
            self.compact_if_worth();
            return;
        }
        self.stacks.remove(&(e.slot as u32));
        if let Some(s) = self.slots.get_mut(e.slot) {
            s.flags.set(Flags::UPPER, false);
            s.flags.set(Flags::WHITEOUT, whiteout);
            s.flags.set(Flags::CLOSED, true);
            s.node = Six::default();
            s.lower = NO_LOWER;
        }
    }

    /// Remembers the node and shown inode number of an entry.
    pub fn set_node(&mut self, slot: usize, node: NodeId, ino: u64) {
        if let Some(s) = self.slots.get_mut(slot) {
            s.node = Six::new(node.0);
            s.ino = ino;
        }
    }

    /// The first visible entry after position `cookie`: its own position, its name, the entry.
    pub fn next_after(&self, cookie: u64) -> Option<(u64, &[u8], Entry)> {
        let (scanned, made) = self.slots.split_at_checked(self.scanned)?;
        // Made later: the higher the slot, the lower the position.
        let end = made.partition_point(|s| s.cookie.get() > cookie);
        let newer = (0..end).rev().map(|i| self.scanned + i);
        let from = scanned.partition_point(|s| s.cookie.get() <= cookie);
        for at in newer.chain(from..self.scanned) {
            let slot = self.slots.get(at)?;
            if slot.flags.has(Flags::DEAD) {
                continue;
            }
            let entry = self.entry(at)?;
            if entry.visible() {
                return Some((slot.cookie.get(), Self::slot_name(&self.names, slot), entry));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(m: &Merged) -> Vec<String> {
        let mut out = Vec::new();
        let mut cookie = 0;
        while let Some((c, name, _)) = m.next_after(cookie) {
            out.push(String::from_utf8_lossy(name).into_owned());
            cookie = c;
        }
        out.sort();
        out
    }

    #[test]
    fn six_bytes_hold_what_they_say() {
        assert_eq!(size_of::<Slot>(), 32);
        for n in [0, 1, FIRST_COOKIE, FIRST_COOKIE - 1, 0x1234_5678_9abc, (1 << 48) - 1] {
            assert_eq!(Six::new(n).get(), n);
        }
    }

    #[test]
    fn topmost_wins_and_whiteouts_hide() {
        let mut m = Merged::new(Arc::default());
        m.scan_upper(b"u", Some(Kind::File), 1);
        m.scan_upper(b"gone", None, 0);
        m.scan_lower(b"gone", Some(Kind::File), 2, 0);
        m.scan_lower(b"l", Some(Kind::File), 3, 0);
        m.scan_lower(b"mid", None, 0, 0);
        m.scan_lower(b"mid", Some(Kind::File), 4, 1);
        m.scan_lower(b"l", Some(Kind::Dir), 5, 1);
        m.finish_scan();
        assert_eq!(names(&m), ["l", "u"]);
        assert_eq!(m.get(b"l").unwrap().ino, 3);
        assert!(m.get(b"gone").unwrap().flags.has(Flags::LOWER));
        assert!(m.get(b"mid").is_none());
        assert_eq!(m.len(), 2);
    }

    #[test]
    fn directory_stacks_stop_at_non_directories_and_whiteouts() {
        let mut m = Merged::new(Arc::default());
        m.scan_upper(b"d", Some(Kind::Dir), 1);
        m.scan_lower(b"d", Some(Kind::Dir), 2, 0);
        m.scan_lower(b"e", Some(Kind::Dir), 3, 0);
        m.scan_lower(b"d", Some(Kind::Dir), 4, 1);
        m.scan_lower(b"e", None, 0, 1);
        m.scan_lower(b"d", Some(Kind::File), 5, 2);
        m.scan_lower(b"e", Some(Kind::Dir), 6, 2);
        m.scan_lower(b"d", Some(Kind::Dir), 7, 3);
        m.finish_scan();
        assert_eq!(m.lower_stack(&m.get(b"d").unwrap()), [0, 1]);
        assert_eq!(m.lower_stack(&m.get(b"e").unwrap()), [0]);
        assert_eq!(m.subdirs(), 2);
    }

    #[test]
    fn an_upper_file_over_a_lower_directory_does_not_merge() {
        let mut m = Merged::new(Arc::default());
        m.scan_upper(b"x", Some(Kind::File), 1);
        m.scan_lower(b"x", Some(Kind::Dir), 2, 0);
        m.finish_scan();
        let e = m.get(b"x").unwrap();
        assert_eq!(e.kind, Kind::File);
        assert!(e.flags.has(Flags::LOWER));
        assert!(m.lower_stack(&e).is_empty());
    }

    #[test]
    fn removal_leaves_a_whiteout_only_where_a_lower_would_show() {
        let mut m = Merged::new(Arc::default());
        m.scan_lower(b"l", Some(Kind::File), 1, 0);
        m.finish_scan();
        m.set_upper(b"new", Kind::File, 9, NodeId(2), true);
        m.set_removed(b"new", false);
        assert!(m.get(b"new").is_none());
        m.set_removed(b"l", true);
        assert!(m.visible(b"l").is_none());
        assert_eq!(m.whiteouts(), [b"l".to_vec()]);
        m.set_upper(b"l", Kind::Dir, 10, NodeId(3), true);
        assert_eq!((m.len(), m.subdirs()), (1, 1));
        assert!(m.lower_stack(&m.get(b"l").unwrap()).is_empty());
    }

    #[test]
    fn a_listing_ends_though_names_are_added() {
        let mut m = Merged::new(Arc::default());
        for i in 0..10u32 {
            m.scan_lower(format!("f{i}").as_bytes(), Some(Kind::File), 1, 0);
        }
        m.finish_scan();
        let (mut cookie, mut seen) = (0, 0);
        while let Some((c, _, _)) = m.next_after(cookie) {
            cookie = c;
            seen += 1;
            m.set_upper(format!("g{seen}").as_bytes(), Kind::File, 1, NodeId(2), true);
            assert!(seen <= 10);
        }
        assert_eq!(seen, 10);
        assert_eq!(names(&m).len(), 20);
    }

    #[test]
    fn positions_survive_compaction() {
        let mut m = Merged::new(Arc::default());
        for i in 0..500u32 {
            m.set_upper(format!("f{i}").as_bytes(), Kind::File, 1, NodeId(2), true);
        }
        let (mut cookie, mut seen) = (0, Vec::new());
        for _ in 0..250 {
            let (c, name, _) = m.next_after(cookie).unwrap();
            seen.push(name.to_vec());
            cookie = c;
        }
        for name in &seen {
            m.set_removed(name, false);
        }
        for i in 0..150u32 {
            m.set_removed(format!("f{i}").as_bytes(), false);
        }
        let mut rest = 0;
        while let Some((c, name, _)) = m.next_after(cookie) {
            assert!(!seen.contains(&name.to_vec()));
            cookie = c;
            rest += 1;
        }
        assert_eq!(rest, 100);
        assert_eq!(m.len(), 100);
    }
}
