//! Running one statement of a caller. The first time in the pool the server describes it and is asked what it may do, in
//! one round trip ahead; a failure is interpreted by `outcome.rs`.
//!
//! It knows nothing of other connections: `query` decides whether a failed statement runs again on another one.

use crate::error::{Error, Interruption};
use crate::pool::session::classify::catalogue::{Lookup, SessionState, Traits};
use crate::pool::session::classify::is_copy_in;
use crate::pool::session::classify::question::Question;
use crate::pool::session::classify::shape::shape;
use crate::pool::session::exchange::{complete, copy_in_refused};
use crate::pool::session::outcome::{Checkpoint, Fault, ends_session};
use crate::pool::session::statement_cache::{Prepared, write_typed};
use crate::pool::session::{Effect, Failure, Limit, Params, READ_ONLY, Retry, Session};
use crate::pool::transport::protocol::reply::{Reply, columns};
use crate::rows::{Column, Rows};
use postgres_protocol::message::frontend;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often one statement is prepared again because the objects it refers to have changed. More failures than that
/// have another cause.
const MAX_REPREPARES: u32 = 3;

/// The complete answer to a statement.
#[derive(Debug)]
pub(crate) struct Answer {
    reply: Reply,
    columns: Arc<[Column]>,
}

impl Answer {
    pub(super) fn new(reply: Reply, columns: Arc<[Column]>) -> Answer {
        Answer { reply, columns }
    }

    pub(crate) fn into_rows(self) -> Rows {
        self.reply.into_rows(self.columns)
    }

    /// The number of affected rows.
    pub(crate) fn into_affected(self) -> u64 {
        let affected = self.reply.affected();
        self.reply.recycle();
        affected
    }
}

/// A statement that is ready to run.
pub(super) struct Ready {
    traits: Traits,
    pub(super) is_cached: bool,
    /// The state of the connection before it runs.
    pub(super) checkpoint: Checkpoint,
    /// What it may have done if its answer is lost.
    pub(super) effect: Effect,
    /// A transaction is open, whether the pool or the borrower began it.
    in_transaction: bool,
}

