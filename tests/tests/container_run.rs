//! `cowl run`: what the command sees, what its caller gets back, and that nothing stays.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use cowl_tests::container::{Machine, left, outcome};
use cowl_tests::{as_root_and_user, as_single_id};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

as_root_and_user!(
    prints,
    exit_codes,
    a_killed_command_gives_128_and_the_signal,
    the_command_is_pid_1,
    ends_with_everything_it_started,
    environment,
    working_directory,
    users,
    host_name,
    volumes,
    volumes_follow_no_image_symlink_out,
    standard_input,
    large_output,
    network_none_has_loopback_only,
    network_host_is_this_machines,
    devices,
    kernel_files_are_masked,
    privileges_are_dockers,
    descriptors_do_not_leak,
    writes_stay_in_their_container,
    every_run_is_its_own,
    terminal,
    root_directory_attributes,
);

as_single_id!(
    prints,
    exit_codes,
    the_command_is_pid_1,
    ends_with_everything_it_started,
    environment,
    working_directory,
    host_name,
    volumes,
    standard_input,
    network_none_has_loopback_only,
    network_host_is_this_machines,
    kernel_files_are_masked,
    privileges_are_dockers,
    descriptors_do_not_leak,
    writes_stay_in_their_container,
    terminal,
);

fn prints(machine: &Machine) {
    let outcome = machine.busybox(["echo", "hello"]);
    assert_eq!(outcome.ok(), "hello\n");
    assert_eq!(outcome.err(), "");
    let outcome = machine.busybox(["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(outcome.ok(), "out\n");
    assert_eq!(outcome.err(), "err\n");
    // The image's own command.
    assert_eq!(
        machine.cowl_with_input(b"echo from sh\n", ["run", "--rm", "-i", "busybox"]).ok(),
        "from sh\n"
    );
}

fn exit_codes(machine: &Machine) {
    for code in [0, 1, 3, 42, 125, 255] {
        machine.busybox(["sh", "-c", &format!("exit {code}")]).ends(code);
    }
    machine.busybox(["no-such-command"]).fails(127, "no-such-command");
    machine.busybox(["/no/such/command"]).fails(127, "/no/such/command");
    machine.busybox(["/etc/passwd"]).fails(126, "/etc/passwd");
    machine.busybox(["/etc"]).fails(126, "/etc");
    machine.cowl(["run", "--rm", "no-such-image", "true"]).fails(125, "no-such-image");
    machine.cowl(["run", "--rm", "Not//A:Name:At:All", "true"]).fails(125, "Not//A:Name:At:All");
    assert_eq!(machine.cowl(["run", "--no-such-option", "busybox", "true"]).code, Some(125));
    assert_eq!(machine.cowl(["no-such-subcommand"]).code, Some(1));
    // What did not start leaves no container either.
    assert_eq!(machine.containers(), Vec::<String>::new());
}

fn a_killed_command_gives_128_and_the_signal(machine: &Machine) {
    // PID 1 is out of reach of its own pid namespace; a child is not.
    machine.busybox(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).ends(137);
    machine.busybox(["sh", "-c", "sh -c 'kill -TERM $$'; exit $?"]).ends(143);
    // PID 1 itself, killed from outside.
    let mut child = machine.start("victim");
    let sleeping = left::named(machine.dir(), "sleep 1000");
    let inner: Vec<i32> =
        sleeping.into_iter().filter(|&pid| command_name(pid) == "sleep").collect();
    assert_eq!(inner.len(), 1, "the container's own command among {inner:?}");
    kill(Pid::from_raw(inner[0]), Signal::SIGKILL).expect("kill PID 1 of the container");
    assert_eq!(child.wait().expect("wait").code(), Some(137));
    machine.cowl(["rm", "victim"]).ok();
}

fn command_name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn the_command_is_pid_1(machine: &Machine) {
    assert_eq!(machine.busybox(["sh", "-c", "echo $$"]).ok(), "1\n");
    assert_eq!(machine.busybox(["readlink", "/proc/self"]).ok(), "1\n");
    assert_eq!(machine.busybox(["sh", "-c", "ls /proc | grep -c '^[0-9]*$'; :"]).ok(), "3\n");
    // Nobody outside is its parent as it sees it.
    let status = machine.busybox(["grep", "PPid", "/proc/1/status"]).ok();
    assert_eq!(status.split_whitespace().last(), Some("0"));
}

fn ends_with_everything_it_started(machine: &Machine) {
    // The child ignores what can be ignored, and holds neither output nor input.
    let script =
        "sh -c 'trap \"\" TERM HUP INT; exec sleep 1000' </dev/null >/dev/null 2>&1 & echo started";
    assert_eq!(machine.busybox(["sh", "-c", script]).ok(), "started\n");
    assert_eq!(left::named(machine.dir(), "sleep 1000"), Vec::<i32>::new());
}

fn environment(machine: &Machine) {
    let seen = machine.busybox(["env"]).ok();
    let has = |line: &str| assert!(seen.lines().any(|l| l == line), "{line} not in {seen}");
    has("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    has("HOME=/root");
    assert!(seen.lines().any(|l| l.starts_with("HOSTNAME=")), "{seen}");
    assert!(!seen.contains(left::MARK), "the caller's environment leaked: {seen}");

    let given = [
        "run",
        "--rm",
        "-e",
        "A=1",
        "-e",
        "B=x y=z",
        "-e",
        "EMPTY=",
        "--env",
        "INHERITED",
        "-e",
        "ABSENT",
        "-e",
        "PATH=/bin",
        "busybox",
        "env",
    ];
    let mut command = machine.command(given);
    command.env("INHERITED", "from the caller");
    let seen = outcome::run(command, None, Duration::from_secs(60)).ok();
    for line in ["A=1", "B=x y=z", "EMPTY=", "INHERITED=from the caller", "PATH=/bin"] {
        assert!(seen.lines().any(|l| l == line), "{line} not in {seen}");
    }
    assert!(!seen.contains("ABSENT"), "{seen}");
}

fn working_directory(machine: &Machine) {
    assert_eq!(machine.busybox(["pwd"]).ok(), "/\n");
    assert_eq!(machine.cowl(["run", "--rm", "-w", "/tmp", "busybox", "pwd"]).ok(), "/tmp\n");
    // As Docker: it is made where it is missing.
    let made = ["run", "--rm", "--workdir", "/made/by/run", "busybox", "pwd"];
    assert_eq!(machine.cowl(made).ok(), "/made/by/run\n");
    machine.cowl(["run", "--rm", "-w", "/etc/passwd", "busybox", "pwd"]).fails(125, "/etc/passwd");
}

fn users(machine: &Machine) {
    let id = |user: &str| {
        let script = "echo $(id -u):$(id -g) $(id -G) $HOME";
        machine.cowl(["run", "--rm", "-u", user, "busybox", "sh", "-c", script]).ok()
    };
    assert_eq!(machine.busybox(["id", "-u"]).ok(), "0\n");
    assert_eq!(id("root"), "0:0 0 /root\n");
    // A name brings its group, its other groups and its home.
    assert_eq!(id("guest"), "405:100 100 10 /home\n");
    assert_eq!(id("405"), "405:100 100 10 /home\n");
    assert_eq!(id("guest:wheel"), "405:10 10 /home\n");
    assert_eq!(id("1234:2345"), "1234:2345 2345 /\n");
    assert_eq!(id("4321"), "4321:0 0 /\n");
    machine.cowl(["run", "--rm", "-u", "ghost", "busybox", "true"]).fails(125, "ghost");
    machine.cowl(["run", "--rm", "-u", "root:ghosts", "busybox", "true"]).fails(125, "ghosts");
    // Not root any more: what root may, it may not.
    let outcome = machine.cowl(["run", "--rm", "-u", "guest", "busybox", "touch", "/etc/new"]);
    outcome.ends(1);
    assert!(outcome.err().contains("Permission denied"), "{}", outcome.err());
}

fn host_name(machine: &Machine) {
    assert_eq!(
        machine.cowl(["run", "--rm", "--hostname", "box", "busybox", "hostname"]).ok(),
        "box\n"
    );
    assert_eq!(
        machine.cowl(["run", "--rm", "-h", "box", "busybox", "cat", "/etc/hostname"]).ok(),
        "box\n"
    );
    // Without: the first 12 digits of the container's id.
    let name = machine.busybox(["hostname"]).ok();
    let name = name.trim();
    assert!(name.len() == 12 && name.chars().all(|c| c.is_ascii_hexdigit()), "{name:?}");
    // This machine kept its own.
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    assert_ne!(own.trim(), "box");
}

fn volumes(machine: &Machine) {
    let shared = machine.folder("shared");
    machine.file("shared/from-host", "host\n");
    let rw = format!("{}:/data", shared.display());
    let ro = format!("{}:/data:ro", shared.display());

    let script = "cat /data/from-host && echo inside > /data/from-container";
    assert_eq!(
        machine.cowl(["run", "--rm", "-v", &rw, "busybox", "sh", "-c", script]).ok(),
        "host\n"
    );
    let written = shared.join("from-container");
    assert_eq!(fs::read_to_string(&written).expect("what the container wrote"), "inside\n");
    // Root inside is the caller outside.
    let caller = machine.caller.id().unwrap_or_else(|| nix::unistd::geteuid().as_raw());
    assert_eq!(fs::metadata(&written).expect("stat").uid(), caller);

    let outcome = machine.cowl(["run", "--rm", "-v", &ro, "busybox", "touch", "/data/new"]);
    outcome.ends(1);
    assert!(outcome.err().contains("Read-only file system"), "{}", outcome.err());
    // A read-only volume cannot be made writable from inside.
    let script = "mount -o remount,rw /data 2>/dev/null; touch /data/new";
    machine.cowl(["run", "--rm", "-v", &ro, "busybox", "sh", "-c", script]).ends(1);
    assert!(!shared.join("new").exists());

    // A single file; several volumes; a mount point that the image lacks.
    let file = machine.file("one", "one file\n");
    let one = format!("{}:/etc/deep/one:ro", file.display());
    let arguments = [
        "run",
        "--rm",
        "-v",
        &one,
        "-v",
        &rw,
        "busybox",
        "cat",
        "/etc/deep/one",
        "/data/from-host",
    ];
    assert_eq!(machine.cowl(arguments).ok(), "one file\nhost\n");
    // A relative target and an empty source are refused.
    let wrong = format!("{}:data", shared.display());
    machine.cowl(["run", "--rm", "-v", &wrong, "busybox", "true"]).fails(125, "data");
    machine.cowl(["run", "--rm", "-v", ":/data", "busybox", "true"]).fails(125, ":/data");
}

fn volumes_follow_no_image_symlink_out(machine: &Machine) {
    // The target is inside the root directory of the container, whatever its symlinks say.
    let image = cowl_tests::container::archive::Tar::default()
        .symlink("escape", &machine.path("outside").display().to_string())
        .symlink("up", "../../../../../../..")
        .finish();
    let base = machine.file("base.tar", image);
    machine.folder("outside");
    let volume = machine.folder("volume");
    machine.file("volume/mark", "");
    machine.cowl(["import", &base.display().to_string(), "links:1"]).ok();
    for target in ["/escape/there", "/up/var/tmp/there"] {
        let option = format!("{}:{target}", volume.display());
        // There is nothing to run in this image; only what the mount did to the machine counts.
        machine.cowl(["run", "--rm", "-v", &option, "links:1", "/none"]).ends(127);
    }
    assert_eq!(fs::read_dir(machine.path("outside")).expect("read").count(), 0);
    assert!(!std::path::Path::new("/var/tmp/there").exists());
    machine.cowl(["rmi", "links:1"]).ok();
}

fn standard_input(machine: &Machine) {
    let megabytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let outcome = machine.cowl_with_input(&megabytes, ["run", "--rm", "-i", "busybox", "cat"]);
    outcome.ends(0);
    assert!(outcome.stdout == megabytes, "{} bytes came back", outcome.stdout.len());
    // Without -i there is none, whatever the caller has.
    assert_eq!(machine.cowl_with_input(b"text", ["run", "--rm", "busybox", "cat"]).ok(), "");
}

fn large_output(machine: &Machine) {
    let script = "dd if=/dev/zero bs=1M count=20 2>/dev/null; head -c 5242880 /dev/zero >&2";
    let outcome = machine.busybox(["sh", "-c", script]);
    outcome.ends(0);
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (20 << 20, 5 << 20));
}

fn network_none_has_loopback_only(machine: &Machine) {
    let interfaces = "ls /sys/class/net";
    assert_eq!(machine.busybox(["sh", "-c", interfaces]).ok(), "lo\n");
    let script = "cat /sys/class/net/lo/flags; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo pong";
    let seen =
        machine.cowl(["run", "--rm", "--network", "none", "busybox", "sh", "-c", script]).ok();
    let flags = seen.lines().next().and_then(|text| text.strip_prefix("0x")).expect("flags");
    assert_eq!(u32::from_str_radix(flags, 16).expect("hexadecimal") & 1, 1, "loopback is down");
    assert!(seen.ends_with("pong\n"), "{seen}");
    machine
        .cowl(["run", "--rm", "--network", "no-such-network", "busybox", "true"])
        .fails(125, "no-such-network");
}

fn network_host_is_this_machines(machine: &Machine) {
    let inside =
        machine.cowl(["run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/dev"]).ok();
    let names = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| name.trim().to_owned())
            .collect()
    };
    let outside = fs::read_to_string("/proc/net/dev").expect("read");
    assert_eq!(names(&inside), names(&outside));
}

