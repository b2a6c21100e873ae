//! A batch whose owner does not wait for the replies, but looks for them when the socket is readable: for async code, which has
//! other ways of waiting. Nothing here waits for the server.
//!
//! Only quick statements that can only read are in such a batch. Which callers they belong to, and what becomes of a statement that is
//! not answered in time, is the owner's matter. It takes the gate's lock once for each batch of several, and the catalogue's for
//! each statement.

use crate::error::{Error, Interruption};
use crate::pool::session::batch::{MAX_BATCH, Member, Sent};
use crate::pool::session::{Answer, Encoded, Failure, Limit, Params, Retry};
use crate::pool::transport::wire::Look;
use crate::pool::{Lease, Pool, Socket, add, deadline};
use crate::settings::ShareRoundTrips;
use std::collections::VecDeque;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most bytes of one batch. Far less than what a socket takes at once, so that sending does not wait.
const MAX_BYTES: usize = 16 * 1024;

/// The deadline of sending, and of receiving what is there.
const AT_ONCE: Duration = Duration::from_millis(5);

/// The SQLSTATE of a statement that was cancelled.
const CANCELLED: &str = "57014";

/// Statements that were sent together, each of which is a transaction of its own.
pub(crate) struct PolledBatch {
    lease: Lease,
    sent: Sent,
    /// Whose replies are due, in order.
    due: VecDeque<(Arc<Encoded>, Member)>,
    /// The first statement's failure, where nothing could be sent.
    failure: Option<Failure>,
    /// How far the next reply was looked through.
    seen: usize,
    /// The oldest statement is being cancelled, because its caller has no time left.
    is_cancelled: bool,
}

impl Pool {
    /// Encodes a statement for a batch; `None` where it has to be run otherwise.
    pub(crate) fn encode(&self, sql: &str, params: Params<'_>) -> Option<Arc<Encoded>> {
        let encoded = Encoded::new(&self.shared().catalogue, sql, params)?;
        (encoded.size() <= MAX_BYTES).then(|| Arc::new(encoded))
    }

    /// Lends an idle connection without waiting; see [`Shared::try_lend`](crate::pool::Shared::try_lend).
    pub(crate) fn try_lend(&self, at: &'static Location<'static>) -> Option<Lease> {
        self.shared().try_lend(at)
    }

    /// How many statements a batch may have.
    pub(crate) fn max_batch(&self) -> usize {
        let shared = self.shared();
        // A read behind a late reply is run again.
        let shares = shared.settings.share_round_trips != ShareRoundTrips::Off && shared.repeats_reads();
        if shares { MAX_BATCH } else { 1 }
    }
}

impl Lease {
    /// The connection's socket, which becomes readable when a reply arrives.
    pub(crate) fn socket(&mut self) -> Arc<Socket> {
        self.session().socket()
    }

    /// Sends those of `statements` that can share a batch on this connection, from the first one on; each comes with the time that
    /// its caller has waited.
    ///
    /// # Errors
    ///
    /// The connection: the first statement has to be run otherwise. It may be that this connection does not know it yet.
    pub(crate) fn send_polled<'a>(
        mut self,
        statements: impl Iterator<Item = (&'a Arc<Encoded>, Duration)>,
    ) -> Result<PolledBatch, Lease> {
        let session = self.session();
        let (mut size, mut due, mut waits) = (0, VecDeque::new(), Vec::new());
        for (encoded, waited) in statements {
            size += encoded.size();
            let member = session.member_of(encoded, ShareRoundTrips::Reads).filter(|_| size <= MAX_BYTES);
            let Some(member) = member else { break };
            due.push_back((encoded.clone(), member));
            waits.push(waited);
        }
        if due.is_empty() {
            return Err(self);
        }
        let Ok(sent) = session.begin_batch(Limit::Within(Some(AT_ONCE)), false) else { return Err(self) };
        let sending = session.send_reads(due.iter().map(|(encoded, _)| &**encoded), &sent);
        // Its deadline was not the caller's.
        let failure = sending.err().map(|failure| match failure.error {
            Error::DeadlineExceeded(_) => Failure { retry: Retry::ReadOnly, ..failure },
            _ => failure,
        });
        // The lease counts as the first one's request.
        if waits.len() > 1 {
            self.shared().gate.note_shared(waits.into_iter().skip(1));
        }
        Ok(PolledBatch { lease: self, sent, due, failure, seen: 0, is_cancelled: false })
    }
}

