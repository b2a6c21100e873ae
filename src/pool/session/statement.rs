//! Running one statement of a caller's: prepared once, healed where it is stale, and judged where it fails.

use crate::error::{Error, Interruption};
use crate::pool::session::classify::catalogue::{SessionState, Traits};
use crate::pool::session::outcome::{Checkpoint, ends_session};
use crate::pool::session::statement_cache::Prepared;
use crate::pool::session::{Effect, Failure, Limit, Params, READ_ONLY, Retry, Session, describe};
use postgres::{Client, Row};
use std::time::Duration;

/// How often one statement is prepared anew because what it refers to has changed: more often means something else.
const MOST_HEALINGS: u32 = 3;

impl Session {
    /// Runs a query.
    pub(crate) fn query(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<Vec<Row>, Failure> {
        self.run(sql, params, limit, Prepared::query, Prepared::asks_afterwards)
    }

    /// Runs a statement and returns the number of rows affected.
    pub(crate) fn write(&mut self, sql: &str, params: Params<'_>, limit: Limit) -> Result<u64, Failure> {
        self.run(sql, params, limit, Prepared::execute, |_| false)
    }

    /// `asks_afterwards`: whether the driver may fail although the statement has run.
    fn run<R>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        mut limit: Limit,
        operation: fn(&Prepared, &mut Client, &str, Params<'_>) -> Result<R, postgres::Error>,
        asks_afterwards: fn(&Prepared) -> bool,
    ) -> Result<R, Failure> {
        limit.check().map_err(Failure::of_caller)?;
        if self.in_transaction && self.conn.status() == Some(b'I') {
            // Whatever follows would commit by itself.
            return Err(Failure::of_caller(Error::TransactionEnded));
        }
        let mut healed = 0;
        loop {
            let mark = self.begin(limit);
            let in_transaction = self.in_transaction || self.is_in_own_transaction();
            let was_dirty = self.is_dirty;
            let is_readable = self.conn.reads_as_written(sql);
            let reads_as_at_login = self.conn.reads_as_at_login();
            let began = self.in_transaction.then_some(self.began);
            let state =
                SessionState { in_transaction, began, is_dirty: was_dirty, is_readable, reads_as_at_login };
            let prepared = match self.statements.prepare(&mut self.client, sql, params, state) {
                Ok(prepared) => prepared,
                Err(unprepared) => return Err(self.judge_unprepared(unprepared, mark)),
            };
            let traits = prepared.traits;
            if self.in_transaction && traits.controls_transaction {
                return Err(Failure::of_caller(Error::TransactionEnded));
            }
            self.is_read_only |= traits.sets;
            // Behind PgBouncer a trace is out of reach by the time it could be removed.
            self.is_dirty |= !traits.is_clean && !self.statements.are_behind_pgbouncer();
            let mark = Checkpoint {
                written: self.conn.written(),
                is_trusted: traits.is_clean && !was_dirty,
                ..mark
            };
            let outcome = operation(&prepared, &mut self.client, sql, params);
            let error = match outcome {
                Ok(result) => {
                    // It goes on, if only from a savepoint.
                    self.has_lost_against_another = false;
                    return Ok(result);
                }
                Err(error) => error,
            };
            let effect = match traits {
                _ if self.in_transaction => Effect::None,
                // In a session that was set up by its borrower the text may mean something else.
                Traits { only_reads: true, .. } if !was_dirty => Effect::None,
                Traits { is_atomic: false, .. } => Effect::InSteps,
                _ => Effect::Lasting,
            };
            let may_be_done =
                effect != Effect::None && asks_afterwards(&prepared) && !self.sent_nothing_since(mark);
            if self.may_be_stale(&error, prepared.is_kept, mark) {
                // What it refers to may have changed since it was prepared, if only a moment ago. A statement that
                // was refused has done nothing, so running it again, prepared anew, is safe; not where something
                // behind it may have had an effect that no rollback undoes, and not inside a transaction, which has
                // failed with it: the next one will be well.
                self.statements.forget(sql);
                self.client.clear_type_cache();
                limit = limit.since(mark.at);
                let is_in_time = limit.check().is_ok();
                if is_in_time
                    && !in_transaction
                    && healed < MOST_HEALINGS
                    && traits.is_clean
                    && traits.is_atomic
                    && !may_be_done
                {
                    healed += 1;
                    continue;
                }
            }
            if may_be_done && self.is_of_afterwards(&error) {
                let text = format!("the result's types could not be looked up: {}", describe(&error));
                let error = Error::OutcomeUnknown(Interruption::new(mark.at.elapsed(), text));
                return Err(Failure::of_caller(error));
            }
            return Err(self.judge(error, mark, effect));
        }
    }

    /// Runs a query again whose answer was lost, in a transaction in which the server refuses to write: that it only reads
    /// is what the catalogue says, and functions may be declared to be better than they are.
    pub(crate) fn query_again(
        &mut self,
        sql: &str,
        params: Params<'_>,
        limit: Limit,
    ) -> Result<Vec<Row>, Failure> {
        self.begin_transaction("BEGIN READ ONLY", true, "", limit)?;
        self.in_transaction = true;
        let rows = self.query(sql, params, limit);
        let end = if rows.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if !self.is_broken() {
            // Nothing depends on it any more: a session in which it fails is closed.
            let _ = self.command(end, limit, Effect::None);
        }
        self.in_transaction = false;
        rows.map_err(|failure| match failure.error.sqlstate() {
            Some(READ_ONLY) => {
                let text = "the answer was lost, and when it was run again it wanted to write";
                Failure::of_caller(Error::OutcomeUnknown(Interruption::new(Duration::ZERO, text)))
            }
            // It is prepared anew then.
            Some("0A000" | "26000") => Failure { retry: Retry::ReadOnly, ..failure },
            _ if matches!(failure.error, Error::ConnectionLost(_)) => {
                Failure { retry: Retry::ReadOnly, ..failure }
            }
            _ => failure,
        })
    }

    /// Whether the borrower has begun a transaction by itself, which must not be ended for them.
    fn is_in_own_transaction(&self) -> bool {
        self.is_dirty && self.conn.status() != Some(b'I')
    }

    /// Whether the error can come from a prepared statement that has outlived what it was prepared for: its plan or
    /// its name, and where it was prepared some time ago the tables, columns and types it refers to (PostgreSQL, "Error
    /// Codes": 0A000, 26000, class 42, XX000), or the parameters' types as they were, which the driver judges by.
    fn may_be_stale(&self, error: &postgres::Error, is_kept: bool, mark: Checkpoint) -> bool {
        match error.as_db_error() {
            Some(refusal) if ends_session(refusal) => false,
            Some(refusal) => {
                let code = refusal.code().code();
                matches!(code, "0A000" | "26000") || is_kept && (code == "XX000" || code.starts_with("42"))
            }
            None => is_kept && !self.is_connection_failure() && self.sent_nothing_since(mark),
        }
    }
}
