//! The slots: one for each open connection that has been lent, with its session while it is idle and its borrower while it is
//! lent.
//!
//! r2d2 makes connections and ends them. In between, r2d2's guard of a connection stays in a slot, so that lending and returning
//! do not take r2d2's lock, which all threads share. A new connection is in r2d2's own store until it is first taken.
//!
//! It knows r2d2 and nothing of the gate. The gate's permits guarantee an idle session to each caller that takes one.
//!
//! **Which one**: at low rates the session used last, as in a stack: it needs no check, and those that are not needed stay idle,
//! and can be closed. A thread that returns within [`WARM`] takes the session that it had before, if that is idle, because
//! sessions and slots are then in its core's cache.
//!
//! **Lock rule**: each slot has a mutex of its own, held for a few instructions. A guard is dropped after the lock is released,
//! because dropping it calls r2d2. No thread has two of them.

use crate::pool::session::Session;
use crate::pool::status::CloseReason;
use crate::pool::store::Manager;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// r2d2's guard. Dropping it puts its session back into r2d2's store, or gives the connection up if it has none.
type Guard = r2d2::PooledConnection<Manager>;

/// How recently a session must have been returned to be taken without a look at the others. A statement takes tens of
/// microseconds, so longer pauses are not those of a thread that uses the pool all the time.
const WARM: Duration = Duration::from_micros(100);

/// A connection taken from its slot, or from r2d2. It must be given back with a function of [`Slots`].
pub(crate) struct Pooled {
    session: Box<Session>,
    slot: usize,
}

/// The borrower of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) since: Instant,
    pub(crate) at: &'static Location<'static>,
    /// Whether the hold was reported as too long.
    pub(crate) reported: bool,
    /// The borrower has finished, and the session is being reset.
    pub(crate) is_resetting: bool,
}

impl Holder {
    pub(crate) fn new(since: Instant, at: &'static Location<'static>) -> Holder {
        Holder { since, at, reported: false, is_resetting: false }
    }
}

impl Deref for Pooled {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// The slots of one pool.
///
/// A guard keeps r2d2's pool and its threads alive. The guards are therefore kept here and not with the borrowers, so that
/// closing the pool can drop them without waiting for the borrowers.
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// Slots from here on have never been used.
    used: AtomicUsize,
    is_closed: AtomicBool,
    /// The times in the slots count from here.
    origin: Instant,
}

/// Threads write their slots at the same time, so that each has cache lines of its own.
#[repr(align(128))]
struct Slot {
    /// When the idle session was returned, in nanoseconds from [`Slots::origin`], or [`EMPTY`]. Written under the lock, and read
    /// without it as a hint.
    idle_since: AtomicU64,
    parts: Mutex<Parts>,
}

/// The value of [`Slot::idle_since`] where no session is in the slot.
const EMPTY: u64 = 0;

#[derive(Default)]
struct Parts {
    /// `None` while no open connection has the slot.
    guard: Option<Guard>,
    session: Option<Box<Session>>,
    holder: Option<Holder>,
}

