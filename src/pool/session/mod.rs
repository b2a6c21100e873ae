//! One server session: the driver's client, its prepared statements, its age, and whether it is clean.

pub(in crate::pool) mod classify;
mod outcome;
mod param_types;
mod reset;
mod statement;
pub(in crate::pool) mod statement_cache;
mod timeout;

use crate::error::{Error, Result};
use crate::pool::session::classify::is_copy_in;
use crate::pool::session::outcome::{Checkpoint, judge_apart};
pub(crate) use crate::pool::session::outcome::{Effect, Failure, Retry, describe};
pub(crate) use crate::pool::session::statement_cache::Params;
use crate::pool::session::statement_cache::Statements;
pub(crate) use crate::pool::session::timeout::Limit;
use crate::pool::status::CloseReason;
pub(crate) use crate::pool::transport::cancel::Cancel;
use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::connector::Connector;
use postgres::{Client, CopyInWriter, SimpleQueryMessage, SimpleQueryRow};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Session {
    client: Client,
    conn: Arc<ConnectionState>,
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
    /// The transaction, while there is one, was begun so, or may have been made so.
    is_read_only: bool,
    /// And the catalogue's epoch was this one then.
    began: u64,
    statement_timeout: Option<Duration>,
    /// In this transaction the server has refused a statement because of another transaction.
    pub(crate) has_lost_against_another: bool,
    /// Between BEGIN and COMMIT nothing lasts by itself, and a stale prepared statement cannot be healed.
    pub(crate) in_transaction: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_dirty && self.conn.has_ended() {
            // What was sent and not answered may have changed the catalogue.
            self.statements.note_catalogue_change();
        }
        // The driver says goodbye to the server and waits for what is outstanding: not for long.
        let now = Instant::now();
        self.conn.set_deadline(now, Some(now + CLOSE_LIMIT));
    }
}

/// The SQLSTATE of a write that a read-only server or transaction refuses.
const READ_ONLY: &str = "25006";

/// How long closing a connection may wait for the server.
const CLOSE_LIMIT: Duration = Duration::from_millis(50);

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
            conn: connector.conn.clone(),
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
            began: 0,
            has_lost_against_another: false,
            is_dirty: false,
            statement_timeout,
            in_transaction: false,
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
        (self.is_read_only, self.began) = (is_read_only, self.statements.catalogue_epoch());
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
        let row = self.last_row(&sql, limit)?;
        Ok(row.map_or_else(Vec::new, |row| {
            (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()
        }))
    }

    /// Runs fixed statements without parameters, of which the last one may return a row.
    fn last_row(&mut self, sql: &str, limit: Limit) -> Result<Option<SimpleQueryRow>, Failure> {
        let mark = self.begin(limit);
        let messages =
            self.client.simple_query(sql).map_err(|error| self.judge(error, mark, Effect::None))?;
        Ok(messages.into_iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
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

    /// The driver's client, for whatever the helpers do not offer.
    pub(crate) fn client(&mut self) -> &mut Client {
        self.is_dirty = true;
        &mut self.client
    }

    /// Sets the deadline of everything done with `client`.
    pub(crate) fn set_limit(&self, limit: Limit) {
        self.begin(limit);
    }

    /// Begins a COPY.
    pub(crate) fn copy_in(&mut self, sql: &str, limit: Limit) -> Result<CopyInWriter<'_>> {
        if !is_copy_in(sql) {
            return Err(Error::application(format!("copy_in takes COPY … FROM STDIN, and was given: {sql}")));
        }
        limit.check()?;
        // What a trigger does is not looked into.
        self.is_dirty = true;
        let (mark, conn) = (self.begin(limit), self.conn.clone());
        // The writer has the client, so the session cannot judge.
        self.client.copy_in(sql).map_err(|error| judge_apart(&conn, error, mark))
    }

    /// Asks how the open transaction stands, where the last reply has not told: COMMIT of one that has failed
    /// rolls back and reports success.
    ///
    /// # Errors
    ///
    /// `TransactionAborted`, `TransactionEnded`, or what the asking met.
    pub(crate) fn check_transaction(&mut self, limit: Limit) -> Result<(), Failure> {
        if self.conn.status().is_none() {
            // Something was begun and not ended, as a COPY without `finish`.
            self.command("", limit, Effect::None)?;
        }
        let error = match self.conn.status() {
            Some(b'T') => return Ok(()),
            Some(b'I') => Error::TransactionEnded,
            _ => Error::TransactionAborted,
        };
        Err(Failure::of_caller(error))
    }

    pub(crate) fn conn(&self) -> &ConnectionState {
        &self.conn
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
        if self.conn.has_ended() {
            return Verdict::Close(CloseReason::Broken);
        }
        // A borrower that is unwinding may have stopped anywhere; r2d2 would lend its session on.
        if std::thread::panicking() {
            return Verdict::Close(CloseReason::Dirty);
        }
        match self.conn.status() {
            // A reply is outstanding: its rest would be the next borrower's.
            status if status.is_none() || self.conn.has_lost_count() => Verdict::Close(CloseReason::Dirty),
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
        self.conn.has_timed_out()
    }

    fn begin(&self, limit: Limit) -> Checkpoint {
        let now = Instant::now();
        let deadline = match limit {
            Limit::Within(time) => time.map(|time| super::add(now, time)),
            Limit::Until(deadline) => Some(deadline),
        };
        self.conn.set_deadline(now, deadline);
        Checkpoint { at: now, written: self.conn.written(), is_trusted: !self.is_dirty }
    }
}
