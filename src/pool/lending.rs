//! Lending a connection that is worth lending, and taking it back for what it has become.

use crate::error::{Error, Result};
use crate::pool::gate::{Holder, Permit};
use crate::pool::generation::Standing;
use crate::pool::logging::logged;
use crate::pool::scope;
use crate::pool::session::{Failure, Limit, Params, Session, Verdict};
use crate::pool::status::CloseReason;
use crate::pool::{Connection, Lease, Pooled, Shared, add};
use crate::settings::PrePing;
use log::warn;
use postgres::Row;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a check before lending may take.
const CHECK_LIMIT: Duration = Duration::from_millis(500);
/// What a check may take where the caller has no time left: a healthy server needs far less, and it is within
/// the 20 ms by which an acquire may overshoot.
const LEAST_CHECK: Duration = Duration::from_millis(10);
/// How much longer than the server's `statement_timeout` the pool waits for an answer: the server's own words
/// are worth it.
const ANSWER_GRACE: Duration = Duration::from_millis(200);

impl Shared {
    /// Lends a connection that is worth lending.
    pub(crate) fn lend(
        self: Arc<Shared>,
        started: Instant,
        deadline: Instant,
        at: &'static Location<'static>,
    ) -> Result<Lease> {
        if scope::is_stopped() {
            return Err(Error::Cancelled);
        }
        let deadline = deadline.checked_sub(scope::take_waited()).unwrap_or(deadline);
        let deadline = scope::deadline().map_or(deadline, |at| at.min(deadline));
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
                    Some(reason) => drop_condemned(pooled, reason),
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
    /// because a maker announces a connection just before r2d2 stores it. A machine that is short of processors may
    /// hold the maker up in between; until `deadline` that is waited for.
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
        if standing == Standing::Outdated {
            return Some(CloseReason::Retired);
        }
        let is_to_check = match self.settings.pre_ping {
            PrePing::Off => false,
            PrePing::On => true,
            PrePing::Auto => {
                standing == Standing::Suspect
                    || now.saturating_duration_since(pooled.wire().answered_at())
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

    /// Takes a connection back: keeps it, has it cleaned, or closes it.
    pub(super) fn give_back(&self, session: Box<Session>, permit: Permit, at: &'static Location<'static>) {
        let pooled = match self.guards.join(permit.number(), session) {
            Ok(pooled) => pooled,
            Err(session) => {
                self.keeper.let_go(session, &self.gate);
                self.gate.discard(permit);
                return;
            }
        };
        if pooled.verdict() == Verdict::Reset
            && !self.gate.retires()
            && self.generations.standing(pooled.generation) != Standing::Outdated
        {
            if pooled.wire().is_in_transaction()
                && self.left_in_transaction.lock().is_ok_and(|mut places| places.insert(at))
            {
                let pool = &self.settings.name;
                logged(|| {
                    warn!(
                        "Connection acquired at {at} came back inside a transaction, which is rolled back; from there \
                         no more is said of it (pool \"{pool}\")"
                    );
                });
            }
            self.gate.detach(&permit);
            if let Some((mut pooled, permit)) = self.keeper.clean(pooled, permit) {
                // So much is being done that the keeper lags behind: the borrower pays for itself, in its own time.
                if scope::deadline().is_some_and(|at| at < Instant::now() + CHECK_LIMIT) {
                    pooled.condemn(CloseReason::Dirty);
                    return self.give_back_clean(pooled, permit);
                }
                self.clean(pooled, permit, CHECK_LIMIT);
            }
            return;
        }
        self.give_back_clean(pooled, permit);
    }

    /// Takes back a connection that is clean, or condemned.
    pub(super) fn give_back_clean(&self, mut pooled: Pooled, permit: Permit) {
        let now = Instant::now();
        let reason = match pooled.verdict() {
            Verdict::Close(reason) => Some(reason),
            Verdict::Reset => Some(CloseReason::Retired),
            Verdict::Keep if pooled.retire_at.is_some_and(|at| at <= now) => Some(CloseReason::Expired),
            Verdict::Keep
                if self.gate.retires()
                    || self.generations.standing(pooled.generation) == Standing::Outdated =>
            {
                Some(CloseReason::Retired)
            }
            Verdict::Keep => None,
        };
        let holder = match reason {
            None => {
                pooled.idle_since = now;
                // Into the store first: the gate may lend it on the moment it hears of it.
                drop(pooled);
                self.gate.release(permit, now)
            }
            Some(reason) => {
                let is_news = match reason {
                    // The others are on the same server, and would pass a check.
                    _ if pooled.is_demoted() => self.generations.outdate(pooled.generation),
                    CloseReason::Broken => self.generations.suspect(pooled.generation),
                    _ => false,
                };
                if is_news {
                    self.keeper.look();
                }
                if pooled.has_timed_out() {
                    self.keeper.cancel(pooled.cancel());
                }
                drop_condemned(pooled, reason);
                self.gate.discard(permit)
            }
        };
        if let Some(Holder { since, at, .. }) = holder {
            let (held, pool) = (since.elapsed().as_secs_f64(), &self.settings.name);
            logged(|| warn!("Connection acquired at {at} came back after {held:.1} s (pool \"{pool}\")"));
        }
    }

    /// How long a statement may take to be answered.
    pub(crate) fn statement_limit(&self) -> Limit {
        let within = self.settings.statement_timeout.map(|limit| limit.saturating_add(ANSWER_GRACE));
        match (scope::answer_deadline(), within) {
            (None, _) => Limit::Within(within),
            (Some(deadline), None) => Limit::Until(deadline),
            (Some(deadline), Some(within)) => Limit::Until(deadline.min(add(Instant::now(), within))),
        }
    }

    pub(crate) fn query(
        self: &Arc<Shared>,
        session: &mut Session,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let limit = self.statement_limit();
        self.unless_called_off(session, |session| session.query(sql, params, limit))
    }

    pub(crate) fn query_again(
        self: &Arc<Shared>,
        session: &mut Session,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let limit = self.statement_limit();
        self.unless_called_off(session, |session| session.query_again(sql, params, limit))
    }

    pub(crate) fn write(
        self: &Arc<Shared>,
        session: &mut Session,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, Failure> {
        let limit = self.statement_limit();
        self.unless_called_off(session, |session| session.write(sql, params, limit))
    }

    /// Runs a statement so that whoever may call this thread's work off can end it.
    fn unless_called_off<R>(
        self: &Arc<Shared>,
        session: &mut Session,
        statement: impl FnOnce(&mut Session) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let Some(stop) = scope::stop() else { return statement(session) };
        let (keeper, cancel) = (self.keeper.clone(), session.cancel());
        let Some(in_flight) = stop.enter(Box::new(move || keeper.cancel(cancel))) else {
            return Err(Failure::of_caller(Error::Cancelled));
        };
        let outcome = statement(session);
        if !in_flight.end() {
            return outcome;
        }
        session.note_cancelled();
        outcome.map_err(|failure| match failure.error.sqlstate() {
            // Refused, so without effect.
            Some("57014") => Failure::of_caller(Error::Cancelled),
            _ => failure,
        })
    }

    /// Waits between two attempts; false where the deadline comes first or the work has been called off.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let ends = add(Instant::now(), pause);
        if scope::deadline().is_some_and(|deadline| deadline <= ends) {
            return false;
        }
        while !scope::is_stopped() {
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            // Woken when the work is called off.
            std::thread::park_timeout(left);
        }
        false
    }

    /// How many connections there may be, how many callers may wait, and for how long.
    pub(crate) fn bounds(&self) -> (u32, u32, Duration) {
        let settings = &self.settings;
        (self.max_connections.load(Ordering::Relaxed), settings.max_waiting, settings.acquire_timeout)
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.settings.acquire_timeout
    }

    /// Whether a read that was lost in flight is run again.
    pub(crate) fn repeats_reads(&self) -> bool {
        self.settings.retry_reads
    }
}

/// Runs what asks the driver; a panic in there counts as a failure and costs no connection's place.
pub(super) fn unpanicked(f: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(false)
}

/// What the store gave.
pub(super) enum Taken {
    Session(Pooled),
    /// A maker has announced it and not stored it yet.
    NotYet,
    Closed,
}

pub(super) fn drop_condemned(mut pooled: Pooled, reason: CloseReason) {
    pooled.condemn(reason);
    drop(pooled);
}
