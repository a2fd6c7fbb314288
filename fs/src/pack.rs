//! From a layer of any kind to a packed one.
//!
//! What the union would see in the layer is what is written: whiteouts and opaque directories in
//! whichever form, owners that were kept in xattrs, hard links, holes. The format's own marks are left
//! out. A layer that leans on the layers below for content (`metacopy`, `redirect`, partial files) is
//! refused, because a packed layer cannot.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::attr::{Attr, Kind};
use crate::fdcache::FdCache;
use crate::format;
use crate::ident::LayerId;
use crate::layer::hostdir::{HostLayer, View};
use crate::layer::{Layer, LowerRef};
use crate::packed::{Meta, PackError, Special, Writer};
use crate::sys::file::Part;
use crate::sys::{self, Errno};

/// Content is read in pieces of this size.
const PIECE: usize = 256 * 1024;
/// Files with more pieces of data between their holes are read with some holes as zeros.
const MOST_SEGMENTS: usize = 1 << 16;

/// Packs the host directory `dir`.
///
/// # Errors
/// When something cannot be read or written, or leans on layers below.
pub fn pack_dir(dir: &Path, writer: &mut Writer) -> Result<(), PackError> {
    let failed = |why| PackError::Host { action: "open", path: dir.into(), why };
    let root = sys::dir::open_dir_path(dir).map_err(failed)?;
    let fds = Arc::new(FdCache::new(sys::process::raise_open_files()));
    let layer = host_layer(root, fds).map_err(failed)?;
    Packer { layer: &layer, from: dir, writer, names: HashMap::new() }.all()
}

fn host_layer(root: OwnedFd, fds: Arc<FdCache>) -> sys::Result<HostLayer> {
    HostLayer::new(root, LayerId(0), fds, View::default())
}

