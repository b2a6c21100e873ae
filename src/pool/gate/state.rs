//! The gate's decisions: lending, refusing, shedding, and how many connections are missing.
//!
//! Every function here takes `&mut State` or `&State`, so its caller holds the gate's lock. None of them waits or wakes a
//! thread; those that settle waiters return them, to be woken after the lock is released.

use crate::error::PoolNumbers;
use crate::pool::gate::sync::now;
use crate::pool::gate::waiters::{Caller, DOWN, GRANTED, LOGIN, SHED, Waiter, thread_number};
use crate::pool::gate::{Permit, Refusal, Refused, State};
use crate::pool::status::PoolState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// An attempt to connect hangs when it has had no answer for this many times the usual connect time,
const HANG_FACTOR: u32 = 4;
/// and for at least this long.
const MIN_HANG: Duration = Duration::from_millis(50);

impl State {
    /// Open and requested connections.
    pub(super) fn total(&self) -> u32 {
        self.live() + self.requested
    }

    /// Open connections.
    pub(super) fn live(&self) -> u32 {
        self.idle + self.checking + self.in_use
    }

    /// The number of connections to keep open; at least one until the first connect succeeds, to learn whether the server can
    /// be used.
    pub(super) fn minimum(&self) -> u32 {
        if self.counts.connects == 0 { self.limits.min.max(1) } else { self.limits.min }
    }

    /// Whether every caller has to take the lock, because it changes more than the counts: callers wait, or lending is not
    /// open; or a release has more to note than the count.
    pub(super) fn needs_lock(&self) -> bool {
        self.phase != PoolState::Open
            || !self.queue.is_empty()
            || self.unattributed > 0
            || self.shed_after.is_some()
    }

    /// Lends an idle connection and registers its holder.
    pub(super) fn lend(&mut self, since: Instant, thread: u64, waited: Duration) -> Permit {
        self.idle -= 1;
        self.in_use += 1;
        self.peak = self.peak.max(self.in_use);
        self.counts.wait_times.add(waited);
        self.holders.register(thread, since, Some(waited))
    }

    /// Lends an idle connection to a caller that finds no other waiting.
    pub(super) fn lend_idle(&mut self, since: Instant) -> Option<Permit> {
        let is_free = self.idle > 0 && self.queue.is_empty() && self.phase == PoolState::Open;
        is_free.then(|| self.lend(since, thread_number(), Duration::ZERO))
    }

    /// Takes back a permit whose connection was not used. The caller's wait goes on, so it is counted when it ends.
    pub(super) fn take_back_unused(&mut self, permit: Permit) {
        match self.holders.revert(&permit) {
            Some(waited) => self.counts.wait_times.remove(waited),
            None => self.counts.requests += 1,
        }
        self.take_back(permit);
    }

    pub(super) fn take_back(&mut self, permit: Permit) {
        self.holders.free(&permit);
        self.in_use -= 1;
    }

    /// Counts a connection that is in the store. A closed pool empties its store and lends nothing.
    pub(super) fn add_idle(&mut self) {
        if self.phase != PoolState::Closed {
            self.idle += 1;
        }
    }

    /// Lends idle connections to the head of the queue. Returns the waiters to wake.
    pub(super) fn serve(&mut self, now: Instant) -> Vec<Arc<Waiter>> {
        let mut woken = Vec::new();
        while self.idle > 0 && self.phase == PoolState::Open {
            let Some(waiter) = self.queue.pop_front() else {
                // An empty queue has no delay.
                self.shed_after = None;
                break;
            };
            if self.should_shed(&waiter, now) {
                waiter.settle(SHED);
            } else {
                let waited = now.saturating_duration_since(waiter.since);
                let Permit(entry) = self.lend(now, waiter.thread, waited);
                waiter.entry.store(entry, Ordering::Relaxed);
                waiter.settle(GRANTED);
            }
            woken.push(waiter);
        }
        if !woken.is_empty() {
            self.note_demand(now);
        }
        woken
    }

    /// The waiters to wake after connections were lost or room for more was gained: all of them, refused, where the server has
    /// been down for longer than the grace and no connection is left; all of them, to look again, where one sleeps without
    /// a time at which growth is due.
    pub(super) fn waiters_to_wake(&mut self, now: Instant) -> Vec<Arc<Waiter>> {
        if let Some(refusal) = self.outage_refusal(now) {
            let outcome = if refusal == Refusal::Login { LOGIN } else { DOWN };
            let woken = Vec::from(std::mem::take(&mut self.queue));
            for waiter in &woken {
                waiter.settle(outcome);
            }
            self.note_demand(now);
            return woken;
        }
        if self.has_untimed_waiter && self.unserved() > 0 && self.has_room() {
            self.has_untimed_waiter = false;
            return self.queue.iter().cloned().collect();
        }
        Vec::new()
    }

    /// Why a caller that found no idle connection is turned away before it waits; `None` where it may wait.
    pub(super) fn refusal_on_arrival(&self, caller: &Caller, now: Instant) -> Option<Refusal> {
        if self.phase == PoolState::Closed {
            return Some(Refusal::Closed);
        }
        if let Some(refusal) = self.outage_refusal(now) {
            return Some(refusal);
        }
        if caller.deadline <= now {
            return Some(self.timeout_refusal(now, caller.is_again));
        }
        if self.is_self_deadlock() {
            return Some(Refusal::SelfDeadlock);
        }
        if !caller.is_again && self.queue.len() >= self.limits.max_waiting as usize {
            return Some(Refusal::Saturated);
        }
        None
    }