impl Session {
    /// Runs the statement, and prepares it again where it turns out to be stale.
    pub(crate) fn run(&mut self, sql: &str, params: Params<'_>, mut limit: Limit) -> Result<Answer, Failure> {
        self.check_start(limit)?;
        let mut retries = 0;
        loop {
            let Ready { traits, is_cached, checkpoint, effect, in_transaction } =
                self.make_ready(sql, limit)?;
            let outcome = self.exchange(sql, params, effect);
            let fault = match outcome {
                Ok(reply) => {
                    // A conflict before this was undone by a savepoint: the transaction goes on.
                    self.has_conflict = false;
                    let answer = self.answer(sql, reply, is_cached.then_some(checkpoint.at));
                    self.statements.end_run();
                    self.note_time(sql, self.conn.answered_at().saturating_duration_since(checkpoint.at));
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            if let Some(prepared) = self.statements.ready(sql) {
                prepared.note_failure(checkpoint.at.elapsed());
            }
            self.statements.end_run();
            if self.forget_stale(sql, &fault, is_cached) {
                limit = limit.since(checkpoint.at);
                // A refused statement has done nothing, so it may run again, with two exceptions: a function behind
                // it may have had an effect that no rollback undoes, and a transaction has failed with it.
                let is_safe = traits.is_clean && traits.is_atomic && !in_transaction;
                if is_safe && retries < MAX_REPREPARES && limit.check().is_ok() {
                    retries += 1;
                    continue;
                }
            }
            self.note_time(sql, checkpoint.at.elapsed());
            return Err(self.judge(fault, checkpoint, effect).with_statement(sql));
        }
    }

    /// Logs the statement where it took long.
    pub(super) fn note_time(&self, sql: &str, took: Duration) {
        self.slow_log.note_statement(took, || shape(sql));
    }

    /// Checks that a statement may begin.
    pub(super) fn check_start(&self, limit: Limit) -> Result<(), Failure> {
        limit.check().map_err(Failure::without_retry)?;
        if self.in_transaction && self.conn.status() == Some(b'I') {
            // The transaction has ended on the server: the statement would commit by itself.
            return Err(Failure::without_retry(Error::TransactionEnded));
        }
        Ok(())
    }

    /// The answer to a statement that is ready, sent at `sent` or not in one send; then its time says nothing.
    pub(super) fn answer(&mut self, sql: &str, reply: Reply, sent: Option<Instant>) -> Answer {
        let answered = self.conn.answered_at();
        let columns = self.statements.ready(sql).map(|prepared| {
            if let Some(sent) = sent {
                let time = answered.saturating_duration_since(sent);
                prepared.note_call(time, reply.affected());
                prepared.note_time(time);
            }
            prepared.columns()
        });
        Answer { reply, columns: columns.unwrap_or_default() }
    }

    /// Sends the statement that is ready, and returns its reply.
    fn exchange(&mut self, sql: &str, params: Params<'_>, effect: Effect) -> Result<Reply, Fault> {
        self.statements.write(&mut self.wire, sql, params)?;
        self.send(effect)?;
        let reply = self.wire.receive()?;
        let noted = self.note_reply(sql, &reply);
        let reply = complete(reply)?;
        noted.map_err(|fault| match fault {
            Fault::Broken(_) if effect == Effect::None => fault,
            // The statement has been run, whatever became of the lookup.
            _ => Fault::Unexpected(format!("the types of the result could not be looked up: {fault}")),
        })?;
        Ok(reply)
    }

    /// Notes what a reply to the statement, or to its description, says of it.
    pub(super) fn note_reply(&mut self, sql: &str, reply: &Reply) -> Result<(), Fault> {
        let new = self.statements.ready(sql).and_then(|prepared| prepared.note_reply(reply));
        if let Some(body) = new {
            let columns = self.columns(&body)?;
            if let Some(prepared) = self.statements.ready(sql) {
                prepared.set_columns(body, columns);
            }
        }
        Ok(())
    }

    /// The columns in the body of a RowDescription, which is empty where the statement returns no rows.
    fn columns(&mut self, body: &[u8]) -> Result<Arc<[Column]>, Fault> {
        if body.is_empty() {
            return Ok(Arc::default());
        }
        let (names, oids): (Vec<_>, Vec<_>) = columns(body)?.into_iter().unzip();
        let types = self.types(&oids)?;
        let columns = names.into_iter().zip(types);
        Ok(columns.map(|(name, type_)| Column { name: name.into(), type_ }).collect())
    }

    /// Makes the statement ready, and records what running it would mean for the session.
    pub(super) fn make_ready(&mut self, sql: &str, limit: Limit) -> Result<Ready, Failure> {
        let checkpoint = self.start_operation(limit);
        // A run that failed before its statement was sent has not ended it.
        self.statements.end_run();
        if let Err(fault) = self.take_over() {
            return Err(self.judge_unprepared(fault, checkpoint));
        }
        let in_transaction = self.in_transaction || self.is_in_own_transaction();
        let was_dirty = self.is_dirty;
        let state = SessionState {
            in_transaction,
            began: self.in_transaction.then_some(self.began),
            is_dirty: was_dirty,
            is_readable: self.conn.reads_as_written(sql),
            reads_as_at_login: self.conn.reads_as_at_login(),
        };
        let (traits, is_cached) = match self.prepare(sql, state) {
            Ok(prepared) => prepared,
            Err(fault) => return Err(self.judge_unprepared(fault, checkpoint).with_statement(sql)),
        };
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
        Ok(Ready { traits, is_cached, checkpoint, effect, in_transaction })
    }

    /// Makes the statement ready to run, and returns its traits and whether it was known before. Without a round trip
    /// where the pool knows the statement.
    fn prepare(&mut self, sql: &str, state: SessionState) -> Result<(Traits, bool), Fault> {
        let now = self.statements.catalogue().epoch();
        let epoch = Some(now).filter(|_| !state.is_dirty && !state.is_behind(now));
        // The server parses a named statement once, by the session's current rules, and its literals keep the meaning they
        // have now. Where those differ from the rules at login, the cache is not used. An unnamed one is parsed each time.
        let is_lasting =
            state.is_readable && (state.reads_as_at_login || self.statements.are_behind_pgbouncer());
        if let Some(prepared) = self.statements.cached(sql).filter(|_| is_lasting) {
            // In a dirty session the traits make no difference.
            let is_current = prepared.epoch == Some(now) || state.is_dirty && prepared.epoch.is_none();
            let traits = prepared.traits;
            self.statements.note_run(true);
            if is_current {
                return Ok((traits, true));
            }
            let traits = self.traits(sql, state)?;
            if let Some(prepared) = self.statements.cached(sql) {
                (prepared.traits, prepared.epoch) = (traits, epoch);
            }
            return Ok((traits, true));
        }
        self.statements.note_run(false);
        let is_shared = is_lasting && !state.is_dirty;
        let catalogue = self.statements.catalogue();
        let is_named = is_lasting && self.statements.are_named();
        if let Some(description) = catalogue.description(sql).filter(|_| is_shared) {
            let traits = self.traits(sql, state)?;
            let prepared = Prepared::new(description, traits, epoch, is_named);
            self.statements.put(sql, prepared, is_lasting);
            return Ok((traits, true));
        }
        if is_copy_in(sql) {
            return Err(copy_in_refused());
        }
        let name = catalogue.new_name();
        let (reply, traits) = self.describe(if is_named { &name } else { "" }, sql, state)?;
        let types = self.types(&reply.parameter_types()?)?;
        let description = self.statements.catalogue().describe(name.clone(), sql, types, is_shared);
        let has_other_name = description.name != name;
        self.statements.put(sql, Prepared::new(description, traits, epoch, is_named), is_lasting);
        self.note_reply(sql, &reply)?;
        if has_other_name {
            self.statements.rename(sql, name);
        }
        reply.recycle();
        Ok((traits, false))
    }

    /// Has the server parse and describe the statement, and asks it for the traits where they are not known.
    fn describe(&mut self, name: &str, sql: &str, state: SessionState) -> Result<(Reply, Traits), Fault> {
        let lookup = self.statements.catalogue().traits(sql, state);
        self.wire.write_request(|requests| {
            frontend::parse(name, sql, [], requests)?;
            frontend::describe(b'S', name, requests)
        })?;
        if let Lookup::Ask(question) = &lookup {
            write_typed(&mut self.wire, Question::SQL, &question.params())?;
        }
        self.wire.send()?;
        let description = self.wire.receive()?;
        let traits = match &lookup {
            Lookup::Known(traits) => Ok(*traits),
            Lookup::Ask(question) => self.receive_traits(sql, question, state),
        };
        // Where the first request has failed in a transaction, so has the second.
        Ok((complete(description)?, traits?))
    }

    /// The traits, which the server is asked for where they are not known.
    fn traits(&mut self, sql: &str, state: SessionState) -> Result<Traits, Fault> {
        let question = match self.statements.catalogue().traits(sql, state) {
            Lookup::Known(traits) => return Ok(traits),
            Lookup::Ask(question) => question,
        };
        write_typed(&mut self.wire, Question::SQL, &question.params())?;
        self.wire.send()?;
        self.receive_traits(sql, &question, state)
    }

    fn receive_traits(
        &mut self,
        sql: &str,
        question: &Question,
        state: SessionState,
    ) -> Result<Traits, Fault> {
        let answer = match complete(self.wire.receive()?) {
            Ok(reply) => Ok(reply),
            Err(Fault::Refused(error)) => Err(error),
            Err(fault) => return Err(fault),
        };
        self.statements.catalogue().settle(sql, question, state, answer).map_err(Fault::Refused)
    }

    /// Runs a query again whose answer was lost, in a read-only transaction. The catalogue reports that the query
    /// only reads, but a function may be declared with the wrong volatility; the server refuses a write here.
    pub(crate) fn query_again(
        &mut self,
        sql: &str,
        params: Params<'_>,
        limit: Limit,
    ) -> Result<Answer, Failure> {
        // One limit for the three steps.
        let limit = limit.since(Instant::now());
        self.begin_transaction("BEGIN READ ONLY", true, "", limit)?;
        self.in_transaction = true;
        let rows = self.run(sql, params, limit);
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

    /// Forgets the statement where its fault may come from what is known of it. Returns whether it did.
    pub(super) fn forget_stale(&mut self, sql: &str, fault: &Fault, is_cached: bool) -> bool {
        let is_stale = may_be_stale(fault, is_cached);
        if is_stale {
            self.statements.forget(sql);
        }
        is_stale
    }

    /// Whether the borrower has begun a transaction of its own, which the pool must not end.
    fn is_in_own_transaction(&self) -> bool {
        self.is_dirty && self.conn.status() != Some(b'I')
    }
}

/// Whether the fault can come from a stale prepared statement (PostgreSQL, "Error Codes"): its plan (0A000) or its name
/// (26000) is not valid any more. For a cached one also: a table, column or type that it refers to has changed (class 42,
/// XX000), or the parameters were checked against outdated types, and nothing was sent.
fn may_be_stale(fault: &Fault, is_cached: bool) -> bool {
    match fault {
        Fault::Refused(error) if ends_session(error) => false,
        Fault::Refused(error) => {
            let code = error.sqlstate();
            matches!(code, "0A000" | "26000") || is_cached && (code == "XX000" || code.starts_with("42"))
        }
        Fault::Unsent(_) => is_cached,
        Fault::Unexpected(_) | Fault::Broken(_) => false,
    }
}
