//! `cowl cp`
//!
//! Both ways are one: the source is written as an archive, and the archive is written into the
//! target. Paths of the container are resolved within its root, whatever links it has.

use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};

use super::{Context, Failure};
use crate::access::Access;
use crate::archive::extract::{ExtractError, Owner, extract};
use crate::archive::walk::{WalkError, Walker};

/// Copy files between a container and this machine; `-` is a tar archive on standard input or output
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Follow the source when it is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print nothing but errors (as it is)
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, PATH or -
    source: String,
    /// CONTAINER:PATH, PATH or -
    target: String,
}

/// One side of a copy.
enum Side<'a> {
    Container(&'a str, &'a str),
    Machine(&'a str),
    Stream,
}

/// `name:path`; a path that begins with `/` or `.` is this machine's, whatever follows.
fn side(text: &str) -> Side<'_> {
    if text == "-" {
        return Side::Stream;
    }
    match text.split_once(':') {
        Some((name, path)) if !text.starts_with(['/', '.']) && !name.contains('/') => {
            Side::Container(name, path)
        }
        _ => Side::Machine(text),
    }
}

impl Args {
    /// The container that the copy is about.
    pub fn container(&self) -> Option<&str> {
        [&self.source, &self.target].into_iter().find_map(|text| match side(text) {
            Side::Container(name, _) => Some(name),
            _ => None,
        })
    }
}

/// A tree that paths belong to.
enum Tree<'a> {
    Container(&'a Access),
    Machine,
}

impl Tree<'_> {
    fn open(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        match self {
            Tree::Container(access) => access.open(path, flags),
            Tree::Machine => {
                let path = if path.is_empty() { b"." } else { path };
                open(OsStr::from_bytes(path), flags | OFlag::O_CLOEXEC, Mode::empty())
            }
        }
    }

    fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn kind(&self, path: &[u8]) -> Result<SFlag, Errno> {
        let file = self.open(path, OFlag::O_PATH)?;
        Ok(SFlag::from_bits_truncate(fstat(&file)?.st_mode & SFlag::S_IFMT.bits()))
    }
}

/// Runs the command.
///
/// # Errors
/// When something cannot be copied.
pub fn run(args: &Args, context: &Context) -> Result<u8, Failure> {
    let (source, target) = (side(&args.source), side(&args.target));
    let (name, into) = match (&source, &target) {
        (Side::Container(..), Side::Container(..)) => {
            return Err(Failure::new(1, "copying between containers is not supported"));
        }
        (Side::Container(name, _), _) => (*name, false),
        (_, Side::Container(name, _)) => (*name, true),
        _ => {
            return Err(Failure::new(
                1,
                "must specify at least one container source: cowl cp CONTAINER:PATH PATH, or PATH CONTAINER:PATH",
            ));
        }
    };
    if matches!(target, Side::Stream) && io::stdout().is_terminal() {
        return Err(Failure::new(
            1,
            "cowardly refusing to write an archive to a terminal: redirect",
        ));
    }
    let container = context.containers()?.find(name)?;
    let access = Access::inside(&container, &context.root)?;
    let inside = Tree::Container(&access);
    let copy = Copy { follow: args.follow_link, keep: args.archive, into };
    let result = match (source, target) {
        (Side::Container(_, from), Side::Stream) => copy.to_stream(&inside, from),
        (Side::Container(_, from), Side::Machine(to)) => {
            copy.across(&inside, from, &Tree::Machine, to)
        }
        (Side::Stream, Side::Container(_, to)) => copy.take_stream(&inside, to),
        (Side::Machine(from), Side::Container(_, to)) => {
            copy.across(&Tree::Machine, from, &inside, to)
        }
        _ => Ok(()),
    };
    access.close()?;
    result?;
    Ok(0)
}

struct Copy {
    follow: bool,
    keep: bool,
    /// Into the container.
    into: bool,
}

/// A source.
struct From {
    /// A directory, and the name in it; `.` for the directory itself.
    parent: OwnedFd,
    name: Vec<u8>,
    /// What it is called.
    shown: Vec<u8>,
    /// Only what lies in it is meant: `DIR/.`
    content_only: bool,
    is_dir: bool,
}