struct Packer<'a> {
    layer: &'a HostLayer,
    from: &'a Path,
    writer: &'a mut Writer,
    /// The first name of each file that has several.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl Packer<'_> {
    fn failed(&self, path: &[u8]) -> impl Fn(Errno) -> PackError + use<> {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = self.from.join(OsStr::from_bytes(path));
        move |why| PackError::Host { action: "read", path: path.clone(), why }
    }

    fn all(mut self) -> Result<(), PackError> {
        let mut left = vec![(Vec::new(), self.layer.root())];
        while let Some((path, dir)) = left.pop() {
            let failed = self.failed(&path);
            let mut entries = Vec::new();
            let marks = self
                .layer
                .list(&dir, &mut |e| {
                    entries.push((e.name.to_vec(), e.kind));
                    Ok(())
                })
                .map_err(&failed)?;
            let attr = self.layer.attr(&dir).map_err(&failed)?;
            let meta = self.meta(&dir, &attr).map_err(&failed)?;
            self.writer.dir(&path, &meta)?;
            if marks.redirect.is_some() {
                let why = "its content is that of another directory of the layers below (redirect)";
                return Err(PackError::Refused { path, why });
            }
            if marks.opaque {
                self.writer.opaque(&path)?;
            }
            // Names in their order: the same tree gives the same layer.
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            for (name, kind) in entries {
                let at =
                    if path.is_empty() { name.clone() } else { [&path[..], b"/", &name].concat() };
                let Some(kind) = kind else {
                    self.writer.whiteout(&at)?;
                    continue;
                };
                let failed = self.failed(&at);
                let object = self.layer.child(&dir, &name, kind).map_err(&failed)?;
                if kind == Kind::Dir {
                    left.push((at, object));
                } else {
                    self.object(&at, &object, marks.impure)?;
                }
            }
        }
        Ok(())
    }

    fn meta(&self, at: &LowerRef, attr: &Attr) -> sys::Result<Meta> {
        let names = match self.layer.xattr_names(at) {
            Err(e) if format::absent(e) => Vec::new(),
            other => other?,
        };
        let mut xattrs = Vec::new();
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty() && !format::is_private(n)) {
            match self.layer.xattr(at, name) {
                Ok(value) => xattrs.push((name.to_vec(), value)),
                Err(Errno::ENODATA) => {}
                Err(e) => return Err(e),
            }
        }
        let perm = u32::from(attr.perm);
        Ok(Meta { perm, uid: attr.uid, gid: attr.gid, mtime: attr.mtime, xattrs })
    }

    fn object(&mut self, path: &[u8], at: &LowerRef, impure: bool) -> Result<(), PackError> {
        let failed = self.failed(path);
        let attr = self.layer.attr(at).map_err(&failed)?;
        let meta = self.meta(at, &attr).map_err(&failed)?;
        if attr.nlink > 1 {
            if let Some(first) = self.names.get(&(attr.dev, attr.ino)) {
                return self.writer.link(path, first, &meta).map(drop);
            }
            self.names.insert((attr.dev, attr.ino), path.to_vec());
        }
        let lacks = attr.kind == Kind::File
            && (impure || attr.nlink > 1)
            && !matches!(self.layer.metacopy(at), Ok(None));
        if lacks {
            let why = "part of its data is in the layers below; cowlfs --complete brings it";
            return Err(PackError::Refused { path: path.into(), why });
        }
        let (major, minor) = (libc::major(attr.rdev), libc::minor(attr.rdev));
        match attr.kind {
            Kind::File => self.file(path, at, &attr, &meta),
            Kind::Dir => Ok(()), // replaced by one just now: it is taken when it is listed again
            Kind::Symlink => {
                let target = self.layer.readlink(at).map_err(&failed)?;
                self.writer.special(path, &meta, Special::Symlink(&target))
            }
            Kind::Char => self.writer.special(path, &meta, Special::Char(major, minor)),
            Kind::Block => self.writer.special(path, &meta, Special::Block(major, minor)),
            Kind::Fifo => self.writer.special(path, &meta, Special::Fifo),
            Kind::Socket => self.writer.special(path, &meta, Special::Socket),
        }
    }

    fn file(
        &mut self,
        path: &[u8],
        at: &LowerRef,
        attr: &Attr,
        meta: &Meta,
    ) -> Result<(), PackError> {
        let failed = self.failed(path);
        if attr.size == 0 {
            return self.writer.file(path, meta, 0, None, &mut io::empty()).map(drop);
        }
        let part = self.layer.open(at).map_err(&failed)?;
        let segments = segments(&part, attr.size);
        let mut content =
            Content { part, segments: segments.clone().into(), buf: Vec::new(), done: 0 };
        self.writer.file(path, meta, attr.size, Some(&segments), &mut content).map(drop)
    }
}

/// Where a file has data: offset and length.
fn segments(part: &Part, size: u64) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match part.seek(at, libc::SEEK_DATA) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::ENXIO) => break,
            Err(_) => at, // a filesystem that cannot tell
        };
        let end = part.seek(start, libc::SEEK_HOLE).unwrap_or(size).min(size);
        let end = if end > start && all.len() < MOST_SEGMENTS { end } else { size };
        all.push((start, end - start));
        at = end;
    }
    all
}

/// The data of a file without its holes, as a stream.
struct Content {
    part: Part,
    segments: VecDeque<(u64, u64)>,
    buf: Vec<u8>,
    done: usize,
}

impl Read for Content {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.done == self.buf.len() {
            let Some((at, len)) = self.segments.front_mut().filter(|s| s.1 > 0) else {
                if self.segments.is_empty() {
                    return Ok(0);
                }
                self.segments.pop_front();
                continue;
            };
            let want = (PIECE as u64).min(*len) as usize;
            self.buf.resize(want, 0);
            let n = self.part.pread_full(&mut self.buf, *at)?;
            if n < want {
                return Err(io::ErrorKind::UnexpectedEof.into()); // it became shorter
            }
            (*at, *len, self.done) = (*at + n as u64, *len - n as u64, 0);
        }
        let rest = self.buf.get(self.done..).unwrap_or_default();
        let n = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.done += n;
        Ok(n)
    }
}
