//! Acquiring: gets a permit from the gate, takes an idle session from its slot, and checks it if that is needed.
//!
//! It knows nothing of how connections are made or returned.
//!
//! **Lock rule**: the read lock of `Shared::store` is taken only where no slot has an idle session. It is held for a take that
//! does not wait, and never across a wait, because `close` needs the write lock.

use crate::error::{Error, Result};
use crate::pool::gate::{Granted, Permit, Request};
use crate::pool::generation::GenerationStatus;
use crate::pool::logging::logged;
use crate::pool::session::{Answer, Failure};
use crate::pool::status::{CloseReason, Event};
use crate::pool::{Connection, Holder, Lease, Pooled, Shared};
use crate::pool::{cancellation, deadline};
use crate::settings::PrePing;
use log::{Level, debug, log_enabled};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time for a check of one session.
pub(super) const CHECK_LIMIT: Duration = Duration::from_millis(500);
/// The time for a check if the caller has none left. A healthy server needs far less, and it is within the 20 ms by which an
/// acquire may exceed its timeout.
const MIN_CHECK_LIMIT: Duration = Duration::from_millis(10);
/// How often to look into r2d2's store and into the slots before waiting. A thread that sees no session, because others are at
/// work on the slots, sees one within a few looks.
const LOOKS: u32 = 16;
/// How often a thread that waits for r2d2 to store a new connection looks at the slots.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Shared {
    /// Lends a connection that is fit for use, or fails at `deadline`. `started` is when the caller began to wait.
    pub(crate) fn lend(
        self: Arc<Shared>,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        let deadline = self.effective_deadline(deadline)?;
        let permit = self.gate.acquire(started, deadline);
        let permit = permit.map_err(|refusal| self.refused(refusal))?;
        self.lend_session(permit, started, deadline, at)
    }

    /// Lends a connection like [`lend`](Shared::lend), or waits for the outcome of the caller's request where another caller
    /// takes it along. `request` makes it, if the caller has to wait.
    pub(crate) fn lend_or_follow(
        self: Arc<Shared>,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
        request: impl FnOnce(&Shared) -> Option<Request>,
    ) -> Result<Turn> {
        let deadline = self.effective_deadline(deadline)?;
        let mut kept = None;
        let granted = self.gate.acquire_or_follow(started, deadline, || {
            kept = request(&self);
            kept.clone()
        });
        match (granted.map_err(|refusal| self.refused(refusal))?, kept) {
            (Granted::TakenAlong, Some(request)) => Ok(Turn::Followed(self.follow(request, at))),
            (granted, _) => {
                let lease = self.lend_session(granted.permit(), started, deadline, at)?;
                Ok(Turn::Lent(lease))
            }
        }
    }

    /// Lends a connection to a caller who was taken along in vain. Its wait goes on from `started`.
    pub(crate) fn lend_in_place(
        self: Arc<Shared>,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        let deadline = self.effective_deadline(deadline)?;
        let permit = self.gate.acquire_again(None, started, deadline);
        let permit = permit.map_err(|refusal| self.refused(refusal))?;
        self.lend_session(permit, started, deadline, at)
    }

    /// The deadline of an acquire in the current thread. The time for which its caller has waited for the thread counts.
    fn effective_deadline(&self, deadline: Instant) -> Result<Instant> {
        if cancellation::is_cancelled() {
            return Err(Error::Cancelled);
        }
        let waited = deadline::take_waited();
        self.thread_waits.note(waited);
        let deadline = deadline.checked_sub(waited).unwrap_or(deadline);
        Ok(deadline::deadline().map_or(deadline, |at| at.min(deadline)))
    }

    /// Lends the session that the permit is for.
    fn lend_session(
        self: Arc<Shared>,
        mut permit: Permit,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        // One deadline for all checks of one acquire, so that many unresponsive connections cost as much time as one.
        let checks_end = deadline.max(started + MIN_CHECK_LIMIT);
        loop {
            let since = self.gate.held_since(&permit);
            let holder = Holder::new(since, at);
            match self.take(started, checks_end, Some(holder)) {
                Taken::Closed => {
                    self.gate.discard(permit);
                    return Err(Error::Closed);
                }
                // The connection will be in the store for the next caller.
                Taken::NotYet => {
                    let (refusal, numbers) = self.gate.put_back(permit, started);
                    return Err(self.refused((refusal, numbers)));
                }
                Taken::Session(mut pooled) => match self.reason_to_close(&mut pooled, started, checks_end) {
                    None => {
                        self.note_acquire(since.saturating_duration_since(started), at);
                        return Ok(Lease::new(self, pooled, permit, at));
                    }
                    Some(reason) => {
                        self.close_one(pooled, reason);
                    }
                },
            }
            permit = self
                .gate
                .acquire_again(Some(permit), started, checks_end)
                .map_err(|refusal| self.refused(refusal))?;
        }
    }

    /// Lends an idle connection without waiting; `None` where none is idle, callers wait, or it would have to be checked first.
    pub(crate) fn try_lend(self: &Arc<Shared>, at: &'static Location<'static>) -> Option<Lease> {
        let now = Instant::now();
        let permit = self.gate.try_acquire(now)?;
        let Some(pooled) = self.slots.take(now, Some(Holder::new(now, at))) else {
            self.gate.return_unused(permit);
            return None;
        };
        if self.fitness(&pooled, now) != Fitness::Fit {
            self.give_back_unused(pooled, permit);
            return None;
        }
        self.note_acquire(Duration::ZERO, at);
        Some(Lease::new(self.clone(), pooled, permit, at))
    }

    /// Logs an acquire that took long; at `debug` each one, with the numbers that SQLAlchemy's pools log.
    fn note_acquire(&self, waited: Duration, at: &'static Location<'static>) {
        self.slow_log.note_acquire(waited, at);
        if log_enabled!(Level::Debug) {
            let (idle, in_use, max) = self.gate.sizes();
            let size = i64::from(max) - i64::from(self.settings.max_overflow);
            let overflow = i64::from(idle + in_use) - size;
            let pool = self.settings.name.as_str();
            logged(|| {
                debug!(
                    size, checked_in = idle, checked_out = in_use, overflow, pool;
                    "Connection acquired at {at}: size {size}, checked in {idle}, checked out {in_use}, \
                     overflow {overflow} (pool \"{pool}\")"
                );
            });
        }
    }

    /// Lends a connection for a query of the pool itself.
    #[track_caller]
    pub(crate) fn connection_until(self: &Arc<Self>, deadline: Instant) -> Result<Connection> {
        let lease = self.clone().lend(Instant::now(), deadline, Location::caller())?;
        Ok(Connection::new(lease))
    }

    /// Lends another connection for a retry of the same call. Both count as one request.
    pub(crate) fn lend_again(
        self: Arc<Shared>,
        now: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        self.gate.note_repeat();
        self.lend(now, deadline, at)
    }

    /// Takes an idle connection for `holder`. The caller has the gate's permit for one.
    ///
    /// The connection is in a slot or in r2d2's store, or will be there within microseconds, because a connector reports it to
    /// the gate just before r2d2 stores it. On an overloaded machine that can take longer, so this waits until `deadline`.
    pub(super) fn take(&self, now: Instant, deadline: Instant, holder: Option<Holder>) -> Taken {
        if let Some(pooled) = self.slots.take(now, holder) {
            return Taken::Session(pooled);
        }
        let store = self.store.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(open) = store.as_ref() else { return Taken::Closed };
        for _ in 0..LOOKS {
            if let Some(guard) = open.try_get() {
                return Taken::Session(self.slots.adopt(guard, holder));
            }
            if let Some(pooled) = self.slots.take(now, holder) {
                return Taken::Session(pooled);
            }
        }
        // Release the lock before waiting, because `close` needs it.
        let open = open.clone();
        drop(store);
        let end = deadline.max(Instant::now() + MIN_CHECK_LIMIT);
        loop {
            if let Ok(guard) = open.get_timeout(LOOK_AGAIN) {
                return Taken::Session(self.slots.adopt(guard, holder));
            }
            // Another permit's owner may have taken that connection, and left one in a slot.
            if let Some(pooled) = self.slots.take(now, holder) {
                return Taken::Session(pooled);
            }
            if self.gate.is_closed() {
                return Taken::Closed;
            }
            if Instant::now() >= end {
                return Taken::NotYet;
            }
        }
    }

    /// Why the session must be closed instead of lent; `None` if it can be lent. Asks the server if `pre_ping` requires it.
    fn reason_to_close(&self, pooled: &mut Pooled, now: Instant, deadline: Instant) -> Option<CloseReason> {
        match self.fitness(pooled, now) {
            Fitness::Fit => None,
            Fitness::Unchecked if self.is_alive(pooled, Some(deadline)) => None,
            Fitness::Unchecked => Some(CloseReason::Invalid),
            Fitness::Unfit(reason) => Some(reason),
        }
    }

    /// Whether the session can be lent. `now` is when the caller began to wait: a session that was used since needs no check.
    fn fitness(&self, pooled: &Pooled, now: Instant) -> Fitness {
        if pooled.retire_at.is_some_and(|at| at <= now) {
            return Fitness::Unfit(CloseReason::Expired);
        }
        let status = self.generations.status(pooled.generation);
        if status == GenerationStatus::Outdated {
            return Fitness::Unfit(CloseReason::Retired);
        }
        let needs_check = match self.settings.pre_ping {
            PrePing::Off => false,
            PrePing::On => true,
            PrePing::Auto => {
                status == GenerationStatus::Suspect
                    || now.saturating_duration_since(pooled.conn().answered_at())
                        >= self.settings.validate_after
            }
        };
        if needs_check { Fitness::Unchecked } else { Fitness::Fit }
    }

    /// Checks a session with one round trip, within [`CHECK_LIMIT`] and until `deadline` if there is one.
    pub(super) fn is_alive(&self, pooled: &mut Pooled, deadline: Option<Instant>) -> bool {
        self.tally.add(Event::Check);
        let now = Instant::now();
        let full_limit = now + CHECK_LIMIT;
        let limit = deadline.map_or(full_limit, |at| at.clamp(now + MIN_CHECK_LIMIT, full_limit));
        let generation = pooled.generation;
        // Read before the check, which proves nothing about a break that happens while it runs.
        let current = self.generations.current();
        if catch_panic(|| pooled.is_alive(limit)) {
            pooled.generation = current;
            return true;
        }
        // A server that is silent for the full limit affects every connection, so the others are not checked one by one.
        if pooled.has_timed_out() && limit == full_limit {
            self.generations.outdate(generation);
        } else {
            self.generations.suspect(generation);
        }
        false
    }
}

/// How a caller's statement comes to a connection.
pub(crate) enum Turn {
    Lent(Lease),
    /// Another caller has run it with its own.
    Followed(Result<Answer, Failure>),
}

/// Whether a session can be lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Fit,
    /// If the server answers on it.
    Unchecked,
    Unfit(CloseReason),
}

/// Runs a call of the driver. A panic counts as failure, so that it does not lose the connection's slot.
pub(super) fn catch_panic(f: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(false)
}

/// The result of [`Shared::take`].
pub(super) enum Taken {
    Session(Pooled),
    /// A connector has reported the connection and r2d2 has not stored it yet.
    NotYet,
    Closed,
}
