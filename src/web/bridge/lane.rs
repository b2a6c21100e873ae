//! Single queries of async handlers, without a thread: each worker collects those that its requests make at about the same time,
//! sends them in one batch, and goes on with other requests until the replies arrive.
//!
//! Only what cannot make others wait takes this way: a query that can only read and was quick lately, on a connection that is idle
//! and knows it. Everything else runs on the threads of [`blocking`](super::blocking), and so does what fails here and may be run
//! again. So its rules for deadlines, retries and outcomes hold.
//!
//! Each worker has a queue of its own, so that there is no lock.

use crate::database_pool::DatabasePool;
use crate::error::Result;
use crate::pool::{Answer, Encoded, Failure, PolledBatch, Pool, Retry};
use crate::query::{ParamRow, Start, all, at_most_one};
use crate::rows::Rows;
use crate::web::ApiError;
use crate::web::bridge::{THREADS, limits, run_on};
use crate::web::request_deadline;
use crate::web::request_scope::{Scope, carried, current, within};
use actix_web::rt::time::sleep_until;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// How many batches of one worker are under way at once. More would share less, and leave fewer connections to other callers.
const MAX_BATCHES: usize = 2;

/// How long the callers behind a reply wait for it before their queries are run again elsewhere.
const PATIENCE: Duration = Duration::from_millis(5);

/// Runs a query on the process's pool and decodes every row, without a thread of its own where it can.
///
/// A query that can only read and is quick (a mean below 1 ms) is sent from the worker, together with those that other requests
/// make at the same time; the worker goes on with other requests meanwhile. Any other runs as in [`blocking`](super::blocking).
/// Rows of a quick query are decoded on the worker.
///
/// Use it for handlers with one query. For several, or for a transaction, put them into one call of [`blocking`](super::blocking).
///
/// # Blocking
///
/// As [`blocking`](super::blocking). The same deadlines apply, and the query is given up when its request is dropped.
///
/// # Errors
///
/// Those of [`execute_query`](crate::execute_query) and of [`blocking`](super::blocking).
///
/// # Panics
///
/// Where it is polled outside of an actix-web worker.
///
/// # Examples
///
/// ```
/// use actix_web::web::{Json, Path};
/// use poolhouse::web::{ApiError, execute_query};
///
/// async fn titles(year: Path<i32>) -> Result<Json<Vec<String>>, ApiError> {
///     let sql = "SELECT title FROM movies WHERE year = $1 ORDER BY title LIMIT 100";
///     Ok(Json(execute_query(sql, (year.into_inner(),)).await?))
/// }
/// ```
#[track_caller]
pub fn execute_query<T, P>(
    sql: impl Into<Cow<'static, str>>,
    params: P,
) -> impl Future<Output = Result<Vec<T>, ApiError>>
where
    T: DeserializeOwned + Send + 'static,
    P: ParamRow + Send + 'static,
{
    run(sql.into(), params, Location::caller(), all)
}

/// Runs a query that returns at most one row, like [`execute_query`]; returns `None` where it returns no row.
///
/// # Blocking
///
/// As [`execute_query`].
///
/// # Errors
///
/// Those of [`execute_query_one`](crate::execute_query_one) and of [`blocking`](super::blocking).
///
/// # Panics
///
/// As [`execute_query`].
#[track_caller]
pub fn execute_query_one<T, P>(
    sql: impl Into<Cow<'static, str>>,
    params: P,
) -> impl Future<Output = Result<Option<T>, ApiError>>
where
    T: DeserializeOwned + Send + 'static,
    P: ParamRow + Send + 'static,
{
    run(sql.into(), params, Location::caller(), at_most_one)
}

async fn run<P, R>(
    sql: Cow<'static, str>,
    params: P,
    at: &'static Location<'static>,
    decode: fn(&Rows) -> Result<R>,
) -> Result<R, ApiError>
where
    P: ParamRow + Send + 'static,
    R: Send + 'static,
{
    let pool = DatabasePool::get()?;
    let start = match params.with_params(|params| pool.encode(&sql, params)) {
        None => Start::Fresh,
        Some(encoded) => match queue(pool, encoded, at).await {
            Turn::Done(Ok(answer)) => return Ok(pool.shared().noted(decode(&answer.into_rows()))?),
            Turn::Done(Err(Failure { error, retry: Retry::Never })) => {
                return Ok(pool.shared().noted(Err(error))?);
            }
            Turn::Done(Err(failure)) => Start::Failed(failure),
            Turn::Elsewhere(start) => start,
        },
    };
    // While it waits for a thread it must not hold a connection, which the threads may wait for.
    let start = Arc::new(Mutex::new(start));
    let kept = start.clone();
    let take = |start: &Mutex<Start>| {
        std::mem::replace(&mut *start.lock().unwrap_or_else(PoisonError::into_inner), Start::Fresh)
    };
    let work = move || {
        let answer = params.with_params(|params| pool.run_from(take(&start), at, &sql, params));
        pool.shared().noted(answer.and_then(|answer| decode(&answer.into_rows())))
    };
    let let_go = || match take(&kept) {
        Start::Lent(lease) => drop(lease),
        other => *kept.lock().unwrap_or_else(PoisonError::into_inner) = other,
    };
    run_on(&THREADS, limits::limits(), carried(work), let_go).await
}

