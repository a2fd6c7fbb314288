//! Containers that live by themselves: detached, stopped, started again, killed, restarted.
// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;

use cowl_tests::container::{Machine, left, patience};
use cowl_tests::{as_root_and_user, as_single_id};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

as_root_and_user!(
    outlives_its_command,
    created_then_started,
    stopped_by_its_signal,
    killed_after_the_time,
    signals,
    waited_for,
    paused_and_unpaused,
    renamed,
    restarted_by_its_policy,
    restarted_by_hand,
    removed_when_it_ends,
    id_files,
    wrong_words,
    kill_9_of_the_monitor,
    kill_9_at_any_moment,
    events_tell,
);

as_single_id!(outlives_its_command, stopped_by_its_signal, kill_9_of_the_monitor);

/// Starts a container that says `ready` and then does nothing.
fn detached(machine: &Machine, name: &str, options: &[&str], script: &str) -> String {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(options);
    words.extend(["busybox", "sh", "-c", script]);
    let id = machine.cowl(words).ok().trim().to_owned();
    assert_eq!(id.len(), 64, "{id}");
    id
}

fn status(machine: &Machine, name: &str) -> String {
    let all = machine.cowl(["ps", "-a", "--format", "{{.Names}}\t{{.Status}}"]).ok();
    let line = all.lines().find_map(|line| line.strip_prefix(&format!("{name}\t")));
    line.unwrap_or_default().to_owned()
}

fn reaches(machine: &Machine, name: &str, wanted: &str) {
    patience::until(&format!("{name} to be {wanted}"), || {
        let now = status(machine, name);
        if now.starts_with(wanted) { Ok(()) } else { Err(now) }
    });
}

/// Waits until a container has said something.
fn says(machine: &Machine, name: &str, text: &str) {
    patience::until(&format!("{name} to say {text:?}"), || {
        let log = machine.cowl(["logs", name]);
        if log.out().contains(text) { Ok(()) } else { Err(log) }
    });
}

const IDLE: &str = "echo ready; exec sleep 1000";
/// PID 1 has no default actions for signals: this one ends when it is asked to.
const POLITE: &str = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.1; done";

fn outlives_its_command(machine: &Machine) {
    let id = detached(machine, "alone", &[], IDLE);
    says(machine, "alone", "ready");
    assert!(status(machine, "alone").starts_with("Up "));
    assert_eq!(machine.cowl(["ps", "-q", "--no-trunc"]).ok().trim(), id);
    // The monitor is small, and nobody's child.
    let monitors = left::named(machine.dir(), "cowl");
    assert!(!monitors.is_empty());
    machine.cowl(["rm", "alone"]).fails(1, "alone");
    assert_eq!(machine.cowl(["rm", "-f", "alone"]).ok(), "alone\n");
    assert_eq!(left::named(machine.dir(), "sleep 1000"), Vec::<i32>::new());
}

fn created_then_started(machine: &Machine) {
    let id = machine.cowl([
        "create",
        "--name",
        "later",
        "busybox",
        "sh",
        "-c",
        "echo x >> /f; cat /f; exit 4",
    ]);
    let id = id.ok().trim().to_owned();
    assert_eq!(status(machine, "later"), "Created");
    assert_eq!(machine.cowl(["wait", "later"]).ok(), "0\n");
    // What it wrote stays from one life to the next.
    assert_eq!(machine.cowl(["start", "-a", "later"]).ends(4), "x\n");
    assert_eq!(machine.cowl(["start", "-a", &id[..12]]).ends(4), "x\nx\n");
    assert!(status(machine, "later").starts_with("Exited (4)"));
    assert_eq!(machine.cowl(["start", "later"]).ok(), "later\n");
    assert_eq!(machine.cowl(["wait", "later"]).ok(), "4\n");
    assert_eq!(machine.cowl(["logs", "-n", "3", "later"]).ok(), "x\nx\nx\n");
    machine.cowl(["start", "nobody"]).fails(1, "No such container: nobody");
    machine.cowl(["rm", "later"]).ok();
}

