//! The gate: decides which caller gets a connection next, and when the pool opens another one.
//!
//! It counts connections, keeps callers in a queue, and enforces their deadlines. It knows nothing of databases and holds no
//! connection: a permit from the gate is the right to take one connection out of the store, and the gate never issues more
//! permits than there are connections in the store.
//!
//! **Fairness**: callers are served first in, first out. A caller that arrives while others wait queues behind them; the price is
//! a thread switch at each hand-over under overload.
//!
//! **Without the lock**: where a connection is idle and no caller waits, one atomic operation on a word lends it, and another
//! takes it back ([`word`]). Everything else is done under the lock, and while a thread has the lock, every other needs it too.
//!
//! **Lock rule**: one mutex guards all of [`State`]. It is held for a few dozen instructions (for [`Gate::snapshot`] also while
//! the holders' counts are added up), and never while waiting, connecting, or waking a waiter (one rare exception is marked):
//! decide under the lock, act after it. Functions that need the lock take `&mut State` or the guard.

pub(crate) use crate::pool::gate::connectors::ConnectRequest;
pub(crate) use crate::pool::gate::lifecycle::Surplus;
pub(crate) use crate::pool::gate::waiters::{Granted, Request, Waiter};

mod backoff;
mod connectors;
mod growth;
mod holders;
mod lifecycle;
mod lock;
mod state;
mod sync;
#[cfg(test)]
mod tests;
mod waiters;
mod word;

use crate::error::PoolNumbers;
use crate::pool::gate::backoff::Backoff;
use crate::pool::gate::growth::Growth;
use crate::pool::gate::holders::Holders;
use crate::pool::gate::lock::{Locked, wait};
use crate::pool::gate::sync::{AtomicBool, Condvar, Mutex, now};
use crate::pool::gate::word::Word;
use crate::pool::status::{PoolState, PoolStatus};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Sizes and bounds that the gate enforces.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// The largest maximum that [`Gate::resize`] may set.
    pub(crate) ceiling: u32,
    pub(crate) max_waiting: u32,
    pub(crate) outage_grace: Duration,
    /// The queue delay above which callers are shed, and how long it must persist; `None` sheds none.
    pub(crate) shedding: Option<(Duration, Duration)>,
    /// Whether the current thread's request was cancelled. A cancellation unparks the thread.
    pub(crate) is_cancelled: fn() -> bool,
}

/// The right to take one connection from the store. The number identifies the holder's entry.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not given back is a connection lost"]
pub(crate) struct Permit(usize);

/// Why a caller was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    TimedOut,
    Suspended,
    /// The queue is full.
    Saturated,
    /// The queue's delay has been above its target for too long.
    Shed,
    /// The server is down.
    Down,
    /// The server refuses the login.
    Login,
    Closed,
    /// The calling thread holds a connection itself, and no other is left.
    SelfDeadlock,
    /// The request that the calling thread works for was cancelled.
    Cancelled,
}

/// A refusal, with the pool's numbers at that moment.
pub(crate) type Refused = (Refusal, Box<PoolNumbers>);

