//! The last steps: the working directory, the search in PATH, exec.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, execve};

use super::plan::Process;
use super::{Error, shown, step};
use crate::spec::environment;
use crate::spec::user::Identity;

/// Goes to the working directory, and checks that it lies in the container.
pub fn change_dir(dir: &Path) -> Result<(), Error> {
    let failed = || step(format!("enter the working directory {}", dir.display()));
    nix::unistd::chdir(dir).map_err(failed())?;
    // The kernel says ENOENT for one that cannot be reached from the root.
    nix::unistd::getcwd().map(drop).map_err(failed())
}

fn executable(path: &Path) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    let kind = stat.st_mode & nix::libc::S_IFMT;
    if kind == nix::libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    // The effective ids count at exec; here real and effective are the same.
    nix::unistd::access(path, AccessFlags::X_OK)
}

/// Finds the program as execvp(3) would, in the container's PATH.
fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Error> {
    if program.as_bytes().contains(&b'/') {
        return match executable(Path::new(program)) {
            Ok(()) => Ok(program.into()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Error::NoSuchFile(shown(program))),
            Err(errno) => Err(Error::Exec(shown(program), errno)),
        };
    }
    if !program.is_empty() && !path.is_empty() {
        for dir in path.as_bytes().split(|byte| *byte == b':') {
            let dir = if dir.is_empty() { b"." } else { dir };
            let candidate = Path::new(OsStr::from_bytes(dir)).join(program);
            if executable(&candidate).is_ok() {
                return Ok(candidate);
            }
        }
    }
    Err(Error::NotInPath(shown(program)))
}

fn c_strings(list: &[OsString]) -> Result<Vec<CString>, Error> {
    list.iter()
        .map(|word| {
            CString::new(word.as_bytes())
                .map_err(|_| Error::Step("pass a word with a NUL byte".to_owned(), Errno::EINVAL))
        })
        .collect()
}

/// A command that was found, with everything that exec takes.
#[derive(Debug)]
pub struct Ready {
    program: String,
    file: CString,
    arguments: Vec<CString>,
    variables: Vec<CString>,
    inherited: u32,
}

impl Ready {
    /// Becomes the command.
    pub fn execute(self) -> Result<Infallible, Error> {
        crate::sys::descriptor::close_on_exec_from(3u32.saturating_add(self.inherited))
            .map_err(step("close descriptors"))?;
        execve(&self.file, &self.arguments, &self.variables)
            .map_err(|errno| Error::Exec(self.program, errno))
    }
}

/// Finds the command.
pub fn prepare(process: &Process, identity: &Identity) -> Result<Ready, Error> {
    let mut variables = process.environment.clone();
    // An empty HOME counts as none, as in runc.
    if environment::get(&variables, "HOME").is_none_or(OsStr::is_empty) {
        variables.retain(|variable| !variable.as_bytes().starts_with(b"HOME="));
        let mut home = OsString::from("HOME=");
        home.push(&identity.home);
        variables.push(home);
    }
    let program = process.command.first().map_or(OsStr::new(""), |word| word.as_os_str());
    let path = environment::get(&variables, "PATH").unwrap_or_default();
    let found = find(program, path)?;
    let arguments = c_strings(&process.command)?;
    let variables = c_strings(&variables)?;
    let file = CString::new(found.into_os_string().into_vec())
        .map_err(|_| Error::Exec(shown(program), Errno::EINVAL))?;
    let (program, inherited) = (shown(program), process.inherited);
    Ok(Ready { program, file, arguments, variables, inherited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_path_order() {
        let found = find("sh".as_ref(), "/nonexistent:/usr/bin:/bin".as_ref()).unwrap();
        assert_eq!(found, Path::new("/usr/bin/sh"));
        let missing = find("no-such-program".as_ref(), "/bin".as_ref()).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "exec: \"no-such-program\": executable file not found in $PATH"
        );
        assert_eq!(missing.exit_code(), 127);
        assert_eq!(find("".as_ref(), "/bin".as_ref()).unwrap_err().exit_code(), 127);
        assert_eq!(find("/etc".as_ref(), "".as_ref()).unwrap_err().exit_code(), 126);
        let nowhere = find("/no/such".as_ref(), "".as_ref()).unwrap_err();
        assert_eq!(
            nowhere.to_string(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(nowhere.exit_code(), 127);
    }
}
