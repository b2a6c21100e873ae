//! What the gate decides, on the counts alone; the lock is the caller's.

use crate::error::PoolNumbers;
use crate::pool::gate::sync::now;
use crate::pool::gate::waiters::{DOWN, GRANTED, LOGIN, SHED, Waiter, thread_number};
use crate::pool::gate::{DETACHED, Holder, Permit, Refusal, State};
use crate::pool::status::PoolState;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How many times longer than usual an attempt to connect is without an answer before that says anything, and how
/// long at least.
const UNUSUAL: u32 = 4;
const LEAST_UNUSUAL: Duration = Duration::from_millis(50);

impl State {
    pub(super) fn total(&self) -> u32 {
        self.live() + self.requested
    }

    pub(super) fn live(&self) -> u32 {
        self.idle + self.checking + self.in_use
    }

    /// What is kept warm; before the first success at least one, to learn whether the server can be used.
    pub(super) fn minimum(&self) -> u32 {
        if self.counts.connects == 0 { self.limits.min.max(1) } else { self.limits.min }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.phase == PoolState::Closed
    }

    pub(super) fn lend(
        &mut self,
        since: Instant,
        at: &'static Location<'static>,
        thread: u64,
        waited: Duration,
    ) -> usize {
        self.in_use += 1;
        self.counts.peak_in_use = self.counts.peak_in_use.max(self.in_use);
        self.counts.wait_times.add(waited);
        let holder = Some(Holder { since, at, thread, waited, reported: false });
        match self.free_entries.pop() {
            Some(entry) => {
                self.holders[entry] = holder;
                entry
            }
            None => {
                self.holders.push(holder);
                self.holders.len() - 1
            }
        }
    }

    pub(super) fn take_back(&mut self, permit: Permit) -> Option<Holder> {
        self.in_use -= 1;
        self.free_entries.push(permit.0);
        self.holders[permit.0].take()
    }

    /// Takes back what has been used, and counts how long. Returns the holder where its hold had been reported.
    pub(super) fn take_back_used(&mut self, permit: Permit, now: Instant) -> Option<Holder> {
        let holder = self.take_back(permit)?;
        let held = now.saturating_duration_since(holder.since);
        self.counts.use_times.add(held);
        self.growth.note_use(held);
        Some(holder).filter(|holder| holder.reported)
    }

    /// Counts a connection that is in the store. The store of a closed pool is emptied, and lends nothing.
    pub(super) fn add_idle(&mut self) {
        if self.phase != PoolState::Closed {
            self.idle += 1;
        }
    }