thread_local! {
    /// The slot that the current thread used last, in whatever pool.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session, unless it is gone or another thread has the lock.
    fn try_take(&self, holder: Option<Holder>) -> Option<Box<Session>> {
        let mut parts = match self.parts.try_lock() {
            Ok(parts) => parts,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let session = parts.session.take()?;
        parts.holder = holder;
        self.idle_since.store(EMPTY, Ordering::Relaxed);
        Some(session)
    }
}

impl Slots {
    /// Has room for `most` connections.
    pub(crate) fn new(most: u32) -> Slots {
        let slot = |_| Slot { idle_since: AtomicU64::new(EMPTY), parts: Mutex::default() };
        Slots {
            slots: (0..most).map(slot).collect(),
            used: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            origin: Instant::now(),
        }
    }

    fn used(&self) -> &[Slot] {
        &self.slots[..self.used.load(Ordering::Acquire)]
    }

    fn stamp(&self, then: Instant) -> u64 {
        let nanos = then.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX).max(EMPTY + 1)
    }

    /// Takes an idle session for `holder`. `None` where none was seen in a slot: another thread was faster and has left one in a
    /// slot that was looked at before, or the session is in r2d2's store or on its way there.
    pub(crate) fn take(&self, now: Instant, holder: Option<Holder>) -> Option<Pooled> {
        let slots = self.used();
        let last = LAST.with(Cell::get);
        let last = if last < slots.len() { last } else { 0 };
        let warm = self.stamp(now).saturating_sub(WARM.as_nanos() as u64);
        let take = |number: usize| {
            let session = slots[number].try_take(holder)?;
            LAST.with(|last| last.set(number));
            Some(Pooled { session, slot: number })
        };
        let around = || (last..slots.len()).chain(0..last);
        take(newest(slots, around(), warm)?)
            // Another thread is at that slot.
            .or_else(|| {
                around()
                    .filter(|number| slots[*number].idle_since.load(Ordering::Relaxed) != EMPTY)
                    .find_map(take)
            })
    }

    /// Gives a connection from r2d2's store a slot, and lends it to `holder`.
    pub(crate) fn adopt(&self, mut guard: Guard, holder: Option<Holder>) -> Pooled {
        let Some(session) = guard.take() else { unreachable!("bug: a connection without a session") };
        // There is room: every connection that r2d2 counts has at most one slot, and there is a slot for each.
        for number in 0..self.slots.len() {
            let mut parts = self.slots[number].lock();
            if parts.guard.is_some() {
                continue;
            }
            if !self.is_closed.load(Ordering::Relaxed) {
                (parts.guard, parts.holder) = (Some(guard), holder);
                self.used.fetch_max(number + 1, Ordering::AcqRel);
            }
            return Pooled { session, slot: number };
        }
        unreachable!("bug: more connections than slots")
    }

    /// Makes `holder` the borrower of a connection that another one was lent.
    pub(crate) fn pass_on(&self, pooled: &Pooled, holder: Holder) {
        let mut parts = self.slots[pooled.slot].lock();
        if parts.guard.is_some() {
            parts.holder = Some(holder);
        }
    }

    /// The connection's borrower has finished, and its session is being reset.
    pub(crate) fn note_reset(&self, pooled: &Pooled) {
        if let Some(holder) = &mut self.slots[pooled.slot].lock().holder {
            holder.is_resetting = true;
        }
    }

    /// Returns a session to its slot. Returns the holder if its hold was reported as too long.
    ///
    /// # Errors
    ///
    /// The session: the slots were closed.
    pub(crate) fn put(&self, pooled: Pooled) -> Result<Option<Holder>, Box<Session>> {
        let Pooled { session, slot: number } = pooled;
        let slot = &self.slots[number];
        let mut parts = slot.lock();
        if parts.guard.is_none() {
            return Err(session);
        }
        slot.idle_since.store(self.stamp(session.idle_since), Ordering::Relaxed);
        parts.session = Some(session);
        Ok(parts.holder.take().filter(|holder| holder.reported))
    }

    /// Closes a connection, in the background. Returns the holder if its hold was reported as too long.
    ///
    /// # Errors
    ///
    /// The session: the slots were closed.
    pub(crate) fn close_one(
        &self,
        mut pooled: Pooled,
        reason: CloseReason,
    ) -> Result<Option<Holder>, Box<Session>> {
        pooled.mark_for_close(reason);
        let Pooled { session, slot } = pooled;
        let mut parts = self.slots[slot].lock();
        let (guard, holder) = (parts.guard.take(), parts.holder.take());
        drop(parts);
        match guard {
            Some(guard) => end(guard, session),
            None => return Err(session),
        }
        Ok(holder.filter(|holder| holder.reported))
    }

    /// Calls `f` under the slot's lock for every holder whose hold is at least as long as `threshold`.
    pub(crate) fn held_longer_than(&self, threshold: Duration, mut f: impl FnMut(&mut Holder, Duration)) {
        let now = Instant::now();
        for slot in self.used() {
            if let Some(holder) = &mut slot.lock().holder {
                let held = now.saturating_duration_since(holder.since);
                if held >= threshold {
                    f(holder, held);
                }
            }
        }
    }

    /// Closes the idle connections and drops all guards. Connections that are still lent are closed when they are returned.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        for slot in &self.slots {
            let mut parts = slot.lock();
            let (guard, session) = (parts.guard.take(), parts.session.take());
            slot.idle_since.store(EMPTY, Ordering::Relaxed);
            drop(parts);
            if let (Some(guard), Some(mut session)) = (guard, session) {
                session.mark_for_close(CloseReason::Retired);
                end(guard, session);
            }
        }
    }
}

/// The slot whose session was returned last, or the first one that is warm.
fn newest(slots: &[Slot], order: impl Iterator<Item = usize>, warm: u64) -> Option<usize> {
    let mut newest = (None, EMPTY);
    for number in order {
        let idle_since = slots[number].idle_since.load(Ordering::Relaxed);
        if idle_since > newest.1 {
            newest = (Some(number), idle_since);
            if idle_since > warm {
                break;
            }
        }
    }
    newest.0
}

/// Closes a connection that r2d2 has in its store.
pub(crate) fn close_unused(mut guard: Guard) {
    if let Some(session) = &mut *guard {
        session.mark_for_close(CloseReason::Retired);
    }
}

/// r2d2 ends the connection, because its session is marked for closing.
fn end(mut guard: Guard, session: Box<Session>) {
    *guard = Some(session);
}
