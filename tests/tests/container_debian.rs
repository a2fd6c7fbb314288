//! Debian in a container: package manager, interpreter, version control and compiler say the same
//! as in `chroot` on a plain copy of the tree that the kernel's overlayfs showed.
//!
//! Unpacking the image costs seconds, so one machine serves all cases of a caller; every case is
//! run, and the failures are reported together.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cowl_tests::container::{Caller, Machine, Outcome, fixture, left, outcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(300);
const IMAGE: &str = "debian-test";

mod root {
    #[test]
    fn debian() {
        super::all(cowl_tests::container::Caller::Root, "oci");
    }
}

mod user {
    #[test]
    fn debian() {
        super::all(cowl_tests::container::Caller::User, "docker.tar");
    }
}

mod single {
    #[test]
    fn debian() {
        super::with_one_id();
    }
}

/// An ordinary user without subordinate ids: other users exist as far as programs can tell.
fn with_one_id() {
    let fixture = fixture::debian();
    let machine = Machine::new(Caller::Single);
    machine.load(&fixture::lend(&machine, &fixture.join("docker.tar"), "docker.tar"));
    let layers = machine.layers();
    let script = "set -e; export DEBIAN_FRONTEND=noninteractive; useradd -m -s /bin/bash alice; \
        id -un alice; su alice -c 'id -un; touch ~/mine'; test -f /home/alice/mine; \
        setpriv --reuid 1000 --regid 1000 --clear-groups id -u; userdel alice; \
        apt-get -q update >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; \
        apt-get -q -y --no-install-recommends install hello >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; \
        hello; dpkg -V hello; dpkg --audit";
    let mut arguments = vec!["run", "--rm"];
    arguments.extend(MACHINES_APT);
    arguments.extend([IMAGE, "bash", "-c", script]);
    let said = machine.cowl_within(PATIENCE, arguments).ok();
    assert_eq!(said, "alice\nalice\n1000\nHello, world!\n");
    machine.finish(&layers);
}

/// The machine's own apt configuration and resolver: the way to packages is its business.
const MACHINES_APT: [&str; 6] = [
    "--network",
    "host",
    "-v",
    "/etc/apt:/etc/apt:ro",
    "-v",
    "/etc/resolv.conf:/etc/resolv.conf:ro",
];

/// What surrounds the plain copy. The capabilities are those of a container.
const CHROOT: &str = r#"
set -e
busybox ip link set lo up
mount -t proc proc "$1/proc"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$1/dev/pts"
mount -t tmpfs -o mode=1777 shm "$1/dev/shm"
ln -sf pts/ptmx "$1/dev/ptmx"
echo "127.0.0.1 localhost" > "$1/etc/hosts"
exec setpriv --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap chroot "$@"
"#;

/// One thing that must be the same.
type Check = fn(&Case<'_>);

struct Case<'a> {
    machine: &'a Machine,
    plain: &'a Path,
}

fn all(caller: Caller, form: &str) {
    let fixture = fixture::debian();
    let machine = Machine::new(caller);
    machine.load(&fixture::lend(&machine, &fixture.join(form), form));
    let plain = unpack(&machine, &fixture, "plain");
    let layers = machine.layers();
    let case = Case { machine: &machine, plain: &plain };
    let cases: [(&str, Check); 10] = [
        ("tree", tree),
        ("dpkg", dpkg),
        ("useradd", useradd),
        ("set_user_id", set_user_id),
        ("git", git),
        ("gcc", gcc),
        ("python", python),
        ("apt", apt),
        ("kill_9_of_cowlfs_at_work", kill_9_of_cowlfs_at_work),
        ("kill_9_of_cowl_at_work", kill_9_of_cowl_at_work),
    ];
    let mut failed: Vec<&str> = cases
        .into_iter()
        .filter(|(name, run)| !passes(name, *run, &case))
        .map(|(n, _)| n)
        .collect();
    // A container starts from the image; the plain copy keeps what the cases above did to it.
    let fresh = unpack(&machine, &fixture, "fresh");
    let case = Case { machine: &machine, plain: &fresh };
    if !passes("copy_up_of_everything", copy_up_of_everything, &case) {
        failed.push("copy_up_of_everything");
    }
    machine.finish(&layers);
    assert!(failed.is_empty(), "failed: {failed:?}");
}

