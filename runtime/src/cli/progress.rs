//! How a transfer shows: one line for each layer with a bar on a terminal, plain lines otherwise.
//!
//! Docker's words. On a terminal a layer's line is rewritten in place; elsewhere only what is worth
//! a line in a log gets one.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::size;
use crate::registry::{Progress, Step};
use crate::terminal;

/// How often a bar moves.
const INTERVAL: Duration = Duration::from_millis(100);
/// Length of a bar, as far as the window lets.
const BAR: usize = 50;
/// Width of a window that does not tell its size.
const WIDTH: usize = 80;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, as for `pull`.
    Out,
    /// Standard error, as for `run`, whose output is the container's.
    Err,
}

/// Shows a transfer.
#[derive(Debug)]
pub struct Lines {
    stream: Stream,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    drawn: Option<Instant>,
}

impl Lines {
    /// On a stream.
    pub fn new(stream: Stream) -> Lines {
        let terminal = match stream {
            Stream::Out => io::stdout().is_terminal(),
            Stream::Err => io::stderr().is_terminal(),
        };
        Lines { stream, terminal, state: Mutex::new(State::default()) }
    }

    /// What nobody reads is no reason to stop a transfer.
    fn write(&self, text: &str) {
        match self.stream {
            Stream::Out => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
            }
            Stream::Err => {
                io::stderr().lock().write_all(text.as_bytes()).ok();
            }
        }
    }

    fn draw(&self, state: &mut State, name: &str, step: &Step) {
        let moving = matches!(step, Step::Downloading(..) | Step::Pushing(..));
        let at = match state.layers.iter().position(|layer| layer.name == name) {
            Some(at) => at,
            None => {
                state.layers.push(Layer { name: name.to_owned(), drawn: None });
                self.write("\n");
                state.layers.len() - 1
            }
        };
        let below = state.layers.len() - at;
        let Some(layer) = state.layers.get_mut(at) else { return };
        if moving && layer.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL) {
            return;
        }
        layer.drawn = moving.then(Instant::now);
        let width = terminal::window_size().map_or(WIDTH, |size| usize::from(size.ws_col));
        let line: String = on_terminal(name, step, width).chars().take(width).collect();
        self.write(&format!("\x1b[{below}A\r\x1b[2K{line}\r\x1b[{below}B"));
    }
}

impl Progress for Lines {
    fn say(&self, text: &str) {
        let _order = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&format!("{text}\n"));
    }

    fn step(&self, layer: &str, step: &Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal {
            self.draw(&mut state, layer, step);
        } else {
            self.write(&plain(layer, step));
        }
    }
}

/// The lines for a log.
fn plain(layer: &str, step: &Step) -> String {
    let line = |text: &str| format!("{layer}: {text}\n");
    match step {
        Step::Waiting => line("Pulling fs layer"),
        Step::Exists => line("Already exists"),
        Step::Retrying(seconds) => line(&retrying(*seconds)),
        Step::Downloaded => line("Verifying Checksum") + &line("Download complete"),
        Step::Pulled => line("Pull complete"),
        Step::Preparing => line("Preparing"),
        Step::OnRegistry => line("Layer already exists"),
        Step::Mounted(from) => line(&format!("Mounted from {from}")),
        Step::Pushed => line("Pushed"),
        Step::Downloading(..) | Step::Extracting | Step::Compressing | Step::Pushing(..) => {
            String::new()
        }
    }
}

fn on_terminal(layer: &str, step: &Step, width: usize) -> String {
    let text = match step {
        Step::Waiting => "Pulling fs layer".to_owned(),
        Step::Exists => "Already exists".to_owned(),
        Step::Downloading(done, all) => format!("Downloading  {}", bar(*done, *all, width)),
        Step::Retrying(seconds) => retrying(*seconds),
        Step::Downloaded => "Download complete".to_owned(),
        Step::Extracting => "Extracting".to_owned(),
        Step::Pulled => "Pull complete".to_owned(),
        Step::Preparing => "Preparing".to_owned(),
        Step::Compressing => "Compressing".to_owned(),
        Step::Pushing(done, all) => format!("Pushing  {}", bar(*done, *all, width)),
        Step::OnRegistry => "Layer already exists".to_owned(),
        Step::Mounted(from) => format!("Mounted from {from}"),
        Step::Pushed => "Pushed".to_owned(),
    };
    format!("{layer}: {text}")
}

fn retrying(seconds: u64) -> String {
    format!("Retrying in {seconds} second{}", if seconds == 1 { "" } else { "s" })
}

/// `[=====>     ]  12.3MB/45.6MB`
fn bar(done: u64, all: u64, width: usize) -> String {
    let sizes = format!("{}/{}", size::long(done), size::long(all));
    // The rest of the line: the layer's name, the word, the brackets.
    let room = width.saturating_sub(sizes.len() + 32).min(BAR);
    if room < 10 {
        return sizes;
    }
    let filled = u128::from(done) * room as u128 / u128::from(all.max(1));
    let filled = usize::try_from(filled).unwrap_or(room).min(room);
    let head = if filled < room { ">" } else { "=" };
    let rest = room.saturating_sub(filled + 1);
    format!("[{:=<before$}{head}{:rest$}]  {sizes}", "", "", before = filled.min(room - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_lines() {
        assert_eq!(bar(0, 100, 200), format!("[>{}]  0B/100B", " ".repeat(49)));
        assert_eq!(bar(50, 100, 200), format!("[{}>{}]  50B/100B", "=".repeat(25), " ".repeat(24)));
        assert_eq!(bar(100, 100, 200), format!("[{}]  100B/100B", "=".repeat(50)));
        assert_eq!(bar(1, 0, 20), "1B/0B");
        assert_eq!(plain("abc", &Step::Waiting), "abc: Pulling fs layer\n");
        assert_eq!(plain("abc", &Step::Downloading(1, 2)), "");
        assert_eq!(plain("abc", &Step::Retrying(1)), "abc: Retrying in 1 second\n");
    }
}
