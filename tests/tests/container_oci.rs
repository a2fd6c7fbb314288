//! The OCI runtime: bundles made here, run through runc's command line; and Podman calling it.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cowl_tests::container::{Outcome, fixture, left, outcome};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A bundle, a state directory, and the checks around them.
struct Bundle {
    directory: tempfile::TempDir,
    config: Value,
}

impl Bundle {
    /// A root filesystem with busybox, and a configuration as `runc spec` makes it, in short.
    fn new() -> Bundle {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let directory = tempfile::Builder::new()
            .prefix("cowl-oci-")
            .tempdir_in("/var/tmp")
            .expect("a directory in /var/tmp");
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).expect("make a directory");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("copy busybox");
        let applets = Command::new("/bin/busybox").arg("--list").output().expect("run busybox");
        for applet in String::from_utf8_lossy(&applets.stdout).lines() {
            if applet != "busybox" {
                symlink("busybox", rootfs.join("bin").join(applet)).expect("make a link");
            }
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
        symlink(fixture::program("cowl"), directory.path().join("cowl-runtime")).expect("link");
        let hardened = json!(["nosuid", "noexec", "nodev"]);
        let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["sh"], "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"],
                "user": { "uid": 0, "gid": 0 },
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities
                },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 }],
                "noNewPrivileges": true
            },
            "root": { "path": "rootfs" },
            "hostname": "oci-host",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": hardened }
            ],
            "annotations": { "org.example.note": "kept" },
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                    { "type": "uts" }, { "type": "mount" }
                ],
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"]
            }
        });
        Bundle { directory, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command line of PID 1: a shell's script.
    fn script(&mut self, script: &str) {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("cowl-runtime"));
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(words)
            .current_dir(self.directory.path())
            .env(left::MARK, self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Writes the configuration, and runs a command to its end.
    fn call(&self, words: &[&str]) -> Outcome {
        fs::write(self.path("config.json"), self.config.to_string()).expect("write config.json");
        outcome::run(self.command(words), None, PATIENCE)
    }

    /// `create`, whose streams live on in the container: to files.
    fn create(&self, id: &str) {
        fs::write(self.path("config.json"), self.config.to_string()).expect("write config.json");
        let file = |name| fs::File::create(self.path(name)).expect("make a file");
        let mut command = self.command(&["create", "--pid-file", "pid", id]);
        let status = command.stdout(file("out")).stderr(file("err")).status().expect("run cowl");
        assert!(status.success(), "create: {}", self.read("err"));
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("read a file of the test")
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.call(&["state", id]).ok()).expect("JSON")
    }

    fn becomes(&self, id: &str, status: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.state(id)["status"] != status {
            assert!(Instant::now() < deadline, "{id} is {}, not {status}", self.state(id));
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        left::end(self.directory.path());
    }
}

#[test]
fn a_container_lives_in_the_states_of_the_specification() {
    let mut bundle = Bundle::new();
    bundle.script("echo started; exec sleep 1000");
    bundle.create("c1");
    let state = bundle.state("c1");
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "c1");
    assert_eq!(state["pid"].to_string(), bundle.read("pid"));
    assert_eq!(state["annotations"]["org.example.note"], "kept");
    assert_eq!(Path::new(state["bundle"].as_str().expect("text")), bundle.directory.path());
    assert_eq!(bundle.read("out"), "");
    bundle.call(&["create", "c1"]).fails(1, "already exists");
    bundle.call(&["start", "c1"]).ok();
    bundle.becomes("c1", "running");
    bundle.call(&["start", "c1"]).fails(1, "cannot start a container in the running state");
    bundle.call(&["delete", "c1"]).fails(1, "cannot delete a container in the running state");
    assert!(bundle.call(&["list", "-q"]).ok().contains("c1\n"));
    let pids: Value = serde_json::from_str(&bundle.call(&["ps", "-f", "json", "c1"]).ok()).unwrap();
    assert_eq!(pids[0], state["pid"]);
    bundle.call(&["kill", "c1", "KILL"]).ok();
    bundle.becomes("c1", "stopped");
    assert_eq!(bundle.state("c1")["pid"], 0);
    assert_eq!(bundle.read("out"), "started\n");
    bundle.call(&["kill", "c1", "TERM"]).fails(1, "container not running: c1");
    bundle.call(&["delete", "c1"]).ok();
    bundle.call(&["state", "c1"]).fails(1, "container \"c1\" does not exist");
    bundle.call(&["delete", "-f", "c1"]).ok();
    assert!(!bundle.path("state/c1").exists());
}