fn passes(name: &str, run: Check, case: &Case) -> bool {
    let start = Instant::now();
    let passed = catch_unwind(AssertUnwindSafe(|| run(case))).is_ok();
    eprintln!("{name}: {} in {:.1?}", if passed { "ok" } else { "FAILED" }, start.elapsed());
    passed
}

/// The merged tree, unpacked: what every case is compared with.
fn unpack(machine: &Machine, fixture: &Path, name: &str) -> PathBuf {
    assert!(nix::unistd::geteuid().is_root(), "the plain copy of Debian needs root; run as root");
    let plain = machine.path(name);
    fs::create_dir(&plain).expect("make a directory");
    let status = Command::new("tar")
        .args([
            "--zstd",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--warning=no-unknown-keyword",
        ])
        .arg("-xpf")
        .arg(fixture.join("rootfs.tar.zst"))
        .arg("-C")
        .arg(&plain)
        .status();
    assert!(status.expect("run tar").success(), "unpack rootfs.tar.zst");
    plain
}

impl Case<'_> {
    /// `cowl run --rm OPTIONS debian-test COMMAND`.
    fn cowl(&self, options: &[&str], command: &[&str]) -> Outcome {
        let words = [&["run", "--rm"], options, &[IMAGE], command].concat();
        self.machine.cowl_within(PATIENCE, words)
    }

    /// The same command in chroot on the plain copy: same environment, same capabilities, a
    /// loopback of its own, and the kernel's file systems where a container has them.
    fn chroot(&self, command: &[&str]) -> Outcome {
        let mut chroot = Command::new("unshare");
        chroot
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net"])
            .args(["sh", "-c", CHROOT, "sh"])
            .arg(self.plain)
            .args(command)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("COWL_IMAGE", IMAGE)
            .stdin(Stdio::null());
        outcome::run(chroot, None, PATIENCE)
    }

    /// A shell script must end the same and say the same here and there; what it said.
    #[track_caller]
    fn same(&self, script: &str) -> String {
        let ours = self.cowl(&[], &["bash", "-c", script]);
        let plain = self.chroot(&["bash", "-c", script]);
        assert_eq!(ours.code, plain.code, "ours: {}\nchroot: {}", ours.err(), plain.err());
        assert_eq!(difference(&plain.out(), &ours.out()), "", "{}", ours.err());
        ours.out()
    }
}

/// Lines of one text that the other lacks.
fn difference(wanted: &str, got: &str) -> String {
    let lines =
        |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (wanted, got) = (lines(wanted), lines(got));
    let missing = wanted.difference(&got).map(|line| format!("- {line}\n"));
    let new = got.difference(&wanted).map(|line| format!("+ {line}\n"));
    missing.chain(new).take(60).collect()
}

