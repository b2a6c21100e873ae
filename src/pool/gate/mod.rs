//! The gate: who gets a connection next, and when another one is worth making.
//!
//! It counts connections, queues callers in order, and keeps their deadlines; it knows nothing of databases
//! and holds no connection. Whoever passes it finds one in the store, because the gate lets through only as
//! many as are there.
//!
//! **Fairness**: callers are served strictly in the order in which they came (first in, first out). A caller
//! that arrives while others wait queues behind them, so nobody is overtaken; the price is a thread switch at
//! each hand-over under overload.
//!
//! **Lock rule**: everything is under one mutex, held for a few dozen instructions and never while waiting,
//! connecting, or waking a thread: decide under the lock, act after it. Helpers that need the lock take
//! `&mut State`.

pub(crate) use crate::pool::gate::connectors::ConnectRequest;
pub(crate) use crate::pool::gate::lifecycle::Surplus;

mod backoff;
mod connectors;
mod growth;
mod lifecycle;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod waiters;
use crate::error::PoolNumbers;
use crate::pool::gate::backoff::Backoff;
use crate::pool::gate::growth::Growth;
use crate::pool::gate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, now};
use crate::pool::gate::waiters::Waiter;
use crate::pool::status::{PoolState, PoolStatus};
use std::collections::VecDeque;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Sizes and bounds that the gate enforces.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) min: u32,
    pub(crate) max: u32,
    pub(crate) max_waiting: u32,
    pub(crate) outage_grace: Duration,
    /// Queue delay above which callers are shed, and how long it must persist; `None` sheds none.
    pub(crate) shedding: Option<(Duration, Duration)>,
    /// Whether nobody waits any more for what the current thread waits for. It is woken when that becomes so.
    pub(crate) is_called_off: fn() -> bool,
}

/// Leave to take one connection from the store; the number names the holder's entry.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not given back is a connection lost"]
pub(crate) struct Permit(usize);

impl Permit {
    /// No two that are out at the same time have the same; fewer than there may be connections.
    pub(crate) fn number(&self) -> usize {
        self.0
    }
}

/// Why a caller was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    TimedOut,
    Suspended,
    /// The queue is full.
    Saturated,
    /// The queue's delay has been above its target for too long.
    Shed,
    Down,
    Login,
    Closed,
    SelfDeadlock,
    CalledOff,
}

/// Who holds a connection, since when, and where it was acquired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) since: Instant,
    pub(crate) at: &'static Location<'static>,
    thread: u64,
    /// What was counted as its wait.
    waited: Duration,
    pub(crate) reported: bool,
}

/// The thread of a holder that has none: its borrower is done with it.
const DETACHED: u64 = 0;

