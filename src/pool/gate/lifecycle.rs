//! The gate's life: warm at start, suspended, resized, closed; and the numbers it shows.

use crate::error::PoolNumbers;
use crate::pool::gate::sync::now;
use crate::pool::gate::waiters::CLOSED;
use crate::pool::gate::{DETACHED, Gate, Holder, Permit, Refusal};
use crate::pool::status::{PoolState, PoolStatus};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How many connections there are too many of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surplus {
    /// Above the maximum, after a resize.
    pub(crate) above_max: u32,
    /// Above the minimum: may go when idle for long.
    pub(crate) above_min: u32,
    /// Above the size without overflow: may go when idle for a moment.
    pub(crate) overflow: u32,
}

/// Life cycle and numbers.
impl Gate {
    /// Waits until the minimum is there, a failure has been noted, or `deadline` has passed.
    pub(crate) fn wait_until_warm(&self, deadline: Instant) -> Result<(), (Refusal, Box<PoolNumbers>)> {
        let started = now();
        let mut state = self.lock();
        let wanted = state.limits.min.max(1);
        loop {
            if state.phase == PoolState::Closed {
                return Err((
                    Refusal::Closed,
                    Box::new(state.numbers(now().saturating_duration_since(started))),
                ));
            }
            if state.live() >= wanted {
                return Ok(());
            }
            let now = now();
            if state.outage.is_down() || now >= deadline {
                // A server that has not said anything by now is no less down than one that refuses.
                let refusal = match state.outage.refusal() {
                    Refusal::TimedOut => Refusal::Down,
                    refusal => refusal,
                };
                return Err((refusal, Box::new(state.numbers(now - started))));
            }
            let pause = (deadline - now).min(Duration::from_millis(20));
            state = match self.settled.wait_timeout(state, pause) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Closes the gate: everybody in the queue is turned away, nobody passes any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.phase = PoolState::Closed;
        self.retiring.store(true, Ordering::Relaxed);
        // What is idle is closed, and what no connector has in hand will not be made.
        state.idle = 0;
        (state.requested, state.owed) = (state.connecting, 0);
        let waiters = std::mem::take(&mut state.queue);
        state.note_demand(now());
        for waiter in &waiters {
            waiter.settle(CLOSED);
        }
        drop(state);
        self.orders.notify_all();
        self.settled.notify_all();
        for waiter in waiters {
            waiter.parker.unpark();
        }
    }

    /// Waits until no connection is lent and no connector is at work, or `deadline` has passed. Returns how many
    /// are still lent.
    pub(crate) fn wait_until_idle(&self, deadline: Instant) -> u32 {
        let mut state = self.lock();
        loop {
            let now = now();
            if (state.in_use == 0 && state.checking == 0 && state.connecting == 0) || now >= deadline {
                return state.in_use;
            }
            state = match self.settled.wait_timeout(state, (deadline - now).min(Duration::from_millis(20))) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Lets callers wait instead of serving them, until `resume`.
    pub(crate) fn suspend(&self) -> bool {
        let mut state = self.lock();
        if state.phase == PoolState::Open {
            state.phase = PoolState::Suspended;
        }
        state.note_demand(now());
        state.phase == PoolState::Suspended
    }

    /// Serves callers again.
    pub(crate) fn resume(&self) -> bool {
        let mut state = self.lock();
        if state.phase == PoolState::Suspended {
            state.phase = PoolState::Open;
        }
        let open = state.phase == PoolState::Open;
        let now = now();
        let mut woken = state.serve(now);
        self.request_for_demand(&mut state, now, 0);
        woken.extend(state.after_change(now));
        self.wake(state, woken);
        open
    }

    /// Sets new sizes; surplus connections are closed as they come back or are found idle.
    pub(crate) fn resize(&self, min: u32, max: u32) -> bool {
        let mut state = self.lock();
        if state.phase == PoolState::Closed {
            return false;
        }
        state.limits.min = min;
        state.limits.max = max;
        // Orders nobody has begun are the cheapest surplus; while the server is down the last one is the prober.
        let surplus = state.total().saturating_sub(max);
        let kept = state.connecting.max(u32::from(state.outage.is_down()));
        state.requested -= surplus.min(state.requested.saturating_sub(kept));
        state.owed = state.owed.min(state.requested - state.connecting);
        self.retiring.store(state.total() > max, Ordering::Relaxed);
        self.request_minimum(&mut state);
        let now = now();
        self.request_for_demand(&mut state, now, 0);
        let woken = state.after_change(now);
        self.wake(state, woken);
        true
    }

    /// How many connections there are too many of, by each measure.
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

    /// Reads or changes the counters.
    pub(crate) fn with_counts<R>(&self, f: impl FnOnce(&mut PoolStatus) -> R) -> R {
        f(&mut self.lock().counts)
    }

    /// Calls `f` for every holder whose hold is longer than `threshold`.
    pub(crate) fn long_held(&self, threshold: Duration, mut f: impl FnMut(&mut Holder, Duration)) {
        let mut state = self.lock();
        let now = now();
        for holder in state.holders.iter_mut().flatten() {
            let held = now.saturating_duration_since(holder.since);
            if held >= threshold {
                f(holder, held);
            }
        }
    }

    /// The borrower is done with the connection, and something else is to be done to it before it is lent on:
    /// its thread is no longer the holder.
    pub(crate) fn detach(&self, permit: &Permit) {
        if let Some(Some(holder)) = self.lock().holders.get_mut(permit.0) {
            holder.thread = DETACHED;
        }
    }

    /// The gauges and counters of one moment. The gate does not know the pool's name.
    pub(crate) fn snapshot(&self) -> PoolStatus {
        let state = self.lock();
        PoolStatus {
            min_connections: state.limits.min,
            max_connections: state.limits.max,
            available: state.idle + state.checking,
            in_use: state.in_use,
            total: state.total(),
            connecting: state.requested,
            waiting: state.queue.len() as u32,
            max_waiting: state.limits.max_waiting,
            state: state.phase,
            last_failure: state.outage.failure(),
            ..state.counts.clone()
        }
    }
}
