//! What r2d2 lends, and where that stays while a borrower has the session.

use crate::pool::session::Session;
use crate::pool::status::CloseReason;
use crate::pool::store::Manager;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// r2d2's guard: dropping it puts its session back into the store, if it has one.
type Guard = r2d2::PooledConnection<Manager>;

/// A connection of r2d2's store in our hands.
pub(crate) struct Pooled {
    // Its session is there for as long as this lives.
    guard: Guard,
}

impl Pooled {
    pub(crate) fn new(guard: Guard) -> Pooled {
        Pooled { guard }
    }

    /// Has the connection closed, in the background.
    pub(crate) fn close(mut self, reason: CloseReason) {
        self.condemn(reason);
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

/// The guards of the sessions that are lent. Each holds r2d2's pool with its threads, and closing the pool does not
/// wait for ever for borrowers.
pub(crate) struct Guards {
    /// By the number of the permit.
    places: Box<[Mutex<Option<Guard>>]>,
    is_closed: AtomicBool,
}

impl Guards {
    /// For at most so many at once.
    pub(crate) fn new(most: u32) -> Guards {
        Guards { places: (0..most).map(|_| Mutex::new(None)).collect(), is_closed: AtomicBool::new(false) }
    }

    fn place(&self, number: usize) -> MutexGuard<'_, Option<Guard>> {
        self.places[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the guard, and hands out the session.
    pub(crate) fn part(&self, number: usize, pooled: Pooled) -> Box<Session> {
        let mut guard = pooled.guard;
        let Some(session) = guard.take() else { unreachable!("bug: a connection without a session") };
        let mut place = self.place(number);
        if !self.is_closed.load(Ordering::Relaxed) {
            *place = Some(guard);
        }
        session
    }

    /// Brings both together again; the session alone where the pool has been closed without it.
    pub(crate) fn join(&self, number: usize, session: Box<Session>) -> Result<Pooled, Box<Session>> {
        let guard = self.place(number).take();
        match guard {
            Some(mut guard) => {
                *guard = Some(session);
                Ok(Pooled { guard })
            }
            None => Err(session),
        }
    }

    /// Lets go of all guards: what is still lent is on its own.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        for number in 0..self.places.len() {
            let guard = self.place(number).take();
            drop(guard);
        }
    }
}
