//! `--device` and `--device-cgroup-rule`.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::engine;
use crate::cli::Failure;
use crate::container::config::{Device, DeviceRule};

fn permissions(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte))
}

/// Reads `DEVICE[:TARGET][:rwm]`; a directory stands for all devices in it.
pub fn parse(text: &str) -> Result<Vec<Device>, Failure> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, allowed) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, mode] if permissions(mode) => (*source, *source, *mode),
        [source, target] => (*source, *target, "rwm"),
        [source, target, mode] if permissions(mode) => (*source, *target, *mode),
        [_, _, mode] => return Err(engine(format!("invalid device mode: {mode}"))),
        _ => return Err(engine(format!("invalid device specification: {text}"))),
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(engine(format!("bad format for path: {text}: device paths are absolute")));
    }
    let mut found = Vec::new();
    gather(Path::new(source), Path::new(target), &mut found, 0).map_err(|error| {
        engine(format!(
            "error gathering device information while adding custom device \"{source}\": {error}"
        ))
    })?;
    if found.is_empty() {
        return Err(engine(format!(
            "error gathering device information while adding custom device \"{source}\": not a \
             device node"
        )));
    }
    let device = |(source, target): (PathBuf, PathBuf)| Device {
        source: source.into(),
        target: target.into(),
        permissions: allowed.to_owned(),
    };
    Ok(found.into_iter().map(device).collect())
}

/// Directories below `/dev` that are deeper than this are not devices' any more.
const DEEPEST: usize = 8;

fn gather(
    source: &Path,
    target: &Path,
    found: &mut Vec<(PathBuf, PathBuf)>,
    depth: usize,
) -> std::io::Result<()> {
    let metadata = fs::metadata(source)?;
    let kind = metadata.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        found.push((fs::canonicalize(source)?, target.to_owned()));
    } else if kind.is_dir() && depth < DEEPEST {
        for entry in fs::read_dir(source)? {
            let entry = entry?;
            if !entry.file_type()?.is_symlink() {
                let name = entry.file_name();
                gather(&source.join(&name), &target.join(&name), found, depth.saturating_add(1))?;
            }
        }
    }
    Ok(())
}

/// Reads a rule of the devices control group.
pub fn rule(text: &str) -> Result<DeviceRule, Failure> {
    let bad = || engine(format!("invalid device cgroup format: '{text}': give as in 'c 10:* rwm'"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, numbers, allowed] = words.as_slice() else { return Err(bad()) };
    let kind = match *kind {
        "a" => 'a',
        "b" => 'b',
        "c" => 'c',
        _ => return Err(bad()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse().map(Some).map_err(|_| bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if !permissions(allowed) {
        return Err(bad());
    }
    let (major, minor) = (number(major)?, number(minor)?);
    Ok(DeviceRule { kind, major, minor, permissions: (*allowed).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let one = parse("/dev/null:/dev/x:r").unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].target.path(), Path::new("/dev/x"));
        assert_eq!(one[0].permissions, "r");
        assert_eq!(parse("/dev/null:rw").unwrap()[0].target.path(), Path::new("/dev/null"));
        for bad in ["null", "/dev/null:x", "/dev/null:/x:q", "/dev/nosuch", "/etc/passwd", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules() {
        let rule = super::rule("c 10:* rm").unwrap();
        assert_eq!((rule.kind, rule.major, rule.minor), ('c', Some(10), None));
        for bad in ["", "c 10 rwm", "x 1:1 r", "c 1:1 q", "c 1:1", "c a:1 r"] {
            assert!(super::rule(bad).is_err(), "{bad}");
        }
    }
}
