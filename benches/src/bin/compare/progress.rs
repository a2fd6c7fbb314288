//! How far the run is: one line that changes on a terminal, a line for each workload elsewhere.

use std::io::{IsTerminal, Write as _, stderr};
use std::time::Instant;

/// The state of the display.
#[derive(Debug)]
pub struct Progress {
    total: usize,
    done: usize,
    start: Instant,
    terminal: bool,
    workload: String,
}

impl Progress {
    /// For this many runs.
    pub fn new(total: usize) -> Progress {
        Progress {
            total,
            done: 0,
            start: Instant::now(),
            terminal: stderr().is_terminal(),
            workload: String::new(),
        }
    }

    /// A run begins.
    pub fn show(&mut self, workload: &str, what: &str) {
        if self.terminal {
            self.line(&format!("{} {workload}: {what}", bar(self.done, self.total, self.left())));
        } else if self.workload != workload {
            let seconds = self.start.elapsed().as_secs();
            eprintln!("[{seconds:>4} s] {}/{} {workload}", self.done, self.total);
            workload.clone_into(&mut self.workload);
        }
    }

    /// A run has ended.
    pub fn step(&mut self) {
        self.done += 1;
    }

    /// A sentence that stays.
    pub fn say(&self, sentence: &str) {
        if self.terminal {
            self.line("");
        }
        eprintln!("compare: {sentence}");
    }

    /// Takes the line away.
    pub fn end(&self) {
        if self.terminal {
            self.line("");
        }
    }

    fn line(&self, text: &str) {
        // A terminal that went away needs no progress.
        let _shown = write!(stderr(), "\r\x1b[K{text}").and_then(|()| stderr().flush());
    }

    /// Seconds left, if the rest is as fast as what was done.
    fn left(&self) -> u64 {
        let each = self.start.elapsed().as_secs_f64() / self.done.max(1) as f64;
        (each * self.total.saturating_sub(self.done) as f64) as u64
    }
}

fn bar(done: usize, total: usize, left: u64) -> String {
    const WIDE: usize = 20;
    let full = WIDE * done / total.max(1);
    let rest = if done == 0 { String::new() } else { format!(", {} left", duration(left)) };
    format!("[{}{}] {done}/{total}{rest}", "#".repeat(full), ".".repeat(WIDE - full.min(WIDE)))
}

fn duration(seconds: u64) -> String {
    if seconds < 100 { format!("{seconds} s") } else { format!("{} min", seconds.div_ceil(60)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        assert_eq!(bar(0, 4, 0), "[....................] 0/4");
        assert_eq!(bar(2, 4, 30), "[##########..........] 2/4, 30 s left");
        assert_eq!(bar(4, 4, 0), "[####################] 4/4, 0 s left");
        assert_eq!(duration(600), "10 min");
    }
}
