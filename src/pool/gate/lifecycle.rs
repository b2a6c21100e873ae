//! The gate's life cycle: warming up, suspending, resizing, closing; and the numbers that it reports.

use crate::pool::gate::sync::now;
use crate::pool::gate::waiters::CLOSED;
use crate::pool::gate::{Gate, Permit, Refusal, Refused, wait};
use crate::pool::status::{PoolState, PoolStatus};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest sleep of a thread that waits for the pool to open or close: it looks again even if no change was signalled.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// The numbers of connections that maintenance may close.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surplus {
    /// Connections above the maximum, after a resize.
    pub(crate) above_max: u32,
    /// Connections above the minimum, which may be closed when idle for long.
    pub(crate) above_min: u32,
    /// Connections above the size without overflow, which may be closed when idle for a moment.
    pub(crate) overflow: u32,
}

impl Gate {
    /// Waits until the minimum is open, a connect has failed, or `deadline` has passed.
    pub(crate) fn wait_until_warm(&self, deadline: Instant) -> Result<(), Refused> {
        let started = now();
        let mut state = self.lock();
        let wanted = state.limits.min.max(1);
        loop {
            let now = now();
            if state.live() >= wanted && state.phase != PoolState::Closed {
                return Ok(());
            }
            if state.phase == PoolState::Closed || state.backoff.is_down() || now >= deadline {
                let refusal = match (state.phase, state.backoff.refusal()) {
                    (PoolState::Closed, _) => Refusal::Closed,
                    // A server that has not answered by the deadline counts as down.
                    (_, Refusal::TimedOut) => Refusal::Down,
                    (_, refusal) => refusal,
                };
                return Err((refusal, Box::new(state.numbers(now.saturating_duration_since(started)))));
            }
            state = wait(&self.counts_changed, state, Some((deadline - now).min(LONGEST_SLEEP)));
        }
    }

    /// Closes the gate: waiters fail immediately with `Closed`, and so does every later call.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.phase = PoolState::Closed;
        self.retiring.store(true, Ordering::Relaxed);
        // Idle connections will be closed, and pending requests will not be carried out.
        state.idle = 0;
        (state.requested, state.unqueued_requests) = (state.connecting, 0);
        let waiters = Vec::from(std::mem::take(&mut state.queue));
        state.note_demand(now());
        for waiter in &waiters {
            waiter.settle(CLOSED);
        }
        self.connect_requests.notify_all();
        self.wake(state, waiters);
    }

    /// Waits until no connection is lent or under maintenance and no connect is in progress, or `deadline` has passed. Returns
    /// how many connections are still lent.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) -> u32 {
        let mut state = self.lock();
        loop {
            let now = now();
            if (state.in_use == 0 && state.checking == 0 && state.connecting == 0) || now >= deadline {
                return state.in_use;
            }
            state = wait(&self.counts_changed, state, Some((deadline - now).min(LONGEST_SLEEP)));
        }
    }

    /// Makes callers wait until `resume`. Returns false where the gate is closed.
    pub(crate) fn suspend(&self) -> bool {
        let mut state = self.lock();
        if state.phase == PoolState::Open {
            state.phase = PoolState::Suspended;
        }
        state.note_demand(now());
        state.phase == PoolState::Suspended
    }

    /// Serves callers again. Returns false where the gate is closed.
    pub(crate) fn resume(&self) -> bool {
        let mut state = self.lock();
        if state.phase == PoolState::Suspended {
            state.phase = PoolState::Open;
        }
        let is_open = state.phase == PoolState::Open;
        self.settle(state, now());
        is_open
    }

    /// Sets new sizes. Surplus connections are closed when they are returned, or by maintenance. Returns false where the gate is
    /// closed.
    pub(crate) fn resize(&self, min: u32, max: u32) -> bool {
        let mut state = self.lock();
        if state.phase == PoolState::Closed {
            return false;
        }
        state.limits.min = min;
        state.limits.max = max;
        // Pending requests cost nothing to drop. While the server is down, one has to stay: it is the probe.
        let surplus = state.total().saturating_sub(max);
        let kept = state.connecting.max(u32::from(state.backoff.is_down()));
        state.requested -= surplus.min(state.requested.saturating_sub(kept));
        state.unqueued_requests = state.unqueued_requests.min(state.requested - state.connecting);
        self.retiring.store(state.total() > max, Ordering::Relaxed);
        self.settle(state, now());
        true
    }

    /// The numbers of connections that maintenance may close.
    pub(crate) fn surplus(&self, max_overflow: u32) -> Surplus {
        let state = self.lock();
        if state.total() <= state.limits.max && state.phase != PoolState::Closed {
            self.retiring.store(false, Ordering::Relaxed);
        }
        let live = state.live();
        let above_min = live.saturating_sub(state.limits.min);
        Surplus {
            above_max: state.total().saturating_sub(state.limits.max),
            above_min,
            overflow: live.saturating_sub(state.limits.max.saturating_sub(max_overflow)).min(above_min),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().phase == PoolState::Closed
    }

    /// Reads or changes the counters, under the lock.
    pub(crate) fn with_counts<R>(&self, f: impl FnOnce(&mut PoolStatus) -> R) -> R {
        f(&mut self.lock().counts)
    }

    /// Counts the next request and the one before as one.
    pub(crate) fn note_repeat(&self) {
        self.lock().repeats += 1;
    }

    /// When the connection was lent.
    pub(crate) fn held_since(&self, permit: &Permit) -> Instant {
        self.holders.since(permit)
    }

    /// The borrower has finished, and the connection is cleaned before it is lent again: the thread no longer counts as its
    /// holder.
    pub(crate) fn detach(&self, permit: &Permit) {
        self.holders.detach(permit);
    }

    /// The numbers of idle and lent connections, and the maximum.
    pub(crate) fn sizes(&self) -> (u32, u32, u32) {
        let state = self.lock();
        (state.idle + state.checking, state.in_use, state.limits.max)
    }

    /// The gauges and counters of one moment. The gate does not know the pool's name.
    pub(crate) fn snapshot(&self) -> PoolStatus {
        let state = self.lock();
        // Under the lock, because a request may move from a holder's count to the state's.
        let (immediate, use_times) = self.holders.totals();
        let mut wait_times = state.counts.wait_times.clone();
        wait_times.add_zeros(immediate);
        let last_failure = state.backoff.failure();
        let failing_for = last_failure.as_ref().map(|failure| failure.failing_for).unwrap_or_default();
        PoolStatus {
            outage_time: state.counts.outage_time + failing_for,
            connectors: state.connecting,
            requests: (state.counts.requests + immediate).saturating_sub(state.repeats),
            peak_in_use: state.peak,
            wait_times,
            use_times,
            min_connections: state.limits.min,
            max_connections: state.limits.max,
            available: state.idle + state.checking,
            in_use: state.in_use,
            total: state.total(),
            connecting: state.requested,
            waiting: state.queue.len() as u32,
            max_waiting: state.limits.max_waiting,
            state: state.phase,
            last_failure,
            ..state.counts.clone()
        }
    }
}
