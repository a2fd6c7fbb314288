//! `--mount type=…,…` and `--tmpfs TARGET[:OPTIONS]`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::quantity;
use super::volume::{VolumeError, clean};
use crate::container::config::{Mount, MountKind, Propagation};
use crate::volume;

/// Why a specification is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not `KEY=VALUE,…`.
    #[error(
        "invalid argument \"{0}\" for \"--mount\" flag: invalid field '{1}' must be a key=value pair"
    )]
    Field(String, String),
    /// A key that there is not.
    #[error("invalid argument \"{0}\" for \"--mount\" flag: unexpected key '{1}' in '{2}'")]
    Key(String, String, String),
    /// A value that the key cannot have.
    #[error("invalid argument \"{0}\" for \"--mount\" flag: invalid value for {1}: {2}")]
    Value(String, String, String),
    /// A key that belongs to another type.
    #[error(
        "invalid argument \"{0}\" for \"--mount\" flag: cannot mix '{1}' options with mount type '{2}'"
    )]
    Mixed(String, String, String),
    /// No target.
    #[error("invalid argument \"{0}\" for \"--mount\" flag: target is required")]
    NoTarget(String),
    /// No source.
    #[error("invalid argument \"{0}\" for \"--mount\" flag: source is required for type bind")]
    NoSource(String),
    /// A bind mount of nothing.
    #[error("invalid mount config for type \"bind\": bind source path does not exist: {0}")]
    Missing(String),
    /// A bind mount of a relative path.
    #[error(
        "invalid mount config for type \"bind\": invalid mount path: '{0}' mount path must be absolute"
    )]
    Relative(String),
    /// Not a path in the container.
    #[error(transparent)]
    Target(#[from] VolumeError),
    /// An option that a tmpfs does not have.
    #[error("invalid tmpfs option {0:?}")]
    Tmpfs(String),
    /// A volume that is no plain directory.
    #[error(
        "--mount {0}: volumes are plain directories here, and have neither options nor labels: leave it out"
    )]
    VolumeOption(String),
}

/// A place in the container.
fn target(text: &str) -> Result<PathBuf, Error> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(VolumeError::RelativeTarget(text.to_owned()).into());
    }
    let cleaned = clean(path);
    if cleaned == Path::new("/") {
        return Err(VolumeError::Root(text.to_owned()).into());
    }
    Ok(cleaned)
}

/// The options of a tmpfs that the kernel or the mount know.
fn tmpfs_option(option: &str) -> bool {
    let flags = ["ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev"];
    let keys = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    flags.contains(&option)
        || option.split_once('=').is_some_and(|(key, value)| {
            keys.contains(&key) && !value.is_empty() && value.is_ascii()
        })
}

/// Reads `--tmpfs TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<Mount, Error> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let options: Vec<String> =
        options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    if let Some(bad) = options.iter().find(|option| !tmpfs_option(option)) {
        return Err(Error::Tmpfs(bad.clone()));
    }
    Ok(Mount {
        read_only: options.iter().any(|option| option == "ro"),
        kind: MountKind::Tmpfs { options },
        target: target(path)?.into(),
        propagation: Propagation::Rprivate,
        non_recursive: false,
        mode: String::new(),
    })
}

