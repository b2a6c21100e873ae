//! One server session: the driver's client, its prepared statements, its age, and whether it is clean.

mod judgement;
mod limit;

pub(crate) use self::judgement::{Effect, Failure, describe};
use self::judgement::{Mark, judge_apart};
pub(crate) use self::limit::Limit;
pub(crate) use super::cancelling::Cancel;
pub(crate) use super::statements::Params;
use super::statements::{Prepared, Statements, Traits};
use super::status::CloseReason;
use super::transport::Connector;
use super::wire::Wire;
use crate::error::{Error, Interruption, Result};
use postgres::{Client, CopyInWriter, Row, SimpleQueryMessage};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Session {
    client: Client,
    wire: Arc<Wire>,
    /// Where the server is, and how it is reached: for cancelling.
    connector: Connector,
    cancel: Option<Arc<Cancel>>,
    /// Since it was last reset.
    is_cancelled: bool,
    statements: Statements,
    /// When it has to be closed for its age.
    pub(crate) retire_at: Option<Instant>,
    /// When it was made, or last given back.
    pub(crate) idle_since: Instant,
    /// Which generation of connections it belongs to; see `Generations`.
    pub(crate) generation: u64,
    /// Why it must not be lent again.
    close_reason: Option<CloseReason>,
    /// Something was done that the next borrower might see.
    is_dirty: bool,
    /// The settings ask for a server that accepts writes.
    must_be_writable: bool,
    /// It does not any more, as after a failover.
    is_demoted: bool,
    /// The transaction was begun so.
    is_read_only: bool,
    statement_timeout: Option<Duration>,
    /// Between BEGIN and COMMIT nothing lasts by itself, and a stale prepared statement cannot be healed.
    pub(crate) in_transaction: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The driver says goodbye to the server and waits for what is outstanding: not for long.
        let now = Instant::now();
        self.wire.set_deadline(now, Some(now + FAREWELL));
    }
}

/// How often one statement is prepared anew because what it refers to has changed: more often means something else.
const MOST_HEALINGS: u32 = 3;

/// How long closing a connection may wait for the server.
const FAREWELL: Duration = Duration::from_millis(50);

/// What is to happen to a session that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Reset,
    Close(CloseReason),
}

impl Session {
    pub(crate) fn new(
        client: Client,
        connector: Connector,
        statements: Statements,
        statement_timeout: Option<Duration>,
        must_be_writable: bool,
        retire_at: Option<Instant>,
        generation: u64,
    ) -> Session {
        Session {
            client,
            wire: connector.wire.clone(),
            connector,
            cancel: None,
            is_cancelled: false,
            statements,
            retire_at,
            idle_since: Instant::now(),
            generation,
            close_reason: None,
            must_be_writable,
            is_demoted: false,
            is_read_only: false,
            is_dirty: false,
            statement_timeout,
            in_transaction: false,
        }
    }

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
        if self.in_transaction && self.wire.status() == Some(b'I') {
            // Whatever follows would commit by itself.
            return Err(Failure::of_caller(Error::TransactionEnded));
        }
        let mut healed = 0;
        loop {
            let mark = self.begin(limit);
            let in_transaction = self.in_transaction || self.is_in_own_transaction();
            let prepared = match self.statements.prepare(&mut self.client, sql, params, in_transaction) {
                Ok(prepared) => prepared,
                Err(unprepared) => return Err(self.judge_unprepared(unprepared, mark)),
            };
            let kind = prepared.traits;
            if self.in_transaction && kind.controls_transaction {
                return Err(Failure::of_caller(Error::TransactionEnded));
            }
            // Behind PgBouncer a trace is out of reach by the time it could be removed.
            self.is_dirty |= kind.leaves_traces && !self.statements.are_behind_pgbouncer();
            let mark = Mark { written: self.wire.written(), ..mark };
            let error = match operation(&prepared, &mut self.client, sql, params) {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let may_be_done = !kind.is_read && asks_afterwards(&prepared) && !self.sent_nothing_since(mark);
            if self.may_be_stale(&error, prepared.is_kept) {
                // What it refers to may have changed since it was prepared, if only a moment ago. A statement that
                // was refused has done nothing, so running it again, prepared anew, is safe; not a procedure, which
                // may have committed in between, and not inside a transaction, which has failed with it: the next
                // one will be well.
                self.statements.forget(sql);
                self.client.clear_type_cache();
                limit = limit.since(mark.at);
                let is_in_time = limit.check().is_ok();
                if is_in_time
                    && !in_transaction
                    && healed < MOST_HEALINGS
                    && !kind.leaves_traces
                    && !may_be_done
                {
                    healed += 1;
                    continue;
                }
            }
            let effect = match kind {
                _ if self.in_transaction => Effect::None,
                Traits { is_read: true, .. } => Effect::None,
                Traits { leaves_traces: true, .. } => Effect::InSteps,
                _ => Effect::Lasting,
            };
            if may_be_done && effect != Effect::None && self.is_of_afterwards(&error) {
                let text = format!("the result's types could not be looked up: {}", describe(&error));
                let error = Error::OutcomeUnknown(Interruption::new(mark.at.elapsed(), text));
                return Err(Failure::of_caller(error));
            }
            return Err(self.judge(error, mark, effect));
        }
    }

