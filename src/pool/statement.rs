//! Runs statements on a lent session within the statement timeout and the thread's deadline, and makes them
//! cancellable.
//!
//! It knows nothing of what a statement means; `session` does.

use crate::error::{Error, Result};
use crate::pool::session::{Answer, CopyStatement, Failure, Limit, Params, Session};
use crate::pool::status::Event;
use crate::pool::{Shared, add};
use crate::pool::{cancellation, deadline};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How much longer than the server's `statement_timeout` the pool waits for an answer. In this time the server's own
/// error arrives, and the connection stays usable.
const ANSWER_GRACE: Duration = Duration::from_millis(200);

impl Shared {
    /// The time limit of a statement that starts now: the earlier of the statement timeout and the thread's deadline.
    pub(crate) fn statement_limit(&self) -> Limit {
        let within = self.settings.statement_timeout.map(|limit| limit.saturating_add(ANSWER_GRACE));
        match (deadline::answer_deadline(), within) {
            (None, _) => Limit::Within(within),
            (Some(deadline), None) => Limit::Until(deadline),
            (Some(deadline), Some(within)) => Limit::Until(deadline.min(add(Instant::now(), within))),
        }
    }

    pub(crate) fn run(
        self: &Arc<Shared>,
        session: &mut Session,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Answer, Failure> {
        let limit = self.statement_limit();
        self.cancellable(session, |session| session.run(sql, params, limit))
    }

    /// Runs a statement, reads its answer, and counts the error.
    pub(crate) fn execute<R>(
        self: &Arc<Shared>,
        session: &mut Session,
        sql: &str,
        params: Params<'_>,
        read: impl FnOnce(Answer) -> Result<R>,
    ) -> Result<R> {
        let answer = self.run(session, sql, params).map_err(Error::from);
        self.noted(answer.and_then(read))
    }

    pub(crate) fn query_again(
        self: &Arc<Shared>,
        session: &mut Session,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Answer, Failure> {
        let limit = self.statement_limit();
        self.cancellable(session, |session| session.query_again(sql, params, limit))
    }

    /// Runs what `operation` does with the session within the same limits.
    pub(crate) fn bounded<R>(
        self: &Arc<Shared>,
        session: &mut Session,
        operation: impl FnOnce(&mut Session, Limit) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let limit = self.statement_limit();
        self.cancellable(session, |session| operation(session, limit))
    }

    /// Copies the rows of a query within the same limits to `take`. Where that returns false, the statement is cancelled on the
    /// server.
    pub(crate) fn copy_out(
        self: &Arc<Shared>,
        session: &mut Session,
        statement: &CopyStatement,
        take: impl FnMut(&[u8]) -> bool,
    ) -> Result<u64, Failure> {
        let (maintenance, cancel) = (self.maintenance.clone(), session.cancel());
        let abort = move || maintenance.cancel(cancel);
        self.bounded(session, |session, limit| session.copy_rows_out(statement, limit, take, abort))
    }

    /// Runs a statement that the thread's [`Cancellation`](super::cancellation::Cancellation) can cancel on the
    /// server.
    pub(super) fn cancellable<R>(
        self: &Arc<Shared>,
        session: &mut Session,
        statement: impl FnOnce(&mut Session) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let Some(cancellation) = cancellation::current() else { return statement(session) };
        let (maintenance, cancel) = (self.maintenance.clone(), session.cancel());
        let Some(in_flight) = cancellation.enter(Box::new(move || maintenance.cancel(cancel))) else {
            return Err(Failure::without_retry(Error::Cancelled));
        };
        let outcome = statement(session);
        if !in_flight.end() {
            return outcome;
        }
        session.note_cancelled();
        outcome.map_err(|failure| match failure.error.sqlstate() {
            // The server cancelled the statement, so it had no effect.
            Some("57014") => Failure::without_retry(Error::Cancelled),
            _ => failure,
        })
    }

    /// Counts another attempt at a statement or a transaction.
    pub(crate) fn note_retry(&self) {
        self.tally.add(Event::Retry);
    }

    /// Waits between two attempts. Returns false where the thread's deadline comes first or its work is cancelled.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let ends = add(Instant::now(), pause);
        if deadline::deadline().is_some_and(|deadline| deadline <= ends) {
            return false;
        }
        while !cancellation::is_cancelled() {
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            // A cancellation unparks the thread.
            std::thread::park_timeout(left);
        }
        false
    }

    /// The maximum of connections, the maximum of waiting callers, and the acquire timeout.
    pub(crate) fn bounds(&self) -> (u32, u32, Duration) {
        let settings = &self.settings;
        (self.max_connections.load(Ordering::Relaxed), settings.max_waiting, settings.acquire_timeout)
    }

    pub(crate) fn acquire_timeout(&self) -> Duration {
        self.settings.acquire_timeout
    }

    /// Whether a query that only reads is run again when its answer is lost.
    pub(crate) fn repeats_reads(&self) -> bool {
        self.settings.retry_reads
    }
}