/// Prints every name with everything that can be known of it; run inside, by the image's python.
const TREE: &str = r#"
import hashlib, os, stat, sys
skip = {b"/dev", b"/proc", b"/sys", b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf"}
if sys.argv[1:] == ["no-devices"]:
    skip |= {b"/srv/edges/null", b"/srv/edges/block"}
seen = {}
def show(path):
    if path in skip: return
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    line = [path, oct(s.st_mode), s.st_uid, s.st_gid]
    line.append(sorted((k, os.getxattr(path, k, follow_symlinks=False)) for k in os.listxattr(path, follow_symlinks=False)))
    # apt and the test itself may have touched a directory; files keep their times.
    if kind != stat.S_IFDIR:
        line += [s.st_nlink, s.st_size, s.st_mtime_ns, s.st_rdev]
        if s.st_nlink > 1:
            line.append(seen.setdefault((s.st_dev, s.st_ino), path))
    if kind == stat.S_IFLNK: line.append(os.readlink(path))
    if kind == stat.S_IFREG:
        with open(path, "rb") as f: line.append(hashlib.sha256(f.read()).hexdigest())
    print(*line)
    if kind == stat.S_IFDIR:
        for name in sorted(os.listdir(path)): show(os.path.join(path, name))
show(b"/")
"#;

fn tree(case: &Case) {
    let mut command = vec!["python3", "-B", "-c", TREE];
    // Only root of the machine can make devices; an ordinary user's container has none.
    if case.machine.caller != Caller::Root {
        command.push("no-devices");
    }
    let plain = case.chroot(&command);
    let ours = case.cowl(&[], &command);
    let names = plain.ok().lines().count();
    assert!(names > 10_000, "only {names} names: the comparison compares nothing");
    // The root directory's own mode is the mount point's in the plain copy.
    let body =
        |text: String| text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    assert_eq!(difference(&body(plain.out()), &body(ours.ok())), "");
}

fn dpkg(case: &Case) {
    let said = case.same("dpkg -V; echo $?; dpkg -l | wc -l; dpkg --audit; dpkg -S /usr/bin/git");
    // Layer 3 deleted these: a run that sees nothing missing sees the wrong tree.
    assert!(said.contains("/usr/share/doc/gcc-12-base"), "{said}");
}

fn useradd(case: &Case) {
    let said = case.same(
        "set -e; useradd -m -s /bin/bash -G sudo,audio alice; id alice; getent passwd alice; \
         stat -c '%n %a %U %G' /home/alice /home/alice/.[a-z]* /etc/passwd /etc/shadow /etc/subuid; \
         echo alice:secret | chpasswd; su alice -c 'id -un; pwd; touch ~/mine; umask'; stat -c %U /home/alice/mine; \
         groupadd -g 777 crew; usermod -aG crew alice; id -Gn alice; userdel -r alice 2>/dev/null; test ! -e /home/alice; \
         grep -c alice /etc/passwd || echo gone",
    );
    assert!(said.ends_with("gone\n"), "{said}");
}

fn set_user_id(case: &Case) {
    let said = case.same(
        "set -e; install -m 4755 /usr/bin/id /usr/local/bin/root-id; setpriv --reuid 1000 --regid 1000 --clear-groups root-id -u; \
         install -m 2755 /usr/bin/id /usr/local/bin/group-id; setpriv --reuid 1000 --regid 1000 --clear-groups group-id -g; \
         cd /usr/local/bin; chown 5:6 root-id; stat -c '%a %u %g' root-id; \
         install -d -m 2775 -g audio /srv/shared; touch /srv/shared/x; stat -c %G /srv/shared/x",
    );
    assert_eq!(said, "0\n0\n755 5 6\naudio\n");
}

fn git(case: &Case) {
    let said = case.same(
        "set -e; export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'; \
         git config --global user.name Cowl; git config --global user.email cowl@example.org; git config --global init.defaultBranch main; \
         mkdir /srv/repo; cd /srv/repo; git init -q; cp -r /usr/share/perl5 /usr/lib/git-core/mergetools .; git add .; git commit -q -m one; \
         echo change >> mergetools/meld; git commit -q -am two; git log --format='%H %s'; \
         git clone -q /srv/repo /srv/clone; cd /srv/clone; git status --porcelain --branch; git rev-parse HEAD; \
         echo more >> mergetools/meld; rm mergetools/vimdiff; touch new; git status --porcelain; git stash -q; git status --porcelain; \
         git gc -q; git fsck --no-progress; git ls-files | wc -l",
    );
    assert!(said.contains("?? new"), "{said}");
}

fn gcc(case: &Case) {
    let said = case.same(
        "set -e; mkdir /srv/build; cd /srv/build; \
         for i in 1 2 3 4 5 6 7 8; do printf '#include <stdio.h>\\nint f%d(int x){return x*%d;}\\n' $i $i > f$i.c; done; \
         { echo '#include <stdio.h>'; for i in 1 2 3 4 5 6 7 8; do echo \"int f$i(int);\"; done; \
           echo 'int main(void){int s=0;'; for i in 1 2 3 4 5 6 7 8; do echo \"s+=f$i($i);\"; done; echo 'printf(\"%d\\n\",s);return 0;}'; } > main.c; \
         printf 'O=$(patsubst %%.c,%%.o,$(wildcard *.c))\\nsum: $(O)\\n\\tgcc -o $@ $^\\n' > Makefile; \
         make -s -j2; ./sum; make; touch f1.c; make | wc -l; rm -f *.o; make -s; ./sum; sha256sum sum",
    );
    assert!(said.starts_with("204\n"), "{said}");
}

fn python(case: &Case) {
    // -v names every single test with its verdict.
    let modules = "test_json test_shutil test_os test_pathlib test_tempfile test_glob test_mmap test_fileio test_posix test_fcntl test_tarfile";
    let script = format!("cd /tmp && exec python3 -B -m test -v {modules} 2>&1");
    let verdicts = |outcome: &Outcome| {
        let text = outcome.out();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| {
                [" ... ok", " ... FAIL", " ... ERROR"].iter().any(|end| line.ends_with(end))
                    || line.contains(" ... skipped")
            })
            .collect();
        lines.join("\n")
    };
    let ours = case.cowl(&["-w", "/tmp"], &["bash", "-c", &script]);
    let plain = case.chroot(&["bash", "-c", &script]);
    let (wanted, mut got) = (verdicts(&plain), verdicts(&ours));
    let mut code = plain.code;
    if case.machine.caller != Caller::Root {
        // They chown to id 2^31: the kernel refuses an id that the user namespace does not have.
        for test in ["test_chown", "test_fchown", "test_lchown"] {
            let line = |end: &str| format!("{test} (test.test_posix.PosixTester.{test}) ... {end}");
            assert!(got.contains(&line("ERROR")), "{test} works now: compare it");
            got = got.replace(&line("ERROR"), &line("ok"));
        }
        // Some test failed, says python.
        code = Some(2);
    }
    assert!(wanted.lines().count() > 1_000, "{}", plain.out());
    assert_eq!(difference(&wanted, &got), "");
    assert_eq!(ours.code, code);
}