    /// The refusal of an outage that has lasted longer than the grace and has left no connection.
    pub(super) fn outage_refusal(&self, now: Instant) -> Option<Refusal> {
        let is_over = self.live() == 0 && self.backoff.has_outlasted(self.limits.outage_grace, now);
        is_over.then(|| self.backoff.refusal())
    }

    /// The refusal of a caller whose time is up. A suspension or an outage is no exhaustion. An outage may have begun before
    /// an attempt to connect has failed: the server has never answered, attempts hang, or the check of this caller's connection
    /// failed.
    pub(super) fn timeout_refusal(&self, now: Instant, is_again: bool) -> Refusal {
        if self.phase == PoolState::Suspended {
            return Refusal::Suspended;
        }
        // Other callers are served, or could be.
        if self.in_use > 0 || (self.live() > 0 && !is_again) {
            return Refusal::TimedOut;
        }
        match self.backoff.refusal() {
            Refusal::TimedOut if is_again || self.counts.connects == 0 || self.is_connecting_hung(now) => {
                Refusal::Down
            }
            refusal => refusal,
        }
    }

    fn is_connecting_hung(&self, now: Instant) -> bool {
        let usual = self.growth.connect_time();
        self.unanswered_for(now).is_some_and(|silence| silence >= (HANG_FACTOR * usual).max(MIN_HANG))
    }

    fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        self.unanswered_since.map(|since| now.saturating_duration_since(since))
    }

    /// Whether the current thread holds a connection and every other connection is lent too. A connection that maintenance
    /// checks or cleans will come back, so waiting for it is no deadlock.
    pub(super) fn is_self_deadlock(&self) -> bool {
        let others = self.idle + self.checking + self.requested;
        if others > 0 || self.total() < self.limits.max {
            return false;
        }
        self.holders.is_self_deadlock(thread_number())
    }

    /// Counts a refusal and adds the pool's numbers to it. `has_waited` is false where the caller was refused on arrival.
    pub(super) fn turn_away(&mut self, refusal: Refusal, started: Instant, has_waited: bool) -> Refused {
        let now = now();
        let waited = now.saturating_duration_since(started);
        if has_waited {
            self.counts.wait_times.add(waited);
        }
        match refusal {
            Refusal::TimedOut | Refusal::Suspended | Refusal::SelfDeadlock => self.counts.timed_out += 1,
            Refusal::Saturated | Refusal::Shed => self.counts.rejected += 1,
            Refusal::Down | Refusal::Login => self.counts.refused_down += 1,
            Refusal::Closed | Refusal::Cancelled => {}
        }
        if let Refusal::TimedOut | Refusal::Suspended | Refusal::Saturated | Refusal::Shed = refusal {
            if self.backoff.is_down() || self.phase == PoolState::Suspended || self.is_connecting_hung(now) {
                self.counts.turned_away_in_outage += 1;
            } else {
                self.unattributed += 1;
            }
        }
        let shed_above = self.limits.shedding.filter(|_| refusal == Refusal::Shed);
        let numbers =
            PoolNumbers { shed_above: shed_above.map(|(target, _)| target), ..self.numbers(waited) };
        (refusal, Box::new(numbers))
    }

    pub(super) fn numbers(&self, waited: Duration) -> PoolNumbers {
        PoolNumbers {
            unanswered_for: self.unanswered_for(now()),
            max_waiting: self.limits.max_waiting,
            shed_above: None,
            // The gate does not know the pool's name.
            pool: String::new(),
            waited,
            in_use: self.in_use,
            idle: self.idle + self.checking,
            connecting: self.requested,
            waiting: self.queue.len() as u32,
            max: self.limits.max,
            last_failure: self.backoff.failure(),
        }
    }

    /// Controlled delay, after Nichols and Jacobson (ACM Queue 10.5, 2012), as Elixir's DBConnection applies it to pools: once
    /// the queue's delay has been above target for a whole interval, waiters that have waited longer than the target are turned
    /// away, until the first that has not.
    fn should_shed(&mut self, waiter: &Waiter, now: Instant) -> bool {
        let Some((target, interval)) = self.limits.shedding else { return false };
        if now.saturating_duration_since(waiter.since) <= target {
            self.shed_after = None;
            return false;
        }
        match self.shed_after {
            Some(after) => now >= after,
            None => {
                self.shed_after = Some(now + interval);
                false
            }
        }
    }

    /// The number of waiters for which no connection is open or requested.
    pub(super) fn unserved(&self) -> usize {
        // During a suspension connections are not what is missing.
        if self.phase != PoolState::Open {
            return 0;
        }
        self.queue.len().saturating_sub(self.requested as usize)
    }

    /// Reports [`unserved`](State::unserved) to the growth rule. Required after every change of the queue, of `requested` and of
    /// `phase`.
    pub(super) fn note_demand(&mut self, now: Instant) {
        let unserved = self.unserved();
        self.growth.note_demand(now, unserved);
    }

    /// How many connects to request for the queue and for `unqueued` callers that cannot wait.
    pub(super) fn connects_wanted(&mut self, now: Instant, unqueued: u32) -> u32 {
        if self.phase != PoolState::Open || !self.has_room() {
            return 0;
        }
        if unqueued > 0 {
            self.growth.note_turned_away(now);
        }
        let unserved = (self.queue.len() + unqueued as usize).saturating_sub(self.requested as usize);
        let wanted = self.growth.connects_wanted(now, self.in_use, self.checking, unserved);
        wanted.min(self.limits.max - self.total())
    }

    /// Whether another connect may be requested.
    pub(super) fn has_room(&self) -> bool {
        self.total() < self.limits.max && !self.backoff.is_down()
    }
}