#[test]
fn the_command_sees_what_the_configuration_says() {
    let mut bundle = Bundle::new();
    bundle.config["process"]["cwd"] = "/tmp".into();
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
    bundle.config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [7] });
    bundle.script(
        "pwd; hostname; echo \"$A\"; id; ulimit -n; ulimit -Hn; grep -E 'CapBnd|NoNewPrivs' \
         /proc/self/status; echo $$; cat /proc/kcore | wc -c; ls /sys | grep -c .; ip -o link | wc -l",
    );
    let said = bundle.call(&["run", "c1"]).ok();
    let expected = "/tmp\noci-host\nb c\nuid=5 gid=6 groups=6,7\n512\n1024\n";
    assert!(said.starts_with(expected), "{said}");
    // CAP_CHOWN, CAP_KILL, CAP_NET_BIND_SERVICE; process 1; nothing in kcore.
    for line in ["CapBnd:\t0000000000000421", "NoNewPrivs:\t1", "1", "0"] {
        assert!(said.lines().any(|l| l == line), "{line} not in {said}");
    }
    assert!(!bundle.path("state/c1").exists());

    bundle.config["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o077 });
    fs::write(bundle.path("given"), "from outside\n").expect("write");
    let given = bundle.path("given");
    bundle.config["mounts"].as_array_mut().expect("a list").push(json!({
        "destination": "/etc/given", "type": "bind", "source": given,
        "options": ["bind", "ro"]
    }));
    bundle.config["root"]["readonly"] = true.into();
    bundle.script(
        "cat /etc/given; echo x > /etc/given; echo x > /new; echo x > /proc/sys/kernel/domainname; \
         umask; kill -TERM $$; exit 42",
    );
    let end = bundle.call(&["run", "c2"]);
    assert_eq!(end.ends(42), "from outside\n0077\n");
    assert_eq!(end.err().matches("Read-only file system").count(), 3, "{}", end.err());
}

#[test]
fn one_more_command_runs_in_it() {
    let mut bundle = Bundle::new();
    bundle.script("exec sleep 1000");
    bundle.create("c1");
    bundle.call(&["start", "c1"]).ok();
    bundle.becomes("c1", "running");
    let said = bundle.call(&[
        "exec",
        "-e",
        "X=y",
        "--cwd",
        "/tmp",
        "c1",
        "sh",
        "-c",
        "pwd; echo $X; hostname",
    ]);
    assert_eq!(said.ok(), "/tmp\ny\noci-host\n");
    bundle.call(&["exec", "c1", "sh", "-c", "exit 7"]).ends(7);
    let numbers = bundle.call(&["exec", "c1", "sh", "-c", "ls -d /proc/[0-9]* | head -1"]).ok();
    assert_eq!(numbers, "/proc/1\n");
    bundle.call(&["exec", "c1", "no-such"]).fails(255, "executable file not found");
    bundle.call(&["delete", "--force", "c1"]).ok();
    bundle.call(&["exec", "c1", "true"]).fails(1, "does not exist");
}