    /// Whether the borrower has begun a transaction with the driver's client, which must not be ended for them:
    /// of use behind PgBouncer only.
    fn is_in_own_transaction(&self) -> bool {
        self.is_dirty && self.statements.are_behind_pgbouncer() && self.wire.status() != Some(b'I')
    }

    /// Whether the error can come from a prepared statement that has outlived what it was prepared for: its plan or
    /// its name, and where it was prepared some time ago the tables, columns and types it refers to (PostgreSQL, "Error
    /// Codes": 0A000, 26000, class 42, XX000), or the parameters' types as they were, which the driver judges by.
    fn may_be_stale(&self, error: &postgres::Error, is_kept: bool) -> bool {
        match error.as_db_error() {
            Some(refusal) => {
                let code = refusal.code().code();
                matches!(code, "0A000" | "26000") || is_kept && (code == "XX000" || code.starts_with("42"))
            }
            None => is_kept && !self.is_connection_failure(),
        }
    }

    /// Runs fixed statements without parameters: BEGIN, COMMIT, savepoints, resets.
    pub(crate) fn command(&mut self, sql: &str, limit: Limit, effect: Effect) -> Result<(), Failure> {
        let mark = self.begin(limit);
        self.client.batch_execute(sql).map_err(|error| self.judge(error, mark, effect))
    }

