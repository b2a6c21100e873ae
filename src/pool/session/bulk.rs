//! One statement for many rows of parameters in one request, and a query whose rows come in pieces.
//!
//! Both run inside a transaction of the pool, so that all of it takes effect or nothing. This file knows nothing of where
//! the rows come from and where they go; `query` does. No reply is outstanding between two calls, so the caller may do
//! anything with the session in between.

use crate::error::{Cause, Error};
use crate::pool::session::classify::catalogue::Description;
use crate::pool::session::exchange::complete;
use crate::pool::session::outcome::Fault;
use crate::pool::session::statement::Ready;
use crate::pool::session::statement_cache::write_bind_to;
use crate::pool::session::{Effect, Failure, Limit, Params, Session};
use crate::pool::transport::protocol::reply::Reply;
use crate::rows::{Column, Rows};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::sync::Arc;

/// Rows of parameters for one statement, encoded for the server.
pub(crate) struct EncodedRows {
    description: Arc<Description>,
    /// The statement's name on the server; empty where it has none.
    name: String,
    /// A Bind and an Execute for each row.
    messages: BytesMut,
    /// How many rows were encoded before these.
    first: u64,
    count: u64,
}

impl EncodedRows {
    /// Encodes one more row.
    ///
    /// # Errors
    ///
    /// The parameters do not fit the statement. The other rows are kept.
    pub(crate) fn push(&mut self, params: Params<'_>) -> Result<(), Failure> {
        let start = self.messages.len();
        let written = write_bind_to("", &self.name, &self.description.params, params, &mut self.messages);
        match written.and_then(|()| Ok(frontend::execute("", 0, &mut self.messages)?)) {
            Ok(()) => self.count += 1,
            Err(fault) => {
                self.messages.truncate(start);
                let row = self.first + self.count;
                return Err(unsent(fault).with_row(row));
            }
        }
        Ok(())
    }

    /// The number of bytes to send.
    pub(crate) fn size(&self) -> usize {
        self.messages.len()
    }

    /// Makes room for the rows after these.
    fn clear(&mut self) {
        self.first += std::mem::take(&mut self.count);
        self.messages.clear();
    }
}

/// The failure of what was not sent.
fn unsent(fault: Fault) -> Failure {
    let cause = match fault {
        Fault::Unsent(cause) => cause,
        fault => Cause::Stated(fault.to_string()),
    };
    Failure::without_retry(Error::from(cause))
}

/// Some of the rows of a query.
pub(crate) struct Piece {
    pub(crate) rows: Rows,
    /// There may be more rows.
    pub(crate) is_suspended: bool,
}

/// A query whose rows come in pieces.
pub(crate) struct Portal {
    /// Its name on the server.
    name: String,
    columns: Arc<[Column]>,
}

impl Session {
    /// Makes the statement ready for rows of parameters. It takes a round trip only where the pool does not know the statement.
    pub(crate) fn encode_rows(&mut self, sql: &str, limit: Limit) -> Result<EncodedRows, Failure> {
        self.check_start(limit)?;
        self.make_ready(sql, limit)?;
        let rows = self.statements.ready(sql).map(|prepared| EncodedRows {
            description: prepared.description().clone(),
            name: prepared.name().to_owned(),
            messages: BytesMut::new(),
            first: 0,
            count: 0,
        });
        self.statements.end_run();
        rows.ok_or_else(|| unsent(Fault::refused("bug: a statement is ready that is not there")))
    }

    /// Runs the statement for these rows in one round trip, and returns the number of affected rows. `rows` is then empty.
    pub(crate) fn write_rows(
        &mut self,
        sql: &str,
        rows: &mut EncodedRows,
        limit: Limit,
    ) -> Result<u64, Failure> {
        self.check_start(limit)?;
        let Ready { is_cached, checkpoint, effect, .. } = self.make_ready(sql, limit)?;
        let reply = self.exchange_rows(sql, rows, effect);
        self.statements.end_run();
        let (fault, refused) = match reply {
            Err(fault) => (fault, None),
            Ok(reply) => {
                let (completed, affected) = (reply.completed(), reply.total_affected());
                // The row after those that the server has completed.
                let refused = reply.is_refused().then_some(rows.first + completed);
                match complete(reply) {
                    Ok(reply) => {
                        reply.recycle();
                        self.has_conflict = false;
                        rows.clear();
                        return Ok(affected);
                    }
                    Err(fault) => (fault, refused),
                }
            }
        };
        self.forget_stale(sql, &fault, is_cached);
        let failure = self.judge(fault, checkpoint, effect).with_statement(sql);
        Err(match refused {
            Some(row) => failure.with_row(row),
            None => failure,
        })
    }

