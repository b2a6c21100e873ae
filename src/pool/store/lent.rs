//! r2d2's guards: a connection taken from the store, and the place of its guard while a borrower has the session.
//!
//! It knows r2d2 and nothing of the gate; the permit's number is an index here.
//!
//! **Lock rule**: each slot has a mutex of its own, held to put a guard in or take it out. A guard is dropped after the lock is
//! released, because dropping it calls r2d2.

use crate::pool::session::Session;
use crate::pool::status::CloseReason;
use crate::pool::store::Manager;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// r2d2's guard. Dropping it puts its session back into the store, or gives the slot up if it has none.
type Guard = r2d2::PooledConnection<Manager>;

/// A connection taken from r2d2's store. Dropping it puts it back.
pub(crate) struct Pooled {
    // Always contains a session.
    guard: Guard,
}

impl Pooled {
    pub(crate) fn new(guard: Guard) -> Pooled {
        Pooled { guard }
    }

    /// Closes the connection, in the background.
    pub(crate) fn close(mut self, reason: CloseReason) {
        self.mark_for_close(reason);
    }
}

impl Deref for Pooled {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &*self.guard {
            Some(session) => session,
            None => unreachable!("bug: a connection without a session"),
        }
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut *self.guard {
            Some(session) => session,
            None => unreachable!("bug: a connection without a session"),
        }
    }
}

/// The guards of the lent sessions.
///
/// A guard keeps r2d2's pool and its threads alive. The guards are therefore kept here and not with the borrowers, so that
/// closing the pool can drop them without waiting for the borrowers.
pub(crate) struct Guards {
    /// Indexed by the permit's number.
    slots: Box<[Mutex<Option<Guard>>]>,
    is_closed: AtomicBool,
}

impl Guards {
    /// Has room for the guards of `max` lent sessions.
    pub(crate) fn new(max: u32) -> Guards {
        Guards { slots: (0..max).map(|_| Mutex::new(None)).collect(), is_closed: AtomicBool::new(false) }
    }

    fn slot(&self, number: usize) -> MutexGuard<'_, Option<Guard>> {
        self.slots[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session out of its guard and keeps the guard.
    pub(crate) fn detach(&self, number: usize, pooled: Pooled) -> Box<Session> {
        let mut guard = pooled.guard;
        let Some(session) = guard.take() else { unreachable!("bug: a connection without a session") };
        let mut slot = self.slot(number);
        if !self.is_closed.load(Ordering::Relaxed) {
            *slot = Some(guard);
        }
        session
    }

    /// Puts the session back into its guard.
    ///
    /// # Errors
    ///
    /// The session alone: the guards were closed.
    pub(crate) fn reattach(&self, number: usize, session: Box<Session>) -> Result<Pooled, Box<Session>> {
        let guard = self.slot(number).take();
        match guard {
            Some(mut guard) => {
                *guard = Some(session);
                Ok(Pooled { guard })
            }
            None => Err(session),
        }
    }

    /// Drops all guards. Sessions that are still lent are closed when they are returned.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        for number in 0..self.slots.len() {
            let guard = self.slot(number).take();
            drop(guard);
        }
    }
}
