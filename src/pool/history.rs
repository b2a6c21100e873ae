//! The history: a snapshot of the pool's numbers for each second of the last minutes. Nothing of it is on a caller's way.
//!
//! It knows nothing of where the numbers come from. Times are of the monotonic clock, counted from when the pool was opened.
//!
//! **Lock rule**: one mutex governs the ring. It is held to add a snapshot or to copy the pointers, not while one is made.

use crate::pool::status::PoolStatus;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pool's numbers at one moment; see [`Observation::history`](crate::Observation).
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// When it was taken, counted from when the pool was opened.
    pub at: Duration,
    /// The pool's numbers.
    pub status: PoolStatus,
    /// How long the calls of all statements in [`Pool::statements`](crate::Pool::statements) have taken together.
    pub statement_time: Duration,
}

/// The time between two snapshots.
const STEP: Duration = Duration::from_secs(1);

/// The most snapshots kept: those of five minutes, of about a kilobyte each.
const CAPACITY: usize = 301;

/// The snapshots of one pool.
#[derive(Debug)]
pub(crate) struct History {
    opened: Instant,
    /// Tells this pool from an earlier one in the same place.
    pub(crate) id: u64,
    ring: Mutex<VecDeque<Arc<Snapshot>>>,
}

impl History {
    pub(crate) fn new() -> History {
        History { opened: Instant::now(), id: fastrand::u64(..), ring: Mutex::default() }
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Arc<Snapshot>>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the pool was opened.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Takes a snapshot if there is none of this second yet. Seconds without a call have none.
    pub(crate) fn record(&self, read: impl FnOnce() -> (PoolStatus, Duration)) {
        self.record_at(self.age(), read);
    }

    fn record_at(&self, at: Duration, read: impl FnOnce() -> (PoolStatus, Duration)) {
        let is_due = |ring: &VecDeque<Arc<Snapshot>>| {
            ring.back().is_none_or(|last| last.at.as_secs() / STEP.as_secs() < at.as_secs() / STEP.as_secs())
        };
        if !is_due(&self.ring()) {
            return;
        }
        let (status, statement_time) = read();
        let snapshot = Arc::new(Snapshot { at, status, statement_time });
        let mut ring = self.ring();
        // Another thread may have been faster.
        if is_due(&ring) {
            if ring.len() == CAPACITY {
                ring.pop_front();
            }
            ring.push_back(snapshot);
        }
    }

    /// The snapshots, the oldest first.
    pub(crate) fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.ring().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_snapshot_a_second_is_kept_and_the_oldest_ones_are_dropped() {
        let history = History::new();
        let (mut taken, quarter) = (0, Duration::from_millis(250));
        for quarters in 0..4 * 400 {
            history.record_at(quarters * quarter, || {
                taken += 1;
                (PoolStatus { requests: taken, ..PoolStatus::default() }, Duration::ZERO)
            });
        }
        assert_eq!(taken, 400, "a status is read for each snapshot that is kept");
        let seconds: Vec<_> = history.snapshots().iter().map(|snapshot| snapshot.at.as_secs_f64()).collect();
        let expected: Vec<_> = (99..400).map(f64::from).collect();
        assert_eq!(seconds, expected);
    }

    #[test]
    fn a_pause_leaves_a_gap_and_no_duplicates() {
        let history = History::new();
        for ms in [0, 900, 1000, 61_999, 62_001, 62_900] {
            history.record_at(Duration::from_millis(ms), Default::default);
        }
        let times: Vec<_> = history.snapshots().iter().map(|snapshot| snapshot.at.as_millis()).collect();
        assert_eq!(times, [0, 1000, 61_999, 62_001]);
    }
}
