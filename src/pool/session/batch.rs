//! A batch: the statements of several callers in one send. Each is a transaction of its own and has a reply of its own.
//!
//! Only statements whose messages are the same for every session of the pool are sent in a batch, and only where they were
//! quick lately. This file knows nothing of the callers; `sharing.rs` does.

use crate::error::{Error, Interruption};
use crate::pool::session::classify::catalogue::{Catalogue, Description};
use crate::pool::session::exchange::complete;
use crate::pool::session::outcome::{Checkpoint, Fault};
use crate::pool::session::statement::may_be_stale;
use crate::pool::session::statement_cache::write_bind;
use crate::pool::session::{Answer, Effect, Failure, Limit, Params, Retry, Session};
use crate::settings::ShareRoundTrips;
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A statement with its parameters, encoded for whichever session runs it.
#[derive(Debug)]
pub(crate) struct Encoded {
    description: Arc<Description>,
    messages: BytesMut,
}

impl Encoded {
    /// Encodes the statement; `None` where the pool does not know it yet, or its parameters cannot be encoded: then it has to be
    /// run alone.
    pub(crate) fn new(catalogue: &Catalogue, sql: &str, params: Params<'_>) -> Option<Encoded> {
        let description = catalogue.description(sql)?;
        if description.params.len() != params.len() {
            return None;
        }
        let mut messages = BytesMut::new();
        write_bind(&description.name, &description.params, params, &mut messages).ok()?;
        frontend::execute("", 0, &mut messages).ok()?;
        Some(Encoded { description, messages })
    }

    /// The number of bytes to send.
    pub(crate) fn size(&self) -> usize {
        self.messages.len()
    }
}

/// A batch that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    checkpoint: Checkpoint,
    /// When the statement whose reply is due can have begun to run.
    begun: Instant,
    /// How long the first reply took.
    first: Option<Duration>,
}

/// The part of the time for the first reply that each further one takes, on a server that is on the same machine: the first
/// includes two thread switches.
const FURTHER: u32 = 4;

/// The longest pause for replies.
const MAX_PAUSE: Duration = Duration::from_millis(1);

impl Session {
    /// What the statement may do, if it can be part of a batch on this session; `None` if it has to be run alone.
    pub(crate) fn effect_in_batch(&mut self, sql: &str, share: ShareRoundTrips) -> Option<Effect> {
        let is_ready = self.close_reason.is_none()
            && !self.is_dirty
            && !self.in_transaction
            && self.conn.status() == Some(b'I')
            && self.conn.reads_as_written(sql)
            && self.conn.reads_as_at_login();
        let epoch = self.statements.catalogue().epoch();
        let prepared = self.statements.cached(sql).filter(|_| is_ready)?;
        if !prepared.is_settled() || !prepared.is_quick() || prepared.epoch != Some(epoch) {
            return None;
        }
        let traits = prepared.traits;
        match share {
            _ if !traits.is_clean || !traits.is_atomic || traits.controls_transaction => None,
            ShareRoundTrips::Reads | ShareRoundTrips::All if traits.only_reads => Some(Effect::None),
            ShareRoundTrips::All => Some(Effect::Lasting),
            _ => None,
        }
    }

    /// What the encoded statement may do, if it can be part of a batch on this session.
    pub(crate) fn effect_of(&mut self, encoded: &Encoded, share: ShareRoundTrips) -> Option<Effect> {
        let sql = &encoded.description.sql;
        let effect = self.effect_in_batch(sql, share)?;
        self.statements.cached(sql)?.is(&encoded.description).then_some(effect)
    }

