//! Ctrl-C and SIGTERM end the run at the next safe point: mounts, loop devices and processes are
//! taken down as after a normal end.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the run should end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Starts to watch. The signals are blocked in this thread and all that it starts (a child gets a
/// clean mask from the standard library), and a thread waits for them. The second one ends the
/// process at once; what it started then ends by its parent-death signal.
///
/// # Errors
/// When the signals cannot be blocked.
pub fn watch() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if ASKED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            eprintln!("\ncompare: stopping; once more to stop at once");
        }
    });
    Ok(())
}
