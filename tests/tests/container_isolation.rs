//! The walls between a container and the machine, and the flags that move them.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic)]

use cowl_tests::as_root_and_user;
use cowl_tests::container::Machine;

as_root_and_user!(
    capabilities_are_dockers,
    system_calls_are_limited,
    what_shows_the_machine_is_hidden,
    privileged_has_all,
    a_profile_of_ones_own,
    nodes_do_not_open,
    limits_of_processes_and_settings,
    a_read_only_root,
    memory_filesystems,
    bad_flags_are_refused,
);

fn run(machine: &Machine, flags: &[&str], script: &str) -> String {
    let line = [&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat();
    machine.cowl(line).ok()
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map(|value| value.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
}

fn capabilities_are_dockers(machine: &Machine) {
    let status = |flags: &[&str]| run(machine, flags, "cat /proc/self/status");
    let usual = status(&[]);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&usual, set), "00000000a80425fb", "{set}");
    }
    assert_eq!(field(&usual, "CapInh"), "0000000000000000");
    assert_eq!(
        field(&status(&["--cap-drop", "ALL", "--cap-add", "chown"]), "CapEff"),
        "0000000000000001"
    );
    assert_eq!(field(&status(&["--cap-add", "SYS_ADMIN"]), "CapBnd"), "00000000a82425fb");
    assert_eq!(field(&status(&["-u", "guest"]), "CapEff"), "0000000000000000");
    assert_eq!(field(&usual, "NoNewPrivs"), "0");
    let none = status(&["--security-opt", "no-new-privileges"]);
    assert_eq!(field(&none, "NoNewPrivs"), "1");
}

fn system_calls_are_limited(machine: &Machine) {
    let script = "grep ^Seccomp: /proc/self/status; \
                  unshare -U true 2>/dev/null || echo no user namespace; \
                  mount -t tmpfs none /tmp 2>/dev/null || echo no mount";
    let said = run(machine, &[], script);
    assert_eq!(said, "Seccomp:\t2\nno user namespace\nno mount\n");
    let unlimited =
        run(machine, &["--security-opt", "seccomp=unconfined"], "grep ^Seccomp: /proc/self/status");
    assert_eq!(unlimited, "Seccomp:\t0\n");
    // With the capability, Docker's profile lets it mount.
    let said =
        run(machine, &["--cap-add", "SYS_ADMIN"], "mount -t tmpfs none /tmp && echo mounted");
    assert_eq!(said, "mounted\n");
}

fn what_shows_the_machine_is_hidden(machine: &Machine) {
    // Not every kernel has all of them.
    let script = "cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware 2>/dev/null | wc -l; \
                  (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo read-only; \
                  (echo b > /proc/sysrq-trigger) 2>/dev/null || echo no sysrq";
    assert_eq!(run(machine, &[], script), "0\n0\nread-only\nno sysrq\n");
    let shown = |flags: &[&str]| {
        run(machine, flags, "grep ' /proc/sys ' /proc/self/mountinfo | wc -l").trim().to_owned()
    };
    assert_eq!(shown(&[]), "1");
    assert_eq!(shown(&["--security-opt", "systempaths=unconfined"]), "0");
}

fn privileged_has_all(machine: &Machine) {
    let script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; \
                  grep -c ' /proc/sys ' /proc/self/mountinfo; test -c /dev/fuse && echo fuse";
    let said = run(machine, &["--privileged"], script);
    assert_eq!(said, "NoNewPrivs:\t0\nSeccomp:\t0\n0\nfuse\n");
}

fn a_profile_of_ones_own(machine: &Machine) {
    let profile = machine.file(
        "profile.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#,
    );
    let option = format!("seccomp={}", profile.display());
    let said = run(machine, &["--security-opt", &option], "mkdir /tmp/x 2>&1 || true");
    assert!(said.contains("Operation not supported") || said.contains("not supported"), "{said}");
    let broken = machine.file("broken.json", "{");
    let option = format!("seccomp={}", broken.display());
    let refused = machine.cowl(["run", "--rm", "--security-opt", &option, "busybox", "true"]);
    refused.fails(125, "decoding seccomp profile failed");
}

