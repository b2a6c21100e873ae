//! Sharing of round trips: a caller that gets a connection sends, with its own statement, those of the callers at the head of the
//! queue. It is the *leader*, they are its *followers*. Each statement is a transaction of its own, and each caller keeps its
//! own deadline, error and retry.
//!
//! The leader receives the replies in order and hands each follower its own. A reply that is late is not waited for: the leader
//! hands the connection to the follower whose reply it is, and reads behind it are run again on other connections.
//!
//! **Lock rule**: each [`Ticket`] has a mutex, held to change its progress, never while waiting for the server. The gate's lock is
//! held while a leader decides which callers it takes along, and a ticket's lock is never held around the gate's.

use crate::error::{Error, Interruption, Result};
use crate::pool::cancellation;
use crate::pool::gate::{Request, Waiter};
use crate::pool::session::batch::Sent;
use crate::pool::session::{Answer, Effect, Encoded, Failure, Limit, Params, Retry};
use crate::pool::status::CloseReason;
use crate::pool::{Lease, Shared};
use crate::settings::ShareRoundTrips;
use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most followers of one leader. Half as many have most of the effect; more make the batch longer than it saves.
const MAX_FOLLOWERS: usize = 7;

/// The most bytes of followers' requests in one batch.
const MAX_BYTES: usize = 8 * 1024;

/// How long a leader waits for replies to the others before it gives them up.
const PATIENCE: Duration = Duration::from_millis(5);

/// What a caller does with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It reads the rows. The statement may write all the same.
    Query,
    Write,
}

/// The request of a caller in the queue.
struct Ticket {
    encoded: Encoded,
    progress: Mutex<Progress>,
}

enum Progress {
    /// The caller waits.
    Waiting,
    /// A leader has the caller's outcome.
    Done(Result<Answer, Failure>),
    /// The caller has to receive its reply itself.
    Leading(Box<Batch>),
    /// The caller has given up, or has taken its outcome.
    Gone,
}

impl Ticket {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_waiting(&self) -> bool {
        matches!(*self.progress(), Progress::Waiting)
    }

    /// Gives the caller its outcome, if it waits for one.
    fn settle(&self, outcome: Result<Answer, Failure>) {
        let mut progress = self.progress();
        if matches!(*progress, Progress::Waiting) {
            *progress = Progress::Done(outcome);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("encoded", &self.encoded).finish_non_exhaustive()
    }
}

/// A follower whose reply is due.
struct Follower {
    waiter: Arc<Waiter>,
    ticket: Arc<Ticket>,
    effect: Effect,
}

/// A batch that was sent: the connection, and the followers whose replies are due on it, in order.
struct Batch {
    /// `None` once it was handed on.
    lease: Option<Lease>,
    /// `None` before the batch was sent.
    sent: Option<Sent>,
    due: VecDeque<Follower>,
    /// The callers that have their outcome and are not woken yet.
    settled: Vec<Arc<Waiter>>,
}

impl Shared {
    /// What a caller leaves in the queue for a leader; `None` if its statement has to be run alone.
    pub(crate) fn request(&self, sql: &str, params: Params<'_>, access: Access) -> Option<Request> {
        match (self.settings.share_round_trips, access) {
            (ShareRoundTrips::Off, _) | (ShareRoundTrips::Reads, Access::Write) => return None,
            // A read behind a late reply is run again.
            _ if !self.repeats_reads() => return None,
            _ => {}
        }
        let encoded = Encoded::new(&self.catalogue, sql, params)?;
        (encoded.size() <= MAX_BYTES)
            .then(|| Arc::new(Ticket { encoded, progress: Mutex::new(Progress::Waiting) }) as Request)
    }