fn failed(what: &'static str, path: &[u8]) -> impl Fn(Errno) -> Failure {
    let path = String::from_utf8_lossy(path).into_owned();
    move |errno| Failure::new(1, format!("cannot {what} {path}: {}", errno.desc()))
}

impl Copy {
    fn owner(&self) -> Owner {
        match (self.keep, self.into) {
            (true, _) => Owner::Archive,
            (false, true) => Owner::Fixed(0, 0),
            (false, false) => Owner::Caller,
        }
    }

    fn source(&self, tree: &Tree<'_>, path: &str) -> Result<From, Failure> {
        let bytes = path.as_bytes();
        let missing = |errno| match errno {
            Errno::ENOENT => {
                Failure::new(1, format!("cannot copy {path}: no such file or directory"))
            }
            errno => failed("copy", bytes)(errno),
        };
        let content_only = path == "." || path.ends_with("/.");
        let trimmed = path.trim_end_matches("/.").trim_end_matches('/');
        let (directory, name) = match trimmed.rsplit_once('/') {
            Some((directory, name)) => (format!("{directory}/"), name),
            None => (String::new(), trimmed),
        };
        // Paths that name a directory in another way than by its name, or by a link to follow.
        let named = !matches!(name, "" | "." | "..");
        let must_follow = self.follow || content_only || path.ends_with('/');
        let link = named && {
            let parent = tree.directory(directory.as_bytes()).map_err(missing)?;
            let found = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(missing)?;
            found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits()
        };
        if named && !(link && must_follow) {
            let parent = tree.directory(directory.as_bytes()).map_err(missing)?;
            let found = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(missing)?;
            let is_dir = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
            if path.ends_with('/') && !is_dir {
                return Err(failed("copy", bytes)(Errno::ENOTDIR));
            }
            let name = name.as_bytes().to_vec();
            return Ok(From { parent, shown: name.clone(), name, content_only, is_dir });
        }
        let kind = tree.kind(trimmed.as_bytes()).map_err(missing)?;
        if kind == SFlag::S_IFDIR {
            let parent = tree.directory(trimmed.as_bytes()).map_err(missing)?;
            let content_only = content_only || !named;
            let shown = name.as_bytes().to_vec();
            return Ok(From { parent, name: b".".to_vec(), shown, content_only, is_dir: true });
        }
        // A link to a file: the file's directory, and the file's own name there. It keeps the
        // link's name, as for Docker.
        let file = tree.open(trimmed.as_bytes(), OFlag::O_PATH).map_err(missing)?;
        let place = Access::path_of(file.as_fd()).map_err(missing)?;
        let own = place.file_name().unwrap_or_default().as_bytes().to_vec();
        let target = match tree {
            Tree::Machine => place.parent().unwrap_or(Path::new("/")).to_path_buf(),
            Tree::Container(access) => {
                let root = Access::path_of(access.root()).map_err(missing)?;
                let place = place.parent().unwrap_or(Path::new("/"));
                Path::new("/").join(place.strip_prefix(&root).unwrap_or(place))
            }
        };
        let parent = tree.directory(target.as_os_str().as_bytes()).map_err(missing)?;
        let shown = name.as_bytes().to_vec();
        Ok(From { parent, name: own, shown, content_only: false, is_dir: false })
    }

    fn write(&self, from: &From, output: impl Write) -> Result<(), WalkError> {
        let mut walker = Walker::new(BufWriter::with_capacity(1 << 18, output));
        if from.content_only {
            let directory = crate::archive::walk::directory(from.parent.as_fd(), &from.name)
                .map_err(|source| WalkError::Read { path: from.name.clone(), source })?;
            walker.one(directory.as_fd(), b".", b".")?;
            walker.content(directory.as_fd(), b"./")?;
        } else {
            walker.whole(from.parent.as_fd(), &from.name, &from.shown)?;
        }
        walker.finish().map(drop)
    }

    fn to_stream(&self, tree: &Tree<'_>, path: &str) -> Result<(), Failure> {
        let from = self.source(tree, path)?;
        self.write(&from, io::stdout().lock())?;
        Ok(())
    }

