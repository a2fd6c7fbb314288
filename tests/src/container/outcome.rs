//! What a command said and how it ended.

use std::io::{Read, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The end of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; none when the command itself was killed by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The command, for messages.
    pub command: String,
}

impl Outcome {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Must have succeeded; its output.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.ends(0)
    }

    /// Must have ended with this code; its output.
    #[track_caller]
    pub fn ends(&self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "{}\nstdout: {}\nstderr: {}",
            self.command,
            tail(&self.out()),
            tail(&self.err())
        );
        self.out()
    }

    /// Must have failed with this code and one sentence on standard error that names `what`.
    #[track_caller]
    pub fn fails(&self, code: i32, what: &str) {
        self.ends(code);
        let sentence = self.err();
        let lines: Vec<&str> = sentence.lines().collect();
        assert_eq!(lines.len(), 1, "{}: not one sentence: {sentence:?}", self.command);
        assert!(sentence.contains(what), "{}: {sentence:?} does not say {what:?}", self.command);
        for word in ["panicked", "RUST_BACKTRACE", "Os {", "Error {", "Some(", "unwrap"] {
            assert!(!sentence.contains(word), "{}: not for people: {sentence:?}", self.command);
        }
    }
}

/// Runs a command to its end; kills it and fails when it takes longer than `patience`.
#[track_caller]
pub fn run(mut command: Command, input: Option<Vec<u8>>, patience: Duration) -> Outcome {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let text = shown(&command);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{text}: {e}"));
    let stdin = child.stdin.take();
    let writer = thread::spawn(move || {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // The command may end before it has read everything: its right.
            let _ignored = stdin.write_all(&input);
        }
    });
    let stdout = drain(child.stdout.take().expect("a pipe"));
    let stderr = drain(child.stderr.take().expect("a pipe"));
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a command") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("kill a command that hangs");
            child.wait().expect("wait for a killed command");
            panic!("{text}: still running after {patience:?}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    writer.join().expect("the writer");
    // Output ends when every holder of the pipe has ended: what stays behind shows as a hang here.
    while !(stdout.is_finished() && stderr.is_finished()) {
        assert!(
            Instant::now() < deadline,
            "{text}: ended, but something it started keeps its output open"
        );
        thread::sleep(Duration::from_millis(2));
    }
    Outcome {
        code: status.code(),
        stdout: stdout.join().expect("the reader"),
        stderr: stderr.join().expect("the reader"),
        command: text,
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read the output of a command");
        bytes
    })
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    format!("{} {}", command.get_program().to_string_lossy(), words.join(" "))
}

/// The end of a text, which says most about a failure.
fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(3000);
    let start = (start..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(start..).unwrap_or(text)
}