fn stopped_by_its_signal(machine: &Machine) {
    detached(machine, "polite", &[], POLITE);
    says(machine, "polite", "ready");
    assert_eq!(machine.cowl(["stop", "-t", "60", "polite"]).ok(), "polite\n");
    assert!(status(machine, "polite").starts_with("Exited (5)"));
    says(machine, "polite", "asked");
    // Once more does nothing.
    assert_eq!(machine.cowl(["stop", "polite"]).ok(), "polite\n");
    machine.cowl(["rm", "polite"]).ok();

    let script = "trap 'exit 6' USR1; echo ready; while :; do sleep 0.1; done";
    detached(machine, "other", &["--stop-signal", "USR1", "--stop-timeout", "60"], script);
    says(machine, "other", "ready");
    machine.cowl(["stop", "other"]).ok();
    assert!(status(machine, "other").starts_with("Exited (6)"));
    machine.cowl(["rm", "other"]).ok();
}

fn killed_after_the_time(machine: &Machine) {
    detached(machine, "deaf", &["--stop-timeout", "0"], IDLE);
    machine.cowl(["stop", "deaf"]).ok();
    assert!(status(machine, "deaf").starts_with("Exited (137)"));
    machine.cowl(["start", "deaf"]).ok();
    machine.cowl(["stop", "-t", "1", "deaf"]).ok();
    assert!(status(machine, "deaf").starts_with("Exited (137)"));
    machine.cowl(["rm", "deaf"]).ok();
}

fn signals(machine: &Machine) {
    let script = "trap 'echo got one' USR1; echo ready; while :; do sleep 0.1; done";
    detached(machine, "ears", &[], script);
    says(machine, "ears", "ready");
    assert_eq!(machine.cowl(["kill", "-s", "SIGUSR1", "ears"]).ok(), "ears\n");
    says(machine, "ears", "got one");
    machine.cowl(["kill", "-s", "nonsense", "ears"]).fails(1, "nonsense");
    assert_eq!(machine.cowl(["kill", "ears"]).ok(), "ears\n");
    assert!(status(machine, "ears").starts_with("Exited (137)"));
    machine.cowl(["kill", "ears"]).fails(1, "is not running");
    machine.cowl(["rm", "ears"]).ok();
}

