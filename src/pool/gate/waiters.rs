//! Acquiring: a caller takes an idle connection immediately or waits in the queue.
//!
//! A waiter sleeps without the lock. Another thread settles its outcome under the lock, takes it out of the queue, and wakes it
//! after releasing the lock. A waiter that gives up leaves the queue itself, under the lock.

use crate::pool::gate::holders::NOBODY;
use crate::pool::gate::sync::{AtomicU8, Parker, now, thread_local};
use crate::pool::gate::{Gate, Locked, Permit, Refusal, Refused, State};
use crate::pool::status::PoolState;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a caller with a zero timeout waits for connections under maintenance.
pub(super) const CHECK_SLACK: Duration = Duration::from_millis(5);

/// The values of [`Waiter::outcome`].
pub(super) const PENDING: u8 = 0;
pub(super) const GRANTED: u8 = 1;
pub(super) const SHED: u8 = 2;
pub(super) const DOWN: u8 = 3;
pub(super) const LOGIN: u8 = 4;
pub(super) const CLOSED: u8 = 5;
pub(super) const TAKEN_ALONG: u8 = 6;

/// What a waiting caller wants to do with a connection, for another caller to do in its place. The gate only passes it on.
pub(crate) type Request = Arc<dyn Any + Send + Sync>;

/// How a caller's wait ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    Permit(Permit),
    /// Another caller has taken the caller's request along.
    TakenAlong,
}

impl Granted {
    /// The permit of a caller without a request.
    pub(crate) fn permit(self) -> Permit {
        match self {
            Granted::Permit(permit) => permit,
            Granted::TakenAlong => unreachable!("bug: a caller without a request was taken along"),
        }
    }
}

/// One call of [`Gate::acquire`] or [`Gate::acquire_again`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    /// The caller had a connection, which turned out to be unusable.
    pub(super) is_again: bool,
}

/// A caller in the queue.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Written under the gate's lock only. The waiter reads it without the lock, so that a granted waiter does not contend for it.
    pub(super) outcome: AtomicU8,
    /// The permit's number; written before `outcome` becomes `GRANTED`.
    pub(super) entry: AtomicUsize,
    pub(super) since: Instant,
    pub(super) thread: u64,
    request: Option<Request>,
    pub(super) parker: Parker,
}

impl Waiter {
    /// The outcome; `None` while it is pending. Pairs with the release in [`Waiter::settle`].
    pub(super) fn settled(&self) -> Option<Result<Granted, Refusal>> {
        match self.outcome.load(Ordering::Acquire) {
            PENDING => None,
            GRANTED => Some(Ok(Granted::Permit(Permit(self.entry.load(Ordering::Relaxed))))),
            TAKEN_ALONG => Some(Ok(Granted::TakenAlong)),
            SHED => Some(Err(Refusal::Shed)),
            DOWN => Some(Err(Refusal::Down)),
            LOGIN => Some(Err(Refusal::Login)),
            _ => Some(Err(Refusal::Closed)),
        }
    }

    /// Wakes the waiter's thread.
    pub(crate) fn wake(&self) {
        self.parker.unpark();
    }

    /// Sets the outcome. The caller holds the gate's lock and wakes the waiter after releasing it.
    pub(super) fn settle(&self, outcome: u8) {
        self.outcome.store(outcome, Ordering::Release);
    }
}

impl Gate {
    /// Acquires a permit, waiting in the queue until `deadline` where no connection is idle.
    ///
    /// `started` is when the call began: the numbers of a refusal count from then.
    pub(crate) fn acquire(&self, started: Instant, deadline: Instant) -> Result<Permit, Refused> {
        Ok(self.acquire_or_follow(started, deadline, || None)?.permit())
    }

    /// Acquires a permit like [`acquire`](Gate::acquire). While the caller waits, another one may take its `request` along.
    pub(crate) fn acquire_or_follow(
        &self,
        started: Instant,
        deadline: Instant,
        request: impl FnOnce() -> Option<Request>,
    ) -> Result<Granted, Refused> {
        // Without the lock, where nothing but the counts has to change.
        if self.word.try_lend() {
            return Ok(Granted::Permit(self.holders.register(thread_number(), started, None)));
        }
        let mut state = self.lock();
        state.counts.requests += 1;
        if let Some(permit) = state.lend_idle(started) {
            return Ok(Granted::Permit(permit));
        }
        drop(state);
        let request = request();
        let mut state = self.lock();
        if let Some(permit) = state.lend_idle(started) {
            return Ok(Granted::Permit(permit));
        }
        self.wait_in_queue(state, Caller { started, deadline, is_again: false }, request)
    }

    /// Acquires a permit without waiting, for statements of several callers; `None` where no connection is idle or callers wait.
    /// No thread is its holder: one that waits for a connection does not wait for itself.
    pub(crate) fn try_acquire(&self, started: Instant) -> Option<Permit> {
        self.word.try_lend().then(|| self.holders.register(NOBODY, started, None))
    }

    /// Returns a permit whose connection was not used, and whose caller goes on to acquire another one.
    pub(crate) fn return_unused(&self, permit: Permit) {
        let mut state = self.lock();
        // Its request is counted when it gets another one.
        state.holders.revert(&permit);
        state.take_back(permit);
        state.add_idle();
        self.hand_over(state, now());
    }

    /// Counts callers whose statements share the round trip of another one's, and how long they waited for it.
    pub(crate) fn note_shared(&self, waits: impl Iterator<Item = Duration>) {
        let mut state = self.lock();
        for waited in waits {
            state.counts.requests += 1;
            state.counts.shared_round_trips += 1;
            state.counts.wait_times.add(waited);
        }
    }