    /// Begins a transaction with `begin`, and returns the row of `query` if there is one: all in one round trip.
    pub(crate) fn begin_transaction(
        &mut self,
        begin: &str,
        is_read_only: bool,
        query: &str,
        limit: Limit,
    ) -> Result<Vec<Option<String>>, Failure> {
        self.is_read_only = is_read_only;
        let mut sql = Cow::Borrowed(begin);
        // Behind PgBouncer no startup option sets the server's own limit.
        if let Some(limit) = self.statement_timeout
            && self.statements.are_behind_pgbouncer()
        {
            sql.to_mut().push_str(&format!("; SET LOCAL statement_timeout = {}", limit.as_millis()));
        }
        if !query.is_empty() {
            sql.to_mut().extend(["; ", query]);
        }
        let mark = self.begin(limit);
        let messages =
            self.client.simple_query(&sql).map_err(|error| self.judge(error, mark, Effect::None))?;
        let row = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.map_or_else(Vec::new, |row| {
            (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()
        }))
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
    /// channels and prepared statements; it is refused inside a transaction, hence the ROLLBACK. Behind PgBouncer
    /// it would reach whichever server connection is there; ROLLBACK alone reaches ours, if one is open.
    pub(crate) fn reset(&mut self, deadline: Instant) -> bool {
        if self.cancel.as_ref().is_some_and(|cancel| cancel.is_astray()) {
            return false;
        }
        let mut steps = match self.wire.status() {
            _ if self.statements.are_behind_pgbouncer() => &["ROLLBACK"][..],
            Some(b'I') => &["DISCARD ALL"],
            _ => &["ROLLBACK", "DISCARD ALL"],
        };
        while let [step, rest @ ..] = steps {
            let written = self.wire.written();
            if self.command(step, Limit::Until(deadline), Effect::None).is_err() {
                return false;
            }
            // A borrower with `&mut Client` can put another client in its place.
            if self.wire.written() == written || self.wire.status() != Some(b'I') {
                return false;
            }
            steps = rest;
        }
        if !self.statements.are_behind_pgbouncer() {
            self.statements.forget_all();
            self.client.clear_type_cache();
        }
        (self.is_dirty, self.is_cancelled) = (false, false);
        true
    }

    /// The driver's client, for whatever the helpers do not offer.
    pub(crate) fn client(&mut self) -> &mut Client {
        self.is_dirty = true;
        &mut self.client
    }

    /// Sets the deadline of everything done with `client`.
    pub(crate) fn set_limit(&self, limit: Limit) {
        self.begin(limit);
    }

    /// Begins a COPY, whose traces end with the transaction.
    pub(crate) fn copy_in(&mut self, sql: &str, limit: Limit) -> Result<CopyInWriter<'_>> {
        limit.check()?;
        let (mark, wire) = (self.begin(limit), self.wire.clone());
        // The writer has the client, so the session cannot judge.
        self.client.copy_in(sql).map_err(|error| judge_apart(&wire, error, mark))
    }

    /// Asks how the open transaction stands, where the last reply has not told: COMMIT of one that has failed
    /// rolls back and reports success.
    ///
    /// # Errors
    ///
    /// `TransactionAborted`, `TransactionEnded`, or what the asking met.
    pub(crate) fn check_transaction(&mut self, limit: Limit) -> Result<(), Failure> {
        if self.wire.status().is_none() {
            // Something was begun and not ended, as a COPY without `finish`.
            self.command("", limit, Effect::None)?;
        }
        let error = match self.wire.status() {
            Some(b'T') => return Ok(()),
            Some(b'I') => Error::TransactionEnded,
            _ => Error::TransactionAborted,
        };
        Err(Failure::of_caller(error))
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    pub(crate) fn is_demoted(&self) -> bool {
        self.is_demoted
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.close_reason.is_some()
    }

    /// Sees to it that the session is closed when it returns.
    pub(crate) fn condemn(&mut self, reason: CloseReason) {
        self.close_reason.get_or_insert(reason);
    }

    /// The same for another reason than the one there is.
    pub(crate) fn condemn_instead(&mut self, reason: CloseReason) {
        self.close_reason = Some(reason);
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
            // A reply is outstanding: its rest would be the next borrower's.
            status if status.is_none() || self.wire.has_lost_count() => Verdict::Close(CloseReason::Dirty),
            Some(b'I') if !self.is_dirty => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    /// What cancels the running statement.
    pub(crate) fn cancel(&mut self) -> Arc<Cancel> {
        let connector = &self.connector;
        self.cancel.get_or_insert_with(|| Arc::new(Cancel::new(connector.clone()))).clone()
    }

    /// A cancel request is on its way: whatever it meets must be the reset that this asks for.
    pub(crate) fn note_cancelled(&mut self) {
        self.is_dirty = true;
        self.is_cancelled = true;
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    /// Whether an answer was waited for in vain: then the statement may still run on the server.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.wire.has_timed_out()
    }

    fn begin(&self, limit: Limit) -> Mark {
        let now = Instant::now();
        let deadline = match limit {
            Limit::Within(time) => time.map(|time| super::add(now, time)),
            Limit::Until(deadline) => Some(deadline),
        };
        self.wire.set_deadline(now, deadline);
        Mark { at: now, written: self.wire.written() }
    }
}