    /// Waits for the outcome of a request that a leader has taken along.
    pub(crate) fn follow(
        self: &Arc<Shared>,
        request: Request,
        at: &'static Location<'static>,
    ) -> Result<Answer, Failure> {
        let Ok(ticket) = request.downcast::<Ticket>() else {
            unreachable!("bug: the queue returned another request")
        };
        let (started, limit) = (Instant::now(), self.statement_limit());
        let until = limit.until(started);
        loop {
            let mut progress = ticket.progress();
            match std::mem::replace(&mut *progress, Progress::Gone) {
                Progress::Done(outcome) => return outcome,
                Progress::Leading(batch) => {
                    drop(progress);
                    return batch.lead_on(self, &ticket, limit, at);
                }
                Progress::Waiting | Progress::Gone => {}
            }
            let only_reads = self.settings.share_round_trips != ShareRoundTrips::All;
            if cancellation::is_cancelled() && only_reads {
                return Err(Failure::without_retry(Error::Cancelled));
            }
            let now = Instant::now();
            if until.is_some_and(|until| until <= now) {
                let text = "no answer within the deadline, in the batch of another caller";
                let interruption = Interruption::new(started.elapsed(), text);
                return Err(Failure::without_retry(match only_reads {
                    true => Error::DeadlineExceeded(interruption),
                    false => Error::OutcomeUnknown(interruption),
                }));
            }
            *progress = Progress::Waiting;
            drop(progress);
            match until {
                None => std::thread::park(),
                Some(until) => std::thread::park_timeout(until - now),
            }
        }
    }

    /// Takes callers along from the head of the queue whose statements fit into one batch.
    fn take_along(&self, lease: &mut Lease) -> VecDeque<Follower> {
        let share = self.settings.share_round_trips;
        let session = lease.session();
        let mut size = 0;
        let mut found = VecDeque::new();
        let waiters = self.gate.take_along(MAX_FOLLOWERS, |request| {
            let Ok(ticket) = request.clone().downcast::<Ticket>() else { return false };
            size += ticket.encoded.size();
            match session.effect_of(&ticket.encoded, share).filter(|_| size <= MAX_BYTES) {
                Some(effect) => {
                    found.push_back((ticket, effect));
                    true
                }
                None => false,
            }
        });
        let followers = waiters.into_iter().zip(found);
        followers.map(|(waiter, (ticket, effect))| Follower { waiter, ticket, effect }).collect()
    }
}

impl Lease {
    /// Runs one statement, and with it those of callers that wait. Returns the connection to the pool.
    pub(crate) fn run_shared(mut self, sql: &str, params: Params<'_>) -> Result<Answer, Failure> {
        let shared = self.shared().clone();
        let share = shared.settings.share_round_trips;
        if share == ShareRoundTrips::Off || !shared.gate.has_waiters() {
            return self.run(sql, params);
        }
        let Some(effect) = self.session().effect_in_batch(sql, share) else { return self.run(sql, params) };
        let due = shared.take_along(&mut self);
        if due.is_empty() {
            return self.run(sql, params);
        }
        let mut batch = Batch { lease: Some(self), sent: None, due, settled: Vec::new() };
        batch.lead(&shared, sql, params, effect)
    }
}

impl Batch {
    fn lead(
        &mut self,
        shared: &Arc<Shared>,
        sql: &str,
        params: Params<'_>,
        effect: Effect,
    ) -> Result<Answer, Failure> {
        let limit = shared.statement_limit();
        let Batch { lease: Some(lease), sent, due, .. } = self else {
            unreachable!("bug: a batch without a connection")
        };
        let outcome = shared.cancellable(lease.session(), |session| {
            let all = due
                .iter()
                .fold(effect, |all, follower| if all == Effect::None { follower.effect } else { all });
            let others = due.iter().map(|follower| &follower.ticket.encoded);
            let sent = sent.insert(session.send_batch(sql, params, others, all, limit)?);
            if !session.is_reply_there(Instant::now() + PATIENCE) {
                give_up_reads(due.iter());
            }
            session.receive_in_batch(sql, effect, sent)
        });
        self.finish();
        outcome
    }

