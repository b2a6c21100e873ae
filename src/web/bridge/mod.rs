//! The bridge from async handlers to blocking code: [`blocking`] submits a closure to the threads, and cancels it when its
//! request is dropped or its deadline passes. It is the only place where the web layer crosses into blocking code.
//!
//! `threads` runs the jobs, `stream` has bodies that they write. This file knows requests, deadlines and cancellation, and of the pool only its limits.

mod lane;
mod limits;
mod single_query;
mod stream;
pub(in crate::web) mod threads;

pub use limits::{BlockingLimits, limit_blocking};
pub use single_query::{execute_query, execute_query_one};
pub use stream::{BodyWriter, StreamedBody, stream_body};

use crate::pool::{Cancellation, add, having_waited, with_deadline};
use crate::web::ApiError;
use crate::web::bridge::limits::limits;
use crate::web::bridge::threads::{Job, Load, Submission, Threads};
use crate::web::request_deadline;
use crate::web::request_scope::carried;
use actix_web::rt::time::timeout;
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Runs blocking code (a query, a transaction) on a dedicated thread and waits for it without blocking the worker.
///
/// Put all database work of a request into one closure: each call is one switch to another thread and back. `work` may
/// return any error that converts into an [`ApiError`], such as [`poolhouse::Error`](crate::Error).
///
/// There are as many threads as the pool of [`DatabasePool`](crate::DatabasePool) may have connections, so that a free thread finds a free
/// connection; [`limit_blocking`] sets the number for another pool. Threads start on demand and are kept. A slow query
/// occupies one thread and one connection, and nothing else. A call without a free thread waits in a queue in order of
/// arrival; length and waiting time are bounded as for callers of the pool. Time in this queue counts as time spent waiting for
/// the first connection, so the pool's acquire timeout is spent once. While more calls wait than there are threads, a
/// thread that finds the queue empty spins for some 20 µs before it parks.
///
/// A call is cancelled when its request is dropped, because the client has disconnected or the service shuts down. `work`
/// that has not started never does; otherwise the running statement is cancelled on the server, and the next one fails with
/// [`Cancelled`](crate::Error::Cancelled). The same happens at the request's deadline, if
/// [`RequestDeadline`](super::RequestDeadline) sets one.
///
/// # Blocking
///
/// Does not block the worker. Inside `work` the deadlines of the pool and of the request apply.
///
/// # Errors
///
/// - the error of `work`, as an [`ApiError`];
/// - 503 `saturated`: the queue is full;
/// - 503 `exhausted`: no thread became free within the pool's acquire timeout;
/// - 504 `deadline_exceeded`: the request's deadline has passed;
/// - 500 `internal`: `work` panicked; the log has the message.
///
/// # Examples
///
/// ```
/// use actix_web::web::Json;
/// use poolhouse::web::{ApiError, blocking};
///
/// async fn years() -> Result<Json<Vec<i32>>, ApiError> {
///     let years = blocking(|| {
///         poolhouse::execute_query("SELECT DISTINCT year FROM movies WHERE year IS NOT NULL ORDER BY year", &[])
///     });
///     Ok(Json(years.await?))
/// }
/// ```
pub async fn blocking<F, R, E>(work: F) -> Result<R, ApiError>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    run_on(&THREADS, limits(), carried(work), || {}).await
}

/// Runs `work` on one of the threads. Calls `on_queued` where it has to wait for one.
async fn run_on<F, R, E>(
    threads: &'static Threads,
    limits: BlockingLimits,
    work: F,
    on_queued: impl FnOnce(),
) -> Result<R, ApiError>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let deadline = request_deadline::current();
    let call = Arc::new(Call {
        submitted: Instant::now(),
        cancellation: Arc::default(),
        deadline,
        state: Mutex::new(CallState { work: Some(work), outcome: None, waker: None }),
    });
    let submission = threads.submit(call.clone(), limits.threads, limits.waiting);
    if submission == Submission::Refused {
        return Err(ApiError::saturated());
    }
    let mut answer = Answer { call, threads };
    if submission == Submission::Queued {
        on_queued();
        let queued_until = add(Instant::now(), limits.wait);
        let until = deadline.map_or(queued_until, |deadline| deadline.min(queued_until));
        if let Ok(outcome) = timeout(time_until(until), &mut answer).await {
            return outcome;
        }
        if threads.withdraw(&answer.job()) {
            let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            return Err(if is_late { ApiError::deadline_exceeded() } else { ApiError::exhausted() });
        }
    }
    let Some(deadline) = deadline else { return answer.await };
    if let Ok(outcome) = timeout(time_until(deadline), &mut answer).await {
        return outcome;
    }
    // The statement is cancelled; the outcome of `work` shows whether it took effect.
    answer.call.cancellation.cancel();
    let outcome = timeout(CANCELLED_GRACE, answer).await;
    outcome.unwrap_or_else(|_| Err(ApiError::deadline_exceeded_outcome_unknown()))
}

fn time_until(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// How long a call cancelled at its deadline may take to return its outcome: slightly longer than the pool waits for the
/// server after a cancellation.
const CANCELLED_GRACE: Duration = Duration::from_millis(300);

static THREADS: Threads = Threads::new();

/// The current load of the threads of [`blocking`].
pub(super) fn load() -> Load {
    THREADS.load()
}

/// Runs a check on a thread outside of [`blocking`]'s, so that it does not queue behind requests.
pub(super) async fn blocking_apart<F, R, E>(work: F) -> Result<R, ApiError>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    match actix_web::rt::task::spawn_blocking(carried(work)).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(failure) if failure.is_panic() => Err(panicked(&*failure.into_panic())),
        Err(_) => Err(ApiError::stopping()),
    }
}

