//! One server session: it runs statements, reports what a failed one may have done, and decides whether the session
//! can be lent again.
//!
//! A session owns the driver's client, the prepared statements, and the marks that say whether it is clean. It knows
//! nothing of the gate, the store, or the maintenance thread. There is no lock here: one thread at a time owns a
//! session. Only the catalogue's cache is shared between sessions; `classify/catalogue.rs` has its lock rule.
//!
//! `exchange.rs` sends requests and receives replies, `statement.rs` runs a statement, `batch.rs` runs those of several callers,
//! `bulk.rs` runs one for many rows, `copy.rs` runs COPY, `capacity.rs` asks for the limit of connections, `statement_cache.rs` keeps a statement, `types.rs` looks its types up,
//! `classify/` finds out what it may do, `outcome.rs` interprets a failure, `reset.rs` cleans the session, `timeout.rs` has the time
//! limits.

pub(in crate::pool) mod batch;
mod bulk;
mod capacity;
pub(in crate::pool) mod classify;
mod copy;
mod exchange;
mod outcome;
mod reset;
mod statement;
pub(in crate::pool) mod statement_cache;
mod timeout;
mod types;

use crate::error::{Error, Result};
pub(crate) use crate::pool::session::batch::Encoded;
pub(crate) use crate::pool::session::bulk::{Piece, Portal};
use crate::pool::session::classify::is_copy_in;
use crate::pool::session::classify::shape::shape;
pub(crate) use crate::pool::session::copy::CopyStatement;
use crate::pool::session::outcome::{Checkpoint, judge_copy};
pub(crate) use crate::pool::session::outcome::{Effect, Failure, Retry, describe};
pub(crate) use crate::pool::session::statement::Answer;
pub(crate) use crate::pool::session::statement_cache::Params;
use crate::pool::session::statement_cache::Statements;
pub(crate) use crate::pool::session::timeout::Limit;
use crate::pool::slow_log::SlowLog;
use crate::pool::statement_stats::{Reporting, StatementTable};
use crate::pool::status::CloseReason;
pub(crate) use crate::pool::transport::cancel::Cancel;
use crate::pool::transport::connection_state::ConnectionState;
use crate::pool::transport::connector::Connector;
use crate::pool::transport::wire::Wire;
use postgres::{Client, CopyInWriter};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A session on the server, and what the pool knows of its state.
pub(crate) struct Session {
    /// The driver's client, which has logged in, and serves raw access and COPY.
    client: Client,
    /// The same connection, for the pool's own requests.
    wire: Wire,
    /// A borrower has had the client since the last reset.
    is_client_lent: bool,
    conn: Arc<ConnectionState>,
    /// Opens the connection on which a cancel request is sent.
    connector: Connector,
    /// Created when a cancel request may first be needed.
    cancel: Option<Arc<Cancel>>,
    /// A cancel request was sent since the last reset.
    is_cancelled: bool,
    /// Replies that no caller waits for; the reset receives them.
    abandoned: usize,
    statements: Statements,
    slow_log: Arc<SlowLog>,
    reporting: Reporting,
    /// When the session reaches its maximum age.
    pub(crate) retire_at: Option<Instant>,
    /// When the session was opened or last returned.
    pub(crate) idle_since: Instant,
    /// The generation of connections that the session belongs to; see `Generations`.
    pub(crate) generation: u64,
    /// Why the session must not be lent again; `None` while it may be.
    close_reason: Option<CloseReason>,
    /// The session may hold state that the next borrower would see: it needs a reset.
    is_dirty: bool,
    /// The settings require a server that accepts writes.
    must_be_writable: bool,
    /// The server has stopped accepting writes, as after a failover.
    is_server_read_only: bool,
    /// The open transaction was begun as `READ ONLY`, or a statement in it may have made it so.
    is_read_only: bool,
    /// The catalogue's epoch when the open transaction began.
    began: u64,
    /// The server's `statement_timeout` in this session.
    statement_timeout: Option<Duration>,
    /// A statement of the open transaction failed with a serialization failure or a deadlock.
    pub(crate) has_conflict: bool,
    /// A transaction of the pool is open: no statement commits by itself, and a stale prepared statement cannot be
    /// retried.
    pub(crate) in_transaction: bool,
}

