//! What an entry's name asks for.

/// Longest name of one file (Linux `NAME_MAX`).
const MAX_COMPONENT: usize = 255;
/// Longest whole name that is accepted: deeper than any real tree, and a bound for our memory.
const MAX_PATH: usize = 16 * 1024;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own files (`.wh..wh.plnk`, `.wh..wh.aufs`): not part of the image.
const AUFS: &[u8] = b".wh..wh.";

/// What a name asks for. Components are never empty, `.` or `..`.
#[derive(Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The root directory itself.
    Root,
    /// Bookkeeping of AUFS.
    Ignored,
    /// Nothing of the lower layers shows through this directory.
    Opaque { parents: Vec<&'a [u8]> },
    /// The lower layers' `name` is deleted.
    Whiteout { parents: Vec<&'a [u8]>, name: &'a [u8] },
    /// A file of any kind.
    Node { parents: Vec<&'a [u8]>, name: &'a [u8] },
}

/// Reads a name as the archive has it; a leading `/` means the layer's root, as everywhere.
pub fn parse(path: &[u8]) -> Result<Target<'_>, String> {
    let mut parents = components(path)?;
    let Some(name) = parents.pop() else { return Ok(Target::Root) };
    for parent in &parents {
        if parent.starts_with(AUFS) {
            return Ok(Target::Ignored);
        }
        if parent.starts_with(WHITEOUT) {
            return Err("a whiteout cannot be a directory".to_owned());
        }
    }
    if name == OPAQUE {
        return Ok(Target::Opaque { parents });
    }
    if name.starts_with(AUFS) {
        return Ok(Target::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err("this whiteout names no file".to_owned()),
        Some(name) => Ok(Target::Whiteout { parents, name }),
        None => Ok(Target::Node { parents, name }),
    }
}

/// The components of a name below the layer's root.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.len() > MAX_PATH {
        return Err(format!("its name is longer than {MAX_PATH} bytes"));
    }
    if path.contains(&0) {
        return Err("its name contains a NUL byte".to_owned());
    }
    let mut found = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                return Err("its name contains '..', which could lead out of the layer".to_owned());
            }
            long if long.len() > MAX_COMPONENT => {
                return Err(format!("a part of its name is longer than {MAX_COMPONENT} bytes"));
            }
            component => found.push(component),
        }
    }
    Ok(found)
}

/// The name of the file that stands for a whiteout where devices are refused; `None` when it would
/// be too long.
pub fn dot_whiteout(name: &[u8]) -> Option<Vec<u8>> {
    let dotted = [WHITEOUT, name].concat();
    (dotted.len() <= MAX_COMPONENT).then_some(dotted)
}

/// The file form of an opaque mark.
pub const DOT_OPAQUE: &[u8] = OPAQUE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let none: Vec<&[u8]> = vec![];
        let d: Vec<&[u8]> = vec![b"d"];
        assert_eq!(parse(b"./"), Ok(Target::Root));
        assert_eq!(parse(b"/d//./f"), Ok(Target::Node { parents: d.clone(), name: b"f" }));
        assert_eq!(parse(b"d/.wh.f"), Ok(Target::Whiteout { parents: d.clone(), name: b"f" }));
        assert_eq!(parse(b"d/.wh..wh..opq"), Ok(Target::Opaque { parents: d }));
        assert_eq!(parse(b".wh..wh..opq"), Ok(Target::Opaque { parents: none.clone() }));
        assert_eq!(parse(b".wh..wh.plnk/1.2"), Ok(Target::Ignored));
        assert_eq!(parse(b".wh..wh.aufs"), Ok(Target::Ignored));
        assert_eq!(parse(b"..."), Ok(Target::Node { parents: none, name: b"..." }));
    }

    #[test]
    fn dangerous_names_are_refused() {
        let long = [b'n'; 256];
        let deep = b"d/".repeat(10_000);
        let bad: [&[u8]; 10] = [
            b"..",
            b"../x",
            b"a/../../x",
            b"a/..",
            b"/..",
            b".wh...",
            b".wh..",
            b"a/.wh.",
            &long,
            &deep,
        ];
        for name in bad {
            assert!(parse(name).is_err(), "{}", name.escape_ascii());
        }
        assert!(parse(b".wh.d/x").is_err());
    }
}