    /// Takes callers out of the queue whose requests the current caller runs with its own, which `takes` decides: from the head
    /// on, up to the first that it refuses, at most `most`.
    pub(crate) fn take_along(
        &self,
        most: usize,
        mut takes: impl FnMut(&Request) -> bool,
    ) -> Vec<Arc<Waiter>> {
        let mut taken = Vec::new();
        let mut state = self.lock();
        let now = now();
        while taken.len() < most
            && state.phase == PoolState::Open
            && let Some(waiter) =
                state.queue.pop_front_if(|waiter| waiter.request.as_ref().is_some_and(&mut takes))
        {
            let waited = now.saturating_duration_since(waiter.since);
            if state.limits.shedding.is_some_and(|(target, _)| waited <= target) {
                state.shed_after = None;
            }
            state.counts.wait_times.add(waited);
            state.counts.shared_round_trips += 1;
            waiter.settle(TAKEN_ALONG);
            taken.push(waiter);
        }
        if !taken.is_empty() {
            state.note_demand(now);
        }
        taken
    }

    /// Whether callers wait; only a hint, because it changes at any time.
    pub(crate) fn has_waiters(&self) -> bool {
        self.word.is_guarded()
    }

    /// Makes the current thread the holder of a connection that another one was lent.
    pub(crate) fn pass_on(&self, permit: &Permit, now: Instant) {
        self.holders.pass_on(permit, thread_number(), now);
    }

    /// Acquires another permit for a caller whose connection was unusable and has been closed, or the first one for a caller who
    /// was taken along in vain. The caller did not cause this, so it keeps the position in the queue that `started` gives it.
    pub(crate) fn acquire_again(
        &self,
        permit: Option<Permit>,
        started: Instant,
        deadline: Instant,
    ) -> Result<Permit, Refused> {
        let mut state = self.lock();
        if let Some(permit) = permit {
            state.take_back_unused(permit);
        }
        let now = now();
        if state.idle > 0 && state.phase == PoolState::Open && now < deadline {
            let waited = now.saturating_duration_since(started);
            return Ok(state.lend(now, thread_number(), waited));
        }
        // Under the lock, which the caller needs until it is in the queue; this is rare.
        for waiter in self.follow_up(&mut state, now) {
            waiter.parker.unpark();
        }
        Ok(self.wait_in_queue(state, Caller { started, deadline, is_again: true }, None)?.permit())
    }

    fn wait_in_queue<'a>(
        &'a self,
        mut state: Locked<'a>,
        mut caller: Caller,
        request: Option<Request>,
    ) -> Result<Granted, Refused> {
        let arrived = now();
        if state.checking > 0 {
            // Connections under maintenance return within `CHECK_SLACK`: wait for them instead of reporting exhaustion.
            caller.deadline = caller.deadline.max(arrived + CHECK_SLACK);
        }
        if let Some(refusal) = state.refusal_on_arrival(&caller, arrived) {
            // A caller that cannot wait is demand as well.
            self.request_for_demand(&mut state, arrived, 1);
            return Err(state.turn_away(refusal, caller.started, caller.is_again));
        }
        let waiter = state.enqueue(&caller, request);
        loop {
            let now = now();
            match state.end_of_wait(&waiter, &caller, now) {
                Some(Ok(granted)) => return Ok(granted),
                Some(Err(refusal)) => return Err(state.turn_away(refusal, caller.started, true)),
                None => {}
            }
            self.request_for_demand(&mut state, now, 0);
            let wake_at = state.next_wake(caller.deadline, now);
            drop(state);
            waiter.parker.park(wake_at.saturating_duration_since(now));
            if let Some(Ok(granted)) = waiter.settled() {
                return Ok(granted);
            }
            state = self.lock();
        }
    }
}

impl State {
    /// Adds a caller to the queue: at the end, or at its former position if it was served before.
    fn enqueue(&mut self, caller: &Caller, request: Option<Request>) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            outcome: AtomicU8::new(PENDING),
            entry: AtomicUsize::new(0),
            since: caller.started,
            thread: thread_number(),
            request,
            parker: Parker::here(),
        });
        if caller.is_again {
            let position = self.queue.iter().position(|other| other.since > caller.started);
            self.queue.insert(position.unwrap_or(self.queue.len()), waiter.clone());
        } else {
            self.queue.push_back(waiter.clone());
            self.counts.queued += 1;
        }
        waiter
    }

    /// How the wait ends, if it ends now. The waiter is out of the queue then.
    fn end_of_wait(
        &mut self,
        waiter: &Arc<Waiter>,
        caller: &Caller,
        now: Instant,
    ) -> Option<Result<Granted, Refusal>> {
        if let Some(outcome) = waiter.settled() {
            return Some(outcome);
        }
        let refusal = self.refusal_in_queue(caller, now)?;
        self.queue.retain(|other| !Arc::ptr_eq(other, waiter));
        self.note_demand(now);
        Some(Err(refusal))
    }

    fn refusal_in_queue(&self, caller: &Caller, now: Instant) -> Option<Refusal> {
        if (self.limits.is_cancelled)() {
            return Some(Refusal::Cancelled);
        }
        if now >= caller.deadline {
            return Some(self.timeout_refusal(now, caller.is_again));
        }
        self.outage_refusal(now)
    }

    /// When a waiter has to look at the state again if no other thread wakes it.
    fn next_wake(&mut self, deadline: Instant, now: Instant) -> Instant {
        let grace_ends = self.backoff.grace_ends(self.limits.outage_grace).filter(|ends| *ends > now);
        let growth_due = self.growth.due().filter(|due| *due > now && self.has_room());
        self.has_untimed_waiter |= growth_due.is_none();
        [grace_ends, growth_due].into_iter().flatten().fold(deadline, Instant::min)
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
