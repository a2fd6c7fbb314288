//! Programs beside PID 1, terminals that come and go, and what a container has written.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::Stdio;

use cowl_tests::container::pty::Pty;
use cowl_tests::container::{Machine, patience};
use cowl_tests::{as_root_and_user, as_single_id};

as_root_and_user!(
    exec_in_all_forms,
    exec_streams,
    exec_has_a_terminal,
    a_terminal_is_left_and_attached_again,
    other_keys_and_window_sizes,
    attached_without_a_terminal,
    logs_in_all_forms,
    logs_are_followed,
    bytes_of_any_kind_are_kept,
    logs_are_bounded,
);

as_single_id!(exec_in_all_forms, exec_streams, logs_in_all_forms);

fn idle(machine: &Machine, options: &[&str]) {
    let mut words = vec!["run", "-d", "--name", "idle"];
    words.extend(options);
    words.extend(["busybox", "sleep", "1000"]);
    machine.cowl(words).ok();
}

fn exec_in_all_forms(machine: &Machine) {
    idle(machine, &["-e", "A=1", "-w", "/tmp", "--hostname", "h1"]);
    let exec = |words: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(words);
        machine.cowl(all)
    };
    assert_eq!(exec(&["idle", "sh", "-c", "echo $A; pwd; hostname"]).ok(), "1\n/tmp\nh1\n");
    let changed = ["-e", "A=2", "-e", "B=3", "-w", "/etc", "idle", "sh", "-c", "echo $A$B; pwd"];
    assert_eq!(exec(&changed).ok(), "23\n/etc\n");
    machine.file("work/vars", "# a comment\nFROM_FILE=yes\n");
    let file = machine.path("work/vars").display().to_string();
    assert_eq!(exec(&["--env-file", &file, "idle", "sh", "-c", "echo $FROM_FILE"]).ok(), "yes\n");
    // It is in the container: its processes, its files, its capabilities.
    assert_eq!(exec(&["idle", "cat", "/proc/1/comm"]).ok(), "sleep\n");
    let bounding = |words: &[&str]| exec(words).ok().split_whitespace().last().map(str::to_owned);
    let usual = bounding(&["idle", "grep", "CapBnd", "/proc/self/status"]);
    assert_eq!(usual.as_deref(), Some("00000000a80425fb"));
    assert_ne!(bounding(&["--privileged", "idle", "grep", "CapBnd", "/proc/self/status"]), usual);
    exec(&["idle", "sh", "-c", "exit 42"]).ends(42);
    exec(&["idle", "sh", "-c", "kill -9 $$"]).ends(137);
    exec(&["idle", "no-such-command"]).fails(127, "no-such-command");
    exec(&["idle", "/etc/passwd"]).fails(126, "/etc/passwd");
    exec(&["-u", "nosuchuser", "idle", "true"]).fails(125, "nosuchuser");
    exec(&["nobody", "true"]).fails(1, "No such container: nobody");
    assert_eq!(exec(&["idle"]).code, Some(1));
    // Nobody waits for one that is detached.
    assert_eq!(exec(&["-d", "idle", "sh", "-c", "echo x > /made; sleep 1000"]).ok(), "");
    patience::until("the file", || {
        exec(&["idle", "cat", "/made"]).code.filter(|c| *c == 0).map(drop).ok_or(())
    });
    machine.cowl(["rm", "-f", "idle"]).ok();
    machine.cowl(["create", "--name", "still", "busybox", "true"]).ok();
    exec(&["still", "true"]).fails(1, "is not running");
    machine.cowl(["rm", "still"]).ok();
}

