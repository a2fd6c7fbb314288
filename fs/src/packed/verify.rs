//! Checking all of a packed layer: what it says of itself, and all content.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use sha2::{Digest as _, Sha256};

use super::index::{Entry, EntryKind, kind_of};
use super::{Content, Digest, Index, PackError, Packed, format, objects};
use crate::attr::Kind;
use crate::sys::{self, Errno};

/// Content is read in pieces of this size.
const PIECE: usize = 256 * 1024;

/// Something in an index is not as a writer writes it.
struct Wrong(String);

impl From<Errno> for Wrong {
    fn from(_: Errno) -> Wrong {
        Wrong("its index does not add up".into())
    }
}

impl Packed {
    /// Checks index, data file and all objects against their digests, and that the index makes sense.
    ///
    /// # Errors
    /// [`PackError::Damaged`] with the first thing found to be wrong.
    pub fn verify(&self) -> Result<(), PackError> {
        self.verify_index()?;
        self.verify_data()?;
        for number in 0..u64::from(self.header().objects) {
            self.verify_object(number)?;
        }
        Ok(())
    }

    fn damaged(&self, what: impl Into<String>) -> PackError {
        PackError::Damaged { path: self.path().into(), what: what.into() }
    }

    /// Checks the index alone: its digest, and every record.
    ///
    /// # Errors
    /// As for [`Packed::verify`].
    pub fn verify_index(&self) -> Result<(), PackError> {
        check_index(self).map_err(|Wrong(what)| self.damaged(what))
    }

    fn verify_data(&self) -> Result<(), PackError> {
        let mut hash = Sha256::new();
        if self.data_len() > 0 {
            let failed = |e: Errno| self.damaged(format!("its data file: {}", e.desc()));
            let data = self.data().map_err(failed)?;
            hash_file(&data, self.data_len(), &mut hash).map_err(failed)?;
        }
        if Digest(hash.finalize().into()) == self.header().data {
            Ok(())
        } else {
            Err(self.damaged("its data file holds something else than was written"))
        }
    }

    fn verify_object(&self, number: u64) -> Result<(), PackError> {
        let record = self.object(number).map_err(|_| self.damaged("its list of objects"))?;
        let store = self
            .store()
            .map_err(|e| self.damaged(format!("its store of objects: {}", e.desc())))?;
        objects::check(store.as_fd(), &record).map_err(|what| self.damaged(what))
    }
}

fn hash_file(file: &OwnedFd, len: u64, hash: &mut Sha256) -> sys::Result<()> {
    let mut buf = vec![0; PIECE];
    let mut at = 0;
    while at < len {
        let want = (buf.len() as u64).min(len - at) as usize;
        let part = buf.get_mut(..want).unwrap_or_default();
        if sys::file::pread_full(file.as_fd(), part, at)? < want {
            return Err(Errno::EIO);
        }
        hash.update(&part);
        at += want as u64;
    }
    Ok(())
}

/// Checks the digest of an index and all of its records.
fn check_index(index: &Index) -> Result<(), Wrong> {
    let body = index.all().get(format::HEADER..).unwrap_or_default();
    if format::digest(body) != index.header().body {
        return Err(Wrong("its index is not as it was written".into()));
    }
    let mut links: HashMap<u32, u32> = HashMap::new();
    let mut names = 0u64;
    index.walk(|path, entry: Entry| {
        names += u64::from(!path.is_empty());
        if entry.ino == 0 {
            return Ok(());
        }
        let seen = links.entry(entry.ino).or_insert(0);
        *seen += 1;
        if *seen == 1 { check_inode(index, path, entry) } else { Ok(()) }
    })?;
    if links.len() as u64 != u64::from(index.len()) || names != u64::from(index.header().names) {
        return Err(Wrong("its index has records that nothing leads to".into()));
    }
    for (ino, seen) in links {
        let inode = index.inode(ino)?;
        if kind_of(&inode)? != Kind::Dir && inode.nlink != seen {
            return Err(Wrong(format!("the link count of its inode {ino}")));
        }
    }
    for below in index.links_below() {
        below?;
    }
    Ok(())
}

fn check_inode(index: &Index, path: &[u8], entry: Entry) -> Result<(), Wrong> {
    let wrong = |what: &str| Err(Wrong(format!("{what} of '{}'", String::from_utf8_lossy(path))));
    let inode = index.inode(entry.ino)?;
    if inode.flags & !format::KNOWN_FLAGS != 0 {
        return wrong("the flags");
    }
    let attr = index.attr(entry.ino, 0)?;
    index.xattrs(entry.ino, &mut |_, _| true)?;
    match entry.kind {
        EntryKind::Node(Kind::Dir) => {
            let mut subdirs = 0;
            index.list(entry.ino, &mut |_, e| {
                subdirs += u32::from(e.kind == EntryKind::Node(Kind::Dir));
                Ok(())
            })?;
            if attr.nlink != subdirs + 2 {
                return wrong("the link count");
            }
        }
        EntryKind::Node(Kind::File) => {
            if let Content::Data { at, len } = index.content(entry.ino)?
                && at.checked_add(len).is_none()
            {
                return wrong("the content");
            }
        }
        EntryKind::Node(Kind::Symlink) | EntryKind::Below => {
            index.target(entry.ino)?;
        }
        EntryKind::Node(_) | EntryKind::Whiteout => {}
    }
    Ok(())
}
