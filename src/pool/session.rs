//! One server session: the driver's client, its prepared statements, its age, and whether it is clean.

use super::sql::Kind;
use super::status::CloseReason;
use super::transport::Connector;
use super::wire::Wire;
use crate::error::{Error, Interruption, Result};
use lru::LruCache;
use postgres::error::Severity;
use postgres::types::{ToSql, Type};
use postgres::{Client, Row, Statement};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A parameter list as callers pass it.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(crate) struct Session {
    client: Client,
    wire: Arc<Wire>,
    /// Where the server is, and how it is reached: for cancelling.
    connector: Connector,
    statements: Option<LruCache<Box<str>, Prepared>>,
    /// When it has to be closed for its age.
    pub(crate) retire_at: Option<Instant>,
    pub(crate) last_used: Instant,
    /// Which generation of connections it belongs to; see `Generations`.
    pub(crate) generation: u64,
    /// Why it must not be lent again.
    close_reason: Option<CloseReason>,
    /// Something was done that the next borrower might see.
    is_dirty: bool,
    statement_timeout: Option<Duration>,
    /// A statement has failed since BEGIN; for connections whose status cannot be observed.
    has_failed: bool,
    /// Between BEGIN and COMMIT nothing lasts by itself, and a stale prepared statement cannot be healed.
    pub(crate) in_transaction: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The driver says goodbye to the server and waits for what is outstanding: not for long.
        self.wire.set_deadline(Some(Instant::now() + FAREWELL));
    }
}

/// What asks the server to cancel the statement that runs in a session.
pub(crate) struct Cancel {
    token: postgres::CancelToken,
    connector: Connector,
}

impl Cancel {
    /// Asks, within `limit`.
    pub(crate) fn send(self, limit: Duration) -> Result<(), postgres::Error> {
        let Cancel { token, connector } = self;
        token.cancel_query(Connector { wire: Arc::new(Wire::new()), limit, ..connector })
    }
}

/// How long closing a connection may wait for the server.
const FAREWELL: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    kind: Traits,
}

/// What of a [`Kind`] is of use once its unknown calls are resolved.
#[derive(Debug, Clone, Copy)]
struct Traits {
    is_read: bool,
    leaves_traces: bool,
    controls_transaction: bool,
}

impl Traits {
    fn of(kind: &Kind) -> Traits {
        let Kind { is_read, leaves_traces, controls_transaction, .. } = *kind;
        Traits { is_read, leaves_traces, controls_transaction }
    }
}

/// Whether any function of these names, in whatever schema, is volatile: asked once per statement and
/// connection, and only of statements that call what is not known.
const VOLATILE: &str =
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE lower(proname) = ANY ($1) AND provolatile = 'v')";

/// By when an operation must be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// This long from its start; `None` is for ever.
    Within(Option<Duration>),
    Until(Instant),
}

/// What is to happen to a session that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Reset,
    Close(CloseReason),
}

/// A failed operation, and whether it may be tried again.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// The connection is to blame, and the operation certainly had no effect: not a byte of it was sent, or the
    /// server ended the session in its place.
    pub(crate) had_no_effect: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// Where the wire stood when an operation began.
struct Mark {
    at: Instant,
    written: u64,
}

/// What an operation that lost its answer may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that lasts: a read, or a statement inside a transaction that ends with the connection.
    None,
    /// A write that commits by itself, or a commit: all or nothing.
    Lasting,
    /// What may commit some of its work before it ends: a procedure, a DO block.
    InSteps,
}

impl Session {
    pub(crate) fn new(
        client: Client,
        connector: Connector,
        statement_cache_size: usize,
        statement_timeout: Option<Duration>,
        retire_at: Option<Instant>,
        generation: u64,
    ) -> Session {
        Session {
            client,
            wire: connector.wire.clone(),
            connector,
            statements: NonZeroUsize::new(statement_cache_size).map(LruCache::new),
            retire_at,
            last_used: Instant::now(),
            generation,
            close_reason: None,
            is_dirty: false,
            statement_timeout,
            has_failed: false,
            in_transaction: false,
        }
    }

