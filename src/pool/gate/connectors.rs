//! The connectors' side of the gate: which connects are requested, and how attempts are paced while the server is down.
//!
//! A connector is a thread that opens connections. The gate hands out the requests and counts the results; it does not know how
//! a connection is opened.

use crate::pool::gate::backoff::Attempt;
use crate::pool::gate::sync::now;
use crate::pool::gate::{Gate, State, wait};
use crate::pool::status::PoolState;
use std::time::{Duration, Instant};

/// What a connector does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConnectRequest {
    /// Open one connection, within this time where one is given.
    Connect(Option<Duration>),
    /// The gate is closed: end.
    Stop,
}

impl Gate {
    /// Blocks a connector until there is a request. While the server is down, one connector at a time gets one, each time after
    /// a longer, jittered pause.
    pub(crate) fn next_connect_request(&self) -> ConnectRequest {
        let mut state = self.lock();
        loop {
            if state.phase == PoolState::Closed {
                return ConnectRequest::Stop;
            }
            if state.requested == state.connecting {
                state = wait(&self.connect_requests, state, None);
                continue;
            }
            let now = now();
            match state.backoff.next_attempt(now, state.connecting > 0) {
                Attempt::Now => {
                    if let Some(request) = state.start_connect(now) {
                        return request;
                    }
                }
                Attempt::At(when) => state = wait(&self.connect_requests, state, Some(when - now)),
                Attempt::AfterCurrent => state = wait(&self.connect_requests, state, None),
            }
        }
    }

    /// Counts a new connection that is about to enter the store, and lends it to the head of the queue. Returns how long the
    /// server had been down, if it was.
    pub(crate) fn connected(&self, took: Duration) -> Option<Duration> {
        let mut state = self.lock();
        let now = now();
        state.requested -= 1;
        state.connecting -= 1;
        state.note_attempts(now, true);
        state.add_idle();
        state.counts.connects += 1;
        state.counts.connect_times.add(took);
        state.growth.note_connect(took);
        let down_for = state.backoff.note_success(now);
        state.counts.outage_time += down_for.unwrap_or_default();
        // The pause of an outage is over for every connector.
        self.connect_requests.notify_all();
        self.counts_changed.notify_all();
        self.settle(state, now);
        down_for
    }

    /// Counts a failed attempt. The request stays: the same or another connector tries again after a pause. Returns whether the
    /// failure is worth a log line.
    pub(crate) fn connect_failed(&self, text: String, is_login: bool) -> bool {
        let mut state = self.lock();
        state.connecting -= 1;
        state.counts.connect_failures += 1;
        let now = now();
        state.note_attempts(now, true);
        state.attribute_to_outage();
        let is_first = !state.backoff.is_down();
        state.counts.outages += u64::from(is_first);
        let should_log = state.backoff.note_failure(now, text, is_login);
        // One probe is enough; its success requests again what is missing beyond it.
        let probes = if state.phase == PoolState::Closed { 0 } else { 1 };
        state.requested = state.connecting.max(probes);
        state.unqueued_requests = 0;
        state.note_demand(now);
        let mut woken = state.waiters_to_wake(now);
        if is_first {
            // From now on each waiter has to wake up when the grace ends.
            woken.extend(state.queue.iter().cloned());
        }
        self.connect_requests.notify_one();
        self.counts_changed.notify_all();
        self.wake(state, woken);
        should_log
    }
}

impl State {
    /// Turns a pending request into an attempt; drops it and returns `None` where no waiter needs it any more.
    fn start_connect(&mut self, now: Instant) -> Option<ConnectRequest> {
        let pending = self.requested - self.connecting;
        let has_waiter = self.queue.len() > self.connecting as usize;
        let is_below_minimum = self.total() - pending < self.minimum();
        let is_unqueued = self.unqueued_requests > 0;
        if !has_waiter && !is_below_minimum && !is_unqueued && !self.backoff.is_down() {
            self.requested -= 1;
            return None;
        }
        self.connecting += 1;
        self.note_attempts(now, false);
        let is_for_unqueued = is_unqueued && !has_waiter && !is_below_minimum;
        self.unqueued_requests =
            (self.unqueued_requests - u32::from(is_for_unqueued)).min(self.requested - self.connecting);
        Some(ConnectRequest::Connect(self.backoff.attempt_limit(self.growth.usual_connect_time())))
    }

    /// Notes that attempts to connect have begun or ended; `was_answered` where one ended.
    fn note_attempts(&mut self, now: Instant, was_answered: bool) {
        if self.connecting == 0 {
            self.unanswered_since = None;
        } else if was_answered || self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
    }

    /// An outage has begun: it was the cause for the callers turned away since the last release.
    fn attribute_to_outage(&mut self) {
        self.counts.turned_away_in_outage += std::mem::take(&mut self.unattributed);
    }
}