fn exec_streams(machine: &Machine) {
    idle(machine, &[]);
    let outcome = machine.cowl(["exec", "idle", "sh", "-c", "echo out; echo err >&2; cat"]);
    assert_eq!((outcome.ok().as_str(), outcome.err().as_str()), ("out\n", "err\n"));
    // Its end is seen, and every byte arrives.
    let data: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 31) >> 5) as u8).collect();
    let outcome = machine.cowl_with_input(&data, ["exec", "-i", "idle", "cat"]);
    outcome.ends(0);
    assert!(outcome.stdout == data, "{} bytes of {}", outcome.stdout.len(), data.len());
    let outcome = machine.cowl_with_input(&data, ["run", "--rm", "-i", "busybox", "cat"]);
    outcome.ends(0);
    assert!(outcome.stdout == data, "{} bytes of {}", outcome.stdout.len(), data.len());
    machine.cowl(["rm", "-f", "idle"]).ok();
}

fn exec_has_a_terminal(machine: &Machine) {
    idle(machine, &[]);
    let mut pty = Pty::start(&machine.command(["exec", "-it", "idle", "sh"]));
    pty.types(b"tty; stty size; echo $((40 + 2)); exit 3\n");
    pty.shows("/dev/pts/");
    pty.shows("24 80");
    pty.shows("42");
    assert_eq!(pty.ends(), Some(3));
    machine.cowl(["exec", "-it", "idle", "true"]).fails(1, "TTY");
    // The program goes on when its terminal is left.
    let mut pty = Pty::start(&machine.command(["exec", "-it", "idle", "sh"]));
    // The shell's own word: until then the keys are not ours to look at.
    pty.types(b"echo $((3 + 4))ready; while :; do echo on >> /on; sleep 0.1; done\n");
    pty.shows("7ready");
    pty.types(b"\x10\x11");
    assert_eq!(pty.ends(), Some(1));
    let lines = || machine.cowl(["exec", "idle", "wc", "-l", "/on"]).out();
    let before = lines();
    patience::until("more lines", || if lines() == before { Err(()) } else { Ok(()) });
    machine.cowl(["rm", "-f", "idle"]).ok();
}

fn a_terminal_is_left_and_attached_again(machine: &Machine) {
    let mut pty = Pty::start(&machine.command(["run", "-it", "--name", "shell", "busybox", "sh"]));
    pty.types(b"X=kept; echo $((1 + 1))ready\n");
    pty.shows("2ready");
    pty.types(b"\x10\x11");
    pty.shows("read escape sequence");
    assert_eq!(pty.ends(), Some(0));
    assert!(machine.cowl(["ps"]).ok().contains("shell"));
    let mut pty = Pty::start(&machine.command(["attach", "shell"]));
    pty.types(b"echo $X$((2 + 2)); exit 7\n");
    pty.shows("kept4");
    assert_eq!(pty.ends(), Some(7));
    let log = machine.cowl(["logs", "shell"]).ok();
    assert!(log.contains("2ready") && log.contains("kept4"), "{log}");
    machine.cowl(["attach", "shell"]).fails(1, "start it first");
    machine.cowl(["rm", "shell"]).ok();
}

fn other_keys_and_window_sizes(machine: &Machine) {
    let words = ["run", "-it", "--detach-keys", "ctrl-a,d", "--name", "shell", "busybox", "sh"];
    let mut pty = Pty::start(&machine.command(words));
    pty.types(b"stty size\n");
    pty.shows("24 80");
    pty.resize(41, 103);
    patience::until("the new size", || {
        pty.types(b"stty size\n");
        if pty.screen().contains("41 103") { Ok(()) } else { Err(pty.screen()) }
    });
    pty.types(b"\x01d");
    pty.shows("read escape sequence");
    pty.ends();
    machine.cowl(["rm", "-f", "shell"]).ok();
}

fn attached_without_a_terminal(machine: &Machine) {
    let script = "while read line; do echo got $line; test $line = end && exit 4; done";
    machine.cowl(["run", "-d", "-i", "--name", "reader", "busybox", "sh", "-c", script]).ok();
    let outcome = machine.cowl_with_input(b"one\nend\n", ["attach", "reader"]);
    assert_eq!(outcome.ends(4), "got one\ngot end\n");
    machine.cowl(["rm", "reader"]).ok();
}

