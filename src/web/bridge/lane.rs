//! The lane of a worker: it collects the single queries that the worker's requests make at about the same time, sends them in one
//! batch, and hands over the replies when they arrive. Meanwhile the worker goes on with other requests.
//!
//! Only what hardly makes others wait takes this way: a query that can only read and was quick lately, on a connection that is idle
//! and knows it. What does not, or fails and may be run again, goes elsewhere, which `single_query.rs` decides.
//!
//! Each worker has a queue of its own, so that the queue needs no lock.

use crate::pool::{Answer, CANCEL_GRACE, Encoded, Failure, PATIENCE, Polled, PolledBatch, Pool, Socket};
use crate::query::Start;
use crate::web::request_deadline;
use crate::web::request_scope::{Scope, current, within};
use actix_web::rt::time::sleep_until;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::task::yield_now;

/// How many batches of one worker are under way at once. More would share less, and leave fewer connections to other callers.
const MAX_BATCHES: usize = 2;

/// How a query's time in the queue ends.
pub(super) enum Turn {
    Done(Result<Answer, Failure>),
    /// It has to be run on a thread.
    Elsewhere(Start),
}

/// A query in the queue.
struct Caller {
    pool: &'static Pool,
    encoded: Arc<Encoded>,
    at: &'static Location<'static>,
    queued: Instant,
    deadline: Option<Instant>,
    /// For log lines.
    scope: Option<Arc<Scope>>,
    turn: oneshot::Sender<Turn>,
}

impl Turn {
    fn late() -> Turn {
        Turn::Elsewhere(Start::Failed(Failure::behind_a_late_reply()))
    }
}