    /// Lends what is idle to the head of the queue. Returns whom to wake.
    pub(super) fn serve(&mut self, now: Instant) -> Vec<Arc<Waiter>> {
        let mut woken = Vec::new();
        while self.idle > 0 && self.phase == PoolState::Open {
            let Some(waiter) = self.queue.pop_front() else {
                // Nobody waits: whatever delay there was is over.
                self.shed_after = None;
                break;
            };
            if self.sheds(&waiter, now) {
                waiter.settle(SHED);
            } else {
                self.idle -= 1;
                let waited = now.saturating_duration_since(waiter.since);
                let entry = self.lend(now, waiter.at, waiter.thread, waited);
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

    /// A caller gives up.
    pub(super) fn leave(&mut self, waiter: &Arc<Waiter>, now: Instant) {
        self.queue.retain(|other| !Arc::ptr_eq(other, waiter));
        self.note_demand(now);
    }

    /// Connections were lost, or there is room for more than there was: turns everybody away where the server
    /// has been down for too long and nothing is left to wait for, and has those look again who could not
    /// have expected it. Returns whom to wake.
    pub(super) fn after_change(&mut self, now: Instant) -> Vec<Arc<Waiter>> {
        if self.live() == 0 && self.outage.has_outlasted(self.limits.outage_grace, now) {
            let outcome = if self.outage.refusal() == Refusal::Login { LOGIN } else { DOWN };
            let woken = Vec::from(std::mem::take(&mut self.queue));
            for waiter in &woken {
                waiter.settle(outcome);
            }
            self.note_demand(now);
            return woken;
        }
        if self.is_unarmed && self.unserved() > 0 && self.has_room() {
            self.is_unarmed = false;
            return self.queue.iter().cloned().collect();
        }
        Vec::new()
    }

    /// Whether a caller that finds nothing idle is turned away before it waits.
    pub(super) fn refuses(&self, now: Instant, deadline: Instant, is_again: bool) -> Option<Refusal> {
        if self.phase == PoolState::Closed {
            return Some(Refusal::Closed);
        }
        if self.live() == 0 && self.outage.has_outlasted(self.limits.outage_grace, now) {
            return Some(self.outage.refusal());
        }
        if deadline <= now {
            return Some(self.time_is_up(now, is_again));
        }
        if self.would_wait_for_itself() {
            return Some(Refusal::SelfDeadlock);
        }
        if !is_again && self.queue.len() >= self.limits.max_waiting as usize {
            return Some(Refusal::Saturated);
        }
        None
    }

    /// What to tell a caller whose time is up: neither a suspension nor an outage is an exhaustion, and an outage may
    /// be one before it is known: the server has never answered, leaves attempts to connect unanswered, or the
    /// connection that this caller had did not pass its check.
    pub(super) fn time_is_up(&self, now: Instant, is_again: bool) -> Refusal {
        if self.phase == PoolState::Suspended {
            return Refusal::Suspended;
        }
        // Others are served, or could be.
        if self.in_use > 0 || (self.live() > 0 && !is_again) {
            return Refusal::TimedOut;
        }
        match self.outage.refusal() {
            Refusal::TimedOut if is_again || self.counts.connects == 0 || self.hangs(now) => Refusal::Down,
            refusal => refusal,
        }
    }

    /// Whether attempts to connect have been without an answer for far longer than usual.
    fn hangs(&self, now: Instant) -> bool {
        let usual = self.growth.connect_time();
        self.unanswered_for(now).is_some_and(|silence| silence >= (UNUSUAL * usual).max(LEAST_UNUSUAL))
    }

    fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        self.unanswered_since.map(|since| now.saturating_duration_since(since))
    }

    /// Attempts to connect have begun or ended: `was_answered` where one did.
    pub(super) fn note_attempts(&mut self, now: Instant, was_answered: bool) {
        if self.connecting == 0 {
            self.unanswered_since = None;
        } else if was_answered || self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
    }

    /// Whether the current thread holds a connection and all others are held too. One that the maintenance thread checks or
    /// cleans is as good as back.
    pub(super) fn would_wait_for_itself(&self) -> bool {
        let others = self.idle + self.checking + self.requested;
        if others > 0 || self.total() < self.limits.max {
            return false;
        }
        let me = thread_number();
        let mut holders = self.holders.iter().flatten();
        holders.clone().any(|holder| holder.thread == me) && holders.all(|holder| holder.thread != DETACHED)
    }

    /// Counts a caller that is turned away; `has_waited` is false where that was before it could wait.
    pub(super) fn turn_away(
        &mut self,
        refusal: Refusal,
        started: Instant,
        has_waited: bool,
    ) -> (Refusal, Box<PoolNumbers>) {
        let now = now();
        let waited = now.saturating_duration_since(started);
        if has_waited {
            self.counts.wait_times.add(waited);
        }
        match refusal {
            Refusal::TimedOut | Refusal::Suspended | Refusal::SelfDeadlock => self.counts.timed_out += 1,
            Refusal::Saturated | Refusal::Shed => self.counts.rejected += 1,
            Refusal::Down | Refusal::Login => self.counts.refused_down += 1,
            Refusal::Closed | Refusal::CalledOff => {}
        }
        if let Refusal::TimedOut | Refusal::Suspended | Refusal::Saturated | Refusal::Shed = refusal {
            if self.outage.is_down() || self.phase == PoolState::Suspended || self.hangs(now) {
                self.counts.turned_away_in_outage += 1;
            } else {
                self.unexplained += 1;
            }
        }
        let shed_above = self.limits.shedding.filter(|_| refusal == Refusal::Shed);
        let numbers =
            PoolNumbers { shed_above: shed_above.map(|(target, _)| target), ..self.numbers(waited) };
        (refusal, Box::new(numbers))
    }

    /// An outage has begun: it explains whom nothing else does.
    pub(super) fn note_outage(&mut self) {
        self.counts.turned_away_in_outage += std::mem::take(&mut self.unexplained);
    }

    pub(super) fn numbers(&self, waited: Duration) -> PoolNumbers {
        PoolNumbers {
            unanswered_for: self.unanswered_for(now()),
            max_waiting: self.limits.max_waiting,
            shed_above: None,
            // The gate does not know it.
            pool: String::new(),
            waited,
            in_use: self.in_use,
            idle: self.idle + self.checking,
            connecting: self.requested,
            waiting: self.queue.len() as u32,
            max: self.limits.max,
            last_failure: self.outage.failure(),
        }
    }

    /// Controlled delay, after Nichols and Jacobson (ACM Queue 10.5, 2012) as Elixir's DBConnection applies it
    /// to pools: once the queue's delay has been above target for a whole interval, those who waited longer
    /// than the target are turned away until one is met who did not.
    pub(super) fn sheds(&mut self, waiter: &Waiter, now: Instant) -> bool {
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

    /// How many callers wait for a connection that is neither there nor connecting.
    pub(super) fn unserved(&self) -> usize {
        // Lending is not suspended for want of connections.
        if self.phase != PoolState::Open {
            return 0;
        }
        self.queue.len().saturating_sub(self.requested as usize)
    }

    /// To be called after every change of what [`unserved`](State::unserved) rests on.
    pub(super) fn note_demand(&mut self, now: Instant) {
        let unserved = self.unserved();
        self.growth.note_demand(now, unserved);
    }

    /// How many connections to order for those who wait, and for `unqueued` who cannot.
    pub(super) fn wanted(&mut self, now: Instant, unqueued: u32) -> u32 {
        if self.phase != PoolState::Open || !self.has_room() {
            return 0;
        }
        if unqueued > 0 {
            self.growth.note_turned_away(now);
        }
        let unserved = (self.queue.len() + unqueued as usize).saturating_sub(self.requested as usize);
        let wanted = self.growth.orders(now, self.in_use, self.checking, unserved);
        wanted.min(self.limits.max - self.total())
    }

    /// Whether one more connection may be made.
    pub(super) fn has_room(&self) -> bool {
        self.total() < self.limits.max && !self.outage.is_down()
    }
}
