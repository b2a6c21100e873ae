//! Limits log lines about events that clients or an outage can cause thousands of times per second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts events, and reports their number at most once per interval. Lock-free: every field is constant or atomic.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    interval: Duration,
    created: Instant,
    unreported: AtomicU64,
    /// The earliest time of the next report, in milliseconds after `created`.
    pub(crate) next_report: AtomicU64,
}

impl LogThrottle {
    pub(crate) fn new(interval: Duration) -> LogThrottle {
        LogThrottle {
            interval,
            created: Instant::now(),
            unreported: AtomicU64::new(0),
            next_report: AtomicU64::new(0),
        }
    }

    /// Counts one event. Returns the number of events since the last report, if a report is due.
    pub(crate) fn count(&self) -> Option<u64> {
        self.unreported.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_report.load(Ordering::Relaxed);
        let next = now.saturating_add(self.interval.as_millis() as u64);
        // Several threads may find a report due; the one whose exchange succeeds makes it.
        (now >= due
            && self.next_report.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok())
        .then(|| self.unreported.swap(0, Ordering::Relaxed))
    }
}
