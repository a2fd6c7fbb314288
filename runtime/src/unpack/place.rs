//! Finding, and where needed making, the directory that an entry goes into.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use super::attributes::Attributes;
use super::union::{Found, Union, open_directory};
use super::{Context, UnpackError, Unpacker, refused};
use crate::archive::tar::show;
use crate::sys::descriptor::open_below;

/// Links followed on the way to one entry before it is called a loop (Linux's own limit).
const MAX_LINKS: usize = 40;
/// Directories kept open: entries of one directory mostly follow each other.
const MAX_PLACES: usize = 64;

/// A directory of the layer being unpacked.
#[derive(Debug)]
pub struct Place {
    pub fd: OwnedFd,
    /// Its real path in the layer: no part is a symbolic link.
    pub path: Vec<u8>,
}

impl Place {
    /// The path of an entry of this directory.
    pub fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [&self.path, b"/".as_slice(), name].concat()
        }
    }
}

/// One step of a walk.
enum Step {
    /// To an entry; whether a link's target asks for it, rather than the entry's own name.
    Down { name: Vec<u8>, from_link: bool },
    /// `..` in a link's target.
    Up,
}

impl Unpacker<'_> {
    /// The directory `parents`; `entry` is what will be put there, for messages.
    pub(super) fn place(
        &mut self,
        parents: &[&[u8]],
        entry: &[u8],
    ) -> Result<Rc<Place>, UnpackError> {
        let path = parents.join(&b'/');
        if let Some(place) = self.places.get(&path) {
            return Ok(Rc::clone(place));
        }
        let place = Rc::new(match self.open_listed(&path) {
            Some(fd) => Place { fd, path: path.clone() },
            None => self.walk(parents, entry)?,
        });
        if self.places.len() >= MAX_PLACES {
            self.places.clear();
        }
        self.places.insert(path, Rc::clone(&place));
        Ok(place)
    }

    /// The directory when it is simply there: the usual case, one system call. Anything else,
    /// including a kernel or a profile without openat2(2), is left to the walk.
    fn open_listed(&self, path: &[u8]) -> Option<OwnedFd> {
        if path.is_empty() {
            return open_directory(self.root.as_fd(), b".").ok();
        }
        let how =
            OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
        open_below(self.root.as_fd(), path, how).ok()
    }

    /// Opens a directory of this layer by its real path.
    pub(super) fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if let Some(fd) = self.open_listed(path) {
            return Ok(fd);
        }
        let mut current = open_directory(self.root.as_fd(), b".")?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            current = open_directory(current.as_fd(), name)?;
        }
        Ok(current)
    }

    fn walk(&mut self, parents: &[&[u8]], entry: &[u8]) -> Result<Place, UnpackError> {
        const LOOK: &str = "look up the directory of";
        let mut steps: VecDeque<Step> = parents
            .iter()
            .map(|name| Step::Down { name: name.to_vec(), from_link: false })
            .collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut here = Union::root(&self.root, self.lowers).on(LOOK, entry)?;
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
                    here = self.union_at(&done).on(LOOK, entry)?;
                    continue;
                }
                Step::Down { name, from_link } => (name, from_link),
            };
            match here.child(&name).on(LOOK, entry)? {
                Found::Directory(next) => {
                    here = self.entered(here, next, &done, &name).on(LOOK, entry)?;
                    done.push(name);
                }
                Found::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refused(entry, "it lies below a loop of symbolic links"));
                    }
                    last_link = [done.join(&b'/'), name].join(&b'/');
                    if target.starts_with(b"/") {
                        done.clear();
                        here = Union::root(&self.root, self.lowers).on(LOOK, entry)?;
                    }
                    for part in target.rsplit(|byte| *byte == b'/') {
                        match part {
                            b"" | b"." => {}
                            b".." => steps.push_front(Step::Up),
                            part => steps
                                .push_front(Step::Down { name: part.to_vec(), from_link: true }),
                        }
                    }
                    // Which directory this is depends on the layers below, as does what it holds.
                    self.report.depends_on_parents |= !self.lowers.is_empty();
                }
                Found::Absent | Found::Other { lower: Some(_), .. } if from_link => {
                    return Err(refused(
                        entry,
                        format!(
                            "it lies below the symbolic link '{}', whose target is no directory of the image",
                            show(&last_link)
                        ),
                    ));
                }
                Found::Other { lower: None, .. } => {
                    let blocking = [done.join(&b'/'), name].join(&b'/');
                    let blocking = show(blocking.strip_prefix(b"/").unwrap_or(&blocking));
                    return Err(refused(entry, format!("'{blocking}' is not a directory")));
                }
                Found::Absent | Found::Other { .. } => {
                    let next = Union { own: None, lowers: Vec::new() };
                    here = self.entered(here, next, &done, &name).on(LOOK, entry)?;
                    done.push(name);
                }
            }
        }
        match here.own {
            Some(fd) => Ok(Place { fd, path: done.join(&b'/') }),
            None => Err(Errno::ENOENT).on(LOOK, entry),
        }
    }

    /// `next`, the directory `name` of `here`, with its part in this layer made if it has none: a
    /// directory that the layer implies is like the one below it.
    fn entered(
        &mut self,
        here: Union,
        mut next: Union,
        done: &[Vec<u8>],
        name: &[u8],
    ) -> Result<Union, Errno> {
        if next.own.is_some() {
            return Ok(next);
        }
        let parent = here.own.ok_or(Errno::ENOENT)?;
        let attributes = match next.lowers.first() {
            Some(lower) => Attributes::of_lower(lower.as_fd())?,
            None => Attributes::implied(),
        };
        self.make_directory(&parent, name)?;
        next.own = Some(open_directory(parent.as_fd(), name)?);
        let mut path = done.join(&b'/');
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.directories.insert(path, attributes);
        self.report.depends_on_parents = true;
        Ok(next)
    }

    /// The directory at a path that has been walked before.
    pub(super) fn union_at(&self, path: &[Vec<u8>]) -> Result<Union, Errno> {
        let mut here = Union::root(&self.root, self.lowers)?;
        for name in path {
            match here.child(name)? {
                Found::Directory(next) => here = next,
                _ => return Err(Errno::ENOENT),
            }
        }
        Ok(here)
    }
}
