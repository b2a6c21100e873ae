//! Acquiring: through the gate, out of the store, and checked where there is reason to.

use crate::error::{Error, Result};
use crate::pool::generation::GenerationStatus;
use crate::pool::status::CloseReason;
use crate::pool::{Connection, Lease, Pooled, Shared};
use crate::pool::{cancellation, deadline};
use crate::settings::PrePing;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a check before lending may take.
pub(super) const CHECK_LIMIT: Duration = Duration::from_millis(500);
/// What a check may take where the caller has no time left: a healthy server needs far less, and it is within
/// the 20 ms by which an acquire may overshoot.
const LEAST_CHECK: Duration = Duration::from_millis(10);
impl Shared {
    /// Lends a connection that is worth lending.
    pub(crate) fn lend(
        self: Arc<Shared>,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        if cancellation::is_stopped() {
            return Err(Error::Cancelled);
        }
        let deadline = deadline.checked_sub(deadline::take_waited()).unwrap_or(deadline);
        let deadline = deadline::deadline().map_or(deadline, |at| at.min(deadline));
        let mut permit = self.gate.acquire(started, deadline, at).map_err(|refusal| self.refused(refusal))?;
        // One budget for all checks of one acquire, so that many silent connections cost what one does.
        let checks_end = deadline.max(started + LEAST_CHECK);
        loop {
            match self.take(checks_end) {
                Taken::Closed => {
                    self.gate.discard(permit);
                    return Err(Error::Closed);
                }
                // It will be there for somebody who has the time.
                Taken::NotYet => {
                    let (refusal, numbers) = self.gate.put_back(permit, started);
                    return Err(self.refused((refusal, numbers)));
                }
                Taken::Session(mut pooled) => match self.objection(&mut pooled, started, checks_end) {
                    None => {
                        let session = self.guards.part(permit.number(), pooled);
                        return Ok(Lease::new(self, session, permit, at));
                    }
                    Some(reason) => pooled.close(reason),
                },
            }
            permit = self
                .gate
                .acquire_again(permit, started, checks_end, at)
                .map_err(|refusal| self.refused(refusal))?;
        }
    }

    /// Lends a connection to the pool itself.
    #[track_caller]
    pub(crate) fn connection_until(self: &Arc<Self>, deadline: Instant) -> Result<Connection> {
        let lease = self.clone().lend(Instant::now(), deadline, Location::caller())?;
        Ok(Connection::new(lease))
    }

    /// Lends another connection to a call whose first one was of no use: it is one request all the same.
    pub(crate) fn lend_again(
        self: Arc<Shared>,
        now: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        self.gate.with_counts(|counts| counts.requests -= 1);
        self.lend(now, deadline, at)
    }

    /// Takes from the store what the gate has given leave to take: it is there, or will be within microseconds,
    /// because a connector announces a connection just before r2d2 stores it. A machine that is short of processors may
    /// hold the connector up in between; until `deadline` that is waited for.
    pub(super) fn take(&self, deadline: Instant) -> Taken {
        let store = self.store.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(open) = store.as_ref() else { return Taken::Closed };
        if let Some(guard) = open.try_get() {
            return Taken::Session(Pooled::new(guard));
        }
        // `close` waits for the lock.
        let open = open.clone();
        drop(store);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Ok(guard) = open.get_timeout(left.clamp(LEAST_CHECK, CHECK_LIMIT)) {
                return Taken::Session(Pooled::new(guard));
            }
            if self.gate.is_closed() {
                return Taken::Closed;
            }
            if left <= CHECK_LIMIT {
                return Taken::NotYet;
            }
        }
    }

    /// Why an idle session must not be lent; checks with the server where there is reason to.
    ///
    /// `now` is when the caller came: one who waited gets a connection that has just been used.
    pub(super) fn objection(
        &self,
        pooled: &mut Pooled,
        now: Instant,
        deadline: Instant,
    ) -> Option<CloseReason> {
        if pooled.retire_at.is_some_and(|at| at <= now) {
            return Some(CloseReason::Expired);
        }
        let standing = self.generations.standing(pooled.generation);
        if standing == GenerationStatus::Outdated {
            return Some(CloseReason::Retired);
        }
        let is_to_check = match self.settings.pre_ping {
            PrePing::Off => false,
            PrePing::On => true,
            PrePing::Auto => {
                standing == GenerationStatus::Suspect
                    || now.saturating_duration_since(pooled.conn().answered_at())
                        >= self.settings.validate_after
            }
        };
        if !is_to_check || self.is_alive(pooled, Some(deadline)) { None } else { Some(CloseReason::Invalid) }
    }

    /// Checks a session with the server, within [`CHECK_LIMIT`], and until `deadline` where there is one.
    pub(super) fn is_alive(&self, pooled: &mut Pooled, deadline: Option<Instant>) -> bool {
        let now = Instant::now();
        let whole = now + CHECK_LIMIT;
        let limit = deadline.map_or(whole, |at| at.clamp(now + LEAST_CHECK, whole));
        let generation = pooled.generation;
        // Read before the check: doubt cast while it runs is not laid to rest by it.
        let current = self.generations.current();
        if unpanicked(|| pooled.is_alive(limit)) {
            pooled.generation = current;
            return true;
        }
        // Silence for the whole limit is more than one connection's trouble: the others are not worth a wait.
        if pooled.has_timed_out() && limit == whole {
            self.generations.outdate(generation);
        } else {
            self.generations.suspect(generation);
        }
        false
    }
}

/// Runs what asks the driver; a panic in there counts as a failure and costs no connection's place.
pub(super) fn unpanicked(f: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(false)
}

/// What the store gave.
pub(super) enum Taken {
    Session(Pooled),
    /// A connector has announced it and not stored it yet.
    NotYet,
    Closed,
}
