//! What a container can reach of the machine, and of the engine itself: nothing that it was not
//! given.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cowl_tests::container::{Caller, Machine, left};
use cowl_tests::{as_root_and_user, as_single_id};
use nix::errno::Errno;

as_root_and_user!(
    only_the_streams_are_open,
    the_engines_own_file_cannot_be_written,
    the_environment_holds_nothing_of_the_engine,
);

as_single_id!(
    only_the_streams_are_open,
    the_engines_own_file_cannot_be_written,
    the_environment_holds_nothing_of_the_engine,
);

fn only_the_streams_are_open(machine: &Machine) {
    // The shell opens nothing by itself to expand a pattern but the directory, as number 3.
    let list = "for fd in /proc/1/fd/*; do echo ${fd##*/}; done";
    assert_eq!(machine.busybox(["sh", "-c", list]).ok(), "0\n1\n2\n3\n");
    // `ls` is PID 1 here: the same directory once more, and nothing else.
    assert_eq!(machine.busybox(["ls", "/proc/1/fd"]).ok(), "0\n1\n2\n3\n");
}

fn the_environment_holds_nothing_of_the_engine(machine: &Machine) {
    let mut run = machine.command(["run", "--rm", "-e", "_COWL_DECIDED_ROOT", "busybox", "env"]);
    let said = run.output().expect("run cowl");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("PATH=") && !said.contains("COWL"), "{said}");
}

/// The processes of a container whose command is the engine's own program.
struct Inside<'a> {
    machine: &'a Machine,
    child: Child,
}

impl Inside<'_> {
    /// PID 1 of the container, as this machine counts.
    fn init(&self) -> PathBuf {
        let start = Instant::now();
        loop {
            for pid in left::named(self.machine.dir(), "/proc/self/exe --root") {
                let process = PathBuf::from(format!("/proc/{pid}"));
                let status = fs::read_to_string(process.join("status")).unwrap_or_default();
                let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                let command = fs::read(process.join("cmdline")).unwrap_or_default();
                if numbers.is_some_and(|list| list.ends_with("\t1"))
                    && command == b"/proc/self/exe\0--root\0/tmp/inner\0load\0"
                {
                    return process;
                }
            }
            assert!(start.elapsed() < Duration::from_secs(20), "no PID 1 that is the engine");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.child.kill().expect("end cowl");
        self.child.wait().expect("wait for cowl");
    }
}

/// CVE-2019-5736: the image's command is `/proc/self/exe`, which at that moment is the engine.
fn the_engines_own_file_cannot_be_written(machine: &Machine) {
    let program = machine.path("bin/cowl");
    let before = fs::read(&program).expect("read the program");
    // `load` waits for an archive on stdin, so that there is time to look. The machine's own
    // libraries are in the container, as they would be in an image made for this. All system calls
    // are allowed: the engine inside wants a user namespace.
    let child = machine
        .command(["run", "--rm", "-i", "--security-opt", "seccomp=unconfined", "host"])
        .args(["/proc/self/exe", "--root", "/tmp/inner", "load"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("run cowl");
    let inside = Inside { machine, child };
    let exe = inside.init().join("exe");
    // Root of this machine tries, who may do more than any root of a container.
    let refused = |what: &str, result: std::io::Result<()>| {
        let errno = result.expect_err(what).raw_os_error().map(Errno::from_raw);
        assert_eq!(errno, Some(Errno::EROFS), "{what}");
    };
    refused("chmod", fs::set_permissions(&exe, Permissions::from_mode(0o777)));
    let now = nix::sys::time::TimeSpec::UTIME_NOW;
    let touched = nix::sys::stat::utimensat(
        nix::fcntl::AT_FDCWD,
        &exe,
        &now,
        &now,
        nix::sys::stat::UtimensatFlags::FollowSymlink,
    );
    refused("touch", touched.map_err(Into::into));
    assert!(writable(&exe).is_err());
    assert!(writable(&program).is_err(), "the kernel protects what is being executed");
    drop(inside);
    assert_eq!(fs::read(&program).expect("read the program"), before);
}

fn writable(path: &Path) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).open(path).map(drop)
}

#[test]
fn an_image_of_130_layers_runs_as_root() {
    many_layers(Caller::Root);
}

#[test]
fn an_image_of_130_layers_runs_as_user() {
    many_layers(Caller::User);
}

fn many_layers(caller: Caller) {
    use cowl_tests::container::archive::{self, Tar};
    let machine = Machine::new(caller);
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    let shell = Tar::default()
        .directory("bin/")
        .entry("bin/busybox", b'0', "", 0o755, &busybox)
        .symlink("bin/sh", "busybox");
    let layers: Vec<Vec<u8>> = std::iter::once(shell)
        .chain((1..130).map(|n| {
            let number = n.to_string();
            Tar::default().file("last", number.as_bytes()).file(&format!("d/{n}"), b"")
        }))
        .map(Tar::finish)
        .collect();
    machine.load(&machine.file("many.tar", archive::image("many", &layers)));
    let before = machine.layers();
    assert_eq!(before.len(), 130);
    let script = "busybox cat /last; echo; busybox ls /d | busybox wc -l; \
                  busybox rm /d/64; echo new > /last; busybox ls /d | busybox wc -l";
    let said = machine.cowl(["run", "--rm", "many", "sh", "-c", script]).ok();
    assert_eq!(said, "129\n129\n128\n");
    machine.finish(&before);
}
