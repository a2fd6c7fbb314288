//! Runs a command with a time limit, and ends all of its group when the limit or the user says so.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::fault::{Doing, Fault, Result};
use crate::interrupt;

/// Runs a command and gives what it wrote to its standard output.
///
/// # Errors
/// When it cannot be started, fails (the sentence is what it wrote to its standard error), takes
/// longer than `limit`, or the user wants to stop.
pub fn run(mut command: Command, what: &str, limit: Duration) -> Result<String> {
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("start {what}"))?;
    let output = reader(child.stdout.take());
    let errors = reader(child.stderr.take());
    let end = Instant::now() + limit;
    loop {
        // The end of the output is the end of the command, or nearly so.
        match output.recv_timeout(Duration::from_millis(100)) {
            Ok(text) => {
                let status = wait(&mut child, end)?;
                if status {
                    return Ok(text);
                }
                let said = errors.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                return Err(Fault(sentence(&said, what)));
            }
            Err(_) if interrupt::asked() => {
                stop(&mut child);
                return Err(Fault("stopped".into()));
            }
            Err(_) if Instant::now() > end => {
                stop(&mut child);
                return Err(Fault(format!("took longer than {} s", limit.as_secs())));
            }
            Err(_) => {}
        }
    }
}

fn sentence(said: &str, what: &str) -> String {
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map_or_else(|| format!("{what} failed"), |line| line.chars().take(300).collect())
}

fn wait(child: &mut Child, end: Instant) -> Result<bool> {
    loop {
        if let Some(status) = child.try_wait().doing(|| "wait")? {
            return Ok(status.success());
        }
        if Instant::now() > end || interrupt::asked() {
            stop(child);
            return Err(Fault("did not end".into()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills the group of the child, and waits a little: a process may hang in a dead mount until that
/// is taken away.
pub fn stop(child: &mut Child) {
    // The group may be gone already.
    let _gone = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _gone = child.kill();
    for _ in 0..200 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn reader(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // Cut short by an error is what there is.
            let _read = stream.read_to_end(&mut bytes);
        }
        // Nobody listens any more after a time limit.
        let _heard = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

/// Seconds on CPUs that the process and its ended threads have used; zero when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    clock_getcpuclockid(Pid::from_raw(pid as i32))
        .and_then(clock_gettime)
        .map_or(0.0, |time| time.num_nanoseconds() as f64 / 1e9)
}

/// Bytes of memory that the process holds.
pub fn resident(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

/// Nanoseconds of the monotonic clock, which all processes share.
pub fn monotonic() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).doing(|| "read the clock")?;
    Ok(now.num_nanoseconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_errors_and_time_limit() {
        let limit = Duration::from_secs(20);
        assert_eq!(run(sh("echo yes"), "sh", limit).unwrap(), "yes\n");
        let error = run(sh("echo first >&2; echo the reason >&2; exit 3"), "sh", limit);
        assert_eq!(error.unwrap_err().0, "the reason");
        assert_eq!(run(sh("exit 1"), "sh", limit).unwrap_err().0, "sh failed");
        let start = Instant::now();
        let error = run(sh("sleep 30 & sleep 30"), "sh", Duration::from_millis(200));
        assert!(error.unwrap_err().0.starts_with("took longer"));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn own_cpu_time_and_memory_are_known() {
        let me = std::process::id();
        assert!(resident(me).unwrap() > 100_000.0);
        let before = cpu_seconds(me);
        let end = Instant::now() + Duration::from_millis(30);
        while Instant::now() < end {}
        assert!(cpu_seconds(me) > before);
    }
}