fn logs_in_all_forms(machine: &Machine) {
    let script = "for n in 1 2 3 4 5; do echo line $n; done; echo error >&2; printf end";
    machine.cowl(["run", "--name", "wrote", "busybox", "sh", "-c", script]).ok();
    let all = machine.cowl(["logs", "wrote"]);
    assert_eq!(all.ok(), "line 1\nline 2\nline 3\nline 4\nline 5\nend");
    assert_eq!(all.err(), "error\n");
    for (option, count) in [("0", 0), ("1", 1), ("3", 3), ("100", 7), ("all", 7), ("-1", 7)] {
        let log = machine.cowl(["logs", "--tail", option, "wrote"]);
        log.ok();
        let lines = log.out().lines().count() + log.err().lines().count();
        assert_eq!(lines, count, "--tail {option}: {log:?}");
    }
    let stamped = machine.cowl(["logs", "-t", "wrote"]).ok();
    let first = stamped.lines().next().expect("a line");
    let (time, text) = first.split_once(' ').expect("a time");
    assert!(time.len() == 30 && time.ends_with('Z') && text == "line 1", "{first}");
    assert_eq!(machine.cowl(["logs", "--since", "1h", "--until", "0s", "wrote"]).ok(), all.out());
    assert_eq!(machine.cowl(["logs", "--until", "1h", "wrote"]).ok(), "");
    assert_eq!(machine.cowl(["logs", "--since", "2100-01-01", "wrote"]).ok(), "");
    machine.cowl(["logs", "--since", "soon", "wrote"]).fails(1, "soon");
    machine.cowl(["logs", "--tail", "x", "wrote"]).fails(1, "x");
    machine.cowl(["logs", "nobody"]).fails(1, "No such container: nobody");
    machine.cowl(["run", "--log-driver", "none", "--name", "mute", "busybox", "echo", "x"]).ok();
    machine.cowl(["logs", "mute"]).fails(1, "does not support reading");
    machine.cowl(["rm", "wrote", "mute"]).ok();
}

fn logs_are_followed(machine: &Machine) {
    let script = "echo one; while ! test -e /go; do sleep 0.1; done; echo two";
    machine.cowl(["run", "-d", "--name", "slow", "busybox", "sh", "-c", script]).ok();
    let mut follower =
        machine.command(["logs", "-f", "slow"]).stdout(Stdio::piped()).spawn().expect("start cowl");
    let mut lines = std::io::BufReader::new(follower.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).expect("read");
    assert_eq!(line, "one\n");
    machine.cowl(["exec", "slow", "touch", "/go"]).ok();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut lines, &mut rest).expect("read");
    assert_eq!(rest, "two\n");
    assert!(follower.wait().expect("wait").success());
    machine.cowl(["rm", "-f", "slow"]).ok();
}

fn bytes_of_any_kind_are_kept(machine: &Machine) {
    let data: Vec<u8> =
        (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    machine.cowl_with_input(&data, ["run", "-i", "--name", "bytes", "busybox", "cat"]).ends(0);
    let log = machine.cowl(["logs", "bytes"]);
    log.ends(0);
    assert!(log.stdout == data, "{} bytes of {}", log.stdout.len(), data.len());
    machine.cowl(["rm", "bytes"]).ok();
}

fn logs_are_bounded(machine: &Machine) {
    let limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
    let mut words = vec!["run", "--name", "much"];
    words.extend(limits);
    words.extend(["busybox", "seq", "200000"]);
    machine.cowl(words).ok();
    let log = machine.cowl(["logs", "much"]).ok();
    assert!(log.ends_with("199999\n200000\n"), "{}", log.len());
    // A file is full when something more would have been too much: at most a piece that was read
    // at once goes beyond.
    assert!((100..150_000).contains(&log.lines().count()), "{}", log.lines().count());
    machine.cowl(["rm", "much"]).ok();
}
