//! Log lines about what clients or an outage can cause thousands of times a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts what happens often, and says seldom that it does.
#[derive(Debug)]
pub(super) struct LogThrottle {
    every: Duration,
    since: Instant,
    unreported: AtomicU64,
    /// Milliseconds after `since` from which the next report may be made.
    pub(super) next_report: AtomicU64,
}

impl LogThrottle {
    pub(super) fn new(every: Duration) -> LogThrottle {
        LogThrottle {
            every,
            since: Instant::now(),
            unreported: AtomicU64::new(0),
            next_report: AtomicU64::new(0),
        }
    }

    /// Counts one; returns how many to report, where it is time to.
    pub(super) fn count(&self) -> Option<u64> {
        self.unreported.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_report.load(Ordering::Relaxed);
        let next = now.saturating_add(self.every.as_millis() as u64);
        // Of several threads that find it due, the one that moves the mark reports.
        (now >= due
            && self.next_report.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok())
        .then(|| self.unreported.swap(0, Ordering::Relaxed))
    }
}
