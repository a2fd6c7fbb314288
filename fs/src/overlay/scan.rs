//! Merging a directory: what the upper and the lowers hold, and where redirects lead.

use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{Overlay, Redirects};
use crate::attr::Kind;
use crate::format::{self, Mark, Namespace};
use crate::ident::{FileKey, LayerId};
use crate::inode::{Names, Node};
use crate::layer::gather::Listing;
use crate::layer::{DirMarks, Found, Listed, LowerRef};
use crate::merge::Merged;
use crate::sys::{self, Errno, Result};
use crate::upper::WhiteoutForm;

/// Redirects that lead to redirects are followed this often (one layer each) before the layers are
/// taken to be corrupt.
const MOST_REDIRECTS: usize = 64;

/// So many lowers are listed by several threads.
const GATHER_FROM: usize = 4;

impl Overlay {
    /// Locks the names of a directory, merging them first if nobody has yet.
    pub(super) fn names<'a>(&self, node: &'a Arc<Node>) -> Result<MutexGuard<'a, Names>> {
        let mut names = node.dir()?.merged.lock();
        self.load(node, &mut names)?;
        Ok(names)
    }

    /// Merges a directory whose names are locked, unless that was done before.
    pub(super) fn load(&self, node: &Arc<Node>, names: &mut Names) -> Result<()> {
        if names.merged.is_none() {
            self.scan(node, names)?;
        }
        Ok(())
    }

    fn scan(&self, node: &Arc<Node>, names: &mut Names) -> Result<()> {
        let mut merged = Merged::new(Arc::clone(&node.dir()?.links));
        let settled = &node.dir()?.settled;
        let mut lowers = names.lowers.to_vec();
        // Lowers found by following a redirect have had their own redirects followed, and so have
        // those that an earlier scan has settled.
        let mut resolved = settled.get().is_some();
        if node.in_upper() {
            let fd = self.upper_dir_fd(node)?;
            let marks = format::dir_marks(fd.as_fd(), b"")?;
            names.impure = marks.impure;
            let mut opaque = marks.opaque;
            self.scan_upper(fd.as_fd(), &marks, &mut opaque, &mut names.marker, &mut merged)?;
            if opaque {
                lowers.clear();
            } else if let (Some(target), false) = (marks.redirect, resolved) {
                self.may_follow()?;
                lowers = match target.strip_prefix(b"/") {
                    Some(path) => self.resolve(path, 0, 0)?,
                    None => self.step(&node.dir()?.parent_lowers, &target, 0)?,
                };
                names.redirect = Some(target);
                resolved = true;
            }
        }
        let mut gathered = Vec::new();
        if lowers.len() >= GATHER_FROM {
            gathered = self.gatherer.list(&lowers);
        }
        let mut impure = Vec::new();
        let mut at = 0;
        while let Some(dir) = lowers.get(at).cloned() {
            let number = at as u16;
            let mut fs = None;
            let mut sink = |e: Listed<'_>| {
                let fs = *fs.get_or_insert_with(|| self.fs_number(e.dev));
                // 0: not known before it is looked up.
                let ino = if e.ino == 0 { 0 } else { FileKey { fs, ino: e.ino }.shown().0 };
                merged.scan_lower(e.name, e.kind, ino, number);
                Ok(())
            };
            let listing = match gathered.get_mut(at).and_then(Option::take) {
                Some(listing) => listing?,
                None => Listing::of(self.layer(dir.layer)?, &dir)?,
            };
            listing.each(&mut sink)?;
            let marks = listing.marks;
            impure.push(marks.impure);
            at += 1;
            if marks.opaque {
                lowers.truncate(at);
            } else if let (Some(target), false) = (&marks.redirect, resolved) {
                lowers.truncate(at);
                gathered.clear();
                lowers.extend(self.beyond(&dir, target, &node.dir()?.parent_lowers, 0)?);
                resolved = true;
            }
        }
        merged.finish_scan();
        names.impure_lowers = impure;
        let settled = settled.get_or_init(|| lowers.clone().into());
        // Made opaque since: entries that are known keep their numbers in what was settled.
        names.lowers = if lowers.is_empty() { Arc::default() } else { Arc::clone(settled) };
        names.merged = Some(merged);
        Ok(())
    }

    fn scan_upper(
        &self,
        fd: std::os::fd::BorrowedFd<'_>,
        marks: &format::XattrMarks,
        opaque: &mut bool,
        marker: &mut bool,
        merged: &mut Merged,
    ) -> Result<()> {
        let upper = self.need_upper()?;
        let aufs = upper.features().whiteouts == WhiteoutForm::Aufs;
        // fuse-overlayfs leaves the marker file beside the xattr; by itself it is a user's file.
        let only_files = upper.features().namespace == Namespace::None;
        sys::dir::list_in_order(fd, |e| {
            if e.name == format::AUFS_OPAQUE && (marks.opaque || only_files) {
                *opaque = true;
                *marker = true;
                return Ok(());
            }
            if aufs && e.name.starts_with(format::AUFS_WHITEOUT) {
                if let Some(hidden) = format::aufs_hidden(e.name) {
                    merged.scan_upper(hidden, None, 0);
                }
                return Ok(());
            }
            let mut kind = Kind::from_dtype(e.dtype);
            let suspect = kind.is_none_or(|k| k == Kind::Char)
                || (marks.xwhiteouts && kind == Some(Kind::File));
            if suspect {
                let attr = sys::dir::statat(fd, e.name)?;
                let xwhiteout = marks.xwhiteouts
                    && attr.kind == Kind::File
                    && attr.size == 0
                    && format::read(fd, e.name, Mark::Whiteout)?.is_some();
                if attr.is_whiteout_device() || xwhiteout {
                    merged.scan_upper(e.name, None, 0);
                    return Ok(());
                }
                kind = Some(attr.kind);
            }
            let mut key = FileKey { fs: self.fs_number(upper.dev()), ino: e.ino };
            if marks.impure
                && let Some(origin) = format::object_marks(fd, e.name)?.origin
            {
                key = self.fs.read().verify(origin).unwrap_or(key);
            }
            merged.scan_upper(e.name, kind, key.shown().0);
            Ok(())
        })
    }

    /// Whether redirects are followed at all: `EPERM` as kernel overlayfs answers with
    /// `redirect_dir=nofollow`.
    pub(super) fn may_follow(&self) -> Result<()> {
        if self.settings.redirects == Redirects::Refused { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// What lies beyond `dir`, a lower directory with a redirect: its layers below, elsewhere.
    fn beyond(
        &self,
        dir: &LowerRef,
        target: &[u8],
        parent_lowers: &[LowerRef],
        depth: usize,
    ) -> Result<Vec<LowerRef>> {
        if depth >= MOST_REDIRECTS {
            return Err(Errno::ELOOP);
        }
        self.may_follow()?;
        match target.strip_prefix(b"/") {
            Some(path) => self.resolve(path, dir.layer.0 + 1, depth + 1),
            None => {
                let below: Vec<LowerRef> =
                    parent_lowers.iter().filter(|p| p.layer > dir.layer).cloned().collect();
                self.step(&below, target, depth + 1)
            }
        }
    }

    /// The directories that the union of the layers from `first` on shows at `path`.
    pub(super) fn resolve(&self, path: &[u8], first: u16, depth: usize) -> Result<Vec<LowerRef>> {
        let mut stack: Vec<LowerRef> =
            self.lowers.iter().map(|l| l.root()).filter(|r| r.layer >= LayerId(first)).collect();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            if name == b".." || name == b"." {
                return Err(Errno::EINVAL);
            }
            stack = self.step(&stack, name, depth)?;
        }
        Ok(stack)
    }

    /// The directories that merge as `name` in the merged directory `stack`.
    fn step(&self, stack: &[LowerRef], name: &[u8], depth: usize) -> Result<Vec<LowerRef>> {
        let mut out = Vec::new();
        for dir in stack {
            let layer = self.layer(dir.layer)?;
            match layer.lookup(dir, name)? {
                Found::Nothing => {}
                Found::Whiteout => break,
                Found::Object(_, attr) if attr.kind != Kind::Dir => break,
                Found::Object(found, _) => {
                    let DirMarks { opaque, redirect, .. } = layer.marks(&found)?;
                    out.push(found.clone());
                    if opaque {
                        break;
                    }
                    if let Some(target) = redirect {
                        out.extend(self.beyond(&found, &target, stack, depth)?);
                        break;
                    }
                }
            }
        }
        Ok(out)
    }

    /// The path at which the union of the lowers shows the content of a merged directory.
    pub(super) fn lower_path(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = Arc::clone(node);
        loop {
            let redirect = self.names(&at)?.redirect.clone();
            if let Some(path) = redirect.as_deref().and_then(|r| r.strip_prefix(b"/")) {
                names.push(path.to_vec());
                break;
            }
            let Some(link) = at.state.read().first() else { break };
            // A redirect without a slash is the name that it had in the same directory.
            names.push(redirect.unwrap_or_else(|| link.name.to_vec()));
            at = link.parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }
}