    fn take_stream(&self, tree: &Tree<'_>, path: &str) -> Result<(), Failure> {
        let target = tree.directory(path.as_bytes()).map_err(|errno| match errno {
            Errno::ENOTDIR => {
                Failure::new(1, format!("destination \"{path}\" must be a directory"))
            }
            errno => failed("copy to", path.as_bytes())(errno),
        })?;
        extract(io::stdin().lock(), target.as_fd(), self.owner(), &|name| Some(name.to_vec()))?;
        Ok(())
    }

    fn across(
        &self,
        from_tree: &Tree<'_>,
        from_path: &str,
        to_tree: &Tree<'_>,
        to_path: &str,
    ) -> Result<(), Failure> {
        let from = self.source(from_tree, from_path)?;
        let bytes = to_path.as_bytes();
        // The directory it goes into, and the name it gets there.
        let (target, new_name) = match to_tree.kind(bytes) {
            Ok(SFlag::S_IFDIR) => {
                (to_tree.directory(bytes).map_err(failed("open", bytes))?, from.shown.clone())
            }
            Ok(_) if from.is_dir => {
                return Err(Failure::new(
                    1,
                    format!("cannot copy a directory over the file \"{to_path}\""),
                ));
            }
            Ok(_) if to_path.ends_with('/') => {
                return Err(failed("copy to", bytes)(Errno::ENOTDIR));
            }
            // A link to nowhere is replaced, like any other file that is no directory.
            Ok(_) | Err(Errno::ENOENT | Errno::ELOOP) => {
                let trimmed = to_path.trim_end_matches('/');
                if to_path.ends_with('/') && !from.is_dir {
                    return Err(Failure::new(
                        1,
                        format!("destination directory \"{to_path}\" does not exist"),
                    ));
                }
                let (directory, name) = match trimmed.rsplit_once('/') {
                    Some((directory, name)) => (format!("{directory}/"), name),
                    None => (String::new(), trimmed),
                };
                let parent = to_tree
                    .directory(directory.as_bytes())
                    .map_err(|errno| failed("copy into", directory.as_bytes())(errno))?;
                (parent, name.as_bytes().to_vec())
            }
            Err(errno) => return Err(failed("copy to", bytes)(errno)),
        };
        let existed = to_tree.kind(bytes) == Ok(SFlag::S_IFDIR);
        let owner = self.owner();
        let rename = |name: &[u8]| -> Option<Vec<u8>> {
            if from.content_only {
                // Into the directory, which is made when it is not there.
                let inside = name.strip_prefix(b"./").unwrap_or(name);
                return match (existed, inside) {
                    // The directory that is there keeps its attributes.
                    (true, b"") => None,
                    (true, inside) => Some(inside.to_vec()),
                    (false, inside) => Some([&new_name, b"/".as_slice(), inside].concat()),
                };
            }
            let rest = name.strip_prefix(from.shown.as_slice())?;
            Some([new_name.as_slice(), rest].concat())
        };
        let (reader, writer) =
            io::pipe().map_err(|error| Failure::new(1, format!("cannot make a pipe: {error}")))?;
        let (written, extracted) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| self.write(&from, writer));
            let extracted = receive(reader, target.as_fd(), owner, &rename);
            (writing.join(), extracted)
        });
        // A broken pipe is the other side's failure.
        extracted?;
        match written {
            Ok(written) => Ok(written?),
            Err(_) => Err(Failure::new(1, "the thread reading the files died")),
        }
    }
}

fn receive(
    mut reader: io::PipeReader,
    target: BorrowedFd<'_>,
    owner: Owner,
    rename: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), ExtractError> {
    match extract(&mut reader, target, owner, rename) {
        // The writer stopped: what it has to say is the reason.
        Err(ExtractError::Archive(_)) => Ok(()),
        Ok(()) => {
            // To the end, so that the writer never meets a closed pipe.
            io::copy(&mut reader.by_ref(), &mut io::sink()).ok();
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert!(matches!(side("-"), Side::Stream));
        assert!(matches!(side("c:/x"), Side::Container("c", "/x")));
        assert!(matches!(side("c:x:y"), Side::Container("c", "x:y")));
        for path in ["/a:b", "./a:b", "../c:d", "a/b:c", "plain"] {
            assert!(matches!(side(path), Side::Machine(found) if found == path), "{path}");
        }
    }
}
