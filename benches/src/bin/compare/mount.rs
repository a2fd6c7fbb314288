//! One union, mounted for one run of one workload.
//!
//! The clock of a mount starts where the program does (a helper of ours reads it right before it
//! becomes the program) and stops when the mount point is another filesystem.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use crate::child;
use crate::fault::{Doing, Fault, Result};
use crate::fixture;
use crate::process;
use crate::system::{Kind, System};

/// How long a mount, and the end after an unmount, may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A union (or a plain directory) and the process behind it.
#[derive(Debug)]
pub struct Union {
    system: System,
    base: PathBuf,
    lowers: Vec<PathBuf>,
    plain: PathBuf,
    owner: u32,
    server: Option<Child>,
    mounted: bool,
}

impl Union {
    /// An empty upper in `base` over these layers; `plain` is what a plain directory shows instead.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn new(
        system: &System,
        base: &Path,
        lowers: Vec<PathBuf>,
        plain: PathBuf,
        owner: u32,
    ) -> Result<Union> {
        let union = Union {
            system: system.clone(),
            base: base.to_owned(),
            lowers,
            plain,
            owner,
            server: None,
            mounted: false,
        };
        for part in ["u", "w", "m"] {
            let path = base.join(part);
            fixture::open_directory(&path)?;
            if system.user {
                chown(&path, Some(owner), Some(owner))
                    .doing(|| format!("chown {}", path.display()))?;
            }
        }
        Ok(union)
    }

    /// Where the merged tree is.
    pub fn root(&self) -> PathBuf {
        if self.system.kind == Kind::Native { self.plain.clone() } else { self.base.join("m") }
    }

    /// Where new files go: for a plain directory beside the fixture, which stays as it is.
    pub fn fresh(&self) -> PathBuf {
        if self.system.kind == Kind::Native { self.base.join("u") } else { self.base.join("m") }
    }

    /// Process and user whose namespaces the mount is in.
    pub fn namespace(&self) -> Option<(u32, u32)> {
        self.server.as_ref().filter(|_| self.system.user).map(|s| (s.id(), self.owner))
    }

    /// The mount program, where there is one.
    pub fn daemon(&self) -> Option<u32> {
        let fuse = matches!(self.system.kind, Kind::Fuse(_));
        self.server.as_ref().filter(|_| fuse).map(Child::id)
    }

    /// Mounts, and says how many seconds it took.
    ///
    /// # Errors
    /// When it fails; the sentence has what the program wrote.
    pub fn mount(&mut self) -> Result<f64> {
        let point = self.base.join("m");
        let log = self.base.join("log");
        // mount(2) takes a page of options at most, which many long paths would not fit.
        let start = self.lowers.first().and_then(|l| l.parent());
        let start = start.filter(|_| self.system.kind == Kind::Overlay).unwrap_or(Path::new("/"));
        let mut options = format!(
            "lowerdir={},upperdir={},workdir={}",
            join(&self.lowers, start),
            self.base.join("u").display(),
            self.base.join("w").display()
        );
        if !self.system.options.is_empty() {
            options = format!("{options},{}", self.system.options);
        }
        let user = self.system.user.then(|| self.owner.to_string());
        let (mode, program) = match &self.system.kind {
            Kind::Native => return Ok(0.0),
            Kind::Overlay => {
                (if self.system.user { "__hold" } else { "__serve" }, mount_program()?)
            }
            Kind::Fuse(path) => ("__serve", path.clone()),
        };
        let mut command = child::again(mode)?;
        command.args(user).arg("--").arg(&program);
        match self.system.kind {
            Kind::Overlay => command.args(["-t", "overlay", "overlay", "-o", &options]),
            _ => command.args(["-f", "-o", &options]),
        };
        let output = fs::File::create(&log).doing(|| format!("create {}", log.display()))?;
        let errors = output.try_clone().doing(|| "the log")?;
        let child = command
            .arg(&point)
            .current_dir(start)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .doing(|| format!("start {}", program.display()))?;
        let end = match self.await_mount(child, &point) {
            Ok(end) => end,
            Err(fault) => {
                self.stop();
                return Err(Fault(format!("{fault}: {}", said(&log))));
            }
        };
        self.mounted = true;
        let start = fs::read_to_string(&log).unwrap_or_default();
        let start: i64 =
            start.lines().next().unwrap_or_default().parse().doing(|| "read the start time")?;
        Ok((end - start) as f64 / 1e9)
    }

    /// The time when the mount was seen.
    fn await_mount(&mut self, mut child: Child, point: &Path) -> Result<i64> {
        let pid = child.id();
        // Kernel overlayfs for root is mounted by a program that ends.
        if self.system.kind == Kind::Overlay && !self.system.user {
            let status = child.wait().doing(|| "wait for mount")?;
            let end = process::monotonic()?;
            let done = status.success() && is_mounted(point);
            return if done { Ok(end) } else { Err(Fault("mount failed".into())) };
        }
        self.server = Some(child);
        let limit = Instant::now() + PATIENCE;
        loop {
            let there = if self.system.user { seen_by(pid, point) } else { is_mounted(point) };
            if there {
                return process::monotonic();
            }
            let ended = self.server.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                return Err(Fault(format!("it ended with {status}")));
            }
            if Instant::now() > limit {
                return Err(Fault("it was not mounted in time".into()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Unmounts and waits until the program has ended.
    ///
    /// # Errors
    /// When it does not go away in time.
    pub fn unmount(&mut self) -> Result<()> {
        if !self.mounted {
            return Ok(());
        }
        self.mounted = false;
        if self.system.user {
            return self.unmount_elsewhere();
        }
        let point = self.base.join("m");
        let limit = Instant::now() + PATIENCE;
        // A process that is just ending may still be inside.
        while let Err(errno) = umount2(&point, MntFlags::empty()) {
            if errno != nix::Error::EBUSY || Instant::now() > limit {
                self.mounted = true;
                return Err(Fault(format!("unmount {}: {}", point.display(), errno.desc())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.await_end()
    }

    fn unmount_elsewhere(&mut self) -> Result<()> {
        let Some((pid, uid)) = self.namespace() else { return Ok(()) };
        if self.system.kind == Kind::Overlay {
            // The namespace goes with its holder, and the mount with it.
            self.stop();
            return Ok(());
        }
        let mut command = child::again("__unmount")?;
        command.args([pid.to_string(), uid.to_string()]).arg(self.base.join("m"));
        process::run(command, "unmount", PATIENCE)?;
        self.await_end()
    }

    fn await_end(&mut self) -> Result<()> {
        let Some(mut child) = self.server.take() else { return Ok(()) };
        let limit = Instant::now() + PATIENCE;
        while child.try_wait().doing(|| "wait for the server")?.is_none() {
            if Instant::now() > limit {
                process::stop(&mut child);
                return Err(Fault("the server still ran 20 s after the unmount".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Takes everything down, whatever its state.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.server.take() {
            // Reaped below; the mount of a dead server answers errors until it is taken away.
            let _gone = child.kill();
            detach(self);
            process::stop(&mut child);
        } else {
            detach(self);
        }
    }
}

fn detach(union: &mut Union) {
    if union.mounted || is_mounted(&union.base.join("m")) {
        // There may be none.
        let _gone = umount2(&union.base.join("m"), MntFlags::MNT_DETACH);
        union.mounted = false;
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Layers as an option: relative to a directory other than `/`.
fn join(lowers: &[PathBuf], start: &Path) -> String {
    let shown = |l: &PathBuf| match l.strip_prefix(start) {
        Ok(rest) if start != Path::new("/") => rest.display().to_string(),
        _ => l.display().to_string(),
    };
    lowers.iter().map(shown).collect::<Vec<_>>().join(":")
}

fn mount_program() -> Result<PathBuf> {
    ["/usr/bin/mount", "/bin/mount"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| Fault("there is no mount(8)".into()))
}

/// Whether another filesystem begins here; also so for a dead server.
fn is_mounted(point: &Path) -> bool {
    let Some(parent) = point.parent() else { return false };
    match (fs::metadata(point), fs::metadata(parent)) {
        (Ok(here), Ok(above)) => here.dev() != above.dev(),
        (Err(error), _) => error.raw_os_error() == Some(nix::libc::ENOTCONN),
        _ => false,
    }
}

fn seen_by(pid: u32, point: &Path) -> bool {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let point = point.display().to_string();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&point))
}

/// What a program wrote, without the time that our helper wrote first.
fn said(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    if lines.first().is_some_and(|line| line.parse::<i64>().is_ok()) {
        lines.remove(0);
    }
    let text = lines.join(" ");
    if text.is_empty() { "it said nothing".into() } else { text.chars().take(300).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_are_named_from_their_parent() {
        let lowers = [PathBuf::from("/a/b/l0"), "/a/b/l1".into(), "/c".into()];
        assert_eq!(join(&lowers, Path::new("/a/b")), "l0:l1:/c");
        assert_eq!(join(&lowers, Path::new("/")), "/a/b/l0:/a/b/l1:/c");
    }

    #[test]
    fn a_directory_on_the_same_filesystem_is_no_mount() {
        let at = tempfile::tempdir().unwrap();
        assert!(!is_mounted(at.path()));
        assert!(is_mounted(Path::new("/proc")));
        assert!(seen_by(std::process::id(), Path::new("/proc")));
        assert!(!seen_by(std::process::id(), at.path()));
    }
}
