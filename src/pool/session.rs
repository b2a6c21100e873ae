//! One server session: the driver's client, its prepared statements, its age, and whether it is clean.

use super::sql::Kind;
use super::status::CloseReason;
use super::transport::Wire;
use crate::error::{Error, Interruption, Result};
use lru::LruCache;
use postgres::error::Severity;
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A parameter list as callers pass it.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(crate) struct Session {
    client: Client,
    wire: Arc<Wire>,
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
    /// Between BEGIN and COMMIT nothing lasts by itself, and a stale prepared statement cannot be healed.
    pub(crate) in_transaction: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The driver says goodbye to the server and waits for what is outstanding: not for long.
        self.wire.set_deadline(Some(Instant::now() + FAREWELL));
    }
}

/// How long closing a connection may wait for the server.
const FAREWELL: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    kind: Kind,
}

/// What is to happen to a session that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Reset,
    Close(CloseReason),
}

/// A failed operation, and whether the server can have seen it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Not a byte of it was sent.
    pub(crate) never_sent: bool,
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
    /// A write that commits by itself, or a commit.
    Lasting,
}

impl Session {
    pub(crate) fn new(
        client: Client,
        wire: Arc<Wire>,
        statement_cache_size: usize,
        statement_timeout: Option<Duration>,
        retire_at: Option<Instant>,
        generation: u64,
    ) -> Session {
        Session {
            client,
            wire,
            statements: NonZeroUsize::new(statement_cache_size).map(LruCache::new),
            retire_at,
            last_used: Instant::now(),
            generation,
            close_reason: None,
            is_dirty: false,
            statement_timeout,
            in_transaction: false,
        }
    }

    /// Runs a query.
    pub(crate) fn query(
        &mut self,
        sql: &str,
        params: Params<'_>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Row>, Failure> {
        self.run(sql, deadline, |client, statement| match statement {
            Some(statement) => client.query(statement, params),
            None => client.query(sql, params),
        })
    }

    /// Runs a statement and returns the number of rows affected.
    pub(crate) fn write(
        &mut self,
        sql: &str,
        params: Params<'_>,
        deadline: Option<Instant>,
    ) -> Result<u64, Failure> {
        self.run(sql, deadline, |client, statement| match statement {
            Some(statement) => client.execute(statement, params),
            None => client.execute(sql, params),
        })
    }