/// The oldest statement of a batch that has no outcome yet.
pub(crate) enum Polled {
    Outcome(Result<Answer, Failure>),
    /// There is more to receive at once. The thread may have something else to do in between.
    Part,
    /// Nothing, until the socket becomes readable again.
    Nothing,
}

impl PolledBatch {
    /// How many statements have no outcome yet.
    pub(crate) fn due(&self) -> usize {
        self.due.len()
    }

    /// Until when the reply to a statement is waited for that was sent at `sent`.
    pub(crate) fn limit(&self, sent: Instant) -> Instant {
        self.lease.shared().statement_limit().until(sent).unwrap_or_else(|| add(sent, Duration::MAX))
    }

    /// Looks for the reply to the oldest statement that has no outcome. Never waits.
    pub(crate) fn poll(&mut self) -> Polled {
        if self.due.is_empty() {
            return Polled::Nothing;
        }
        let session = self.lease.session();
        let has_ended = self.failure.is_some() || session.has_ended();
        let look = if has_ended { Look::Complete } else { session.look(&mut self.seen) };
        match look {
            Look::Part => Polled::Part,
            Look::Nothing => Polled::Nothing,
            Look::Complete => {
                self.receive(Limit::Within(Some(AT_ONCE))).map_or(Polled::Nothing, Polled::Outcome)
            }
        }
    }

    /// The reply to the oldest statement is late: its caller, which runs it at `at`, goes on waiting for it alone.
    pub(crate) fn note_late(&mut self, at: &'static Location<'static>) {
        if let Some((encoded, _)) = self.due.front() {
            self.lease.session().note_late(encoded);
            self.lease.note_caller(at);
        }
    }

    /// Has the oldest statement cancelled on the server, because its caller has no time left.
    pub(crate) fn cancel(&mut self) {
        self.is_cancelled = true;
        let session = self.lease.session();
        let cancel = session.cancel();
        session.note_cancelled();
        self.lease.shared().maintenance.cancel(cancel);
    }

    /// Gives the oldest statement up. The connection is closed.
    pub(crate) fn expire(&mut self) -> Option<Result<Answer, Failure>> {
        self.receive(Limit::Until(Instant::now()))
    }

    fn receive(&mut self, limit: Limit) -> Option<Result<Answer, Failure>> {
        let (encoded, member) = self.due.pop_front()?;
        self.seen = 0;
        if let Some(failure) = self.failure.take() {
            return Some(Err(failure));
        }
        let session = self.lease.session();
        if session.has_ended() {
            return Some(Err(session.lost_in_batch(member.effect, Some(&self.sent))));
        }
        session.bound_batch(limit);
        let outcome = session.receive_encoded(&encoded, &member, &mut self.sent);
        Some(outcome.map_err(|failure| match failure.error.sqlstate() {
            Some(CANCELLED) if self.is_cancelled => {
                let text = "the statement was cancelled at the caller's deadline";
                Failure::without_retry(Error::DeadlineExceeded(Interruption::new(self.sent.elapsed(), text)))
            }
            _ => failure,
        }))
    }

    /// Returns the connection. Replies that are still due are received in the background.
    pub(crate) fn end(mut self) {
        let due = std::mem::take(&mut self.due).len();
        self.lease.session().abandon(due);
        // This thread must not clean it.
        deadline::with_deadline(Instant::now(), || drop(self));
    }
}

impl Drop for PolledBatch {
    /// For a worker that ends, or panics, with replies due: the connection is closed.
    fn drop(&mut self) {
        if !self.due.is_empty() && self.failure.is_none() {
            self.cancel();
        }
    }
}
