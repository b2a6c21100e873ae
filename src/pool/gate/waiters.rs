//! Passing the gate: a caller takes an idle connection at once, or waits in the queue.

use crate::error::PoolNumbers;
use crate::pool::gate::sync::{AtomicU8, MutexGuard, Parker, now, thread_local};
use crate::pool::gate::{Gate, Permit, Refusal, State};
use crate::pool::status::PoolState;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a caller without time waits for connections that the maintenance thread is only looking at.
pub(super) const CHECK_SLACK: Duration = Duration::from_millis(5);

pub(super) const PENDING: u8 = 0;
pub(super) const GRANTED: u8 = 1;
// 2.. are refusals.
pub(super) const SHED: u8 = 2;
pub(super) const DOWN: u8 = 3;
pub(super) const LOGIN: u8 = 4;
pub(super) const CLOSED: u8 = 5;

/// A caller in the queue. `outcome` is written under the gate's lock only, and read without it by the caller,
/// who need not fight for the lock to learn that it may go on.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) outcome: AtomicU8,
    /// The permit's number; written before `outcome` says that it is granted.
    pub(super) entry: AtomicUsize,
    pub(super) since: Instant,
    pub(super) at: &'static Location<'static>,
    pub(super) thread: u64,
    pub(super) parker: Parker,
}

impl Waiter {
    /// What it was granted, if it was. Pairs with the release in [`Waiter::settle`].
    pub(super) fn granted(&self) -> Option<Permit> {
        (self.outcome.load(Ordering::Acquire) == GRANTED).then(|| Permit(self.entry.load(Ordering::Relaxed)))
    }

    /// Under the lock: tells it how it ended; `wake` has it notice.
    pub(super) fn settle(&self, outcome: u8) {
        self.outcome.store(outcome, Ordering::Release);
    }
}

impl Gate {
    /// Takes the caller through, waiting in the queue until `deadline` where it must.
    ///
    /// `started` is when the caller came; it makes the numbers of a refusal.
    pub(crate) fn acquire(
        &self,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Permit, (Refusal, Box<PoolNumbers>)> {
        let mut state = self.lock();
        state.counts.requests += 1;
        if state.idle > 0 && state.queue.is_empty() && state.phase == PoolState::Open {
            state.idle -= 1;
            return Ok(Permit(state.lend(started, at, thread_number(), Duration::ZERO)));
        }
        self.queue(state, started, deadline, at, false)
    }

    /// Takes the caller through again after the connection it was given turned out to be unusable and was
    /// closed: it lost its place through no fault of its own, so it waits where it would be had it never left.
    pub(crate) fn acquire_again(
        &self,
        permit: Permit,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Permit, (Refusal, Box<PoolNumbers>)> {
        let mut state = self.lock();
        // Its wait is not over: it is counted when it is.
        if let Some(holder) = state.take_back(permit) {
            state.counts.wait_times.remove(holder.waited);
        }
        let now = now();
        if state.idle > 0 && state.phase == PoolState::Open && now < deadline {
            state.idle -= 1;
            let waited = now.saturating_duration_since(started);
            return Ok(Permit(state.lend(now, at, thread_number(), waited)));
        }
        self.request_minimum(&mut state);
        // Rare enough to wake them under the lock: `queue` goes on under it.
        for waiter in state.after_change(now) {
            waiter.parker.unpark();
        }
        self.queue(state, started, deadline, at, true)
    }

    fn queue<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
        is_again: bool,
    ) -> Result<Permit, (Refusal, Box<PoolNumbers>)> {
        let came = now();
        // What the maintenance thread looks at is there, and back before anybody would call it waiting.
        let deadline = if state.checking > 0 { deadline.max(came + CHECK_SLACK) } else { deadline };
        if let Some(refusal) = state.refuses(came, deadline, is_again) {
            // A caller that cannot wait still says that one more connection would have been of use.
            self.request_for_demand(&mut state, came, 1);
            return Err(state.turn_away(refusal, started, is_again));
        }
        let waiter = Arc::new(Waiter {
            outcome: AtomicU8::new(PENDING),
            entry: AtomicUsize::new(0),
            since: started,
            at,
            thread: thread_number(),
            parker: Parker::here(),
        });
        if is_again {
            let place = state.queue.iter().position(|other| other.since > started);
            let place = place.unwrap_or(state.queue.len());
            state.queue.insert(place, waiter.clone());
        } else {
            state.queue.push_back(waiter.clone());
            state.counts.queued += 1;
        }
        loop {
            let now = now();
            if let Some(permit) = waiter.granted() {
                return Ok(permit);
            }
            match waiter.outcome.load(Ordering::Relaxed) {
                PENDING => {}
                outcome => {
                    let refusal = match outcome {
                        SHED => Refusal::Shed,
                        DOWN => Refusal::Down,
                        LOGIN => Refusal::Login,
                        _ => Refusal::Closed,
                    };
                    return Err(state.turn_away(refusal, started, true));
                }
            }
            if (state.limits.is_called_off)() {
                state.leave(&waiter, now);
                return Err(state.turn_away(Refusal::CalledOff, started, true));
            }
            if now >= deadline {
                state.leave(&waiter, now);
                let refusal = state.time_is_up(now, is_again);
                return Err(state.turn_away(refusal, started, true));
            }
            // An outage that outlasts its grace is told to those who wait already, at that moment.
            let grace_ends = state.outage.grace_ends(state.limits.outage_grace);
            if grace_ends.is_some_and(|ends| ends <= now) && state.live() == 0 {
                state.leave(&waiter, now);
                let refusal = state.outage.refusal();
                return Err(state.turn_away(refusal, started, true));
            }
            self.request_for_demand(&mut state, now, 0);
            let mut wake_at = deadline;
            if let Some(ends) = grace_ends.filter(|ends| *ends > now) {
                wake_at = wake_at.min(ends);
            }
            // Whoever comes or goes meanwhile looks as well: this is for when nobody does.
            match state.growth.due().filter(|due| *due > now && state.has_room()) {
                Some(due) => wake_at = wake_at.min(due),
                None => state.is_unarmed = true,
            }
            drop(state);
            waiter.parker.park(wake_at.saturating_duration_since(now));
            if let Some(permit) = waiter.granted() {
                return Ok(permit);
            }
            state = self.lock();
        }
    }
}

/// A number for the current thread, cheaper to read than its `ThreadId`.
pub(super) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
