//! Running statements on a lent session, within the limits of the pool and of the thread.

use crate::error::{Error, Result};
use crate::pool::session::{Failure, Limit, Params, Session};
use crate::pool::{Shared, add};
use crate::pool::{cancellation, deadline};
use postgres::Row;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How much longer than the server's `statement_timeout` the pool waits for an answer: the server's own words
/// are worth it.
const ANSWER_GRACE: Duration = Duration::from_millis(200);

impl Shared {
    /// How long a statement may take to be answered.
    pub(crate) fn statement_limit(&self) -> Limit {
        let within = self.settings.statement_timeout.map(|limit| limit.saturating_add(ANSWER_GRACE));
        match (deadline::answer_deadline(), within) {
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
        let Some(stop) = cancellation::current() else { return statement(session) };
        let (maintenance, cancel) = (self.maintenance.clone(), session.cancel());
        let Some(in_flight) = stop.enter(Box::new(move || maintenance.cancel(cancel))) else {
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
        if deadline::deadline().is_some_and(|deadline| deadline <= ends) {
            return false;
        }
        while !cancellation::is_stopped() {
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
