//! The directory that an entry goes into: its real path, without symbolic links.

use std::collections::VecDeque;

use cowl_fs::attr::Kind;
use cowl_fs::packed::Seen;

use super::{PackError, Packer, join, refused};
use crate::archive::tar::show;
use crate::view::Node;

/// Links followed on the way to one entry before it is called a loop (Linux's own limit).
const MAX_LINKS: usize = 40;

/// One step of a walk.
enum Step {
    /// To an entry; whether a link's target asks for it, rather than the entry's own name.
    Down { name: Vec<u8>, from_link: bool },
    /// `..` in a link's target.
    Up,
}

/// What is found on the way.
enum Found {
    Directory,
    Symlink(Vec<u8>),
    /// A file of the layer itself.
    Own,
    /// A file of a lower layer.
    Lower,
    Absent,
}

impl Packer<'_> {
    /// The real path of the directory `parents`; `entry` is what will be put there, for messages.
    pub(super) fn place(&mut self, parents: &[&[u8]], entry: &[u8]) -> Result<Vec<u8>, PackError> {
        let path = parents.join(&b'/');
        // The usual case. Paths in the writer have no links in them.
        if path.is_empty() || matches!(self.writer.at(&path), Some(Seen::Dir { .. })) {
            return Ok(path);
        }
        self.walk(parents, entry)
    }

    fn walk(&mut self, parents: &[&[u8]], entry: &[u8]) -> Result<Vec<u8>, PackError> {
        let mut steps: VecDeque<Step> = parents
            .iter()
            .map(|name| Step::Down { name: name.to_vec(), from_link: false })
            .collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        let mut last_link = Vec::new();
        while let Some(step) = steps.pop_front() {
            let (name, from_link) = match step {
                Step::Up => {
                    if done.pop().is_none() {
                        return Err(refused(
                            entry,
                            format!(
                                "it lies below the symbolic link '{}', which leads out of the image",
                                show(&last_link)
                            ),
                        ));
                    }
                    continue;
                }
                Step::Down { name, from_link } => (name, from_link),
            };
            let path = join(&done.join(&b'/'), &name);
            match self.look(&path)? {
                Found::Directory => done.push(name),
                Found::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refused(entry, "it lies below a loop of symbolic links"));
                    }
                    last_link = path;
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    for part in target.rsplit(|byte| *byte == b'/') {
                        match part {
                            b"" | b"." => {}
                            b".." => steps.push_front(Step::Up),
                            part => steps
                                .push_front(Step::Down { name: part.to_vec(), from_link: true }),
                        }
                    }
                }
                Found::Absent | Found::Lower if from_link => {
                    return Err(refused(
                        entry,
                        format!(
                            "it lies below the symbolic link '{}', whose target is no directory of the image",
                            show(&last_link)
                        ),
                    ));
                }
                Found::Own => {
                    return Err(refused(entry, format!("'{}' is not a directory", show(&path))));
                }
                // The writer makes the directory.
                Found::Absent | Found::Lower => done.push(name),
            }
        }
        Ok(done.join(&b'/'))
    }

    fn look(&mut self, path: &[u8]) -> Result<Found, PackError> {
        match self.writer.at(path) {
            Some(Seen::Dir { .. }) => return Ok(Found::Directory),
            Some(Seen::Symlink(target)) => return Ok(Found::Symlink(target.to_vec())),
            Some(Seen::Whiteout) => return Ok(Found::Absent),
            Some(_) => return Ok(Found::Own),
            None => {}
        }
        let Some(node) = self.shown_below(path)? else { return Ok(Found::Absent) };
        Ok(match node.kind {
            Kind::Dir => Found::Directory,
            Kind::Symlink => {
                // Which directory this is depends on the layers below.
                self.report.depends_on_parents = true;
                Found::Symlink(self.below.target(&node).map_err(PackError::Host)?)
            }
            _ => Found::Lower,
        })
    }

    /// What the layers below show at `path`, as far as this one lets it through.
    pub(super) fn shown_below(&self, path: &[u8]) -> Result<Option<Node>, PackError> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in std::iter::once(0).chain(ends) {
            match self.writer.at(path.get(..end).unwrap_or(&[])) {
                None | Some(Seen::Dir { opaque: false, .. }) => {}
                Some(_) => return Ok(None),
            }
        }
        self.below.find(path).map_err(PackError::Host)
    }
}
