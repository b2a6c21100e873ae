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
use crate::pool::session::batch::{MAX_BATCH, Member, PATIENCE, Sent};
use crate::pool::session::{Answer, Effect, Encoded, Failure, Limit, Params, Retry, Session};
use crate::pool::status::CloseReason;
use crate::pool::{Lease, Shared};
use crate::settings::ShareRoundTrips;
use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most followers of one leader.
const MAX_FOLLOWERS: usize = MAX_BATCH - 1;

/// The most bytes of followers' requests in one batch.
const MAX_BYTES: usize = 8 * 1024;

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
    access: Access,
    /// A leader has found that the statement can only read.
    only_reads: AtomicBool,
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
    member: Member,
}

impl Follower {
    /// Whether the statement may be run again while its reply is due.
    fn is_repeatable(&self) -> bool {
        // A caller that writes is not to learn of a lost connection because another caller's reply is late.
        self.member.effect == Effect::None && self.ticket.access == Access::Query
    }
}

/// A batch that was sent: the connection, and the followers whose replies are due on it, in order.
struct Batch {
    /// `None` once it was handed on.
    lease: Option<Lease>,
    /// `None` before anything of it may have been sent.
    sent: Option<Sent>,
    /// The limit of the caller that leads.
    limit: Limit,
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
        let ticket = Ticket {
            encoded,
            access,
            only_reads: AtomicBool::new(false),
            progress: Mutex::new(Progress::Waiting),
        };
        (ticket.encoded.size() <= MAX_BYTES).then(|| Arc::new(ticket) as Request)
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
                    return batch.lead_on(self, &ticket, limit.since(started), at);
                }
                Progress::Waiting | Progress::Gone => {}
            }
            let only_reads = ticket.only_reads.load(Ordering::Acquire);
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
            match session.member_of(&ticket.encoded, share).filter(|_| size <= MAX_BYTES) {
                Some(member) => {
                    ticket.only_reads.store(member.effect == Effect::None, Ordering::Release);
                    found.push_back((ticket, member));
                    true
                }
                None => false,
            }
        });
        let followers = waiters.into_iter().zip(found);
        followers.map(|(waiter, (ticket, member))| Follower { waiter, ticket, member }).collect()
    }
}

impl Lease {
    /// Runs one statement, and with it those of callers that wait. Returns the connection to the pool.
    pub(crate) fn run_shared(mut self, sql: &str, params: Params<'_>) -> Result<Answer, Failure> {
        let share = self.shared().settings.share_round_trips;
        if share == ShareRoundTrips::Off || !self.shared().gate.has_waiters() {
            return self.run(sql, params);
        }
        // All threads share its count, so that a call without followers is spared it.
        let shared = self.shared().clone();
        let Some(member) = self.session().member(sql, share) else { return self.run(sql, params) };
        let due = shared.take_along(&mut self);
        if due.is_empty() {
            return self.run(sql, params);
        }
        let limit = shared.statement_limit();
        Batch { lease: Some(self), sent: None, limit, due, settled: Vec::new() }
            .lead(&shared, sql, params, &member)
    }
}

impl Batch {
    fn lead(
        mut self,
        shared: &Arc<Shared>,
        sql: &str,
        params: Params<'_>,
        member: &Member,
    ) -> Result<Answer, Failure> {
        let Batch { lease: Some(lease), sent, limit, due, .. } = &mut self else {
            unreachable!("bug: a batch without a connection")
        };
        let limit = *limit;
        let outcome = shared.cancellable(lease.session(), |session| {
            // Before anything is sent: even where the send fails, a part of it may have arrived.
            let sent = sent.insert(session.begin_batch(limit, true)?);
            let effects = due.iter().map(|follower| follower.member.effect);
            let worst = effects
                .fold(member.effect, |worst, effect| if worst == Effect::None { effect } else { worst });
            let others = due.iter().map(|follower| &follower.ticket.encoded);
            session.send_batch(sql, params, others, worst, member.effect, sent)?;
            if !session.is_reply_there(patience(limit)) {
                give_up_reads(due.iter());
            }
            session.receive_in_batch(sql, member, sent)
        });
        self.receive_rest();
        let is_stale = outcome.as_ref().is_err_and(|failure| failure.retry == Retry::Safe);
        let Some(mut lease) = self.lease.take_if(|lease| is_stale && lease.session().is_clean()) else {
            self.end();
            return outcome;
        };
        // It was refused for what the session knew of it, which it now has forgotten.
        self.wake();
        lease.run(sql, params)
    }

