//! The environment of PID 1.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::DEFAULT_PATH;

/// An `-e` that names no variable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid environment variable: {0:?}: give NAME=value or NAME")]
pub struct BadVariable(OsString);

/// The name of a variable: what stands before the first `=`.
fn name(variable: &OsStr) -> &[u8] {
    variable.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// Sets a variable in place, so that each stands once, where it was first.
pub fn set(environment: &mut Vec<OsString>, variable: OsString) {
    match environment.iter_mut().find(|old| name(old) == name(&variable)) {
        Some(old) => *old = variable,
        None => environment.push(variable),
    }
}

/// The variables of an `--env-file`: one a line, as `NAME=value` or `NAME`; empty lines and those
/// that begin with `#` do not count.
pub fn parse_file(text: &[u8]) -> Result<Vec<OsString>, BadVariable> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut all = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let variable = OsStr::from_bytes(line).to_owned();
        let name = name(&variable);
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err(BadVariable(variable));
        }
        all.push(variable);
    }
    Ok(all)
}

/// What a user gives: `NAME` without value takes the caller's, and is left out when the caller has
/// none.
pub fn given(
    user: &[OsString],
    caller: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<OsString>, BadVariable> {
    let mut all = Vec::new();
    for variable in user {
        if name(variable).is_empty() {
            return Err(BadVariable(variable.clone()));
        }
        if variable.as_bytes().contains(&b'=') {
            all.push(variable.clone());
        } else if let Some(value) = caller(variable) {
            let mut with_value = variable.clone();
            with_value.push("=");
            with_value.push(value);
            all.push(with_value);
        }
    }
    Ok(all)
}

/// The value of a variable.
pub fn get<'a>(environment: &'a [OsString], wanted: &str) -> Option<&'a OsStr> {
    environment.iter().find(|variable| name(variable) == wanted.as_bytes()).and_then(|variable| {
        variable.as_bytes().get(wanted.len().saturating_add(1)..).map(OsStr::from_bytes)
    })
}

/// PATH, HOSTNAME and (with a terminal) TERM, then the image's, then the user's. A user's `NAME`
/// without value takes the caller's, and removes the variable when the caller has none.
pub fn merge(
    image: &[OsString],
    user: &[OsString],
    caller: impl Fn(&OsStr) -> Option<OsString>,
    hostname: &str,
    tty: bool,
) -> Result<Vec<OsString>, BadVariable> {
    let mut all =
        vec![format!("PATH={DEFAULT_PATH}").into(), format!("HOSTNAME={hostname}").into()];
    if tty {
        all.push("TERM=xterm".into());
    }
    for variable in image.iter().filter(|variable| variable.as_bytes().contains(&b'=')) {
        set(&mut all, variable.clone());
    }
    for variable in user {
        if name(variable).is_empty() {
            return Err(BadVariable(variable.clone()));
        }
        if variable.as_bytes().contains(&b'=') {
            set(&mut all, variable.clone());
        } else if let Some(value) = caller(variable) {
            let mut with_value = variable.clone();
            with_value.push("=");
            with_value.push(value);
            set(&mut all, with_value);
        } else {
            all.retain(|old| name(old) != variable.as_bytes());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(image: &[&str], user: &[&str]) -> Vec<String> {
        let os = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        let caller = |name: &OsStr| (name == "FROM_CALLER").then(|| OsString::from("c=1"));
        let all = merge(&os(image), &os(user), caller, "h", false).unwrap();
        all.into_iter().map(|v| v.into_string().unwrap()).collect()
    }

    #[test]
    fn later_ones_win_and_keep_their_place() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(merged(&[], &[]), [&path, "HOSTNAME=h"]);
        assert_eq!(
            merged(&["PATH=/x", "A=1"], &["A=2", "B=", "C=x=y"]),
            ["PATH=/x", "HOSTNAME=h", "A=2", "B=", "C=x=y"]
        );
    }

    #[test]
    fn a_bare_name_takes_or_removes() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(
            merged(&["A=1"], &["FROM_CALLER", "A"]),
            [path.as_str(), "HOSTNAME=h", "FROM_CALLER=c=1"]
        );
    }

    #[test]
    fn a_variable_needs_a_name() {
        let bad = merge(&[], &["=x".into()], |_| None, "h", true);
        assert_eq!(bad, Err(BadVariable("=x".into())));
    }

    #[test]
    fn files_list_variables() {
        let text = b"\xef\xbb\xbf# comment\n\nA=1\r\n  B= x = y\nC\n#D=1\n";
        assert_eq!(parse_file(text).unwrap(), ["A=1", "B= x = y", "C"]);
        assert!(parse_file(b"=x").is_err());
        assert!(parse_file(b"A B=x").is_err());
    }

    #[test]
    fn values_are_found() {
        let all = ["AB=1".into(), "A=2=3".into()];
        assert_eq!(get(&all, "A"), Some(OsStr::new("2=3")));
        assert_eq!(get(&all, "B"), None);
    }
}
