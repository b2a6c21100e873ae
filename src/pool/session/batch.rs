//! A batch: the statements of several callers in one send. Each is a transaction of its own and has a reply of its own.
//!
//! Only statements whose messages are the same for every session of the pool are sent in a batch, and only where they were
//! quick lately. This file knows nothing of the callers; `sharing.rs` does.

use crate::error::{Error, Interruption};
use crate::pool::session::classify::catalogue::{Catalogue, Description};
use crate::pool::session::exchange::complete;
use crate::pool::session::outcome::{Checkpoint, Fault};
use crate::pool::session::statement_cache::write_bind;
use crate::pool::session::{Answer, Effect, Failure, Limit, Params, Retry, Session};
use crate::pool::transport::socket::Socket;
use crate::pool::transport::wire::Look;
use crate::rows::Column;
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
    /// Replies are received when they arrive, so that their times are those of the server.
    is_timed: bool,
}

impl Sent {
    /// The time since it was sent.
    pub(crate) fn elapsed(&self) -> Duration {
        self.checkpoint.at.elapsed()
    }
}

/// The part of the time for the first reply that each further one takes, on a server that is on the same machine: the first
/// includes two thread switches.
const FURTHER: u32 = 4;

/// The most statements of a batch. Half as many have most of the effect; more make the batch longer than it saves.
pub(crate) const MAX_BATCH: usize = 8;

/// How long the callers behind a reply wait for it, before it counts as late and their statements are run again elsewhere.
pub(crate) const PATIENCE: Duration = Duration::from_millis(5);

/// The longest pause for replies.
const MAX_PAUSE: Duration = Duration::from_millis(1);

/// A statement that can be part of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// What it may have done if its reply is lost.
    pub(crate) effect: Effect,
    /// Kept here, because another statement of the batch may have the session forget it.
    columns: Arc<[Column]>,
}

impl Failure {
    /// That of a read whose reply is due behind one that is late.
    pub(crate) fn behind_a_late_reply() -> Failure {
        let text = "the reply to the statement of another caller in the same batch is late";
        let error = Error::ConnectionLost(Interruption::new(Duration::ZERO, text));
        Failure { error, retry: Retry::ReadOnly }
    }
}

impl Session {
    /// What is to be known of the statement if it can be part of a batch on this session; `None` if it has to be run alone.
    pub(crate) fn member(&mut self, sql: &str, share: ShareRoundTrips) -> Option<Member> {
        let is_ready = self.is_clean()
            && !self.in_transaction
            && self.conn.reads_as_written(sql)
            && self.conn.reads_as_at_login();
        let epoch = self.statements.catalogue().epoch();
        let prepared = self.statements.cached(sql).filter(|_| is_ready)?;
        if !prepared.is_settled() || !prepared.is_quick() || prepared.epoch != Some(epoch) {
            return None;
        }
        let traits = prepared.traits;
        let effect = match share {
            _ if !traits.is_clean || !traits.is_atomic || traits.controls_transaction => return None,
            ShareRoundTrips::Reads | ShareRoundTrips::All if traits.only_reads => Effect::None,
            ShareRoundTrips::All => Effect::Lasting,
            _ => return None,
        };
        Some(Member { effect, columns: prepared.columns() })
    }

    /// The same of an encoded statement.
    pub(crate) fn member_of(&mut self, encoded: &Encoded, share: ShareRoundTrips) -> Option<Member> {
        let sql = &encoded.description.sql;
        let member = self.member(sql, share)?;
        let prepared = self.statements.cached(sql)?;
        Arc::ptr_eq(prepared.description(), &encoded.description).then_some(member)
    }

