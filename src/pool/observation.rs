//! What a pool reports of itself: its numbers now and in the last minutes, and who holds its connections.
//!
//! Nothing here takes a connection or touches the network, and the locks are those of the gate and of one slot at a time.

use crate::pool::history::Snapshot;
use crate::pool::statement_stats::StatementStats;
use crate::pool::status::{Histogram, Holding, PoolStatus};
use crate::pool::{Holder, Pool, Shared};
use serde::Serialize;
use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a pool reports of itself; see [`Pool::observe`].
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// A number that another pool does not have, as after a restart.
    pub id: u64,
    /// The time since the pool was opened.
    pub age: Duration,
    /// The pool's numbers now.
    pub status: PoolStatus,
    /// Those of the last five minutes, one snapshot a second, the oldest first. Counters grow from one to the next, except that
    /// a failed acquire takes its own count back. Where the maintenance thread was late, the time between two is longer.
    pub history: Vec<Arc<Snapshot>>,
    /// How many connections the server allows; `None` while that is not known, and behind PgBouncer. Maintenance asks for it, on
    /// an idle connection, after `observe` was called.
    pub server: Option<ServerCapacity>,
}

/// How many connections the server allows. Where the database or the role has a limit that leaves fewer, it is that one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerCapacity {
    /// The most connections, without those reserved for other roles.
    pub max_connections: u32,
    /// The connections that count against it and are not this pool's.
    pub others: u32,
}

/// How often the server is asked, at most.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// How long its answer is used. A pool with no idle connection cannot ask again.
const OUTDATED: Duration = Duration::from_secs(300);

/// What is known of the server's capacity. It is asked for when a reader wants to know it, by maintenance.
///
/// **Lock rule**: the mutex is held to copy or to set it.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    is_wanted: AtomicBool,
    asked: Mutex<Option<(Instant, Option<ServerCapacity>)>>,
}

impl Capacity {
    fn asked(&self) -> MutexGuard<'_, Option<(Instant, Option<ServerCapacity>)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server answered last. Has it asked again.
    fn get(&self) -> Option<ServerCapacity> {
        self.is_wanted.store(true, Ordering::Relaxed);
        let (at, capacity) = (*self.asked())?;
        capacity.filter(|_| at.elapsed() < OUTDATED)
    }

    /// Whether the server is to be asked.
    pub(super) fn is_due(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed) && self.asked().is_none_or(|(at, _)| at.elapsed() >= ASK_AGAIN)
    }

    /// Sets the answer; `None` where the server gave none.
    pub(super) fn set(&self, answer: Option<ServerCapacity>) {
        self.is_wanted.store(false, Ordering::Relaxed);
        *self.asked() = Some((Instant::now(), answer));
    }
}

/// A shorter wait for a thread is not noted, so that callers take no lock.
const MIN_THREAD_WAIT: Duration = Duration::from_millis(1);

/// How long callers waited for a thread of the bridge from async code, of which there are as many as connections: where it is in
/// use, this is the queue. The gate does not know of these waits.
///
/// **Lock rule**: the mutex is held to add one wait or to copy all.
#[derive(Debug, Default)]
pub(super) struct ThreadWaits(Mutex<Histogram>);

impl ThreadWaits {
    fn waits(&self) -> MutexGuard<'_, Histogram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, waited: Duration) {
        if waited >= MIN_THREAD_WAIT {
            self.waits().add(waited);
        }
    }
}

impl Pool {
    /// The pool's current sizes, counters and timings.
    ///
    /// # Blocking
    ///
    /// Never for a connection or the network.
    pub fn status(&self) -> PoolStatus {
        self.shared.status()
    }

    /// Everything that the pool reports of itself.
    ///
    /// # Blocking
    ///
    /// As [`status`](Pool::status).
    pub fn observe(&self) -> Observation {
        let shared = &self.shared;
        // Also here, because a server that does not answer can delay maintenance.
        shared.record_history();
        Observation {
            id: shared.history.id,
            age: shared.history.age(),
            status: shared.status(),
            history: shared.history.snapshots(),
            server: shared.capacity.get(),
        }
    }

    /// What the statements of the helpers have cost since the pool was opened, in no order; of at most 500, those used last.
    /// Sessions report about once a second.
    ///
    /// # Blocking
    ///
    /// As [`status`](Pool::status).
    pub fn statements(&self) -> Vec<StatementStats> {
        self.shared.statement_table.statements()
    }
}

impl Shared {
    /// The numbers alone.
    fn numbers(&self) -> PoolStatus {
        let mut status = PoolStatus { name: self.settings.name.clone(), ..self.gate.snapshot() };
        self.tally.add_to(&mut status);
        status.wait_times.merge_in_place_of_zeros(&self.thread_waits.waits());
        status
    }

    fn status(&self) -> PoolStatus {
        let mut status = self.numbers();
        let mut held = Vec::new();
        self.slots.held_longer_than(Duration::ZERO, |holder, held_for| held.push((held_for, *holder)));
        held.sort_by_key(|(held_for, _)| Reverse(*held_for));
        // After the slots' locks are released.
        let holding = |(held_for, Holder { at, is_resetting, .. }): (_, Holder)| Holding {
            held_for,
            acquired_at: at.to_string(),
            is_resetting,
        };
        status.holders = held.into_iter().map(holding).collect();
        if let Some(threshold) = self.settings.leak_threshold {
            let long_held = status.holders.iter().filter(|holding| holding.held_for >= threshold);
            status.long_held = long_held.cloned().collect();
        }
        status
    }

    /// Adds a snapshot to the history if one is due.
    pub(super) fn record_history(&self) {
        self.history.record(|| (self.numbers(), self.statement_table.time()));
    }
}
