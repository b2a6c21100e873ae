//! COPY on the direct path: rows in, as one request for each piece, and rows out, passed on as they arrive.
//!
//! COPY itself cannot be described. Another statement stands for it, which does the same to the same objects: an INSERT into the
//! table's columns, which fires the same triggers, defaults and constraints, or the query whose rows are copied. The server
//! describes that one, and the catalogue answers for it. This file knows nothing of the format of the data.

use crate::error::{Cause, Error, ServerError};
use crate::pool::session::outcome::Fault;
use crate::pool::session::statement::Ready;
use crate::pool::session::statement_cache::write_bind_to;
use crate::pool::session::{Effect, Failure, Limit, Session};
use crate::pool::status::CloseReason;
use crate::pool::transport::protocol::reply::{Copy, Reply};
use bytes::BytesMut;
use postgres::types::Type;
use postgres_protocol::message::frontend::{self, CopyData};
use std::thread;
use std::time::{Duration, Instant};

/// How long the rest of a COPY may take whose data the caller does not want any more, and which is cancelled on the server; and how
/// long the cancel request. If they end in that time, the connection is kept.
const ABORT_GRACE: Duration = Duration::from_millis(200);

/// The pause between two looks whether a cancel request was processed.
const LOOK: Duration = Duration::from_millis(1);

/// A COPY, and the statement that stands for it.
#[derive(Debug)]
pub(crate) struct CopyStatement {
    /// The table that rows are copied to, without its schema; empty where rows are copied out.
    pub(crate) table: String,
    pub(crate) copy: String,
    pub(crate) stand_in: String,
}

impl Session {
    /// The types of the parameters of the stand-in, which are those of the copied columns. It takes a round trip only where the
    /// pool does not know the statement.
    pub(crate) fn copy_types(
        &mut self,
        statement: &CopyStatement,
        limit: Limit,
    ) -> Result<Box<[Type]>, Failure> {
        self.check_start(limit)?;
        self.make_copy_ready(statement, limit).map(|(_, types)| types)
    }

    fn make_copy_ready(
        &mut self,
        statement: &CopyStatement,
        limit: Limit,
    ) -> Result<(Ready, Box<[Type]>), Failure> {
        let ready = self.make_ready(&statement.stand_in, limit)?;
        let prepared = self.statements.ready(&statement.stand_in);
        let types = prepared.map(|prepared| prepared.description().params.clone()).unwrap_or_default();
        self.statements.end_run();
        Ok((ready, types))
    }

    /// Copies rows to the server in one round trip, and returns their number. `data` are the rows, and `first` is the number of the
    /// first one.
    pub(crate) fn copy_rows_in(
        &mut self,
        statement: &CopyStatement,
        data: &[u8],
        first: u64,
        limit: Limit,
    ) -> Result<u64, Failure> {
        self.check_start(limit)?;
        let (Ready { checkpoint, effect, .. }, _) = self.make_copy_ready(statement, limit)?;
        let fault = match self.exchange_copy(&statement.copy, Copy::In, Some(data), effect, |_| ()) {
            Ok(reply) => {
                self.has_conflict = false;
                return Ok(reply.affected());
            }
            Err(fault) => fault,
        };
        let row = match &fault {
            Fault::Refused(error) => line(error, &statement.table).map(|line| first + line - 1),
            _ => None,
        };
        let failure = self.judge(fault, checkpoint, effect).with_statement(&statement.copy);
        Err(match row {
            Some(row) => failure.with_row(row),
            None => failure,
        })
    }