fn devices(machine: &Machine) {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %F %a %t:%T' /dev/$d; done;
        for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done;
        echo x > /dev/null && head -c 4 /dev/zero | od -An -tx1 && head -c 9 /dev/urandom | wc -c;
        echo x > /dev/full || echo full;
        grep -c -E ' /dev/(pts|shm|mqueue) ' /proc/self/mounts; stat -c %a /dev/shm; ls /dev | sort | tr '\\n' ' '";
    let seen = machine.busybox(["sh", "-c", script]).ok();
    for (name, numbers) in [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
    ] {
        let line = format!("/dev/{name} character special file 666 {numbers}");
        assert!(seen.lines().any(|l| l == line), "{line} not in {seen}");
    }
    for line in [
        "fd /proc/self/fd",
        "stdin /proc/self/fd/0",
        "stdout /proc/self/fd/1",
        "stderr /proc/self/fd/2",
        "ptmx pts/ptmx",
        " 00 00 00 00",
        "9",
        "full",
        "3",
        "1777",
    ] {
        assert!(seen.lines().any(|l| l == line), "{line} not in {seen}");
    }
    // Nothing else of this machine's devices.
    let names = seen.lines().last().expect("a line");
    for name in names.split_whitespace() {
        let usual = [
            "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
            "stdin", "stdout", "tty", "urandom", "zero", "console",
        ];
        assert!(usual.contains(&name), "/dev/{name} is not for a container");
    }
}

