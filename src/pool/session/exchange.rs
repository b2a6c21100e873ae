//! Exchanges on the connection's stream: the session sends a request and receives its reply.
//!
//! It knows nothing of what statements mean; `outcome.rs` interprets a [`Fault`].

use crate::pool::session::outcome::Fault;
use crate::pool::session::statement_cache::write_typed;
use crate::pool::session::{Effect, Session};
use crate::pool::transport::protocol::reply::{Copy, Reply};
use crate::pool::transport::wire::{Broken, closed};
use crate::rows::Rows;
use postgres::types::{ToSql, Type};
use std::sync::Arc;

impl Session {
    /// Sends statements without parameters, and returns the reply.
    pub(super) fn simple_query(&mut self, sql: &str, effect: Effect) -> Result<Reply, Fault> {
        self.take_over()?;
        self.wire.write_simple_query(sql)?;
        self.send(effect)?;
        complete(self.wire.receive()?)
    }

    /// Sends the requests. A read that is sent to a closed connection is run again; anything else must not be sent there.
    pub(super) fn send(&mut self, effect: Effect) -> Result<(), Broken> {
        match effect {
            Effect::None => self.wire.send(),
            Effect::Lasting | Effect::InSteps => self.wire.send_after_check(true),
        }
    }

    /// Sends one statement that is not prepared, with its parameters and their types, and returns the rows.
    pub(super) fn ask(&mut self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Rows, Fault> {
        self.take_over()?;
        write_typed(&mut self.wire, sql, params)?;
        self.wire.send()?;
        Ok(complete(self.wire.receive()?)?.into_rows(Arc::default()))
    }

    /// Takes the stream from the driver. Where the driver has left a reply unread, such as that of a COPY without
    /// `finish`, this has the driver read it in one round trip.
    pub(super) fn take_over(&mut self) -> Result<(), Fault> {
        if self.conn.has_ended() {
            let cause = match self.conn.has_timed_out() {
                true => self.conn.timed_out(),
                false => closed(),
            };
            return Err(Broken::new(cause).into());
        }
        if self.wire.take_over() {
            return Ok(());
        }
        // The driver reports earlier errors to the request that it sends here; they concern nothing that follows.
        let _ = self.client.batch_execute("");
        if self.wire.take_over() {
            return Ok(());
        }
        self.conn.fail(false);
        Err(Broken::new(closed()).into())
    }
}

pub(super) fn copy_in_refused() -> Fault {
    Fault::refused("COPY … FROM STDIN needs data: use Transaction::copy_in_writer, or the driver's client")
}

/// A reply without an error.
pub(super) fn complete(mut reply: Reply) -> Result<Reply, Fault> {
    match (reply.copy(), reply.take_error()) {
        (Some(Copy::In), _) => Err(copy_in_refused()),
        (_, Some(error)) => Err(Fault::Refused(error)),
        (Some(Copy::Out), None) => Err(Fault::Unexpected(
            "COPY … TO STDOUT has data and no rows: use the driver's client".to_owned(),
        )),
        (None, None) => Ok(reply),
    }
}
