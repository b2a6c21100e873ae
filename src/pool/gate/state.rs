//! What the gate decides, on the counts alone; the lock is the caller's.

use super::queue::{DOWN, GRANTED, LOGIN, SHED, Waiter, thread_number};
use super::{DETACHED, Holder, Permit, Refusal, State};
use crate::error::PoolNumbers;
use crate::pool::status::PoolState;
use crate::pool::sync::now;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl State {
    pub(super) fn total(&self) -> u32 {
        self.live() + self.making
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

    pub(super) fn lend(&mut self, since: Instant, at: &'static Location<'static>, thread: u64) -> usize {
        self.in_use += 1;
        self.counts.peak_in_use = self.counts.peak_in_use.max(self.in_use);
        let holder = Some(Holder { since, at, thread, reported: false });
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
                let entry = self.lend(now, waiter.at, waiter.thread);
                waiter.entry.store(entry, Ordering::Relaxed);
                if !waiter.is_again {
                    self.counts.wait_times.add(now.saturating_duration_since(waiter.since));
                }
                waiter.settle(GRANTED);
            }
            woken.push(waiter);
        }
        woken
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
            return woken;
        }
        if self.is_unarmed && self.has_room() {
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
            return Some(self.time_is_up());
        }
        if self.would_wait_for_itself() {
            return Some(Refusal::SelfDeadlock);
        }
        if !is_again && self.queue.len() >= self.limits.max_waiting as usize {
            return Some(Refusal::Saturated);
        }
        None
    }

    /// What to tell a caller whose time is up: an outage is not an exhaustion, nor is a server that has never answered.
    pub(super) fn time_is_up(&self) -> Refusal {
        match self.outage.refusal() {
            _ if self.live() > 0 => Refusal::TimedOut,
            Refusal::TimedOut if self.counts.connects == 0 => Refusal::Down,
            refusal => refusal,
        }
    }

    /// Whether the current thread holds a connection and all others are held too. One that the keeper checks or
    /// cleans is as good as back.
    pub(super) fn would_wait_for_itself(&self) -> bool {
        let others = self.idle + self.checking + self.making;
        if others > 0 || self.total() < self.limits.max {
            return false;
        }
        let me = thread_number();
        let mut holders = self.holders.iter().flatten();
        holders.clone().any(|holder| holder.thread == me) && holders.all(|holder| holder.thread != DETACHED)
    }

    pub(super) fn turn_away(&mut self, refusal: Refusal, started: Instant) -> (Refusal, Box<PoolNumbers>) {
        match refusal {
            Refusal::TimedOut | Refusal::SelfDeadlock => self.counts.timed_out += 1,
            Refusal::Saturated => self.counts.rejected += 1,
            Refusal::Down | Refusal::Login => self.counts.refused_down += 1,
            Refusal::Closed | Refusal::CalledOff => {}
        }
        (refusal, Box::new(self.numbers(now().saturating_duration_since(started))))
    }

    pub(super) fn numbers(&self, waited: Duration) -> PoolNumbers {
        PoolNumbers {
            // The gate does not know it.
            pool: String::new(),
            waited,
            in_use: self.in_use,
            idle: self.idle + self.checking,
            making: self.making,
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

    pub(super) fn wants_one_more(&self, now: Instant, unqueued: u32) -> bool {
        if !self.has_room() {
            return false;
        }
        let longest =
            self.queue.front().map_or(Duration::ZERO, |head| now.saturating_duration_since(head.since));
        // What the keeper has is back in a moment; the wait shows it where it is not.
        let awaited = if longest < self.growth.connect_time() { self.checking } else { 0 };
        let waiting = self.queue.len() + unqueued as usize;
        let unserved = waiting.saturating_sub((self.making + awaited) as usize);
        unserved > 0 && self.growth.is_worth_it(self.in_use + self.checking, unserved, longest)
    }

    /// Whether one more connection may be made.
    pub(super) fn has_room(&self) -> bool {
        self.total() < self.limits.max && !self.outage.is_down()
    }
}