    /// Sends the caller's own statement, and the others after it. `effect` is the worst of all.
    pub(crate) fn send_batch<'a>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        others: impl Iterator<Item = &'a Encoded>,
        effect: Effect,
        limit: Limit,
    ) -> Result<Sent, Failure> {
        limit.check().map_err(Failure::without_retry)?;
        let checkpoint = self.start_operation(limit);
        self.statements.end_run();
        self.write_and_send(sql, params, others, effect)
            .map_err(|fault| self.judge(fault, checkpoint, effect).with_statement(sql))?;
        Ok(Sent { checkpoint, begun: checkpoint.at, first: None })
    }

    fn write_and_send<'a>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        others: impl Iterator<Item = &'a Encoded>,
        effect: Effect,
    ) -> Result<(), Fault> {
        self.take_over()?;
        self.statements.write(&mut self.wire, sql, params)?;
        for encoded in others {
            self.wire.write_request(|requests| {
                requests.extend_from_slice(&encoded.messages);
                Ok::<(), Fault>(())
            })?;
        }
        Ok(self.send(effect)?)
    }

    /// Receives the next reply, that of the statement `sql`. Blocks until the limit of the batch.
    pub(crate) fn receive_in_batch(
        &mut self,
        sql: &str,
        effect: Effect,
        sent: &mut Sent,
    ) -> Result<Answer, Failure> {
        let received = self.wire.receive();
        let begun = std::mem::replace(&mut sent.begun, self.conn.answered_at());
        sent.first.get_or_insert(sent.begun.saturating_duration_since(begun));
        let fault = match received.map_err(Fault::from).and_then(complete) {
            Ok(reply) => return Ok(self.answer(sql, reply, Some(begun))),
            Err(fault) => fault,
        };
        let is_stale = may_be_stale(&fault, true);
        if is_stale {
            self.statements.forget(sql);
        }
        let failure = self.judge(fault, Checkpoint { at: begun, ..sent.checkpoint }, effect);
        // The server refused it, so it had no effect.
        let retry = if is_stale { Retry::Safe } else { failure.retry };
        Err(Failure { retry, ..failure }.with_statement(sql))
    }

    /// Receives the reply of an encoded statement. A cancel request for another statement of the batch may have hit it, which
    /// then had no effect.
    pub(crate) fn receive_other(
        &mut self,
        encoded: &Encoded,
        effect: Effect,
        sent: &mut Sent,
    ) -> Result<Answer, Failure> {
        let failure = match self.receive_in_batch(&encoded.description.sql, effect, sent) {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let is_hit = failure.error.sqlstate() == Some("57014");
        Err(if is_hit { Failure { retry: Retry::Safe, ..failure } } else { failure })
    }

    /// The failure of a statement whose reply was still due when the connection ended.
    pub(crate) fn lost_in_batch(&self, effect: Effect, sent: Option<&Sent>) -> Failure {
        let is_sent = sent.is_some_and(|sent| !self.sent_nothing_since(sent.checkpoint));
        let after = sent.map(|sent| sent.checkpoint.at.elapsed()).unwrap_or_default();
        let interruption =
            Interruption::new(after, "the connection ended during the statement of another caller");
        match effect {
            _ if !is_sent => Failure { error: Error::ConnectionLost(interruption), retry: Retry::Safe },
            Effect::None => Failure { error: Error::ConnectionLost(interruption), retry: Retry::ReadOnly },
            _ => Failure::without_retry(Error::OutcomeUnknown(interruption)),
        }
    }

    /// Sleeps for about as long as a server on this machine takes for `due` replies. A thread that woke up for each of them would
    /// take the processor from the server each time; where many threads do, some processes of the server do not run for half a
    /// second (Linux 6.18).
    pub(crate) fn pause(&self, due: usize, sent: &Sent) {
        if due > 1 && self.wire.is_local() {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            std::thread::sleep((due * (sent.first.unwrap_or_default() / FURTHER)).min(MAX_PAUSE));
        }
    }

    /// Waits until the next reply has begun to arrive, at most until `due`. Also returns true where the connection has failed.
    pub(crate) fn is_reply_there(&mut self, due: Instant) -> bool {
        self.wire.is_reply_there(due)
    }

    /// Leaves the replies to this many statements to the reset.
    pub(crate) fn abandon(&mut self, replies: usize) {
        self.abandoned = replies;
    }

    /// Bounds what follows on a batch that another caller has sent.
    pub(crate) fn take_charge(&mut self, limit: Limit) {
        self.start_operation(limit);
    }
}