fn apt(case: &Case) {
    let script = "set -e; export DEBIAN_FRONTEND=noninteractive; apt-get -q update >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; \
        apt-get -q -y --no-install-recommends install hello ed >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; \
        hello; printf 'a\\nby ed\\n.\\nw /tmp/out\\nq\\n' | ed -s; cat /tmp/out; dpkg -V hello ed; dpkg --audit; \
        apt-get -q -y purge hello >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; test ! -e /usr/bin/hello; echo done";
    let said = case.cowl(&MACHINES_APT, &["bash", "-c", script]).ok();
    assert_eq!(said, "Hello, world!\nby ed\ndone\n");
}

fn copy_up_of_everything(case: &Case) {
    let said = case.same(
        "set -e; cd /usr; chmod -R g+w share; find lib -xdev -type f -exec touch -h -d @1000000000 {} +; \
         find lib/python3.11 -type f -name '*.py' | sort | head -n 100 | while read f; do echo >> $f; done; \
         cp -a share/perl5 share/perl5-copy; mv share/perl5 share/perl5-moved; rm -rf share/zoneinfo share/doc; \
         ln lib/os-release lib/os-release-2; find . -xdev -printf '%P %y %m %n %l\\n' | grep -v '^[^ ]* d' | sort; \
         find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum",
    );
    assert!(said.lines().count() > 10_000, "{said}");
}

/// Something that copies up, creates and deletes until it is killed.
fn busy(case: &Case, name: &str) -> std::process::Child {
    // Ready when enough is done to be seen.
    let script = "n=0; while :; do for f in $(find /usr/share /usr/lib/git-core /etc -type f); do \
        echo x >> $f; chmod g+w $f; rm -f $f; cp /etc/passwd $f; ln -f $f /srv/link; mv /srv/link /srv/moved; \
        n=$((n + 1)); [ $n != 30 ] || echo ready; done; done 2>/dev/null";
    let mut child = case
        .machine
        .command(["run", "--name", name, IMAGE, "bash", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start cowl");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("read");
    assert_eq!(line, "ready\n");
    child
}

fn over(case: &Case, mut child: std::process::Child, name: &str) {
    let status = child.wait().expect("wait");
    assert!(!status.success(), "{status}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !left::processes(case.machine.dir()).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", left::processes(case.machine.dir()));
        thread::sleep(Duration::from_millis(50));
    }
    // What was written is still there to be seen, and can be removed.
    let diff = case.machine.cowl(["diff", name]).ok();
    assert!(diff.lines().count() > 10, "{diff}");
    case.machine.cowl(["rm", name]).ok();
    case.same("dpkg -V | sort");
}

fn kill_9_of_cowlfs_at_work(case: &Case) {
    let child = busy(case, "victim-fs");
    for pid in left::named(case.machine.dir(), "cowlfs") {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim() == "cowlfs" {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill cowlfs");
        }
    }
    over(case, child, "victim-fs");
}

fn kill_9_of_cowl_at_work(case: &Case) {
    let mut child = busy(case, "victim-cli");
    child.kill().expect("kill the command");
    // The container lives on without it; its monitor is what must not die.
    for pid in left::named(case.machine.dir(), "cowl") {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim() == "cowl-monitor" {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the monitor");
        }
    }
    over(case, child, "victim-cli");
}
