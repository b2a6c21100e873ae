//! A batch whose owner does not wait for the replies, but looks for them when the socket is readable: for async code, which has
//! other ways of waiting. Nothing here blocks for longer than a few milliseconds.
//!
//! Only quick statements that can only read are in such a batch. Which callers they belong to, and what becomes of a statement that is
//! not answered in time, is the owner's matter. There is no lock.

use crate::pool::session::batch::{Member, Sent};
use crate::pool::session::{Answer, Encoded, Failure, Limit, Params};
use crate::pool::{Lease, Pool, add, deadline};
use crate::settings::ShareRoundTrips;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most statements of one batch.
pub(crate) const MAX_BATCH: usize = 8;

/// The most bytes of one batch. Far less than what a socket takes at once, so that sending does not wait.
const MAX_BYTES: usize = 16 * 1024;

/// How long sending, or receiving what is there, may take.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Statements that were sent together, each of which is a transaction of its own.
pub(crate) struct PolledBatch {
    lease: Lease,
    sent: Sent,
    /// Whose replies are due, in order.
    due: VecDeque<(Arc<Encoded>, Member)>,
    /// The first statement's failure, where nothing could be sent.
    failure: Option<Failure>,
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
        let Ok(sent) = session.begin_batch(Limit::Within(Some(AT_ONCE))) else { return Err(self) };
        let failure = session.send_reads(due.iter().map(|(encoded, _)| &**encoded), &sent).err();
        // The lease counts as the first one's request.
        if waits.len() > 1 {
            self.shared().gate.note_shared(waits.into_iter().skip(1));
        }
        Ok(PolledBatch { lease: self, sent, due, failure })
    }
}

impl PolledBatch {
    /// The socket that becomes readable when a reply arrives.
    pub(crate) fn socket(&mut self) -> impl AsRawFd + use<> {
        self.lease.session().socket()
    }

    /// How many statements have no outcome yet.
    pub(crate) fn due(&self) -> usize {
        self.due.len()
    }

    /// Until when the reply to a statement is waited for that was sent at `sent`.
    pub(crate) fn limit(&self, sent: Instant) -> Instant {
        self.lease.shared().statement_limit().until(sent).unwrap_or_else(|| add(sent, Duration::MAX))
    }

    /// The outcome of the oldest statement that has none, if its reply is there. Never waits.
    pub(crate) fn next(&mut self) -> Option<Result<Answer, Failure>> {
        let session = self.lease.session();
        let is_there =
            !self.due.is_empty() && (self.failure.is_some() || session.has_ended() || session.has_reply());
        if is_there { self.receive(Limit::Within(Some(AT_ONCE))) } else { None }
    }

    /// Gives the oldest statement up, whose caller has no time left. It is cancelled on the server, and the connection is closed.
    pub(crate) fn expire(&mut self) -> Option<Result<Answer, Failure>> {
        self.receive(Limit::Until(Instant::now()))
    }

    fn receive(&mut self, limit: Limit) -> Option<Result<Answer, Failure>> {
        let (encoded, member) = self.due.pop_front()?;
        if let Some(failure) = self.failure.take() {
            return Some(Err(failure));
        }
        let session = self.lease.session();
        if session.has_ended() {
            return Some(Err(session.lost_in_batch(member.effect, Some(&self.sent))));
        }
        session.bound_batch(limit);
        Some(session.receive_other(&encoded, &member, &mut self.sent))
    }

    /// Returns the connection. Replies that are still due are received in the background.
    pub(crate) fn end(mut self) {
        self.lease.session().abandon(self.due.len());
        // This thread must not clean it.
        deadline::with_deadline(Instant::now(), || drop(self));
    }
}
