//! What a pool reports of itself: its numbers now and in the last minutes, and who holds its connections.
//!
//! Nothing here takes a connection or touches the network, and the locks are those of the gate and of one slot at a time.

use crate::pool::history::Snapshot;
use crate::pool::status::{LongHeld, PoolStatus};
use crate::pool::{Pool, Shared};
use std::sync::Arc;

impl Pool {
    /// The pool's current sizes, counters and timings.
    ///
    /// # Blocking
    ///
    /// Never for a connection or the network.
    pub fn status(&self) -> PoolStatus {
        self.shared.status()
    }

    /// The pool's numbers of the last five minutes, one snapshot a second, the oldest first.
    ///
    /// Counters grow from one snapshot to the next, except that a failed acquire takes its own count back. Where the pool's
    /// maintenance thread was late, the time between two snapshots is longer.
    ///
    /// # Blocking
    ///
    /// As [`status`](Pool::status).
    pub fn history(&self) -> Vec<Arc<Snapshot>> {
        // Also here, because a server that does not answer can delay maintenance.
        self.shared.record_history();
        self.shared.history.snapshots()
    }
}

impl Shared {
    fn status(&self) -> PoolStatus {
        let mut status = PoolStatus { name: self.settings.name.clone(), ..self.gate.snapshot() };
        if let Some(threshold) = self.settings.leak_threshold {
            self.slots.long_held(threshold, |holder, held_for| {
                status.long_held.push(LongHeld { held_for, acquired_at: holder.at.to_string() });
            });
        }
        status
    }

    /// Adds a snapshot to the history if one is due.
    pub(super) fn record_history(&self) {
        self.history.record(|| self.status());
    }
}