    /// Receives the replies up to that of `ticket`, whose caller this is, and then those of the others.
    fn lead_on(
        mut self,
        shared: &Arc<Shared>,
        ticket: &Arc<Ticket>,
        limit: Limit,
        at: &'static Location<'static>,
    ) -> Result<Answer, Failure> {
        self.limit = limit;
        let Batch { lease: Some(lease), sent: Some(sent), due, settled, .. } = &mut self else {
            unreachable!("bug: a batch without a connection was handed on")
        };
        lease.pass_on(at);
        let mut receive_own = |session: &mut Session| {
            session.bound_batch(limit);
            while let Some(next) = due.pop_front() {
                let outcome = receive(session, &next, sent);
                if Arc::ptr_eq(&next.ticket, ticket) {
                    return outcome;
                }
                next.ticket.settle(outcome);
                settled.push(next.waiter);
            }
            unreachable!("bug: a batch was handed to a caller without a reply in it")
        };
        let outcome = match ticket.only_reads.load(Ordering::Acquire) {
            true => shared.cancellable(lease.session(), receive_own),
            // It was sent: its outcome is waited for, though the caller's work may be cancelled.
            false => receive_own(lease.session()),
        };
        self.receive_rest();
        self.end();
        outcome
    }

    /// Receives the replies that are due, or hands the connection on where one is late.
    fn receive_rest(&mut self) {
        if let (Some(lease), Some(sent)) = (&mut self.lease, &self.sent) {
            if lease.session().has_sent_nothing(sent) {
                return self.settle_rest();
            }
            lease.session().pause(self.due.len(), sent);
        }
        let until = patience(self.limit);
        while let (Some(lease), Some(sent)) = (&mut self.lease, &mut self.sent) {
            let session = lease.session();
            let Some(next) = self.due.front() else { break };
            if !session.has_ended() && !session.is_reply_there(until) {
                return self.hand_on();
            }
            // The reply is there, so that this does not wait; and it is no matter of this caller's limit.
            session.bound_batch(Limit::Within(Some(PATIENCE)));
            next.ticket.settle(receive(session, next, sent));
            self.settled.extend(self.due.pop_front().map(|follower| follower.waiter));
        }
    }

    /// Hands the connection to the first caller that still waits for a reply on it.
    fn hand_on(&mut self) {
        give_up_reads(self.due.iter().skip(1));
        // This thread may be back for another connection before the next leader has woken up.
        self.lease.iter().for_each(Lease::detach);
        for place in 0..self.due.len() {
            let Follower { waiter, ticket, .. } = &self.due[place];
            let (waiter, ticket) = (waiter.clone(), ticket.clone());
            let mut progress = ticket.progress();
            if let Progress::Waiting = *progress {
                let rest = Batch {
                    lease: self.lease.take(),
                    sent: self.sent.take(),
                    limit: self.limit,
                    due: std::mem::take(&mut self.due),
                    settled: Vec::new(),
                };
                *progress = Progress::Leading(Box::new(rest));
                drop(progress);
                self.settled.push(waiter);
                return;
            }
        }
        // No caller waits for these replies any more.
        if let Some(lease) = &mut self.lease {
            lease.session().abandon(self.due.len());
        }
        self.due.clear();
        // Returning the connection may take this thread a while.
        self.wake();
    }

    /// Settles the followers without an outcome, returns the connection to the pool, and wakes the others after that, because the
    /// next caller in the queue has waited longer than they need to.
    fn end(&mut self) {
        self.settle_rest();
        drop(self.lease.take());
        self.wake();
    }

    /// Settles the followers whose replies will not come.
    fn settle_rest(&mut self) {
        if let Some(lease) = &mut self.lease {
            for Follower { waiter, ticket, member } in self.due.drain(..) {
                ticket.settle(Err(lease.session().lost_in_batch(member.effect, self.sent.as_ref())));
                self.settled.push(waiter);
            }
        }
    }

    fn wake(&mut self) {
        self.settled.drain(..).for_each(|waiter| waiter.wake());
    }
}

/// Until when a caller with this limit waits for a reply before the others behind it are told to go on without it.
fn patience(limit: Limit) -> Instant {
    let now = Instant::now();
    limit.until(now).map_or(now + PATIENCE, |until| until.min(now + PATIENCE))
}

/// Receives the reply to a follower, if the connection has not ended before.
fn receive(session: &mut Session, follower: &Follower, sent: &mut Sent) -> Result<Answer, Failure> {
    match session.has_ended() {
        true => Err(session.lost_in_batch(follower.member.effect, Some(sent))),
        false => session.receive_other(&follower.ticket.encoded, &follower.member, sent),
    }
}

/// Has these callers run their statements again on other connections, where that is safe. Their replies are still due.
fn give_up_reads<'a>(followers: impl Iterator<Item = &'a Follower>) {
    for Follower { waiter, ticket, .. } in followers.filter(|follower| follower.is_repeatable()) {
        ticket.settle(Err(Failure::behind_a_late_reply()));
        waiter.wake();
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
