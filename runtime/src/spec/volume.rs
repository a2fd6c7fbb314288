//! `-v SOURCE:TARGET[:OPTIONS]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::container::config::{Mount, MountKind, Propagation};

/// Why a volume specification is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// Not `SOURCE:TARGET[:OPTIONS]`.
    #[error("invalid volume specification: '{0}': give SOURCE:TARGET or SOURCE:TARGET:ro")]
    Form(String),
    /// Neither a path nor the name of a volume.
    #[error(
        "\"{0}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )]
    Named(String),
    /// A relative target.
    #[error("invalid mount path: '{0}' mount path must be absolute")]
    RelativeTarget(String),
    /// The root directory as target.
    #[error("invalid volume specification: '{0}': destination can't be '/'")]
    Root(String),
    /// An option that does not exist.
    #[error("invalid mode: {0}")]
    Option(String),
    /// Two volumes on one place.
    #[error("Duplicate mount point: {0}")]
    Duplicate(String),
}

/// A path without `.`, `..` and double slashes, by its letters alone (Go's `path.Clean`).
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

fn of_volume(name: String) -> MountKind {
    MountKind::Volume { anonymous: name.is_empty(), name, nocopy: false, subpath: None }
}

/// Reads one specification. A source that begins with `.` starts at `here`.
pub fn parse(text: &OsStr, here: &Path) -> Result<Mount, VolumeError> {
    let shown = || text.to_string_lossy().into_owned();
    let mut parts = text.as_bytes().split(|byte| *byte == b':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        // A place alone: a volume without a name.
        (Some(target), None, ..) => (None, target, None),
        (Some(source), Some(target), options, None) => (Some(source), target, options),
        _ => return Err(VolumeError::Form(shown())),
    };
    if source.is_some_and(<[u8]>::is_empty) || target.is_empty() {
        return Err(VolumeError::Form(shown()));
    }
    let target = Path::new(OsStr::from_bytes(target));
    let mut kind = match source.map(|source| Path::new(OsStr::from_bytes(source))) {
        None => of_volume(String::new()),
        Some(source) => {
            let first = source.components().next();
            let relative = matches!(first, Some(Component::CurDir | Component::ParentDir));
            if source.is_absolute() || relative {
                MountKind::Bind { source: here.join(source).into() }
            } else {
                let name = source.to_str().filter(|name| crate::volume::valid(name));
                let name = name.ok_or_else(|| VolumeError::Named(source.display().to_string()))?;
                of_volume(name.to_owned())
            }
        }
    };
    if !target.is_absolute() {
        return Err(VolumeError::RelativeTarget(target.display().to_string()));
    }
    let target = clean(target);
    if target == Path::new("/") {
        return Err(VolumeError::Root(shown()));
    }
    let (mut read_only, mut propagation) = (false, Propagation::default());
    for option in options.unwrap_or(b"rw").split(|byte| *byte == b',') {
        match option {
            b"ro" => read_only = true,
            // z and Z relabel for SELinux, which has no effect on a host without it.
            // The next three are of systems where a virtual machine runs containers.
            b"rw" | b"z" | b"Z" | b"cached" | b"delegated" | b"consistent" => {}
            b"nocopy" if matches!(kind, MountKind::Volume { .. }) => {
                if let MountKind::Volume { nocopy, .. } = &mut kind {
                    *nocopy = true;
                }
            }
            other => {
                let word = std::str::from_utf8(other).ok().and_then(Propagation::parse);
                if let (Some(word), MountKind::Bind { .. }) = (word, &kind) {
                    propagation = word;
                    continue;
                }
                return Err(VolumeError::Option(
                    OsString::from(OsStr::from_bytes(other)).display().to_string(),
                ));
            }
        }
    }
    Ok(Mount {
        kind,
        target: target.into(),
        read_only,
        propagation,
        non_recursive: false,
        mode: options.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default(),
    })
}

/// Reads all specifications; the result is in mounting order, outer targets first.
pub fn parse_all(texts: &[OsString], here: &Path) -> Result<Vec<Mount>, VolumeError> {
    let mut all = texts.iter().map(|text| parse(text, here)).collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|mount| mount.target.path());
    for (one, next) in all.iter().zip(all.iter().skip(1)) {
        if one.target == next.target {
            return Err(VolumeError::Duplicate(one.target.path().display().to_string()));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_specifications() {
        let here = Path::new("/here");
        for (text, source, target, read_only) in [
            ("/a:/b", "/a", "/b", false),
            ("/a:/b:ro", "/a", "/b", true),
            ("/a:/b:rw,z", "/a", "/b", false),
            ("/a:/b/../c//d/.", "/a", "/c/d", false),
            ("./x:/b", "/here/./x", "/b", false),
            ("..:/b", "/here/..", "/b", false),
        ] {
            let got = parse(text.as_ref(), here).unwrap();
            let expected = MountKind::Bind { source: PathBuf::from(source).into() };
            assert_eq!(got.kind, expected, "{text}");
            assert_eq!(got.target.path().as_os_str(), target, "{text}");
            assert_eq!(got.read_only, read_only, "{text}");
        }
        let odd = OsStr::from_bytes(b"/\xff:/\xfe");
        assert_eq!(parse(odd, here).unwrap().target.path().as_os_str().as_bytes(), b"/\xfe");
    }

    #[test]
    fn volumes_by_name_and_without() {
        let here = Path::new("/here");
        let named = parse("data:/d:nocopy,ro".as_ref(), here).unwrap();
        let kind = MountKind::Volume {
            name: "data".into(),
            anonymous: false,
            nocopy: true,
            subpath: None,
        };
        assert_eq!((named.kind, named.read_only), (kind, true));
        let nameless = parse("/d".as_ref(), here).unwrap();
        assert_eq!(nameless.kind, of_volume(String::new()));
        let slave = parse("/a:/d:rslave".as_ref(), here).unwrap();
        assert_eq!(slave.propagation, Propagation::Rslave);
    }

    #[test]
    fn bad_specifications() {
        let here = Path::new("/here");
        for text in [
            "",
            "a",
            "/a:",
            ":/b",
            "/a:/b:ro:x",
            "na me:/b",
            "data:/b:rslave",
            "/a:/b:nocopy",
            "/a:b",
            "/a:/",
            "/a:/x/..",
            "/a:/b:rx",
        ] {
            assert!(parse(text.as_ref(), here).is_err(), "{text}");
        }
    }

    #[test]
    fn outer_targets_first_and_no_duplicates() {
        let list = ["/1:/b/c".into(), "/2:/a".into(), "/3:/b".into()];
        let targets: Vec<_> =
            parse_all(&list, Path::new("/")).unwrap().iter().map(|v| v.target.path()).collect();
        assert_eq!(targets, [Path::new("/a"), Path::new("/b"), Path::new("/b/c")]);
        let twice = ["/1:/b".into(), "/2:/b/".into()];
        assert!(matches!(parse_all(&twice, Path::new("/")), Err(VolumeError::Duplicate(_))));
    }
}