fn kernel_files_are_masked(machine: &Machine) {
    // Docker's list. A masked file reads empty, a masked directory is empty.
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"] {
        let script = format!("test ! -e {path} || cat {path} | wc -c");
        let seen = machine.busybox(["sh", "-c", &script]).ok();
        assert!(["", "0\n"].contains(&seen.as_str()), "{path}: {seen}");
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        let seen =
            machine.busybox(["sh", "-c", &format!("test ! -e {path} || ls {path} | wc -l")]).ok();
        assert!(["", "0\n"].contains(&seen.as_str()), "{path}: {seen}");
    }
    for path in [
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/proc/irq/x",
        "/proc/bus/x",
        "/proc/fs/x",
    ] {
        let outcome = machine.busybox(["sh", "-c", &format!(": > {path}")]);
        assert_ne!(outcome.code, Some(0), "{path} can be written");
        assert!(!outcome.err().is_empty());
    }
    let mounts = machine.busybox(["cat", "/proc/self/mounts"]).ok();
    let sys = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/sys")).expect("/sys");
    assert!(
        sys.split(' ').nth(3).expect("options").split(',').any(|option| option == "ro"),
        "{sys}"
    );
    // The mounts of this machine and the store are not to be seen.
    assert!(!mounts.contains("cowl-test-"), "{mounts}");
}