    fn run<R>(
        &mut self,
        sql: &str,
        deadline: Option<Instant>,
        mut operation: impl FnMut(&mut Client, Option<&Statement>) -> Result<R, postgres::Error>,
    ) -> Result<R, Failure> {
        let mut healed = false;
        loop {
            let mark = self.begin(deadline);
            let prepared = match self.prepare(sql) {
                Ok(prepared) => prepared,
                // Preparing changes nothing, whatever the statement would do.
                Err(error) => return Err(self.judge(error, mark, Effect::None)),
            };
            let (statement, kind) = match &prepared {
                Some(prepared) => (Some(&prepared.statement), prepared.kind),
                None => (None, Kind::of(sql)),
            };
            self.is_dirty |= kind.leaves_traces;
            let sent_before = self.wire.written();
            let error = match operation(&mut self.client, statement) {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            if is_stale_statement(&error)
                && let Some(statements) = &mut self.statements
            {
                // The table changed under the prepared statement, or somebody deallocated it. The server has
                // refused before running anything, so running it again is safe; once is enough. Inside a
                // transaction the refusal has failed the transaction: the next one will be well.
                statements.pop(sql);
                if !self.in_transaction && !healed {
                    healed = true;
                    continue;
                }
            }
            let effect = if self.in_transaction || kind.is_read { Effect::None } else { Effect::Lasting };
            return Err(self.judge(error, Mark { written: sent_before, ..mark }, effect));
        }
    }

    fn prepare(&mut self, sql: &str) -> Result<Option<Prepared>, postgres::Error> {
        let Some(statements) = &mut self.statements else { return Ok(None) };
        if let Some(prepared) = statements.get(sql) {
            return Ok(Some(prepared.clone()));
        }
        let statement = self.client.prepare(sql)?;
        let prepared = Prepared { statement, kind: Kind::of(sql) };
        statements.put(sql.into(), prepared.clone());
        Ok(Some(prepared))
    }

    /// Runs fixed statements without parameters: BEGIN, COMMIT, savepoints, resets.
    pub(crate) fn command(
        &mut self,
        sql: &str,
        deadline: Option<Instant>,
        effect: Effect,
    ) -> Result<(), Failure> {
        let mark = self.begin(deadline);
        self.client.batch_execute(sql).map_err(|error| self.judge(error, mark, effect))
    }

    /// One round trip that tells whether the server is there.
    pub(crate) fn is_alive(&mut self, deadline: Instant) -> bool {
        let is_alive = self.command("", Some(deadline), Effect::None).is_ok();
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
        if self.wire.status() != Some(b'I') && self.command("ROLLBACK", Some(deadline), Effect::None).is_err()
        {
            return false;
        }
        if self.command("DISCARD ALL", Some(deadline), Effect::None).is_err() {
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
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        self.wire.set_deadline(deadline);
    }

    /// The client for an operation whose traces are known to end with the transaction.
    pub(crate) fn client_unmarked(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Whether the server has told that the open transaction failed: COMMIT would silently roll back.
    pub(crate) fn has_failed_transaction(&self) -> bool {
        self.wire.status() == Some(b'E')
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.close_reason.is_some()
    }

    /// Sees to it that the session is closed when it returns.
    pub(crate) fn condemn(&mut self, reason: CloseReason) {
        self.close_reason.get_or_insert(reason);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// What is to happen now that the borrower is done with it.
    pub(crate) fn verdict(&self) -> Verdict {
        if let Some(reason) = self.close_reason {
            return Verdict::Close(reason);
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
    pub(crate) fn cancel_token(&self) -> postgres::CancelToken {
        self.client.cancel_token()
    }

    /// Whether an answer was waited for in vain: then the statement may still run on the server.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.wire.has_timed_out()
    }

    fn begin(&self, deadline: Option<Instant>) -> Mark {
        self.wire.set_deadline(deadline);
        Mark { at: Instant::now(), written: self.wire.written() }
    }

    /// Turns the driver's error into ours, and condemns the session where it cannot be used any more.
    fn judge(&mut self, error: postgres::Error, mark: Mark, effect: Effect) -> Failure {
        let after = mark.at.elapsed();
        if let Some(refusal) = error.as_db_error() {
            let is_fatal = matches!(refusal.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
            if !is_fatal && !self.wire.has_ended() {
                // 57014 is also what a cancel by somebody else looks like; the clock tells them apart.
                let error = match self.statement_timeout {
                    Some(limit) if refusal.code().code() == "57014" && after >= limit => {
                        Error::DeadlineExceeded(Interruption::new(after, refusal.message()))
                    }
                    _ => error.into(),
                };
                return Failure { error, never_sent: false };
            }
            self.condemn(CloseReason::Broken);
            if is_fatal {
                // The server ended the session in place of completing the statement, so it was not done.
                let text = format!("the server ended the session: {}", refusal.message());
                return Failure {
                    error: Error::ConnectionLost(Interruption::new(after, text)),
                    never_sent: false,
                };
            }
            return Failure { error: error.into(), never_sent: false };
        }
        if !self.is_connection_failure(&error) {
            return Failure { error: error.into(), never_sent: false };
        }
        self.condemn(CloseReason::Broken);
        let never_sent = self.wire.is_observed() && self.wire.written() == mark.written;
        let interruption = Interruption::new(after, describe(&error));
        let error = if never_sent {
            Error::ConnectionLost(interruption)
        } else if effect == Effect::Lasting {
            Error::OutcomeUnknown(interruption)
        } else if self.wire.has_timed_out() {
            Error::DeadlineExceeded(interruption)
        } else {
            Error::ConnectionLost(interruption)
        };
        Failure { error, never_sent }
    }

    fn is_connection_failure(&self, error: &postgres::Error) -> bool {
        let cause = std::error::Error::source(error);
        error.is_closed()
            || self.wire.has_ended()
            || self.client.is_closed()
            || cause.is_some_and(|cause| cause.is::<std::io::Error>())
    }
}

/// `0A000` "cached plan must not change result type", and `26000` "prepared statement does not exist".
fn is_stale_statement(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|refusal| match refusal.code().code() {
        "26000" => true,
        "0A000" => refusal.routine() == Some("RevalidateCachedQuery"),
        _ => false,
    })
}

/// The driver's words with the cause it keeps apart.
pub(crate) fn describe(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(refusal), _) => format!("{} ({})", refusal.message(), refusal.code().code()),
        (None, Some(cause)) => cause.to_string(),
        (None, None) => error.to_string(),
    }
}
