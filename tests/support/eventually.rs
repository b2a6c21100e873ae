//! Waiting for what happens by itself.

use std::time::{Duration, Instant};

/// Asks `condition` every few milliseconds until it holds; panics with `what` when it does not in time.
#[track_caller]
pub(crate) fn eventually(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