fn privileges_are_dockers(machine: &Machine) {
    let status = machine.busybox(["cat", "/proc/self/status"]).ok();
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of status");
        u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
    };
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
    // net_raw, sys_chroot, mknod, audit_write, setfcap.
    let docker = 0xa804_25fb;
    assert_eq!(field("CapEff:"), docker);
    assert_eq!(field("CapBnd:"), docker);
    assert_eq!(field("CapInh:") & !docker, 0);
    let commands: [&[&str]; 3] =
        [&["mount", "-t", "tmpfs", "none", "/tmp"], &["umount", "/proc"], &["hostname", "other"]];
    for command in commands {
        let outcome = machine.busybox(command);
        assert!(outcome.code != Some(0), "{command:?} worked");
        let said = outcome.err().to_lowercase();
        assert!(
            said.contains("permitted") || said.contains("denied") || said.contains("root"),
            "{said}"
        );
    }
}

fn descriptors_do_not_leak(machine: &Machine) {
    // `ls` itself has the directory open as 3.
    let seen = machine
        .busybox(["sh", "-c", "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> .*/\\1/p'"])
        .ok();
    let numbers: Vec<u32> = seen.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(numbers.iter().all(|&number| number <= 3), "{numbers:?}");
}

fn writes_stay_in_their_container(machine: &Machine) {
    machine.busybox(["sh", "-c", "rm -rf /etc /bin/sh; echo x > /new; chmod 777 /tmp"]).ok();
    let seen = machine
        .busybox(["sh", "-c", "test ! -e /new; cat /etc/passwd | wc -l; stat -c %a /tmp"])
        .ok();
    assert_eq!(seen, "4\n1777\n");
}

