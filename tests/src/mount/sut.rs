//! The filesystem under test: how to mount each, and how to tell that it is usable or gone.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::jail::Mode;
use super::sys;

/// How long a mount may take to become usable, and a filesystem process to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A filesystem that can be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sut {
    /// Ours.
    Cowlfs,
    /// Linux's own.
    Overlay,
    /// The peer, as installed.
    FuseOverlayfs,
}

/// What is to be mounted where.
pub struct Layers<'a> {
    /// Directory with `upper`, `work` and `mnt`.
    pub dir: &'a Path,
    /// Lower layers, topmost first.
    pub lowers: &'a [PathBuf],
    /// As whom.
    pub mode: Mode,
    /// More options.
    pub options: &'a [String],
}

/// A running filesystem process.
pub struct Server {
    child: Child,
}

impl Sut {
    /// The one named by `COWL_SUT`; ours by default.
    pub fn from_env() -> Sut {
        match std::env::var("COWL_SUT").as_deref() {
            Err(_) | Ok("" | "cowlfs") => Sut::Cowlfs,
            Ok("overlay") => Sut::Overlay,
            Ok("fuse-overlayfs") => Sut::FuseOverlayfs,
            Ok(other) => panic!("COWL_SUT={other}: use cowlfs, overlay or fuse-overlayfs"),
        }
    }

    /// The program of a FUSE filesystem; none for kernel overlayfs.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Sut::Overlay => None,
            Sut::FuseOverlayfs => Some(
                std::env::var_os("FUSE_OVERLAYFS")
                    .map_or_else(|| "/usr/bin/fuse-overlayfs".into(), PathBuf::from),
            ),
            Sut::Cowlfs => Some(cowlfs_program()),
        }
    }

    fn options(self, l: &Layers<'_>) -> String {
        let lowers: Vec<_> = l.lowers.iter().map(|p| p.display().to_string()).collect();
        let mut o = vec![
            format!("lowerdir={}", lowers.join(":")),
            format!("upperdir={}", l.dir.join("upper").display()),
            format!("workdir={}", l.dir.join("work").display()),
        ];
        if self == Sut::Overlay {
            o.push(match l.mode {
                Mode::Root => "redirect_dir=on,index=on,xino=auto".into(),
                Mode::UserNs => "userxattr".into(),
            });
        }
        // Before those that a test insists on: the last one counts.
        if self == Sut::Cowlfs {
            o.extend(std::env::var("COWL_MOUNT_OPTIONS").ok().filter(|more| !more.is_empty()));
        }
        if self != Sut::Overlay {
            o.extend(l.options.iter().cloned());
        }
        o.join(",")
    }

    /// Mounts and returns once the mount is usable.
    pub fn mount(self, l: &Layers<'_>) -> Result<Option<Server>, String> {
        let mnt = l.dir.join("mnt");
        let options = self.options(l);
        if self == Sut::Overlay {
            return sys::mount("overlay", &mnt, "overlay", 0, options.as_bytes())
                .map(|()| None)
                .map_err(|e| format!("overlay with {}: {e}", short(&options)));
        }
        let log = l.dir.join("fs.log");
        let out =
            File::options().create(true).append(true).open(&log).map_err(|e| e.to_string())?;
        let mut cmd = Command::new(super::jail::program_inside());
        sys::die_with_parent(&mut cmd);
        cmd.stdin(Stdio::null()).stdout(out.try_clone().map_err(|e| e.to_string())?).stderr(out);
        cmd.arg("-f");
        let pipe = sys::ready_pipe().map_err(|e| e.to_string())?;
        if self == Sut::Cowlfs {
            cmd.arg("--ready-fd").arg(pipe.1.as_raw_fd().to_string());
        }
        cmd.arg("-o").arg(&options).arg(&mnt);
        let child = cmd.spawn().map_err(|e| format!("cannot start the filesystem: {e}"))?;
        drop(pipe.1);
        let mut server = Server { child };
        let ready = match self {
            Sut::Cowlfs => wait_byte(&pipe.0),
            _ => server.wait_fuse(&mnt),
        };
        match ready {
            Ok(()) => Ok(Some(server)),
            Err(e) => {
                server.kill();
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                Err(format!("{e}; options {}; it said: {}", short(&options), short(&log)))
            }
        }
    }
}

/// Enough of a text for a message.
fn short(s: &str) -> &str {
    s.get(..1500).unwrap_or(s)
}

fn wait_byte(fd: &std::os::fd::OwnedFd) -> Result<(), String> {
    match sys::wait_readable(fd, PATIENCE.as_millis() as i32) {
        Ok(true) => match sys::read(fd, 1) {
            Ok(b) if b.len() == 1 => Ok(()),
            _ => Err("it ended before the mount was usable".into()),
        },
        _ => Err("it was not ready in time".into()),
    }
}

impl Server {
    /// The process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn wait_fuse(&mut self, mnt: &Path) -> Result<(), String> {
        const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if sys::statfs(mnt).is_ok_and(|s| s.f_type == FUSE_SUPER_MAGIC) {
                return Ok(());
            }
            if let Ok(Some(s)) = self.child.try_wait() {
                return Err(format!("it ended with {s}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err("it was not ready in time".into())
    }

    /// Waits for the end that an unmount causes; fails when it does not come, or when it is not a
    /// clean one but should be: with a broken disk the program may say that it could not sync.
    pub fn wait_end(mut self, clean: bool) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(s) = self.child.try_wait().expect("wait for the filesystem") {
                assert!(
                    s.success() || (!clean && s.code() == Some(1)),
                    "the filesystem ended with {s} after the unmount"
                );
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = self.pid();
        self.child.kill().expect("kill the filesystem");
        panic!("the filesystem (process {pid}) still runs {PATIENCE:?} after the unmount");
    }

    /// SIGKILL, and wait.
    pub fn kill(mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where our program is: `COWLFS`, `COWL_BIN_DIR/cowlfs`, or next to this test in cargo's target.
fn cowlfs_program() -> PathBuf {
    if let Some(p) = std::env::var_os("COWLFS") {
        return p.into();
    }
    if let Some(d) = std::env::var_os("COWL_BIN_DIR") {
        return Path::new(&d).join("cowlfs");
    }
    let exe = std::env::current_exe().expect("the path of this test");
    exe.ancestors().skip(1).take(3).map(|d| d.join("cowlfs")).find(|p| p.is_file()).unwrap_or_else(
        || panic!("no cowlfs program: run `cargo build -p cowl-fs` first, or set COWLFS"),
    )
}