/// How a query's time in the queue ends.
enum Turn {
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
    static LANE: RefCell<Lane> = RefCell::default();
}

/// Waits for a query's turn. The task that sends it runs after those that are ready now, which may have queries too.
async fn queue(pool: &'static Pool, encoded: Arc<Encoded>, at: &'static Location<'static>) -> Turn {
    let (turn, ended) = oneshot::channel();
    let deadline = request_deadline::current();
    let caller = Caller { pool, encoded, at, queued: Instant::now(), deadline, scope: current(), turn };
    LANE.with_borrow_mut(|lane| {
        lane.queue.push_back(caller);
        lane.add_sender();
    });
    // Without a word the task ends if it panics.
    ended.await.unwrap_or_else(|_| Turn::late())
}

impl Lane {
    /// Starts another task that sends batches, where queries wait and there may be one.
    fn add_sender(&mut self) {
        if self.senders < MAX_BATCHES && !self.queue.is_empty() {
            self.senders += 1;
            actix_web::rt::spawn(send_batches(Sender));
        }
    }

    /// Sends the queries at the head of the queue.
    fn next_batch(&mut self) -> Option<(PolledBatch, VecDeque<Caller>)> {
        loop {
            while let Some(caller) = self.queue.pop_front_if(|caller| caller.has_left()) {
                caller.end(Turn::Elsewhere(Start::Fresh));
            }
            let first = self.queue.front()?;
            let Some(lease) = within(first.scope.clone(), || first.pool.try_lend(first.at)) else {
                // Those of this worker's other batches come back soon.
                if self.senders == 1 {
                    self.queue.drain(..).for_each(|caller| caller.end(Turn::Elsewhere(Start::Fresh)));
                }
                return None;
            };
            let now = Instant::now();
            let most = first.pool.max_batch();
            let queries = self.queue.iter().take(most);
            let queries = queries.map(|query| (&query.encoded, now.saturating_duration_since(query.queued)));
            match lease.send_polled(queries) {
                Ok(batch) => {
                    let callers = self.queue.drain(..batch.due()).collect();
                    self.add_sender();
                    return Some((batch, callers));
                }
                // On a thread, so that the connection gets to know it.
                Err(lease) => {
                    if let Some(caller) = self.queue.pop_front() {
                        caller.end(Turn::Elsewhere(Start::Lent(lease)));
                    }
                }
            }
        }
    }
}

/// One of the tasks that are counted as [`Lane::senders`].
struct Sender;

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = LANE.try_with(|lane| {
            let mut lane = lane.borrow_mut();
            lane.senders -= 1;
            if std::thread::panicking() {
                lane.add_sender();
            }
        });
    }
}

async fn send_batches(sender: Sender) {
    let mut sender = Some(sender);
    while sender.is_some()
        && let Some((batch, callers)) = LANE.with_borrow_mut(Lane::next_batch)
    {
        receive(batch, callers, || {
            // This connection is not back soon: others take this task's place.
            drop(sender.take());
            LANE.with_borrow_mut(Lane::add_sender);
        })
        .await;
    }
}

/// Receives the replies to a batch, and hands each caller its own. Calls `on_late` where they do not come soon.
async fn receive(mut batch: PolledBatch, mut callers: VecDeque<Caller>, on_late: impl FnOnce()) {
    let sent = Instant::now();
    if let Ok(socket) = registered(batch.socket()) {
        hand_over(&mut batch, &mut callers, &socket, sent + PATIENCE, false).await;
        if !callers.is_empty() {
            on_late();
            callers.drain(1..).for_each(|caller| caller.end(Turn::late()));
        }
        if let Some(first) = callers.front() {
            let limit = batch.limit(sent);
            let until = first.deadline.map_or(limit, |deadline| deadline.min(limit));
            hand_over(&mut batch, &mut callers, &socket, until, true).await;
        }
        if let Some(first) = callers.pop_front()
            && let Some(outcome) = within(first.scope.clone(), || batch.expire())
        {
            first.end(Turn::Done(outcome));
        }
    }
    callers.into_iter().for_each(|caller| caller.end(Turn::late()));
    batch.end();
}

/// Registers the socket with the worker's runtime, for as long as this value exists.
#[expect(deprecated, reason = "its successor differs in being unsafe, which this crate forbids, see below")]
fn registered<S: AsRawFd>(socket: S) -> io::Result<AsyncFd<S>> {
    // What the successor requires holds: a batch's socket is open for as long as the value that is registered.
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// Hands outcomes over until every caller has one, at most until `due`; with `while_wanted` only until the first caller has left.
async fn hand_over(
    batch: &mut PolledBatch,
    callers: &mut VecDeque<Caller>,
    socket: &AsyncFd<impl AsRawFd>,
    due: Instant,
    while_wanted: bool,
) {
    let mut due = pin!(sleep_until(due.into()));
    loop {
        while let Some(scope) = callers.front().map(|first| first.scope.clone())
            && let Some(outcome) = within(scope, || batch.next())
            && let Some(caller) = callers.pop_front()
        {
            caller.end(Turn::Done(outcome));
        }
        let Some(first) = callers.front_mut() else { return };
        let is_readable = poll_fn(|cx| match socket.poll_read_ready(cx) {
            Poll::Ready(Ok(mut ready)) => {
                // `next` has received everything that was there before.
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
