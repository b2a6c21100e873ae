//! The gate's tests: single facts and random histories in real time (`cargo test`), and interleavings of its threads under a
//! model checker (`make model`).

#[cfg(not(poolhouse_shuttle))]
mod facts;
#[cfg(not(poolhouse_shuttle))]
mod histories;
#[cfg(poolhouse_shuttle)]
mod interleavings;

use super::*;
use crate::pool::gate::waiters::PENDING;

fn limits(min: u32, max: u32) -> Limits {
    Limits {
        min,
        max,
        ceiling: 2 * max,
        max_waiting: 100,
        outage_grace: Duration::from_secs(2),
        shedding: None,
        is_cancelled: || false,
    }
}

/// A gate whose minimum is connected; `took` is its usual connect time.
fn stocked(limits: Limits, took: Duration) -> Gate {
    let minimum = limits.min;
    let gate = Gate::new(limits);
    gate.keep_minimum();
    for _ in 0..minimum {
        assert!(matches!(gate.next_connect_request(), ConnectRequest::Connect(_)));
        gate.connected(took);
    }
    gate
}

impl Gate {
    fn acquire_here(&self, timeout: Duration) -> Result<Permit, Refusal> {
        let started = now();
        self.acquire(started, started + timeout).map_err(|(refusal, _)| refusal)
    }
}

impl State {
    /// The invariants that hold whenever no thread has the lock.
    fn check(&self) {
        assert!(self.connecting <= self.requested, "more connects in progress than requested: {self:?}");
        assert!(
            self.unqueued_requests <= self.requested - self.connecting,
            "more unqueued requests than pending ones: {self:?}"
        );
        // Without the lock a connection is lent before its holder is registered, and returned after.
        let holders = self.holders.count();
        assert!(holders <= self.in_use as usize, "a holder of no connection: {self:?}");
        if self.phase == PoolState::Open {
            assert!(
                self.idle == 0 || self.queue.is_empty(),
                "a caller waits beside an idle connection: {self:?}"
            );
        }
        if self.phase == PoolState::Closed {
            assert!(self.idle == 0 && self.queue.is_empty(), "closed, and not empty: {self:?}");
        } else if self.backoff.is_down() {
            assert!(self.requested > 0, "down without a probe: {self:?}");
        }
        assert_eq!(self.growth.is_pressed(), self.unserved() > 0, "demand was not noted: {self:?}");
        let pending = |waiter: &Arc<Waiter>| waiter.outcome.load(Ordering::Relaxed) == PENDING;
        assert!(self.queue.iter().all(pending), "a settled waiter is in the queue: {self:?}");
    }

    /// [`check`](State::check), where no thread is about to take a connection or to return one.
    fn check_at_rest(&self) {
        self.check();
        assert_eq!(
            self.holders.count(),
            self.in_use as usize,
            "every lent connection has one holder: {self:?}"
        );
    }

    /// [`check`](State::check), where the gate was never made smaller.
    fn check_bounded(&self) {
        self.check();
        assert!(self.total() <= self.limits.max, "more connections than the maximum: {self:?}");
    }
}
