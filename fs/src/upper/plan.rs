//! What is about to happen to a link count of the index, noted before it happens.
//!
//! A file with several names in a lower has its link count in a record of its own, and removing or
//! adding a name takes two steps: the name, then the record. A note of the coming change is made
//! first and taken away last. When a filesystem was killed in between, the next mount looks whether
//! the name was changed, and puts the record right.

use std::os::fd::{AsFd, OwnedFd};

use super::Upper;
use crate::format;
use crate::ident::FileKey;
use crate::sys::{self, Errno, Result};

/// Ends the name of a note.
const PLAN: &[u8] = b".plan";
/// Longer paths are not noted: the target of a symbolic link is limited (`PATH_MAX`).
const LONGEST_PATH: usize = 4000;

/// How a name of the file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A name that the upper has goes away or becomes another file's.
    LosesUpper,
    /// A name that only a lower has is hidden.
    LosesLower,
    /// The upper gets one more name of it.
    Gains,
}

impl Change {
    const ALL: [(Change, &'static str); 3] =
        [(Change::LosesUpper, "upper"), (Change::LosesLower, "lower"), (Change::Gains, "new")];

    fn word(self) -> &'static str {
        Change::ALL.iter().find(|(c, _)| *c == self).map_or("", |(_, w)| w)
    }
}

/// A change of the link count of `key` that is about to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The file.
    pub key: FileKey,
    /// The count before and after.
    pub counts: (u32, u32),
    /// What happens to the name.
    pub change: Change,
    /// The name, from the upper's root.
    pub path: Vec<u8>,
}

impl Plan {
    fn text(&self) -> Vec<u8> {
        let (old, new) = self.counts;
        let head = format!("{old} {new} {} ", self.change.word());
        [head.as_bytes(), &self.path].concat()
    }

    fn parse(key: FileKey, text: &[u8]) -> Option<Plan> {
        let mut words = text.splitn(4, |b| *b == b' ');
        let mut word = || std::str::from_utf8(words.next()?).ok();
        let counts = (word()?.parse().ok()?, word()?.parse().ok()?);
        let change = word()?;
        let change = Change::ALL.iter().find(|(_, w)| *w == change).map(|(c, _)| *c)?;
        Some(Plan { key, counts, change, path: words.next()?.to_vec() })
    }
}

fn plan_name(key: FileKey) -> Vec<u8> {
    [key.to_string().as_bytes(), PLAN].concat()
}

impl Upper {
    /// Notes a change; false when that cannot be done (a full disk, a path too long, another change
    /// of the same file under way).
    pub fn note_plan(&self, plan: &Plan) -> bool {
        plan.path.len() <= LONGEST_PATH
            && sys::dir::symlinkat(&plan.text(), self.index(), &plan_name(plan.key)).is_ok()
    }

    /// Takes the note away: the change and its record are made, or neither is.
    pub fn forget_plan(&self, key: FileKey) {
        let _may_be_absent = sys::dir::unlinkat(self.index(), &plan_name(key));
    }

    /// Puts the records right that a killed filesystem left behind the names. To be called at mount,
    /// before any name changes.
    ///
    /// # Errors
    /// Errors of reading and changing the index and the upper.
    pub fn settle_plans(&self) -> Result<()> {
        let mut keys = Vec::new();
        sys::dir::list(self.index(), |e| {
            keys.extend(e.name.strip_suffix(PLAN).and_then(FileKey::parse));
            Ok(())
        })?;
        for key in keys {
            let text = sys::dir::readlinkat(self.index(), &plan_name(key))?;
            if let Some(plan) = Plan::parse(key, &text) {
                self.settle(&plan)?;
            }
            self.forget_plan(key);
        }
        Ok(())
    }

    fn settle(&self, plan: &Plan) -> Result<()> {
        // Another change was recorded since: its count was made to be too high at worst.
        let recorded = self.read_count(plan.key)?;
        if recorded.is_some_and(|count| count != plan.counts.0) || !self.happened(plan)? {
            return Ok(());
        }
        if plan.counts.1 > 0 {
            return self.write_count(plan.key, plan.counts.1);
        }
        self.forget_count(plan.key);
        match sys::dir::unlinkat(self.index(), &Self::index_name(plan.key)) {
            Err(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Whether the name was changed as planned.
    fn happened(&self, plan: &Plan) -> Result<bool> {
        let (path, name) = match plan.path.iter().rposition(|b| *b == b'/') {
            Some(at) => plan.path.split_at_checked(at).unwrap_or_default(),
            None => (&b""[..], &plan.path[..]),
        };
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let Some(dir) = self.walk(path)? else { return Ok(false) };
        let here = inode(dir.as_fd(), name)?;
        let file = inode(self.index(), &Self::index_name(plan.key))?;
        Ok(match plan.change {
            Change::LosesUpper => here.is_none() || here != file,
            Change::Gains => here.is_some() && here == file,
            Change::LosesLower => {
                let mark = [format::AUFS_WHITEOUT, name].concat();
                here.is_some() || inode(dir.as_fd(), &mark)?.is_some()
            }
        })
    }

    /// The directory at a path in the upper, if there is one.
    fn walk(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        let mut at = self.root().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            at = match sys::dir::open_dir(at.as_fd(), name) {
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
                other => other?,
            };
        }
        Ok(Some(at))
    }
}

fn inode(dir: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> Result<Option<u64>> {
    match sys::dir::statat(dir, name) {
        Ok(attr) => Ok(Some(attr.ino)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let key = FileKey { fs: 3, ino: 77 };
        for (change, _) in Change::ALL {
            let plan = Plan { key, counts: (3, 2), change, path: b"a dir/b c".to_vec() };
            assert_eq!(Plan::parse(key, &plan.text()), Some(plan));
        }
        assert_eq!(Plan::parse(key, b"3 two upper a"), None);
        assert_eq!(Plan::parse(key, b"3 2 upper"), None);
    }
}