fn nodes_do_not_open(machine: &Machine) {
    // In the root filesystem, in /dev, in a volume and in a tmpfs: 1:1 is the machine's memory.
    let script = "for dir in / /dev /data /memory; do \
                  mknod $dir/node c 1 1 2>/dev/null; \
                  head -c 1 $dir/node >/dev/null 2>&1 && echo opened $dir; done; echo done";
    let flags = ["-v", "nodes:/data", "--tmpfs", "/memory"];
    assert_eq!(run(machine, &flags, script), "done\n");
    machine.cowl(["volume", "rm", "nodes"]).ok();
    let said =
        run(machine, &["--device", "/dev/fuse:/dev/given"], "test -c /dev/given && echo there");
    assert_eq!(said, "there\n");
}

fn limits_of_processes_and_settings(machine: &Machine) {
    let flags = [
        "--ulimit",
        "nofile=100:200",
        "--shm-size",
        "1m",
        "--sysctl",
        "kernel.shmmax=4096",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--group-add",
        "wheel",
        "--group-add",
        "4711",
    ];
    let script = "ulimit -n; ulimit -Hn; df -k /dev/shm | tail -n 1 | awk '{print $2}'; \
                  cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward; id -G";
    let said = run(machine, &flags, script);
    assert!(said.starts_with("100\n200\n1024\n4096\n1\n0 "), "{said}");
    let groups = run(machine, &["--group-add", "wheel"], "id -G");
    assert!(groups.split_whitespace().any(|group| group == "10"), "{groups}");
}

fn a_read_only_root(machine: &Machine) {
    let script =
        "touch /x 2>/dev/null || echo refused; touch /tmp/x && touch /dev/shm/x && echo ok";
    let said = run(machine, &["--read-only", "--tmpfs", "/tmp"], script);
    assert_eq!(said, "refused\nok\n");
}

fn memory_filesystems(machine: &Machine) {
    let script = "grep ' /m ' /proc/self/mountinfo; stat -c %a /m; cp /bin/busybox /m/ls; /m/ls 2>/dev/null || echo noexec";
    let said = run(machine, &["--tmpfs", "/m:size=4m,mode=1770"], script);
    assert!(said.contains("size=4096k") && said.ends_with("1770\nnoexec\n"), "{said}");
    let said = run(
        machine,
        &["--mount", "type=tmpfs,target=/m,tmpfs-size=64k,readonly"],
        "touch /m/x 2>/dev/null || echo refused",
    );
    assert_eq!(said, "refused\n");
}

fn bad_flags_are_refused(machine: &Machine) {
    for (flags, sentence) in [
        (&["--cap-add", "NOPE"][..], "unknown capability"),
        (&["--security-opt", "nope"], "invalid --security-opt"),
        (&["--pid", "nope"], "invalid PID mode"),
        (&["--ipc", "nope"], "invalid IPC mode"),
        (&["--userns", "nope"], "invalid USER mode"),
        (&["--sysctl", "kernel.panic=1"], "kernel.panic"),
        (&["--device", "/dev/nosuch"], "/dev/nosuch"),
        (&["--ulimit", "nope=1"], "invalid ulimit type"),
        (&["-m", "1m"], "Minimum memory limit"),
        (&["--cpus", "1000000"], "CPUs"),
        (&["--tmpfs", "x"], "absolute"),
        (&["--mount", "type=bind,source=/no/such,target=/x"], "does not exist"),
        (&["-v", "a b:/x"], "volume name"),
        (&["--pid", "container:nosuch"], "No such container"),
    ] {
        let line = [&["run", "--rm"], flags, &["busybox", "true"]].concat();
        machine.cowl(line).fails(125, sentence);
    }
    assert_eq!(machine.cowl(["ps", "-aq"]).ok(), "");
}