    /// Runs a query.
    pub(crate) fn query(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<Vec<Row>, Failure> {
        self.run(sql, limit, |client, statement| match statement {
            Some(statement) => client.query(statement, params),
            None => client.query(sql, params),
        })
    }

    /// Runs a statement and returns the number of rows affected.
    pub(crate) fn write(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<u64, Failure> {
        self.run(sql, limit, |client, statement| match statement {
            Some(statement) => client.execute(statement, params),
            None => client.execute(sql, params),
        })
    }

    fn run<R>(
        &mut self,
        sql: &str,
        limit: Limit,
        mut operation: impl FnMut(&mut Client, Option<&Statement>) -> Result<R, postgres::Error>,
    ) -> Result<R, Failure> {
        if self.in_transaction && self.wire.status() == Some(b'I') {
            // Whatever follows would commit by itself.
            return Err(Failure { error: Error::TransactionEnded, had_no_effect: false });
        }
        let mut healed = false;
        loop {
            let mark = self.begin(limit);
            let (prepared, is_new) = match self.prepare(sql) {
                Ok(prepared) => prepared,
                // Preparing changes nothing, whatever the statement would do.
                Err(error) => return Err(self.judge(error, mark, Effect::None)),
            };
            let (statement, kind) = match &prepared {
                Some(prepared) => (Some(&prepared.statement), prepared.kind),
                None => (None, Traits::of(&Kind::of(sql).resolved(true))),
            };
            if self.in_transaction && kind.controls_transaction {
                return Err(Failure { error: Error::TransactionEnded, had_no_effect: false });
            }
            self.is_dirty |= kind.leaves_traces;
            let sent_before = self.wire.written();
            let error = match operation(&mut self.client, statement) {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            if statement.is_some() && !is_new && self.may_be_stale(&error) {
                // What it refers to may have changed since it was prepared. A statement that was refused has
                // done nothing, so running it once more, prepared anew, is safe; not a procedure, which may
                // have committed in between, and not inside a transaction, which has failed with it: the next
                // one will be well.
                if let Some(statements) = &mut self.statements {
                    statements.pop(sql);
                }
                self.client.clear_type_cache();
                if !self.in_transaction && !healed && !kind.leaves_traces {
                    healed = true;
                    continue;
                }
            }
            let effect = match kind {
                _ if self.in_transaction => Effect::None,
                Traits { is_read: true, .. } => Effect::None,
                Traits { leaves_traces: true, .. } => Effect::InSteps,
                _ => Effect::Lasting,
            };
            return Err(self.judge(error, Mark { written: sent_before, ..mark }, effect));
        }
    }

    /// Whether the error can come from a prepared statement that has outlived what it was prepared for: its plan,
    /// its name, the tables, columns and types it refers to (PostgreSQL, "Error Codes": 0A000, 26000, class 42,
    /// XX000), or the parameters' types as they were, which the driver judges by.
    fn may_be_stale(&self, error: &postgres::Error) -> bool {
        match error.as_db_error() {
            Some(refusal) => {
                let code = refusal.code().code();
                matches!(code, "0A000" | "26000" | "XX000") || code.starts_with("42")
            }
            None => !self.is_connection_failure(error),
        }
    }

    /// The statement prepared, and whether that was done just now; `None` without a cache.
    fn prepare(&mut self, sql: &str) -> Result<(Option<Prepared>, bool), postgres::Error> {
        let Some(statements) = &mut self.statements else { return Ok((None, false)) };
        if let Some(prepared) = statements.get(sql) {
            return Ok((Some(prepared.clone()), false));
        }
        let statement = self.client.prepare(sql)?;
        let kind = Kind::of(sql);
        let is_volatile = match kind.unknown_calls.as_slice() {
            [] => false,
            // Before 11 procedures did not exist, and a failed transaction answers nothing: then it is yes.
            names => self
                .client
                .query_typed(VOLATILE, &[(&names, Type::TEXT_ARRAY)])
                .map_or(true, |rows| rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(true)),
        };
        let kind = Traits::of(&kind.resolved(is_volatile));
        let prepared = Prepared { statement, kind };
        statements.put(sql.into(), prepared.clone());
        Ok((Some(prepared), true))
    }

    /// Runs fixed statements without parameters: BEGIN, COMMIT, savepoints, resets.
    pub(crate) fn command(&mut self, sql: &str, limit: Limit, effect: Effect) -> Result<(), Failure> {
        let mark = self.begin(limit);
        self.client.batch_execute(sql).map_err(|error| self.judge(error, mark, effect))
    }

    /// One round trip that tells whether the server is there.
    pub(crate) fn is_alive(&mut self, deadline: Instant) -> bool {
        let is_alive = self.command("", Limit::Until(deadline), Effect::None).is_ok();
        if !is_alive {
            // Not a borrower's loss, so not counted as one.
            self.close_reason = Some(CloseReason::Invalid);
        }
        is_alive
    }

    /// Makes the session as new, whatever was done to it; false where that did not work.
    ///
    /// `DISCARD ALL` (PostgreSQL, "SQL Commands") ends temporary tables, settings, roles, locks, cursors,
    /// channels and prepared statements; it is refused inside a transaction, hence the ROLLBACK.
    pub(crate) fn reset(&mut self, deadline: Instant) -> bool {
        if self.wire.status() != Some(b'I')
            && self.command("ROLLBACK", Limit::Until(deadline), Effect::None).is_err()
        {
            return false;
        }
        let written = self.wire.written();
        if self.command("DISCARD ALL", Limit::Until(deadline), Effect::None).is_err() {
            return false;
        }
        // A borrower with `&mut Client` can put another client in its place.
        if self.wire.is_observed() && (self.wire.written() == written || self.wire.status() != Some(b'I')) {
            return false;
        }
        if let Some(statements) = &mut self.statements {
            statements.clear();
        }
        self.client.clear_type_cache();
        self.is_dirty = false;
        true
    }

    /// The driver's client, for whatever the helpers do not offer.
    pub(crate) fn client(&mut self) -> &mut Client {
        self.is_dirty = true;
        &mut self.client
    }

    /// Sets the deadline of everything done with `client`, and of COPY.
    pub(crate) fn set_limit(&self, limit: Limit) {
        self.begin(limit);
    }

    /// The client for an operation whose traces are known to end with the transaction.
    pub(crate) fn client_unmarked(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Asks how the open transaction stands, where the last reply has not told: COMMIT of one that has failed
    /// rolls back and reports success.
    ///
    /// # Errors
    ///
    /// `TransactionAborted`, `TransactionEnded`, or what the asking met.
    pub(crate) fn check_transaction(&mut self, limit: Limit) -> Result<(), Failure> {
        if self.wire.is_observed() && self.wire.status().is_none() {
            // Something was begun and not ended, as a COPY without `finish`.
            self.command("", limit, Effect::None)?;
        }
        let error = match self.wire.status() {
            Some(b'T') => return Ok(()),
            None if !self.wire.is_observed() && !self.has_failed => return Ok(()),
            Some(b'I') => Error::TransactionEnded,
            _ => Error::TransactionAborted,
        };
        Err(Failure { error, had_no_effect: false })
    }

    /// A rollback succeeded: whatever failed before is undone.
    pub(crate) fn forget_failure(&mut self) {
        self.has_failed = false;
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.close_reason.is_some()
    }

    /// Sees to it that the session is closed when it returns.
    pub(crate) fn condemn(&mut self, reason: CloseReason) {
        self.close_reason.get_or_insert(reason);
    }

    /// The same where it could not be made clean.
    pub(crate) fn condemn_dirty(&mut self) {
        self.condemn(CloseReason::Dirty);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// What is to happen now that the borrower is done with it.
    pub(crate) fn verdict(&self) -> Verdict {
        if let Some(reason) = self.close_reason {
            return Verdict::Close(reason);
        }
        if self.wire.has_ended() {
            return Verdict::Close(CloseReason::Broken);
        }
        // A borrower that is unwinding may have stopped anywhere; r2d2 would lend its session on.
        if std::thread::panicking() {
            return Verdict::Close(CloseReason::Dirty);
        }
        match self.wire.status() {
            Some(b'I') if !self.is_dirty => Verdict::Keep,
            // A reply is outstanding: its rest would be the next borrower's.
            None if self.wire.is_observed() => Verdict::Close(CloseReason::Dirty),
            None if !self.is_dirty => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    /// What cancels the running statement.
    pub(crate) fn cancel(&self) -> Cancel {
        Cancel { token: self.client.cancel_token(), connector: self.connector.clone() }
    }

    /// Whether an answer was waited for in vain: then the statement may still run on the server.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.wire.has_timed_out()
    }

    fn begin(&self, limit: Limit) -> Mark {
        let now = Instant::now();
        self.wire.set_deadline(match limit {
            Limit::Within(time) => time.map(|time| super::add(now, time)),
            Limit::Until(deadline) => Some(deadline),
        });
        Mark { at: now, written: self.wire.written() }
    }

    /// Turns the driver's error into ours, and condemns the session where it cannot be used any more.
    fn judge(&mut self, error: postgres::Error, mark: Mark, effect: Effect) -> Failure {
        let after = mark.at.elapsed();
        let had_no_effect = self.wire.is_observed() && self.wire.written() == mark.written;
        if let Some(refusal) = error.as_db_error() {
            let is_fatal = matches!(refusal.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
            if self.wire.has_ended() || is_fatal {
                self.condemn(CloseReason::Broken);
            }
            self.has_failed = true;
            if is_fatal {
                // The server ended the session in place of completing the statement, so it was not done: a
                // complete reply would have been taken first.
                let text = format!("the server ended the session: {}", refusal.message());
                let interruption = Interruption::new(after, text);
                return match effect {
                    Effect::InSteps if !had_no_effect => {
                        Failure { error: Error::OutcomeUnknown(interruption), had_no_effect }
                    }
                    _ => Failure {
                        error: Error::ConnectionLost(interruption),
                        had_no_effect: had_no_effect || !self.in_transaction,
                    },
                };
            }
            // 57014 is also what a cancel by somebody else looks like; the clock tells them apart.
            let error = match self.statement_timeout {
                Some(limit) if refusal.code().code() == "57014" && after >= limit => {
                    Error::DeadlineExceeded(Interruption::new(after, refusal.message()))
                }
                _ => error.into(),
            };
            return Failure { error, had_no_effect: false };
        }
        if !self.is_connection_failure(&error) {
            return Failure { error: error.into(), had_no_effect: false };
        }
        self.condemn(CloseReason::Broken);
        let interruption = Interruption::new(after, describe(&error));
        let error = if had_no_effect {
            Error::ConnectionLost(interruption)
        } else if effect != Effect::None {
            Error::OutcomeUnknown(interruption)
        } else if self.wire.has_timed_out() {
            Error::DeadlineExceeded(interruption)
        } else {
            Error::ConnectionLost(interruption)
        };
        Failure { error, had_no_effect }
    }

    /// The driver wraps a parameter or a text it cannot encode in an I/O error too, so where the wire is observed
    /// that alone decides.
    fn is_connection_failure(&self, error: &postgres::Error) -> bool {
        if self.wire.is_observed() {
            return self.wire.has_ended() || self.client.is_closed();
        }
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        error.is_closed()
            || self.client.is_closed()
            || cause.is_some_and(|cause| cause.kind() != std::io::ErrorKind::InvalidInput)
    }
}

/// The driver's words with the cause it keeps apart.
pub(crate) fn describe(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(refusal), _) => format!("{} ({})", refusal.message(), refusal.code().code()),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    }
}