impl Caller {
    /// Whether nobody waits any more, or until the deadline only.
    fn has_left(&self) -> bool {
        self.turn.is_closed() || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Has the query run on a thread.
    fn go_elsewhere(self) {
        self.end(Turn::Elsewhere(Start::Fresh));
    }

    fn end(self, turn: Turn) {
        // Where the request is gone, nobody wants it.
        let _ = self.turn.send(turn);
    }
}

/// The queries of one worker.
#[derive(Default)]
struct Lane {
    queue: VecDeque<Caller>,
    /// The tasks that send batches, each one at a time.
    senders: usize,
}

thread_local! {
    /// Borrowed for a few instructions only, and never while a caller is woken.
    static LANE: RefCell<Lane> = RefCell::default();
}

/// Waits for a query's turn. The task that sends it runs after those that are ready now, which may have queries too.
pub(super) async fn queue(
    pool: &'static Pool,
    encoded: Arc<Encoded>,
    at: &'static Location<'static>,
) -> Turn {
    // The tasks of a worker stay on its thread.
    let runtime = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if !matches!(runtime, Ok(RuntimeFlavor::CurrentThread)) {
        return Turn::Elsewhere(Start::Fresh);
    }
    let (turn, ended) = oneshot::channel();
    let deadline = request_deadline::current();
    let caller = Caller { pool, encoded, at, queued: Instant::now(), deadline, scope: current(), turn };
    LANE.with_borrow_mut(|lane| lane.queue.push_back(caller));
    add_sender();
    // Without a word the task ends if it panics.
    ended.await.unwrap_or_else(|_| Turn::late())
}

/// Starts another task that sends batches, where queries wait and there may be one.
fn add_sender() {
    let is_wanted = LANE.with_borrow_mut(|lane| {
        let is_wanted = lane.senders < MAX_BATCHES && !lane.queue.is_empty();
        lane.senders += usize::from(is_wanted);
        is_wanted
    });
    if is_wanted {
        tokio::spawn(send_batches(Sender));
    }
}

/// One of the tasks that are counted as [`Lane::senders`].
struct Sender;

impl Sender {
    /// Another task may take this one's place.
    fn stand_aside(self) {
        std::mem::forget(self);
        LANE.with_borrow_mut(|lane| lane.senders -= 1);
        add_sender();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let left = LANE.try_with(|lane| {
            let mut lane = lane.borrow_mut();
            lane.senders -= 1;
            // After a panic nobody else may take them.
            if lane.senders == 0 { std::mem::take(&mut lane.queue) } else { VecDeque::new() }
        });
        left.into_iter().flatten().for_each(Caller::go_elsewhere);
    }
}

/// A batch that was sent.
struct Sending {
    batch: PolledBatch,
    callers: VecDeque<Caller>,
    socket: AsyncFd<Arc<Socket>>,
}

async fn send_batches(sender: Sender) {
    let mut sender = Some(sender);
    while sender.is_some()
        && let Some(sending) = next_batch()
    {
        add_sender();
        // A connection with a late reply is not back soon.
        receive(sending, || sender.take().into_iter().for_each(Sender::stand_aside)).await;
    }
}

/// Sends the queries at the head of the queue; `None` where there is none, or no connection for it.
fn next_batch() -> Option<Sending> {
    loop {
        let (mut callers, senders) = LANE.with_borrow_mut(|lane| {
            let most = lane.queue.front().map_or(0, |first| first.pool.max_batch());
            (lane.queue.drain(..most.min(lane.queue.len())).collect::<VecDeque<_>>(), lane.senders)
        });
        while let Some(gone) = callers.pop_front_if(|caller| caller.has_left()) {
            gone.go_elsewhere();
        }
        let Some(first) = callers.front() else {
            if LANE.with_borrow(|lane| lane.queue.is_empty()) {
                return None;
            }
            continue;
        };
        let Some(mut lease) = within(first.scope.clone(), || first.pool.try_lend(first.at)) else {
            return_to_queue(callers);
            // Those of this worker's other batches come back soon.
            if senders == 1 {
                let queue = LANE.with_borrow_mut(|lane| std::mem::take(&mut lane.queue));
                queue.into_iter().for_each(Caller::go_elsewhere);
            }
            return None;
        };
        let Ok(socket) = registered(lease.socket()) else {
            lease.return_unused();
            callers.into_iter().for_each(Caller::go_elsewhere);
            continue;
        };
        let now = Instant::now();
        let waited = |caller: &Caller| now.saturating_duration_since(caller.queued);
        match lease.send_polled(callers.iter().map(|caller| (&caller.encoded, waited(caller)))) {
            Ok(batch) => {
                return_to_queue(callers.split_off(batch.due()));
                return Some(Sending { batch, callers, socket });
            }
            // On a thread, so that the connection gets to know it.
            Err(lease) => {
                if let Some(first) = callers.pop_front() {
                    first.end(Turn::Elsewhere(Start::Lent(lease)));
                }
                return_to_queue(callers);
            }
        }
    }
}

/// Puts callers back whose turn has not come.
fn return_to_queue(callers: VecDeque<Caller>) {
    LANE.with_borrow_mut(|lane| callers.into_iter().rev().for_each(|caller| lane.queue.push_front(caller)));
}

/// Registers the socket with the worker's runtime, for as long as this value exists.
#[expect(deprecated, reason = "its successor differs in being unsafe, which this crate forbids, see below")]
fn registered(socket: Arc<Socket>) -> io::Result<AsyncFd<Arc<Socket>>> {
    // What the successor requires holds: a socket is open for as long as there is a reference to it.
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Receives the replies to a batch, and hands each caller its own. Calls `on_late` where they do not come soon.
async fn receive(Sending { mut batch, mut callers, socket }: Sending, on_late: impl FnOnce()) {
    let sent = Instant::now();
    hand_over(&mut batch, &mut callers, &socket, sent + PATIENCE, false).await;
    if let Some(first) = callers.front() {
        batch.note_late(first.at);
        on_late();
        callers.drain(1..).for_each(|caller| caller.end(Turn::late()));
    }
    if let Some(first) = callers.front() {
        let limit = batch.limit(sent);
        let until = first.deadline.map_or(limit, |deadline| deadline.min(limit));
        hand_over(&mut batch, &mut callers, &socket, until, true).await;
    }
    if !callers.is_empty() {
        // The answer to the cancellation tells that the connection is as good as before.
        batch.cancel();
        hand_over(&mut batch, &mut callers, &socket, Instant::now() + CANCEL_GRACE, false).await;
    }
    if let Some(first) = callers.pop_front()
        && let Some(outcome) = within(first.scope.clone(), || batch.expire())
    {
        first.end(Turn::Done(outcome));
    }
    drop(socket);
    batch.end();
}

/// Hands outcomes over until every caller has one, at most until `due`; with `while_wanted` only until the first caller has left.
async fn hand_over(
    batch: &mut PolledBatch,
    callers: &mut VecDeque<Caller>,
    socket: &AsyncFd<Arc<Socket>>,
    due: Instant,
    while_wanted: bool,
) {
    let mut due = pin!(sleep_until(due.into()));
    while let Some(first) = callers.front_mut() {
        match within(first.scope.clone(), || batch.poll()) {
            Polled::Outcome(outcome) => {
                if let Some(first) = callers.pop_front() {
                    first.end(Turn::Done(outcome));
                }
                continue;
            }
            Polled::Part => {
                yield_now().await;
                continue;
            }
            Polled::Nothing => {}
        }
        let is_readable = poll_fn(|cx| match socket.poll_read_ready(cx) {
            Poll::Ready(Ok(mut ready)) => {
                // Everything that was there before is received.
                ready.clear_ready();
                Poll::Ready(true)
            }
            Poll::Pending if due.as_mut().poll(cx).is_pending() => {
                let has_left = while_wanted && first.turn.poll_closed(cx).is_ready();
                if has_left { Poll::Ready(false) } else { Poll::Pending }
            }
            // The runtime is about to end, or time is up.
            _ => Poll::Ready(false),
        });
        if !is_readable.await {
            return;
        }
    }
}
