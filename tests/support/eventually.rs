//! Waiting for what happens by itself.

use std::time::{Duration, Instant};

/// Longer than anything takes but a fault, whatever else the machine is busy with. Where a fault would only be slow, its story
/// gives it longer than this to be.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Asks `condition` every few milliseconds until it holds; panics with `what` when it does not in time.
#[track_caller]
pub(crate) fn eventually(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