/// A connection that has logged in.
pub(crate) struct Login {
    pub(crate) client: Client,
    pub(crate) wire: Wire,
    pub(crate) connector: Connector,
    pub(crate) slow_log: Arc<SlowLog>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_dirty && self.conn.has_ended() {
            // A statement without an answer may have changed the catalogue.
            self.statements.catalogue().note_change();
        }
        // The driver sends Terminate and waits for outstanding replies: bound that.
        let now = Instant::now();
        self.conn.set_deadline(now, Some(now + CLOSE_LIMIT));
        self.wire.hand_over();
    }
}

/// The SQLSTATE with which a read-only server or transaction refuses a write.
const READ_ONLY: &str = "25006";

/// How long closing a connection may wait for the server.
const CLOSE_LIMIT: Duration = Duration::from_millis(50);

/// What the pool does with a returned session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Reset,
    Close(CloseReason),
}

impl Session {
    pub(crate) fn new(
        Login { client, wire, connector, slow_log }: Login,
        statements: Statements,
        statement_timeout: Option<Duration>,
        must_be_writable: bool,
        retire_at: Option<Instant>,
        generation: u64,
    ) -> Session {
        Session {
            client,
            wire,
            is_client_lent: false,
            conn: connector.conn.clone(),
            connector,
            cancel: None,
            is_cancelled: false,
            abandoned: 0,
            statements,
            slow_log,
            reporting: Reporting::new(),
            retire_at,
            idle_since: Instant::now(),
            generation,
            close_reason: None,
            must_be_writable,
            is_server_read_only: false,
            is_read_only: false,
            began: 0,
            has_conflict: false,
            is_dirty: false,
            statement_timeout,
            in_transaction: false,
        }
    }

    /// Runs fixed statements without parameters: BEGIN, COMMIT, savepoints, resets.
    pub(crate) fn command(&mut self, sql: &str, limit: Limit, effect: Effect) -> Result<(), Failure> {
        let checkpoint = self.start_operation(limit);
        match self.simple_query(sql, effect) {
            Err(fault) => Err(self.judge(fault, checkpoint, effect)),
            Ok(reply) => {
                reply.recycle();
                Ok(())
            }
        }
    }

    /// Runs `begin` and then `query` in one round trip, and returns the last row of `query`; no row where it is
    /// empty.
    pub(crate) fn begin_transaction(
        &mut self,
        begin: &str,
        is_read_only: bool,
        query: &str,
        limit: Limit,
    ) -> Result<Vec<Option<String>>, Failure> {
        (self.is_read_only, self.began) = (is_read_only, self.statements.catalogue().epoch());
        let mut sql = Cow::Borrowed(begin);
        // Behind PgBouncer no startup option can set the server's statement timeout, so it is set here.
        if let Some(limit) = self.statement_timeout
            && self.statements.are_behind_pgbouncer()
        {
            sql.to_mut().push_str(&format!("; SET LOCAL statement_timeout = {}", limit.as_millis()));
        }
        if !query.is_empty() {
            sql.to_mut().extend(["; ", query]);
        }
        self.last_row(&sql, limit)
    }

    /// Runs fixed statements without parameters, and returns the last row; nothing where there is none.
    fn last_row(&mut self, sql: &str, limit: Limit) -> Result<Vec<Option<String>>, Failure> {
        let checkpoint = self.start_operation(limit);
        let reply = self
            .simple_query(sql, Effect::None)
            .map_err(|fault| self.judge(fault, checkpoint, Effect::None))?;
        let row = reply.last_row().unwrap_or_default();
        reply.recycle();
        Ok(row)
    }

    /// Checks in one round trip that the server answers by `deadline`.
    pub(crate) fn is_alive(&mut self, deadline: Instant) -> bool {
        let is_alive = self.command("", Limit::Until(deadline), Effect::None).is_ok();
        if !is_alive {
            // `judge` has set `Broken`, which counts connections lost in use.
            self.close_reason = Some(CloseReason::Invalid);
        }
        is_alive
    }

    /// The driver's client, for what the helpers do not offer. The session needs a reset afterwards.
    pub(crate) fn client(&mut self) -> &mut Client {
        (self.is_dirty, self.is_client_lent) = (true, true);
        self.wire.hand_over();
        &mut self.client
    }

    /// Sets the deadline for everything done with `client`.
    pub(crate) fn set_limit(&self, limit: Limit) {
        self.start_operation(limit);
    }

