//! Waiting for something that comes when it comes: never by a fixed time.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// After this, it will not come any more.
const LONG: Duration = Duration::from_secs(60);

/// Waits until a condition holds; otherwise fails and shows what held instead.
#[track_caller]
pub fn until<E: Debug>(what: &str, mut condition: impl FnMut() -> Result<(), E>) {
    let deadline = Instant::now() + LONG;
    loop {
        match condition() {
            Ok(()) => return,
            Err(state) => {
                assert!(Instant::now() < deadline, "waited for {what} in vain: {state:?}");
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}
