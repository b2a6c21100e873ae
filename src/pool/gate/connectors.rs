//! The connectors' side of the gate: what is ordered, and how attempts are paced while the server is down.

use crate::pool::gate::backoff::Attempt;
use crate::pool::gate::sync::{MutexGuard, now};
use crate::pool::gate::{Gate, State};
use crate::pool::status::PoolState;
use std::time::Duration;

/// What a connector is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConnectRequest {
    /// Make one connection, and give up after this time where one is given.
    Connect(Option<Duration>),
    /// The gate is closed: stop.
    Stop,
}

/// The connectors' side.
impl Gate {
    /// Blocks a connector until there is something for it to do. While the server is down one connector at a time is
    /// let through, each attempt after a growing, jittered pause.
    pub(crate) fn next_connect_request(&self) -> ConnectRequest {
        let mut state = self.lock();
        loop {
            if state.phase == PoolState::Closed {
                return ConnectRequest::Stop;
            }
            let ordered = state.requested - state.connecting;
            if ordered == 0 {
                state = self.wait_for_order(state, None);
                continue;
            }
            let now = now();
            match state.outage.next_attempt(now, state.connecting > 0) {
                Attempt::Now => {
                    let demand = state.queue.len() > state.connecting as usize;
                    let below_minimum = state.total() - ordered < state.minimum();
                    let is_owed = state.owed > 0;
                    if !demand && !below_minimum && !is_owed && !state.outage.is_down() {
                        // Who asked for it has been served meanwhile.
                        state.requested -= 1;
                        continue;
                    }
                    state.connecting += 1;
                    state.note_attempts(now, false);
                    let spare = u32::from(is_owed && !demand && !below_minimum);
                    state.owed = (state.owed - spare).min(state.requested - state.connecting);
                    return ConnectRequest::Connect(state.outage.patience(state.growth.usual_connect_time()));
                }
                Attempt::At(when) => state = self.wait_for_order(state, Some(when - now)),
                Attempt::Never => state = self.wait_for_order(state, None),
            }
        }
    }

    fn wait_for_order<'a>(
        &self,
        state: MutexGuard<'a, State>,
        pause: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match pause {
            None => self.orders.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
            Some(pause) => match self.orders.wait_timeout(state, pause) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            },
        }
    }

    /// A connector's connection is about to enter the store: lends it to the head of the queue. Returns how long
    /// the server had been down, where it was.
    pub(crate) fn made(&self, took: Duration) -> Option<Duration> {
        let mut state = self.lock();
        let now = now();
        state.requested -= 1;
        state.connecting -= 1;
        state.note_attempts(now, true);
        state.add_idle();
        state.counts.connects += 1;
        state.counts.connect_times.add(took);
        state.growth.note_connect(took);
        let down_for = state.outage.end(now);
        // Before more is ordered: whoever gets this one needs no other.
        let mut woken = state.serve(now);
        self.request_for_demand(&mut state, now, 0);
        self.request_minimum(&mut state);
        woken.extend(state.after_change(now));
        drop(state);
        self.orders.notify_all();
        self.settled.notify_all();
        for waiter in woken {
            waiter.parker.unpark();
        }
        down_for
    }

    /// A connector's attempt failed. The order stands: the same or another connector tries again after a pause.
    /// Returns whether this failure is worth a log line.
    pub(crate) fn failed(&self, text: String, login: bool) -> bool {
        let mut state = self.lock();
        state.connecting -= 1;
        state.counts.connect_failures += 1;
        let now = now();
        state.note_attempts(now, true);
        state.note_outage();
        let is_news = !state.outage.is_down();
        let worth_a_line = state.outage.note(now, text, login);
        // One prober is enough; what is wanted beyond it is ordered again after its success.
        let probers = if state.phase == PoolState::Closed { 0 } else { 1 };
        state.requested = state.connecting.max(probers);
        state.owed = 0;
        state.note_demand(now);
        let mut woken = state.after_change(now);
        if is_news {
            // They are to wake when the grace ends.
            woken.extend(state.queue.iter().cloned());
        }
        drop(state);
        self.orders.notify_one();
        self.settled.notify_all();
        for waiter in woken {
            waiter.parker.unpark();
        }
        worth_a_line
    }
}