    /// Receives the replies up to that of `ticket`, whose caller this is, and then those of the others.
    fn lead_on(
        mut self,
        shared: &Arc<Shared>,
        ticket: &Arc<Ticket>,
        limit: Limit,
        at: &'static Location<'static>,
    ) -> Result<Answer, Failure> {
        let Batch { lease: Some(lease), sent: Some(sent), due, settled } = &mut self else {
            unreachable!("bug: a batch without a connection was handed on")
        };
        lease.pass_on(at);
        let outcome = shared.cancellable(lease.session(), |session| {
            session.take_charge(limit);
            while let Some(Follower { waiter, ticket: next, effect }) = due.pop_front() {
                if session.is_broken() {
                    let failure = session.lost_in_batch(effect, Some(sent));
                    if Arc::ptr_eq(&next, ticket) {
                        return Err(failure);
                    }
                    next.settle(Err(failure));
                    settled.push(waiter);
                    continue;
                }
                let outcome = session.receive_other(&next.encoded, effect, sent);
                if Arc::ptr_eq(&next, ticket) {
                    return outcome;
                }
                next.settle(outcome);
                settled.push(waiter);
            }
            unreachable!("bug: a batch was handed to a caller without a reply in it")
        });
        self.finish();
        outcome
    }

    /// Receives the replies that are due, or hands the connection on where one is late; returns the connection to the pool, and
    /// wakes the others after that, because the next caller in the queue has waited longer than they need to.
    fn finish(&mut self) {
        if let (Some(lease), Some(sent)) = (&mut self.lease, &self.sent) {
            lease.session().pause(self.due.len(), sent);
        }
        let patience = Instant::now() + PATIENCE;
        while let (Some(lease), Some(sent)) = (&mut self.lease, &mut self.sent) {
            let session = lease.session();
            if session.is_broken() {
                break;
            }
            let Some(next) = self.due.front() else { break };
            if !session.is_reply_there(patience) {
                self.hand_on();
                break;
            }
            let outcome = session.receive_other(&next.ticket.encoded, next.effect, sent);
            next.ticket.settle(outcome);
            self.settled.extend(self.due.pop_front().map(|follower| follower.waiter));
        }
        self.end();
    }

    /// Hands the connection to the first caller that still waits for a reply on it.
    fn hand_on(&mut self) {
        give_up_reads(self.due.iter().skip(1));
        let Some(next) = self.due.iter().position(|follower| follower.ticket.is_waiting()) else {
            return self.abandon();
        };
        let (waiter, ticket) = (self.due[next].waiter.clone(), self.due[next].ticket.clone());
        let mut progress = ticket.progress();
        if !matches!(*progress, Progress::Waiting) {
            // Its caller has just given up.
            drop(progress);
            return self.hand_on();
        }
        // This thread may be back for another connection before the next leader has woken up.
        self.lease.iter().for_each(Lease::detach);
        let rest = Batch {
            lease: self.lease.take(),
            sent: self.sent.take(),
            due: std::mem::take(&mut self.due),
            settled: Vec::new(),
        };
        *progress = Progress::Leading(Box::new(rest));
        drop(progress);
        self.settled.push(waiter);
    }

    /// No caller waits for the replies that are due any more: maintenance receives them.
    fn abandon(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.session().abandon(self.due.len());
        }
    }

    /// Returns the connection, settles the followers without an outcome, and wakes all that have one.
    fn end(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            for follower in self.due.drain(..) {
                follower
                    .ticket
                    .settle(Err(lease.session().lost_in_batch(follower.effect, self.sent.as_ref())));
                self.settled.push(follower.waiter);
            }
            drop(lease);
        }
        for waiter in self.settled.drain(..) {
            waiter.wake();
        }
    }
}

/// Has these callers run their statements again on other connections, if they only read. Their replies are still due.
fn give_up_reads<'a>(followers: impl Iterator<Item = &'a Follower>) {
    for Follower { waiter, ticket, effect } in followers {
        if *effect == Effect::None {
            let text = "the reply to the statement of another caller in the same batch is late";
            let error = Error::ConnectionLost(Interruption::new(Duration::ZERO, text));
            ticket.settle(Err(Failure { error, retry: Retry::ReadOnly }));
            waiter.wake();
        }
    }
}

impl Drop for Batch {
    /// For a leader that panics.
    fn drop(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.session().mark_for_close(CloseReason::Dirty);
        }
        self.end();
    }
}