#[test]
fn hooks_run_in_their_order_and_see_the_state() {
    let mut bundle = Bundle::new();
    let hook = |kind: &str| {
        let log = bundle.path("hooks");
        let script = format!(
            "read state; echo {kind} $(echo $state | grep -c '\"id\":\"c1\"') >> {}",
            log.display()
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }])
    };
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let hooks: serde_json::Map<String, Value> =
        kinds.iter().map(|kind| ((*kind).to_owned(), hook(kind))).collect();
    bundle.config["hooks"] = hooks.into();
    // This one runs where the container's files are.
    let inside = "echo inside > /hooked; hostname >> /hooked";
    bundle.config["hooks"]["startContainer"] =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", inside], "env": ["PATH=/bin"] }]);
    bundle.script("cat /hooked");
    assert_eq!(bundle.call(&["run", "c1"]).ok(), "inside\noci-host\n");
    let expected: String = kinds.iter().map(|kind| format!("{kind} 1\n")).collect();
    assert_eq!(bundle.read("hooks"), expected);

    bundle.config["hooks"] = json!({ "prestart": [{ "path": "/bin/false" }] });
    bundle.call(&["run", "c2"]).fails(1, "error running prestart hook /bin/false");
    assert!(!bundle.path("state/c2").exists());
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut bundle = Bundle::new();
    let good = bundle.config.clone();
    bundle.config["process"]["args"] = json!(["no-such"]);
    bundle.call(&["run", "c1"]).fails(1, "executable file not found in $PATH");
    for (pointer, value, said) in [
        ("/process/args", json!([]), "process.args is empty"),
        ("/process/terminal", json!(true), "needs --console-socket"),
        ("/linux/namespaces", json!([{ "type": "pid" }]), "without a mount namespace"),
        ("/linux/rootfsPropagation", json!("shared"), "rootfsPropagation shared"),
        ("/root/path", json!("nowhere"), "cannot find"),
    ] {
        bundle.config = good.clone();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        bundle.config.pointer_mut(parent).expect("a place")[name] = value;
        bundle.call(&["run", "c1"]).fails(1, said);
        assert!(!bundle.path("state/c1").exists(), "{pointer}");
    }
    bundle.config = good;
    bundle.call(&["create", "a/b"]).fails(1, "invalid container ID");
    let log = bundle.path("log").display().to_string();
    bundle.call(&["--log", &log, "--log-format", "json", "state", "nope"]).ends(1);
    let line: Value = serde_json::from_str(&bundle.read("log")).expect("a JSON line");
    assert_eq!(line["msg"], "container \"nope\" does not exist");
    let features: Value = serde_json::from_str(&bundle.call(&["features"]).ok()).expect("JSON");
    assert_eq!(features["ociVersionMin"], "1.0.0");
}

#[test]
fn podman_calls_it() {
    let bundle = Bundle::new();
    let rootfs = bundle.path("rootfs").display().to_string();
    // Podman asks only runtimes that it knows to leave control groups alone.
    let settings = format!(
        "[engine]\nruntime_supports_nocgroup = [\"cowl-runtime\"]\n\
         [engine.runtimes]\ncowl-runtime = [\"{}\"]\n",
        bundle.path("cowl-runtime").display()
    );
    fs::write(bundle.path("containers.conf"), settings).expect("write");
    let podman = |words: &[&str]| {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(bundle.path("podman"))
            .arg("--runroot")
            .arg(bundle.path("run"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--events-backend", "file", "--runtime", "cowl-runtime"])
            .env("CONTAINERS_CONF", bundle.path("containers.conf"))
            .args(words)
            .env(left::MARK, bundle.directory.path())
            .stdin(Stdio::null());
        outcome::run(command, None, PATIENCE)
    };
    let options = ["--network", "none", "--cgroups", "disabled", "--rootfs", &rootfs];
    let run =
        |more: &[&str], words: &[&str]| podman(&[&["run"], more, &options[..], words].concat());
    assert_eq!(run(&["--rm"], &["echo", "from podman"]).ok(), "from podman\n");
    run(&["--rm"], &["sh", "-c", "exit 3"]).ends(3);
    run(&["-d", "--name", "web"], &["sleep", "1000"]).ok();
    assert_eq!(podman(&["exec", "web", "sh", "-c", "echo $0 in"]).ok(), "sh in\n");
    podman(&["exec", "web", "sh", "-c", "exit 9"]).ends(9);
    assert_eq!(podman(&["ps", "-q"]).ok().lines().count(), 1);
    podman(&["kill", "web"]).ok();
    assert_eq!(podman(&["wait", "web"]).ok(), "137\n");
    podman(&["rm", "web"]).ok();
}