    /// Begins a `COPY … FROM STDIN`.
    pub(crate) fn copy_in(&mut self, sql: &str, limit: Limit) -> Result<CopyInWriter<'_>> {
        if !is_copy_in(sql) {
            return Err(Error::application(format!(
                "copy_in_writer accepts only COPY … FROM STDIN; got: {sql}"
            )));
        }
        limit.check()?;
        // A trigger may change the session.
        self.is_dirty = true;
        let (checkpoint, conn) = (self.start_operation(limit), self.conn.clone());
        self.wire.hand_over();
        // The returned writer borrows the session, so `judge` cannot.
        self.client.copy_in(sql).map_err(|error| judge_copy(&conn, error, checkpoint))
    }

    /// Checks that the transaction is open and has not failed. This is needed because COMMIT of a failed transaction
    /// rolls back and reports success. It takes a round trip only where the status is unknown.
    ///
    /// # Errors
    ///
    /// - `TransactionAborted`: a statement of the transaction has failed.
    /// - `TransactionEnded`: no transaction is open.
    /// - Those of the round trip.
    pub(crate) fn check_transaction(&mut self, limit: Limit) -> Result<(), Failure> {
        if self.conn.status().is_none() {
            // An operation was left unfinished, such as a COPY without `finish`.
            let checkpoint = self.start_operation(limit);
            self.take_over().map_err(|fault| self.judge(fault, checkpoint, Effect::None))?;
        }
        let error = match self.conn.status() {
            Some(b'T') => return Ok(()),
            Some(b'I') => Error::TransactionEnded,
            _ => Error::TransactionAborted,
        };
        Err(Failure::without_retry(error))
    }

    pub(crate) fn conn(&self) -> &ConnectionState {
        &self.conn
    }

    pub(crate) fn is_server_read_only(&self) -> bool {
        self.is_server_read_only
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.close_reason.is_some()
    }

    /// Marks the session for closing on return. The first reason is kept.
    pub(crate) fn mark_for_close(&mut self, reason: CloseReason) {
        self.close_reason.get_or_insert(reason);
    }

    /// Marks the session for closing, with `reason` in place of any earlier one.
    pub(crate) fn replace_close_reason(&mut self, reason: CloseReason) {
        self.close_reason = Some(reason);
    }

    /// Marks a session that could not be cleaned for closing.
    pub(crate) fn mark_dirty_for_close(&mut self) {
        self.mark_for_close(CloseReason::Dirty);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// Adds what the session has counted of its statements to the table, about once a second, and before it is closed.
    pub(crate) fn report_statements(&mut self, table: &StatementTable, now: Instant, is_last: bool) {
        self.reporting.report(table, now, is_last, self.statements.counts(), shape);
    }

    /// Decides what the pool does with the returned session.
    pub(crate) fn verdict(&self) -> Verdict {
        if let Some(reason) = self.close_reason {
            return Verdict::Close(reason);
        }
        if self.conn.has_ended() {
            return Verdict::Close(CloseReason::Broken);
        }
        // A panicking borrower may have stopped at any point. r2d2 would lend its session again.
        if std::thread::panicking() {
            return Verdict::Close(CloseReason::Dirty);
        }
        match self.conn.status() {
            _ if self.conn.has_lost_sync() => Verdict::Close(CloseReason::Dirty),
            // A reply is outstanding: the next borrower would receive the rest of it. After an error of raw access the
            // driver can still read it.
            None if !self.is_client_lent && self.abandoned == 0 => Verdict::Close(CloseReason::Dirty),
            Some(b'I') if !self.is_dirty => Verdict::Keep,
            _ => Verdict::Reset,
        }
    }

    /// The handle that cancels the session's running statement.
    pub(crate) fn cancel(&mut self) -> Arc<Cancel> {
        let connector = &self.connector;
        self.cancel.get_or_insert_with(|| Arc::new(Cancel::new(connector.clone()))).clone()
    }

    /// Records that a cancel request was sent. It may arrive late, and must then hit the reset, not the next
    /// borrower.
    pub(crate) fn note_cancelled(&mut self) {
        self.is_dirty = true;
        self.is_cancelled = true;
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    /// Whether a deadline passed before an answer came: the statement may still run on the server.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.conn.has_timed_out()
    }

    /// Sets the deadline of the next operation, and returns the state before it.
    fn start_operation(&self, limit: Limit) -> Checkpoint {
        let now = Instant::now();
        self.conn.set_deadline(now, limit.until(now));
        Checkpoint { at: now, written: self.conn.written(), is_trusted: !self.is_dirty }
    }
}