/// A closure submitted to the threads, and its outcome.
struct Call<F, R, E> {
    submitted: Instant,
    cancellation: Arc<Cancellation>,
    deadline: Option<Instant>,
    /// Not held while `work` runs or the waker is called.
    state: Mutex<CallState<F, R, E>>,
}

struct CallState<F, R, E> {
    /// `None` once it has started, or was withdrawn.
    work: Option<F>,
    outcome: Option<std::thread::Result<Result<R, E>>>,
    waker: Option<Waker>,
}

impl<F, R, E> Call<F, R, E> {
    fn state(&self) -> MutexGuard<'_, CallState<F, R, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F, R, E> Job for Call<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send,
    R: Send,
    E: Send,
{
    fn run(&self) {
        // The call was dropped after a thread had taken this job from the queue, and before it started here.
        let Some(work) = self.state().work.take() else { return };
        let work = || having_waited(self.submitted.elapsed(), work);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            self.cancellation.run(|| match self.deadline {
                None => work(),
                Some(deadline) => with_deadline(deadline, work),
            })
        }));
        let mut state = self.state();
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The future of a call's outcome. Dropping it early cancels the call.
struct Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    call: Arc<Call<F, R, E>>,
    threads: &'static Threads,
}

impl<F, R, E> Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    fn job(&self) -> Arc<dyn Job> {
        self.call.clone()
    }
}

impl<F, R, E> Future for Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    type Output = Result<R, ApiError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.call.state();
        match state.outcome.take() {
            Some(Ok(outcome)) => Poll::Ready(outcome.map_err(Into::into)),
            Some(Err(panic)) => Poll::Ready(Err(panicked(&*panic))),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<F, R, E> Drop for Answer<F, R, E>
where
    F: FnOnce() -> Result<R, E> + Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
{
    fn drop(&mut self) {
        // The usual case: the thread has finished and released its reference.
        if Arc::strong_count(&self.call) == 1 {
            return;
        }
        let job = self.job();
        let has_started = self.call.state().work.take().is_none();
        if has_started {
            self.call.cancellation.cancel();
        } else {
            self.threads.withdraw(&job);
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> ApiError {
    ApiError::internal(format!("blocking code panicked: {}", panic_message(panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::sync::mpsc;

    #[actix_web::test]
    async fn the_outcome_of_the_work_is_returned() {
        assert_eq!(blocking(|| Ok::<_, Error>(7)).await.unwrap(), 7);
        let error = blocking(|| Err::<(), _>(Error::Closed)).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "closed"));
    }

    #[actix_web::test]
    async fn a_panic_becomes_a_500_without_its_message() {
        let error = blocking(|| -> Result<(), Error> { panic!("secret {}", 42) }).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (500, "internal"));
        assert!(!error.message().contains("secret"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "blocking code panicked: secret 42");
        // The bridge still works.
        assert_eq!(blocking(|| Ok::<_, Error>(1)).await.unwrap(), 1);
    }

    /// Polls the call once, which submits it.
    async fn submitted<A: Future>(call: A) -> Pin<Box<A>> {
        let mut call = Box::pin(call);
        assert!(std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
        call
    }

    #[actix_web::test]
    async fn a_dropped_call_never_runs_and_a_full_queue_refuses() {
        let threads = Box::leak(Box::new(Threads::new()));
        let limits = BlockingLimits { threads: 1, waiting: 1, wait: Duration::from_millis(50) };
        let (ran, runs) = mpsc::channel::<&str>();
        let sending = |name| {
            let ran = ran.clone();
            run_on(threads, limits, move || ran.send(name).map_err(Error::application), || {})
        };
        let (holder, held) = mpsc::channel::<()>();
        let first = submitted(run_on(
            threads,
            limits,
            move || {
                let _ = held.recv();
                Ok::<_, Error>(())
            },
            || {},
        ))
        .await;
        let dropped = submitted(sending("second")).await;
        let error = sending("refused").await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "saturated"));
        drop(dropped);
        let error = sending("late").await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (503, "exhausted"));

        drop(holder);
        first.await.unwrap();
        sending("third").await.unwrap();
        drop(ran);
        assert_eq!(runs.iter().collect::<Vec<_>>(), ["third"]);
    }

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[actix_web::test]
    async fn a_panic_while_an_abandoned_outcome_is_dropped_costs_no_thread() {
        let threads = Box::leak(Box::new(Threads::new()));
        let limits = BlockingLimits { threads: 1, waiting: 1, wait: Duration::from_secs(20) };
        let (holder, held) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let call = submitted(run_on(
            threads,
            limits,
            move || {
                started.send(()).map_err(Error::application)?;
                let _ = held.recv();
                Ok::<_, Error>(Bomb)
            },
            || {},
        ))
        .await;
        starts.recv().unwrap();
        drop(call);
        drop(holder);
        assert_eq!(run_on(threads, limits, || Ok::<_, Error>(1), || {}).await.unwrap(), 1);
    }
}