    fn exchange_rows(&mut self, sql: &str, rows: &EncodedRows, effect: Effect) -> Result<Reply, Fault> {
        self.statements.write_with(&mut self.wire, sql, |prepared, requests| {
            if prepared.name() != rows.name || prepared.description().params != rows.description.params {
                return Err(Fault::refused("the statement has changed since the first rows were encoded"));
            }
            prepared.write_parsed(requests, sql)?;
            requests.extend_from_slice(&rows.messages);
            Ok(())
        })?;
        self.send(effect)?;
        let reply = self.wire.receive()?;
        self.note_reply(sql, &reply)?;
        Ok(reply)
    }

    /// Runs a query up to its first `max_rows` rows. The portal is to be passed to [`end_portal`](Session::end_portal).
    pub(crate) fn open_portal(
        &mut self,
        sql: &str,
        params: Params<'_>,
        max_rows: i32,
        limit: Limit,
    ) -> Result<(Portal, Piece), Failure> {
        self.check_start(limit)?;
        let Ready { is_cached, checkpoint, effect, .. } = self.make_ready(sql, limit)?;
        let name = self.statements.catalogue().new_name();
        let opened = self.exchange_first(sql, params, &name, max_rows, effect);
        let columns = self.statements.ready(sql).map(|prepared| prepared.columns()).unwrap_or_default();
        self.statements.end_run();
        match opened {
            Ok(reply) => {
                self.has_conflict = false;
                let piece = Piece::new(reply, &columns);
                Ok((Portal { name, columns }, piece))
            }
            Err(fault) => {
                self.forget_stale(sql, &fault, is_cached);
                Err(self.judge(fault, checkpoint, effect).with_statement(sql))
            }
        }
    }

    fn exchange_first(
        &mut self,
        sql: &str,
        params: Params<'_>,
        portal: &str,
        max_rows: i32,
        effect: Effect,
    ) -> Result<Reply, Fault> {
        self.statements.write_with(&mut self.wire, sql, |prepared, requests| {
            prepared.write_parsed(requests, sql)?;
            let types = &prepared.description().params;
            write_bind_to(portal, prepared.name(), types, params, requests)?;
            Ok(frontend::execute(portal, max_rows, requests)?)
        })?;
        self.send(effect)?;
        let reply = self.wire.receive()?;
        let noted = self.note_reply(sql, &reply);
        let reply = complete(reply)?;
        noted?;
        Ok(reply)
    }

    /// Returns the next rows of the query, at most `max_rows`.
    pub(crate) fn fetch(&mut self, portal: &Portal, max_rows: i32, limit: Limit) -> Result<Piece, Failure> {
        self.check_start(limit)?;
        let checkpoint = self.start_operation(limit);
        match self.exchange_next(portal, max_rows) {
            Ok(reply) => Ok(Piece::new(reply, &portal.columns)),
            Err(fault) => Err(self.judge(fault, checkpoint, Effect::None)),
        }
    }

    fn exchange_next(&mut self, portal: &Portal, max_rows: i32) -> Result<Reply, Fault> {
        self.take_over()?;
        self.wire.write_request(|requests| frontend::execute(&portal.name, max_rows, requests))?;
        self.send(Effect::None)?;
        complete(self.wire.receive()?)
    }

    /// Has the portal closed with the next statement. The end of the transaction closes it as well.
    pub(crate) fn end_portal(&mut self, portal: Portal) {
        self.statements.end_portal(portal.name);
    }
}

impl Piece {
    fn new(reply: Reply, columns: &Arc<[Column]>) -> Piece {
        let is_suspended = reply.is_suspended();
        Piece { rows: reply.into_rows(columns.clone()), is_suspended }
    }
}
