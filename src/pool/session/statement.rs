//! Running one statement of a caller: it is prepared once per connection, prepared again where it is stale, and a
//! failure is interpreted by `outcome.rs`.
//!
//! It knows nothing of other connections: `query` decides whether a failed statement runs again on another one.

use crate::error::{Error, Interruption};
use crate::pool::session::classify::catalogue::{SessionState, Traits};
use crate::pool::session::outcome::{Checkpoint, ends_session};
use crate::pool::session::statement_cache::Prepared;
use crate::pool::session::{Effect, Failure, Limit, Params, READ_ONLY, Retry, Session, describe};
use postgres::{Client, Row};
use std::time::{Duration, Instant};

/// How often one statement is prepared again because the objects it refers to have changed. More failures than that
/// have another cause.
const MAX_REPREPARES: u32 = 3;

/// A statement that is ready to run.
struct Ready {
    prepared: Prepared,
    /// The state of the connection after preparing.
    checkpoint: Checkpoint,
    /// What it may have done if its answer is lost.
    effect: Effect,
    /// A transaction is open, whether the pool or the borrower began it.
    in_transaction: bool,
}

impl Session {
    /// Runs a query.
    pub(crate) fn query(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<Vec<Row>, Failure> {
        self.run(sql, params, limit, Prepared::query, Prepared::may_look_up_types)
    }

    /// Runs a statement and returns the number of affected rows.
    pub(crate) fn write(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<u64, Failure> {
        self.run(sql, params, limit, Prepared::execute, |_| false)
    }

    /// Prepares the statement, runs `operation`, and prepares it again where it turns out to be stale.
    ///
    /// `looks_up_types`: whether the driver may query the result's types after the statement has run, and so fail
    /// late.
    fn run<R>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        mut limit: Limit,
        operation: fn(&Prepared, &mut Client, &str, Params<'_>) -> Result<R, postgres::Error>,
        looks_up_types: fn(&Prepared) -> bool,
    ) -> Result<R, Failure> {
        limit.check().map_err(Failure::without_retry)?;
        if self.in_transaction && self.conn.status() == Some(b'I') {
            // The transaction has ended on the server: the statement would commit by itself.
            return Err(Failure::without_retry(Error::TransactionEnded));
        }
        let mut retries = 0;
        loop {
            let Ready { prepared, checkpoint, effect, in_transaction } =
                self.make_ready(sql, params, limit)?;
            let outcome = operation(&prepared, &mut self.client, sql, params);
            let error = match outcome {
                Ok(result) => {
                    // A conflict before this was undone by a savepoint: the transaction goes on.
                    self.has_conflict = false;
                    return Ok(result);
                }
                Err(error) => error,
            };
            let may_be_done =
                effect != Effect::None && looks_up_types(&prepared) && !self.sent_nothing_since(checkpoint);
            if self.may_be_stale(&error, prepared.is_cached, checkpoint) {
                self.statements.forget(sql);
                self.client.clear_type_cache();
                limit = limit.since(checkpoint.at);
                // A refused statement has done nothing, so it may run again, with two exceptions: a function behind
                // it may have had an effect that no rollback undoes, and a transaction has failed with it.
                let Traits { is_clean, is_atomic, .. } = prepared.traits;
                let is_safe = is_clean && is_atomic && !may_be_done && !in_transaction;
                if is_safe && retries < MAX_REPREPARES && limit.check().is_ok() {
                    retries += 1;
                    continue;
                }
            }
            return Err(match may_be_done && self.is_type_lookup_error(&error) {
                true => judge_type_lookup(&error, checkpoint),
                false => self.judge(error, checkpoint, effect),
            });
        }
    }

    /// Prepares the statement, and records what running it would mean for the session.
    fn make_ready(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<Ready, Failure> {
        let checkpoint = self.start_operation(limit);
        let in_transaction = self.in_transaction || self.is_in_own_transaction();
        let was_dirty = self.is_dirty;
        let state = SessionState {
            in_transaction,
            began: self.in_transaction.then_some(self.began),
            is_dirty: was_dirty,
            is_readable: self.conn.reads_as_written(sql),
            reads_as_at_login: self.conn.reads_as_at_login(),
        };
        let prepared = match self.statements.prepare(&mut self.client, sql, params, state) {
            Ok(prepared) => prepared,
            Err(unprepared) => return Err(self.judge_unprepared(unprepared, checkpoint)),
        };
        let traits = prepared.traits;
        if self.in_transaction && traits.controls_transaction {
            return Err(Failure::without_retry(Error::TransactionEnded));
        }
        self.is_read_only |= traits.sets;
        // Behind PgBouncer a reset comes too late: by then the server connection may be another one.
        self.is_dirty |= !traits.is_clean && !self.statements.are_behind_pgbouncer();
        let effect = match traits {
            _ if self.in_transaction => Effect::None,
            // In a dirty session the text may mean something else.
            Traits { only_reads: true, .. } if !was_dirty => Effect::None,
            Traits { is_atomic: false, .. } => Effect::InSteps,
            _ => Effect::Lasting,
        };
        let written = self.conn.written();
        let checkpoint = Checkpoint { written, is_trusted: traits.is_clean && !was_dirty, ..checkpoint };
        Ok(Ready { prepared, checkpoint, effect, in_transaction })
    }

    /// Runs a query again whose answer was lost, in a read-only transaction. The catalogue reports that the query
    /// only reads, but a function may be declared with the wrong volatility; the server refuses a write here.
    pub(crate) fn query_again(
        &mut self,
        sql: &str,
        params: Params<'_>,
        limit: Limit,
    ) -> Result<Vec<Row>, Failure> {
        // One limit for the three steps.
        let limit = limit.since(Instant::now());
        self.begin_transaction("BEGIN READ ONLY", true, "", limit)?;
        self.in_transaction = true;
        let rows = self.query(sql, params, limit);
        let end = if rows.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if !self.is_broken() {
            // The rows are there already. Where this fails, the session is closed.
            let _ = self.command(end, limit, Effect::None);
        }
        self.in_transaction = false;
        rows.map_err(|failure| match failure.error.sqlstate() {
            Some(READ_ONLY) => {
                let text = "the answer was lost, and the query attempted to write when it was run again";
                Failure::without_retry(Error::OutcomeUnknown(Interruption::new(Duration::ZERO, text)))
            }
            // The next connection prepares the statement again.
            Some("0A000" | "26000") => Failure { retry: Retry::ReadOnly, ..failure },
            _ if matches!(failure.error, Error::ConnectionLost(_)) => {
                Failure { retry: Retry::ReadOnly, ..failure }
            }
            _ => failure,
        })
    }

    /// Whether the borrower has begun a transaction of its own, which the pool must not end.
    fn is_in_own_transaction(&self) -> bool {
        self.is_dirty && self.conn.status() != Some(b'I')
    }

    /// Whether the error can come from a stale prepared statement (PostgreSQL, "Error Codes"): its plan (0A000) or
    /// its name (26000) is not valid any more. For a cached one also: a table, column or type that it refers to has
    /// changed (class 42, XX000), or the driver checked the parameters against outdated types, and sent nothing.
    fn may_be_stale(&self, error: &postgres::Error, is_cached: bool, checkpoint: Checkpoint) -> bool {
        match error.as_db_error() {
            Some(db_error) if ends_session(db_error) => false,
            Some(db_error) => {
                let code = db_error.code().code();
                matches!(code, "0A000" | "26000") || is_cached && (code == "XX000" || code.starts_with("42"))
            }
            None => is_cached && !self.is_connection_failure() && self.sent_nothing_since(checkpoint),
        }
    }
}

/// Interprets the failure of a type lookup after the statement: a write may have happened.
fn judge_type_lookup(error: &postgres::Error, checkpoint: Checkpoint) -> Failure {
    let text = format!("the result's types could not be looked up: {}", describe(error));
    Failure::without_retry(Error::OutcomeUnknown(Interruption::new(checkpoint.at.elapsed(), text)))
}
