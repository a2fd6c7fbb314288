//! `--security-opt`.

use std::fs;
use std::path::Path;

use super::engine;
use crate::cli::Failure;
use crate::container::config::Isolation;
use crate::seccomp;
use crate::spec::capability;

/// Reads the options into the configuration. A profile is read now, so that the container does
/// not depend on its file; it is compiled once to see that it can be.
pub fn read(options: &[String], isolation: &mut Isolation) -> Result<(), Failure> {
    for option in options {
        let invalid = || engine(format!("invalid --security-opt 2: {option:?}"));
        // A colon is how Docker wrote it before.
        let (name, value) = match option.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        match (name, value) {
            ("no-new-privileges", None | Some("true")) => isolation.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => isolation.no_new_privileges = false,
            ("systempaths", Some("unconfined")) => isolation.system_paths = true,
            ("seccomp", Some("unconfined")) => isolation.seccomp = Some("unconfined".to_owned()),
            ("seccomp", Some("builtin")) => isolation.seccomp = None,
            ("seccomp", Some(file)) => isolation.seccomp = Some(profile(file)?),
            ("apparmor", Some(profile)) => isolation.apparmor = Some(profile.to_owned()),
            ("label", Some("disable")) => isolation.labels.push("disable".to_owned()),
            ("label", Some(label)) => {
                if Path::new("/sys/fs/selinux/enforce").exists() {
                    return Err(engine(format!(
                        "--security-opt label={label}: SELinux labels of one's own are not \
                         supported: give label=disable"
                    )));
                }
                isolation.labels.push(label.to_owned());
            }
            _ => return Err(invalid()),
        }
    }
    Ok(())
}

fn profile(file: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| engine(format!("opening seccomp profile ({file}) failed: {error}")))?;
    seccomp::Profile::parse(&text)
        .and_then(|profile| profile.compile(capability::all()))
        .map_err(engine)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(option: &str) -> Option<Isolation> {
        let mut isolation = Isolation::default();
        read(&[option.to_owned()], &mut isolation).ok().map(|()| isolation)
    }

    #[test]
    fn options() {
        assert!(read_one("no-new-privileges").unwrap().no_new_privileges);
        assert!(read_one("no-new-privileges:true").unwrap().no_new_privileges);
        assert!(!read_one("no-new-privileges=false").unwrap().no_new_privileges);
        assert_eq!(read_one("seccomp=unconfined").unwrap().seccomp.unwrap(), "unconfined");
        assert!(read_one("systempaths=unconfined").unwrap().system_paths);
        for bad in ["", "x", "seccomp", "seccomp=/no/such", "systempaths=x", "no-new-privileges=x"]
        {
            assert!(read_one(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_profile_is_read_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let option = format!("seccomp={}", file.path().display());
        fs::write(file.path(), r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
        assert!(read_one(&option).unwrap().seccomp.unwrap().contains("SCMP_ACT_ALLOW"));
        fs::write(file.path(), r#"{"defaultAction":"SCMP_ACT_NOPE"}"#).unwrap();
        assert!(read_one(&option).is_none());
    }
}