fn waited_for(machine: &Machine) {
    detached(machine, "slow", &[], IDLE);
    let mut waiting = machine
        .command(["wait", "slow"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start cowl");
    machine.cowl(["kill", "slow"]).ok();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut waiting.stdout.take().expect("a pipe"), &mut text)
        .expect("read");
    assert!(waiting.wait().expect("wait").success());
    assert_eq!(text, "137\n");
    assert_eq!(machine.cowl(["wait", "slow"]).ok(), text);
    machine.cowl(["wait", "nobody"]).fails(1, "nobody");
    machine.cowl(["rm", "slow"]).ok();
}

fn paused_and_unpaused(machine: &Machine) {
    let script = "echo ready; n=0; while :; do n=$((n+1)); echo $n > /count; sleep 0.02; done";
    detached(machine, "still", &[], script);
    says(machine, "still", "ready");
    assert_eq!(machine.cowl(["pause", "still"]).ok(), "still\n");
    assert!(status(machine, "still").ends_with("(Paused)"));
    machine.cowl(["pause", "still"]).fails(1, "already paused");
    machine.cowl(["exec", "still", "true"]).fails(1, "paused");
    machine.cowl(["start", "still"]).fails(1, "unpause");
    assert_eq!(machine.cowl(["unpause", "still"]).ok(), "still\n");
    machine.cowl(["unpause", "still"]).fails(1, "not paused");
    let count = || machine.cowl(["exec", "still", "cat", "/count"]).out();
    let before = count();
    patience::until("the count to go on", || if count() == before { Err(()) } else { Ok(()) });
    // A paused one can be stopped, and killed.
    machine.cowl(["pause", "still"]).ok();
    machine.cowl(["kill", "still"]).ok();
    assert!(status(machine, "still").starts_with("Exited (137)"));
    machine.cowl(["start", "still"]).ok();
    machine.cowl(["pause", "still"]).ok();
    machine.cowl(["rm", "-f", "still"]).ok();
    machine.cowl(["pause", "still"]).fails(1, "No such container");
}

fn renamed(machine: &Machine) {
    detached(machine, "before", &[], IDLE);
    machine.cowl(["create", "--name", "taken", "busybox", "true"]).ok();
    machine.cowl(["rename", "before", "taken"]).fails(1, "taken");
    machine.cowl(["rename", "before", "-x"]).fails(1, "-x");
    assert_eq!(machine.cowl(["rename", "before", "after"]).ok(), "");
    machine.cowl(["stop", "-t", "0", "after"]).ok();
    assert!(status(machine, "after").starts_with("Exited"));
    machine.cowl(["rm", "after", "taken"]).ok();
}

fn restarted_by_its_policy(machine: &Machine) {
    let script = "echo life; exit 3";
    detached(machine, "again", &["--restart", "on-failure:2"], script);
    reaches(machine, "again", "Exited (3)");
    patience::until("three lives", || {
        let log = machine.cowl(["logs", "again"]).ok();
        if log == "life\nlife\nlife\n" { Ok(()) } else { Err(log) }
    });
    // A life that ends well is the last one.
    detached(machine, "well", &["--restart", "on-failure"], "echo life");
    reaches(machine, "well", "Exited (0)");
    assert_eq!(machine.cowl(["logs", "well"]).ok(), "life\n");
    // Without end, until it is stopped: also while it is down.
    detached(machine, "ever", &["--restart", "always"], "echo life; exit 1");
    patience::until("several lives", || {
        let log = machine.cowl(["logs", "ever"]).ok();
        if log.lines().count() >= 3 { Ok(()) } else { Err(log) }
    });
    machine.cowl(["stop", "ever"]).ok();
    assert!(status(machine, "ever").starts_with("Exited (1)"), "{}", status(machine, "ever"));
    machine.cowl(["run", "--restart", "always", "--rm", "busybox", "true"]).fails(125, "--restart");
    machine.cowl(["run", "--restart", "maybe", "busybox", "true"]).fails(125, "maybe");
    machine.cowl(["rm", "again", "well", "ever"]).ok();
}

fn restarted_by_hand(machine: &Machine) {
    detached(machine, "hand", &["--stop-timeout", "0"], "echo life; exec sleep 1000");
    says(machine, "hand", "life");
    assert_eq!(machine.cowl(["restart", "hand"]).ok(), "hand\n");
    says(machine, "hand", "life\nlife");
    machine.cowl(["stop", "hand"]).ok();
    assert_eq!(machine.cowl(["restart", "hand"]).ok(), "hand\n");
    says(machine, "hand", "life\nlife\nlife");
    machine.cowl(["rm", "-f", "hand"]).ok();
}

fn removed_when_it_ends(machine: &Machine) {
    detached(machine, "passing", &["--rm"], IDLE);
    machine.cowl(["stop", "-t", "0", "passing"]).ok();
    assert_eq!(machine.containers(), Vec::<String>::new());
    // Made to be removed, but not started yet: it stays.
    machine.cowl(["create", "--rm", "--name", "waiting", "busybox", "true"]).ok();
    assert_eq!(status(machine, "waiting"), "Created");
    machine.cowl(["start", "-a", "waiting"]).ok();
    assert_eq!(machine.containers(), Vec::<String>::new());
}

fn id_files(machine: &Machine) {
    let path = machine.path("work/id").display().to_string();
    machine.cowl(["run", "--cidfile", &path, "--name", "noted", "busybox", "true"]).ok();
    let id = fs::read_to_string(&path).expect("the id");
    assert_eq!(machine.cowl(["ps", "-aq", "--no-trunc"]).ok().trim(), id);
    machine
        .cowl(["run", "--cidfile", &path, "busybox", "true"])
        .fails(125, "container ID file found");
    machine.cowl(["rm", "noted"]).ok();
    let other = machine.path("work/other").display().to_string();
    machine.cowl(["run", "--cidfile", &other, "no-such-image", "true"]).fails(125, "no-such-image");
    assert!(!machine.path("work/other").exists());
}

fn wrong_words(machine: &Machine) {
    for words in [
        vec!["run", "-d", "-a", "stdout", "busybox", "true"],
        vec!["run", "--stop-signal", "NOPE", "busybox", "true"],
        vec!["run", "--log-driver", "nowhere", "busybox", "true"],
        vec!["run", "--log-opt", "max-size=x", "busybox", "true"],
        vec!["run", "--detach-keys", "ctrl-1", "busybox", "true"],
        vec!["run", "-a", "nothing", "busybox", "true"],
    ] {
        let outcome = machine.cowl(&words);
        assert_eq!(outcome.code, Some(125), "{words:?}: {}", outcome.err());
        assert_eq!(outcome.err().lines().count(), 1, "{words:?}: {}", outcome.err());
    }
    assert_eq!(machine.containers(), Vec::<String>::new());
    // One that cannot start says why, and keeps saying it.
    machine
        .cowl(["run", "-d", "--name", "wrong", "busybox", "no-such-command"])
        .fails(127, "no-such-command");
    assert_eq!(status(machine, "wrong"), "Created");
    machine.cowl(["start", "wrong"]).fails(1, "no-such-command");
    machine.cowl(["rm", "wrong"]).ok();
}

/// The monitor's process, from the state on disk.
fn process(machine: &Machine, id: &str, which: &str) -> Option<Pid> {
    let path = machine.store().join("containers").join(id).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(Pid::from_raw(i32::try_from(state[which]["pid"].as_i64()?).ok()?))
}

fn kill_9_of_the_monitor(machine: &Machine) {
    let id = detached(machine, "orphan", &["--restart", "always"], IDLE);
    says(machine, "orphan", "ready");
    let monitor = process(machine, &id, "monitor").expect("its monitor");
    kill(monitor, Signal::SIGKILL).expect("kill the monitor");
    reaches(machine, "orphan", "Exited (137)");
    assert_eq!(left::named(machine.dir(), "sleep 1000"), Vec::<i32>::new());
    machine.cowl(["exec", "orphan", "true"]).fails(1, "is not running");
    // It can live again.
    machine.cowl(["start", "orphan"]).ok();
    says(machine, "orphan", "ready\nready");
    machine.cowl(["rm", "-f", "orphan"]).ok();
}

/// Processes are killed in an order and at moments that a fixed sequence of numbers decides.
fn kill_9_at_any_moment(machine: &Machine) {
    let mut number = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        number % below
    };
    for round in 0..8 {
        let name = format!("round{round}");
        let words =
            ["run", "-d", "--name", &name, "--restart", "on-failure", "busybox", "sleep", "1000"];
        let mut child = machine
            .command(words)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("start cowl");
        std::thread::sleep(std::time::Duration::from_millis(next(80)));
        let mut victims = left::processes(machine.dir());
        let survivors = next(3) as usize;
        while victims.len() > survivors {
            let at = next(victims.len() as u64) as usize;
            let (pid, _) = victims.swap_remove(at);
            // One that dies with another is gone already.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        child.wait().expect("wait");
        // The truth is told, whatever it is, and it can always be removed.
        let all = machine.cowl(["ps", "-a"]).ok();
        if all.contains(&name) {
            machine.cowl(["rm", "-f", &name]).ok();
        }
        assert_eq!(machine.cowl(["ps", "-aq"]).ok(), "");
    }
    assert_eq!(machine.containers(), Vec::<String>::new());
    machine.busybox(["true"]).ok();
}

fn events_tell(machine: &Machine) {
    machine.cowl(["run", "--name", "told", "busybox", "sh", "-c", "exit 3"]).ends(3);
    machine.cowl(["rename", "told", "retold"]).ok();
    machine.cowl(["rm", "retold"]).ok();
    let words = ["events", "--since", "1h", "--until", "0s", "--filter", "type=container"];
    let mut with = words.to_vec();
    with.extend(["--format", "{{.Action}} {{.Actor.Attributes.name}}"]);
    let text = machine.cowl(with).ok();
    assert_eq!(text, "create told\nstart told\ndie told\nrename retold\ndestroy retold\n");
    let mut deaths = words.to_vec();
    deaths.extend(["--filter", "event=die"]);
    let line = machine.cowl(deaths).ok();
    assert!(line.contains("container die ") && line.contains("exitCode=3"), "{line}");
    machine.cowl(["events", "--filter", "colour=red", "--until", "0s"]).fails(1, "colour");
}