#[derive(Debug)]
pub(crate) struct Gate {
    word: Word,
    holders: Arc<Holders>,
    state: Mutex<State>,
    /// Connectors wait here for connect requests.
    connect_requests: Condvar,
    /// `wait_until_warm` and `wait_until_idle` wait here for counts to change.
    counts_changed: Condvar,
    /// Set while a returned connection may have to be closed instead of lent again: the gate is closed, or there are more
    /// connections than the maximum. Read without the lock, and confirmed under it.
    retiring: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct State {
    limits: Limits,
    phase: PoolState,
    /// In the store, ready to lend. This and the next two are in [`Word`] while no thread has the lock.
    idle: u32,
    /// Lent.
    in_use: u32,
    /// The highest `in_use` so far.
    peak: u32,
    /// Taken out of the store by maintenance; reported as available.
    checking: u32,
    /// Connects requested, including those in progress.
    requested: u32,
    /// The part of `requested` in progress.
    connecting: u32,
    /// Pending connects requested by callers with a zero timeout, which are not in the queue: connectors carry them out although
    /// no waiter needs them.
    unqueued_requests: u32,
    queue: VecDeque<Arc<Waiter>>,
    holders: Arc<Holders>,
    growth: Growth,
    backoff: Backoff,
    /// A waiter sleeps without a time at which growth is due: there was no room for another connection, or the one it waits for
    /// was requested. `waiters_to_wake` wakes it when that changes.
    has_untimed_waiter: bool,
    shed_after: Option<Instant>,
    /// Start of the period in which attempts to connect are in progress and none has been answered.
    unanswered_since: Option<Instant>,
    /// Callers turned away since the last release, for which it is not known whether connections were too few or an outage had
    /// begun. A failed connect counts them as turned away in an outage.
    unattributed: u64,
    /// Calls that acquired again for the same request.
    repeats: u64,
    /// Only the counters are kept here, without what the holders count; `snapshot` adds that and the gauges.
    pub(crate) counts: PoolStatus,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Gate {
        let holders = Arc::new(Holders::new(limits.ceiling));
        Gate {
            word: Word::new(),
            holders: holders.clone(),
            state: Mutex::new(State {
                limits,
                phase: PoolState::Open,
                idle: 0,
                in_use: 0,
                peak: 0,
                checking: 0,
                requested: 0,
                connecting: 0,
                unqueued_requests: 0,
                queue: VecDeque::new(),
                holders,
                growth: Growth::default(),
                backoff: Backoff::default(),
                has_untimed_waiter: false,
                shed_after: None,
                unanswered_since: None,
                unattributed: 0,
                repeats: 0,
                counts: PoolStatus::default(),
            }),
            connect_requests: Condvar::new(),
            counts_changed: Condvar::new(),
            retiring: AtomicBool::new(false),
        }
    }

    /// Returns a permit whose connection is back in the store, and lends that connection to the head of the queue.
    pub(crate) fn release(&self, permit: Permit, now: Instant) {
        self.note_use(&permit, now);
        // The entry of a connection that was cleaned is freed under the lock: without the entry the connection counts as held,
        // and a caller must not find it held after it was being cleaned.
        let mut state = if self.holders.is_detached(&permit) {
            let mut state = self.lock();
            state.take_back(permit);
            state
        } else {
            self.holders.free(&permit);
            if self.word.try_take_back() {
                return;
            }
            let mut state = self.lock();
            state.in_use -= 1;
            state
        };
        state.unattributed = 0;
        state.add_idle();
        self.hand_over(state, now);
    }

    /// Returns a permit whose connection has not arrived in the store yet, but will. The caller has no time left to wait for it.
    pub(crate) fn put_back(&self, permit: Permit, started: Instant) -> Refused {
        let mut state = self.lock();
        state.take_back_unused(permit);
        let refused = state.turn_away(Refusal::TimedOut, started, true);
        state.add_idle();
        self.hand_over(state, now());
        refused
    }

    /// Returns a permit whose connection was closed, and requests a replacement where one is needed.
    pub(crate) fn discard(&self, permit: Permit) {
        self.note_use(&permit, now());
        let mut state = self.lock();
        state.take_back(permit);
        // Read under the lock: a waiter that has looked meanwhile relies on this thread to see how late it is.
        self.settle(state, now());
    }

    /// Counts the use of a connection that comes back.
    fn note_use(&self, permit: &Permit, now: Instant) {
        self.word.note_hold(self.holders.note_use(permit, now));
    }

    /// Whether a returned connection has to be closed instead of lent again: the gate is closed, or there are more connections
    /// than the maximum.
    pub(crate) fn retires(&self) -> bool {
        self.retiring.load(Ordering::Relaxed) && {
            let state = self.lock();
            state.phase == PoolState::Closed || state.total() > state.limits.max
        }
    }

    /// Takes up to `most` idle connections out for maintenance; none while callers wait.
    pub(crate) fn begin_check(&self, most: u32) -> u32 {
        let mut state = self.lock();
        let taken = if state.queue.is_empty() { state.idle.min(most) } else { 0 };
        state.idle -= taken;
        state.checking += taken;
        taken
    }

    /// Maintenance has put a connection back into the store.
    pub(crate) fn end_check(&self) {
        let mut state = self.lock();
        state.checking -= 1;
        state.add_idle();
        self.hand_over(state, now());
    }

    /// Maintenance has closed a connection.
    pub(crate) fn end_check_closed(&self) {
        let mut state = self.lock();
        state.checking -= 1;
        self.settle(state, now());
    }

    /// Requests connects up to the minimum.
    pub(crate) fn keep_minimum(&self) {
        self.request_minimum(&mut self.lock(), now());
    }

    /// Ends a change that only made a connection idle: serves the queue, releases the lock, wakes.
    fn hand_over(&self, mut state: Locked<'_>, now: Instant) {
        let woken = state.serve(now);
        self.wake(state, woken);
    }

    /// Ends every other change of the number of connections or of the limits: serves the queue, requests connects, releases the
    /// lock, wakes.
    fn settle(&self, mut state: Locked<'_>, now: Instant) {
        let woken = self.follow_up(&mut state, now);
        self.wake(state, woken);
    }

    /// The part of [`settle`](Gate::settle) under the lock. Returns the waiters to wake.
    fn follow_up(&self, state: &mut State, now: Instant) -> Vec<Arc<Waiter>> {
        // First: a waiter that is served needs no new connection.
        let mut woken = state.serve(now);
        self.request_for_demand(state, now, 0);
        self.request_minimum(state, now);
        woken.extend(state.waiters_to_wake(now));
        woken
    }

    /// Releases the lock, then wakes these waiters, and the thread in `wait_until_idle` once the gate is closed.
    fn wake(&self, state: Locked<'_>, woken: Vec<Arc<Waiter>>) {
        let is_closed = state.phase == PoolState::Closed;
        drop(state);
        for waiter in woken {
            waiter.parker.unpark();
        }
        if is_closed {
            self.counts_changed.notify_all();
        }
    }

    fn request_minimum(&self, state: &mut State, now: Instant) {
        let before = state.requested;
        while state.phase != PoolState::Closed && state.total() < state.minimum() && !state.backoff.is_down()
        {
            state.requested += 1;
            self.connect_requests.notify_one();
        }
        if state.requested > before {
            state.note_demand(now);
        }
    }

    /// Requests as many connects as the growth rule allows. `unqueued` counts callers that cannot wait.
    fn request_for_demand(&self, state: &mut State, now: Instant, unqueued: u32) {
        let wanted = state.connects_wanted(now, unqueued);
        if wanted > 0 {
            state.requested += wanted;
            state.unqueued_requests =
                (state.unqueued_requests + unqueued).min(state.requested - state.connecting);
        }
        state.note_demand(now);
        for _ in 0..wanted {
            self.connect_requests.notify_one();
        }
    }
}