    /// Copies the rows of the stand-in to `take` as they arrive, and returns their number. Where `take` returns false, the rest is
    /// dropped, and `abort` has to cancel the statement on the server.
    pub(crate) fn copy_rows_out(
        &mut self,
        statement: &CopyStatement,
        limit: Limit,
        mut take: impl FnMut(&[u8]) -> bool,
        abort: impl FnOnce(),
    ) -> Result<u64, Failure> {
        self.check_start(limit)?;
        let (Ready { checkpoint, effect, .. }, types) = self.make_copy_ready(statement, limit)?;
        if !types.is_empty() {
            let cause = Cause::Stated("COPY takes no parameters: write the values into the query".to_owned());
            return Err(Failure::without_retry(Error::from(cause)).with_statement(&statement.stand_in));
        }
        let (conn, mut abort) = (self.conn.clone(), Some(abort));
        let reply = self.exchange_copy(&statement.copy, Copy::Out, None, effect, |data| {
            if abort.is_some() && !take(data) {
                let now = Instant::now();
                let end = now + ABORT_GRACE;
                conn.set_deadline(now, Some(conn.deadline().map_or(end, |deadline| deadline.min(end))));
                if let Some(abort) = abort.take() {
                    abort();
                }
            }
        });
        if abort.is_none() {
            self.note_cancelled();
            self.wait_for_cancel();
        }
        match reply {
            Ok(reply) => {
                self.has_conflict = false;
                Ok(reply.affected())
            }
            Err(fault) => Err(self.judge(fault, checkpoint, effect).with_statement(&statement.copy)),
        }
    }

    /// Waits until the server has processed the cancel request: where the COPY ended before, it would cancel the next statement of a
    /// borrower that keeps the connection.
    fn wait_for_cancel(&mut self) {
        let due = Instant::now() + ABORT_GRACE;
        while self.cancel.as_ref().is_some_and(|cancel| !cancel.is_settled()) {
            if self.conn.has_ended() || Instant::now() >= due {
                self.mark_for_close(CloseReason::Broken);
                return;
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends a COPY, with all of its data where it is one to the server, and passes the data that comes back to `take`.
    fn exchange_copy(
        &mut self,
        sql: &str,
        direction: Copy,
        data: Option<&[u8]>,
        effect: Effect,
        take: impl FnMut(&[u8]),
    ) -> Result<Reply, Fault> {
        // One Sync behind the data: where the server refuses the statement or a row, it skips to there.
        self.wire.write_request(|requests| write_copy(sql, data, requests))?;
        self.send(effect)?;
        let mut reply = self.wire.receive_copy(take)?;
        match (reply.take_error(), reply.copy()) {
            (Some(error), _) => Err(Fault::Refused(error)),
            (None, copied) if copied == Some(direction) => Ok(reply),
            (None, _) => Err(Fault::Unexpected("the server did not copy".to_owned())),
        }
    }
}

fn write_copy(sql: &str, data: Option<&[u8]>, requests: &mut BytesMut) -> Result<(), Fault> {
    frontend::parse("", sql, [], requests)?;
    write_bind_to("", "", &[], &[], requests)?;
    frontend::execute("", 0, requests)?;
    if let Some(data) = data {
        CopyData::new(data)?.write(requests);
        frontend::copy_done(requests);
    }
    Ok(())
}

/// The line of the data in which the server found the error, counted from 1. It says so in its own language, as the first number
/// after the table's name: `COPY movies, line 3, column year: "x"`.
fn line(error: &ServerError, table: &str) -> Option<u64> {
    let start = format!("COPY {table},");
    let (_, rest) = error.context()?.split_once(&start)?;
    let digits = rest.lines().next()?.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok().filter(|line| *line > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read_in_every_language() {
        for (table, context, expected) in [
            ("movies", "COPY movies, line 3, column year: \"x 7\"", Some(3)),
            ("t, 5", "COPY t, 5, Zeile 12", Some(12)),
            ("t", "PL/pgSQL function f() line 4 at RAISE\nCOPY t, ligne 2 : « 9 »", Some(2)),
            ("t", "PL/pgSQL function f() line 4 at RAISE", None),
            ("t", "COPY t, unknown\nline 4", None),
        ] {
            let fields = format!("SERROR\0C22P02\0Mx\0W{context}\0\0");
            let error = ServerError::parse(fields.as_bytes()).unwrap();
            assert_eq!(line(&error, table), expected, "{context}");
        }
    }
}