#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Makers wait here for orders.
    orders: Condvar,
    /// `open` and `close` wait here for counts to change.
    settled: Condvar,
    /// Set while a returned connection may have to be closed rather than lent on: closed, or above the maximum.
    retiring: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct State {
    limits: Limits,
    phase: PoolState,
    idle: u32,
    in_use: u32,
    /// Idle ones the maintenance thread is looking at; counted as available.
    checking: u32,
    /// Being made: ordered, or in a connector's hands.
    requested: u32,
    /// The part of `making` that a connector has in hand.
    connecting: u32,
    /// The part of the orders nobody has in hand that is for callers who could not wait: carried out although
    /// the queue does not show who wants them.
    owed: u32,
    queue: VecDeque<Arc<Waiter>>,
    holders: Vec<Option<Holder>>,
    free_entries: Vec<usize>,
    growth: Growth,
    outage: Backoff,
    /// A caller waits without a time at which to look again whether one more connection is due: there was no room
    /// for one, or the one it waits for was connecting.
    is_unarmed: bool,
    shed_after: Option<Instant>,
    /// Since when attempts to connect have been in flight without an answer to any.
    unanswered_since: Option<Instant>,
    /// Callers turned away since a connection came back in order: for lack of connections, or because an outage has
    /// begun that is not known yet.
    unexplained: u64,
    /// Only its counters: `snapshot` adds the gauges.
    pub(crate) counts: PoolStatus,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Gate {
        Gate {
            state: Mutex::new(State {
                limits,
                phase: PoolState::Open,
                idle: 0,
                in_use: 0,
                checking: 0,
                requested: 0,
                connecting: 0,
                owed: 0,
                queue: VecDeque::new(),
                holders: Vec::new(),
                free_entries: Vec::new(),
                growth: Growth::default(),
                outage: Backoff::default(),
                is_unarmed: false,
                shed_after: None,
                unanswered_since: None,
                unexplained: 0,
                counts: PoolStatus::default(),
            }),
            orders: Condvar::new(),
            settled: Condvar::new(),
            retiring: AtomicBool::new(false),
        }
    }

    // A poisoned lock means a panic while counting: a bug, and one that must not take every caller down.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives a connection back that is in the store again, and passes it to the head of the queue.
    ///
    /// Returns the holder where its hold had been reported as too long.
    pub(crate) fn release(&self, permit: Permit, now: Instant) -> Option<Holder> {
        let mut state = self.lock();
        let holder = state.take_back_used(permit, now);
        state.unexplained = 0;
        state.add_idle();
        self.hand_over(state, now);
        holder
    }

    /// Gives a permit back whose connection is not in the store yet, as was promised, but will be. The caller has no
    /// more time to wait for it.
    pub(crate) fn put_back(&self, permit: Permit, started: Instant) -> (Refusal, Box<PoolNumbers>) {
        let mut state = self.lock();
        if let Some(holder) = state.take_back(permit) {
            state.counts.wait_times.remove(holder.waited);
        }
        let told = state.turn_away(Refusal::TimedOut, started, true);
        state.add_idle();
        self.hand_over(state, now());
        told
    }

    /// Gives a permit back whose connection has been closed; makes another one where it is wanted.
    /// Returns what [`release`](Gate::release) does.
    pub(crate) fn discard(&self, permit: Permit) -> Option<Holder> {
        let mut state = self.lock();
        let holder = state.take_back_used(permit, now());
        self.after_loss(state);
        holder
    }

    /// Whether the connection of this permit is to be closed instead of given back: the gate is closed, or
    /// there are more connections than the maximum allows.
    pub(crate) fn retires(&self) -> bool {
        self.retiring.load(Ordering::Relaxed) && {
            let state = self.lock();
            state.phase == PoolState::Closed || state.total() > state.limits.max
        }
    }

    /// Takes up to `most` idle connections out for the maintenance thread, none while callers wait.
    pub(crate) fn begin_check(&self, most: u32) -> u32 {
        let mut state = self.lock();
        let taken = if state.queue.is_empty() { state.idle.min(most) } else { 0 };
        state.idle -= taken;
        state.checking += taken;
        taken
    }

    /// The maintenance thread's connection is back in the store.
    pub(crate) fn end_check(&self) {
        let mut state = self.lock();
        state.checking -= 1;
        state.add_idle();
        self.hand_over(state, now());
    }

    /// the maintenance thread closed the connection it had.
    pub(crate) fn end_check_closed(&self) {
        let mut state = self.lock();
        state.checking -= 1;
        self.after_loss(state);
    }

    fn hand_over(&self, mut state: MutexGuard<'_, State>, now: Instant) {
        let woken = state.serve(now);
        self.wake(state, woken);
    }

    fn after_loss(&self, mut state: MutexGuard<'_, State>) {
        let now = now();
        self.request_for_demand(&mut state, now, 0);
        self.request_minimum(&mut state);
        let woken = state.after_change(now);
        self.wake(state, woken);
    }

    fn wake(&self, state: MutexGuard<'_, State>, woken: Vec<Arc<Waiter>>) {
        let settled = state.is_watched();
        drop(state);
        for waiter in woken {
            waiter.parker.unpark();
        }
        if settled {
            self.settled.notify_all();
        }
    }

    /// Orders what the minimum asks for.
    pub(crate) fn keep_minimum(&self) {
        self.request_minimum(&mut self.lock());
    }

    fn request_minimum(&self, state: &mut State) {
        let before = state.requested;
        while state.phase != PoolState::Closed && state.total() < state.minimum() && !state.outage.is_down() {
            state.requested += 1;
            self.orders.notify_one();
        }
        if state.requested > before {
            state.note_demand(now());
        }
    }

    /// Orders as many connections as demand is worth. `unqueued` counts a caller that would wait if it could.
    fn request_for_demand(&self, state: &mut State, now: Instant, unqueued: u32) {
        let wanted = state.wanted(now, unqueued);
        if wanted > 0 {
            state.requested += wanted;
            state.owed = (state.owed + unqueued).min(state.requested - state.connecting);
        }
        state.note_demand(now);
        for _ in 0..wanted {
            self.orders.notify_one();
        }
    }
}