fn every_run_is_its_own(machine: &Machine) {
    let children: Vec<_> = (0..8)
        .map(|number| {
            let script = format!("echo {number} > /mine; sleep 0.3; cat /mine");
            let mut command = machine.command(["run", "--rm", "busybox", "sh", "-c", &script]);
            command.stdout(std::process::Stdio::piped());
            command.spawn().expect("start cowl")
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("wait");
        assert!(output.status.success(), "container {number}: {:?}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{number}\n"));
    }
    assert_eq!(machine.containers(), Vec::<String>::new());
}

fn terminal(machine: &Machine) {
    // Without a terminal here there can be none there.
    machine.cowl(["run", "--rm", "-it", "busybox", "true"]).fails(1, "TTY");
    // `script` has one: 31 lines of 97 columns.
    let inner = machine.command([
        "run",
        "--rm",
        "-it",
        "-e",
        "A=1",
        "busybox",
        "sh",
        "-c",
        "tty; stty size; echo $TERM; exit 7",
    ]);
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut command = std::process::Command::new("script");
    command.args([
        "-q",
        "-e",
        "-c",
        &format!("stty rows 31 cols 97; {}", words.join(" ")),
        "/dev/null",
    ]);
    for (key, value) in inner.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    command.env("TERM", "vt100").current_dir(machine.dir());
    let outcome = outcome::run(command, None, Duration::from_secs(60));
    // `script` itself sends a NUL when its input ends, and the terminal echoes it.
    let seen = outcome.ends(7).replace("^@", "");
    for line in ["/dev/pts/0", "31 97", "xterm"] {
        assert!(seen.lines().any(|l| l.trim_end() == line), "{line} not in {seen:?}");
    }
}

fn root_directory_attributes(machine: &Machine) {
    assert_eq!(machine.busybox(["stat", "-c", "%a %u:%g", "/"]).ok(), "755 0:0\n");
    assert_eq!(
        machine.busybox(["stat", "-c", "%a %u:%g", "/tmp", "/root"]).ok(),
        "1777 0:0\n700 0:0\n"
    );
    // The directory outside is not for others to walk into.
    let store = fs::metadata(machine.store()).expect("the store").permissions().mode();
    assert_eq!(store & 0o002, 0, "anyone may write into the store");
}