    /// Whether the session is idle, clean and to be kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.close_reason.is_none() && !self.is_dirty && self.conn.status() == Some(b'I')
    }

    /// Begins a batch, of which nothing has been sent.
    /// `is_timed`: its replies will be received when they arrive.
    pub(crate) fn begin_batch(&mut self, limit: Limit, is_timed: bool) -> Result<Sent, Failure> {
        limit.check().map_err(Failure::without_retry)?;
        let checkpoint = self.start_operation(limit);
        self.statements.end_run();
        Ok(Sent { checkpoint, begun: checkpoint.at, first: None, is_timed })
    }

    /// Sends the caller's own statement, which has `effect`, and the others after it. `worst` is the effect of all.
    pub(crate) fn send_batch<'a>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        others: impl Iterator<Item = &'a Encoded>,
        worst: Effect,
        effect: Effect,
        sent: &Sent,
    ) -> Result<(), Failure> {
        let written = self.write_and_send(sql, params, others, worst);
        written.map_err(|fault| self.judge_member(fault, sql, sent.checkpoint, effect))
    }

    fn write_and_send<'a>(
        &mut self,
        sql: &str,
        params: Params<'_>,
        others: impl Iterator<Item = &'a Encoded>,
        worst: Effect,
    ) -> Result<(), Fault> {
        self.take_over()?;
        self.statements.write(&mut self.wire, sql, params)?;
        self.write_encoded(others)?;
        Ok(self.send(worst)?)
    }

    /// Sends encoded statements, each of which can only read.
    pub(crate) fn send_reads<'a>(
        &mut self,
        reads: impl Iterator<Item = &'a Encoded>,
        sent: &Sent,
    ) -> Result<(), Failure> {
        let written = self.take_over().and_then(|()| {
            self.write_encoded(reads)?;
            Ok(self.send(Effect::None)?)
        });
        written.map_err(|fault| self.judge(fault, sent.checkpoint, Effect::None))
    }

    fn write_encoded<'a>(&mut self, statements: impl Iterator<Item = &'a Encoded>) -> Result<(), Fault> {
        for encoded in statements {
            self.wire.write_request(|requests| {
                requests.extend_from_slice(&encoded.messages);
                Ok::<(), Fault>(())
            })?;
        }
        Ok(())
    }

    /// Receives the next reply, that of the statement `sql`. Blocks until the limit of the batch.
    pub(crate) fn receive_in_batch(
        &mut self,
        sql: &str,
        member: &Member,
        sent: &mut Sent,
    ) -> Result<Answer, Failure> {
        let received = self.wire.receive();
        let answered = self.conn.answered_at();
        let begun = std::mem::replace(&mut sent.begun, answered);
        let time = answered.saturating_duration_since(begun);
        sent.first.get_or_insert(time);
        self.note_time(sql, time);
        match received.map_err(Fault::from).and_then(complete) {
            Ok(reply) => {
                self.statements.note_run(true);
                if let Some(prepared) = self.statements.cached(sql) {
                    prepared.note_call(time, reply.affected());
                    if sent.is_timed {
                        prepared.note_time(time);
                    }
                }
                Ok(Answer::new(reply, member.columns.clone()))
            }
            Err(fault) => {
                let checkpoint = Checkpoint { at: begun, ..sent.checkpoint };
                Err(self.judge_member(fault, sql, checkpoint, member.effect))
            }
        }
    }

    /// Interprets a failure of one statement. Where it may be stale, the session forgets it, and the statement, which had no effect,
    /// is to be run alone.
    fn judge_member(&mut self, fault: Fault, sql: &str, checkpoint: Checkpoint, effect: Effect) -> Failure {
        if let Some(prepared) = self.statements.cached(sql) {
            prepared.note_failure(checkpoint.at.elapsed());
        }
        let is_stale = self.forget_stale(sql, &fault, true);
        let failure = self.judge(fault, checkpoint, effect);
        let retry = if is_stale { Retry::Safe } else { failure.retry };
        Failure { retry, ..failure }.with_statement(sql)
    }

    /// Receives the reply of an encoded statement. A cancel request for another statement of the batch may have hit it, which
    /// then had no effect.
    pub(crate) fn receive_other(
        &mut self,
        encoded: &Encoded,
        member: &Member,
        sent: &mut Sent,
    ) -> Result<Answer, Failure> {
        let failure = match self.receive_encoded(encoded, member, sent) {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let is_hit = failure.error.sqlstate() == Some("57014");
        Err(if is_hit { Failure { retry: Retry::Safe, ..failure } } else { failure })
    }

    /// The failure of a statement whose reply was still due when the connection ended.
    pub(crate) fn lost_in_batch(&self, effect: Effect, sent: Option<&Sent>) -> Failure {
        let is_sent = sent.is_some_and(|sent| !self.has_sent_nothing(sent));
        let after = sent.map(Sent::elapsed).unwrap_or_default();
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

    /// Waits until the next reply is complete, at most until `due`. Also returns true where receiving it would fail at once.
    pub(crate) fn is_reply_there(&mut self, due: Instant) -> bool {
        self.wire.is_reply_there(due)
    }

    /// Whether the next reply can be received without waiting. See [`Wire::look`](crate::pool::transport::wire::Wire::look).
    pub(crate) fn look(&mut self, seen: &mut usize) -> Look {
        self.wire.look(seen)
    }

    /// The reply to this statement is late.
    pub(crate) fn note_late(&mut self, encoded: &Encoded) {
        if let Some(prepared) = self.statements.cached(&encoded.description.sql) {
            prepared.note_time(PATIENCE);
        }
    }

    /// Receives the reply to an encoded statement, which no cancel request for another one has hit.
    pub(crate) fn receive_encoded(
        &mut self,
        encoded: &Encoded,
        member: &Member,
        sent: &mut Sent,
    ) -> Result<Answer, Failure> {
        self.receive_in_batch(&encoded.description.sql, member, sent)
    }

    pub(crate) fn socket(&self) -> Arc<Socket> {
        self.wire.socket()
    }

    /// Whether nothing of the batch was sent.
    pub(crate) fn has_sent_nothing(&self, sent: &Sent) -> bool {
        self.sent_nothing_since(sent.checkpoint)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.conn.has_ended()
    }

    /// Leaves the replies to this many statements to the reset.
    pub(crate) fn abandon(&mut self, replies: usize) {
        self.abandoned = replies;
    }

    /// Bounds what follows on a batch that was sent.
    pub(crate) fn bound_batch(&mut self, limit: Limit) {
        self.start_operation(limit);
    }
}