/// Reads one `--mount`.
pub fn parse(text: &str) -> Result<Mount, Error> {
    let mut kind = "volume".to_owned();
    let (mut source, mut place) = (None, None);
    let (mut read_only, mut nocopy, mut non_recursive) = (false, false, false);
    let (mut propagation, mut subpath, mut options) = (None, None, Vec::new());
    let mut keys = Vec::new();
    for field in text.split(',') {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let bad = || Error::Value(text.into(), key.clone(), value.unwrap_or_default().into());
        let truth = || match value {
            None | Some("1" | "true" | "True" | "TRUE") => Ok(true),
            Some("0" | "false" | "False" | "FALSE") => Ok(false),
            Some(_) => Err(bad()),
        };
        let needed = || value.ok_or_else(|| Error::Field(text.into(), field.into()));
        match key.as_str() {
            "type" => kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => source = Some(needed()?.to_owned()),
            "target" | "destination" | "dst" => place = Some(target(needed()?)?),
            "readonly" | "ro" => read_only = truth()?,
            "consistency" => drop(needed()?), // of other systems; without effect, as in Docker
            "bind-propagation" => {
                propagation = Some(Propagation::parse(needed()?).ok_or_else(bad)?);
            }
            "bind-nonrecursive" => non_recursive = truth()?,
            "bind-recursive" => match needed()? {
                "enabled" => {}
                "disabled" => non_recursive = true,
                _ => return Err(bad()),
            },
            "volume-nocopy" => nocopy = truth()?,
            "volume-subpath" => subpath = Some(needed()?.to_owned()),
            "volume-driver" => {
                if needed()? != "local" {
                    return Err(bad());
                }
            }
            "volume-label" | "volume-opt" => return Err(Error::VolumeOption(field.into())),
            "tmpfs-size" => {
                let size = quantity::bytes(needed()?).map_err(|_| bad())?;
                options.push(format!("size={size}"));
            }
            "tmpfs-mode" => {
                u32::from_str_radix(needed()?, 8).map_err(|_| bad())?;
                options.push(format!("mode={}", needed()?));
            }
            _ if value.is_none() => return Err(Error::Field(text.into(), field.into())),
            _ => return Err(Error::Key(text.into(), key, field.into())),
        }
        keys.push(key);
    }
    let place = place.ok_or_else(|| Error::NoTarget(text.into()))?;
    if let Some(other) = ["bind", "volume", "tmpfs"].iter().find(|other| {
        **other != kind && keys.iter().any(|key| key.starts_with(&format!("{other}-")))
    }) {
        return Err(Error::Mixed(text.into(), format!("{other}-*"), kind));
    }
    let made = match kind.as_str() {
        "bind" => {
            let source = source.ok_or_else(|| Error::NoSource(text.into()))?;
            if !source.starts_with('/') {
                return Err(Error::Relative(source));
            }
            MountKind::Bind { source: OsString::from(source).into() }
        }
        "volume" => {
            let name = source.filter(|name| !name.is_empty());
            if let Some(name) = name.as_ref().filter(|name| !volume::valid(name)) {
                return Err(VolumeError::Named(name.clone()).into());
            }
            let subpath = subpath.map(|path| OsString::from(path).into());
            let anonymous = name.is_none();
            MountKind::Volume { name: name.unwrap_or_default(), anonymous, nocopy, subpath }
        }
        "tmpfs" => MountKind::Tmpfs { options },
        other => return Err(Error::Value(text.into(), "type".into(), other.into())),
    };
    Ok(Mount {
        kind: made,
        target: place.into(),
        read_only,
        propagation: propagation.unwrap_or_default(),
        non_recursive,
        mode: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_read_as_in_docker() {
        let bind = parse("type=bind,source=/a,target=/b/../c,readonly,bind-propagation=rslave");
        let bind = bind.unwrap();
        assert_eq!(bind.target.path(), Path::new("/c"));
        assert!(bind.read_only && bind.propagation == Propagation::Rslave);
        let volume = parse("src=data,dst=/d,volume-nocopy=true,volume-subpath=x").unwrap();
        assert!(matches!(
            volume.kind,
            MountKind::Volume { ref name, anonymous: false, nocopy: true, subpath: Some(_) }
                if name == "data"
        ));
        let nameless = parse("type=volume,target=/d").unwrap();
        assert!(matches!(nameless.kind, MountKind::Volume { anonymous: true, .. }));
        let memory = parse("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        let expected = vec!["size=1048576".to_owned(), "mode=1770".to_owned()];
        assert_eq!(memory.kind, MountKind::Tmpfs { options: expected });
    }

    #[test]
    fn bad_mounts() {
        for bad in [
            "",
            "type=bind,source=/a",
            "type=bind,target=/b",
            "type=bind,source=a,target=/b",
            "type=bind,source=/a,target=b",
            "type=bind,source=/a,target=/",
            "type=nope,target=/b",
            "target=/b,nope=1",
            "target=/b,nope",
            "source=a/b,target=/b",
            "target=/b,readonly=maybe",
            "target=/b,tmpfs-size=1m",
            "type=tmpfs,target=/b,tmpfs-size=x",
            "type=tmpfs,target=/b,tmpfs-mode=9",
            "type=bind,source=/a,target=/b,bind-propagation=x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_options() {
        let mount = tmpfs("/t:ro,size=64k,exec").unwrap();
        assert!(mount.read_only);
        assert!(tmpfs("/t").is_ok());
        for bad in ["t", "/", "/t:nope", "/t:size=", "/t:source=x"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}
